//! Reads and writes TREC run files, TREC qrels, and `correct_valid.json` of the paper's released code. Writes are
//! atomic: a file is complete or absent.
//!
//! A TREC run has lines `query Q0 document rank score tag`, qrels have lines `query 0 document grade`. Fields are
//! separated by white space, so an id that is empty or contains white space cannot be represented and is refused.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use crate::files::{AtomicFile, FileError, open_regular, write_atomically};
use crate::provenance::{HEADER_END, HEADER_START};

/// Errors of writing or reading a run, qrels or correct-queries file.
#[derive(Debug, thiserror::Error)]
pub enum RunFileError {
    /// The file itself could not be opened, read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// An id that the format cannot represent.
    #[error(
        "{}: the {field} {id:?} is empty or contains white space or a control character, which TREC files cannot \
         represent; rename it in the corpus, or do not write run and qrels files", path.display()
    )]
    Id {
        /// The file being written.
        path: PathBuf,
        /// Which field: "query id", "docid" or "tag".
        field: &'static str,
        /// The id.
        id: String,
    },
    /// A score that is not finite, or higher than that of the previous rank.
    #[error(
        "{}: query {query:?}: docid {document:?} has score {score} at rank {rank}; \
         scores must be finite and must not increase with the rank", path.display()
    )]
    Score {
        /// The file being written.
        path: PathBuf,
        /// The query's id.
        query: String,
        /// The document's docid.
        document: String,
        /// Its rank, from 1.
        rank: u32,
        /// Its score.
        score: f32,
    },
    /// A line that does not have the format.
    #[error("{}:{line}: {field} is {found:?}, expected {expected}", path.display())]
    Line {
        /// The file being read.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The field of the line.
        field: &'static str,
        /// The text found.
        found: String,
        /// The expected form.
        expected: &'static str,
    },
    /// A correct-queries file that is not a JSON array of pairs.
    #[error("{}: {source}; expected [[docid token, query id], ...]", path.display())]
    Json {
        /// The file being read.
        path: PathBuf,
        /// The error of the parser, with line and column.
        source: serde_json::Error,
    },
}

/// One line of a TREC run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunLine {
    /// The query's id.
    pub query: String,
    /// The document's docid.
    pub document: String,
    /// The rank as written; most tools count from 1, and evaluation tools use the score only.
    pub rank: u32,
    /// The score, finite.
    pub score: f64,
    /// The name of the system.
    pub tag: String,
}

/// One line of TREC qrels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QrelsLine {
    /// The query's id.
    pub query: String,
    /// The document's docid.
    pub document: String,
    /// The grade; 0 and below mean judged and not relevant.
    pub grade: i32,
}

/// Writes a TREC run file query by query. The file appears at its path with [`RunWriter::finish`].
#[derive(Debug)]
pub struct RunWriter {
    file: AtomicFile,
    tag: String,
}

impl RunWriter {
    /// Starts a run; `tag` names the system in every line.
    ///
    /// # Errors
    /// [`RunFileError::Id`] for a tag that is empty, or has white space or control characters; [`RunFileError::File`]
    /// if the file cannot be created.
    pub fn create(path: &Path, tag: &str) -> Result<RunWriter, RunFileError> {
        check_id(path, "tag", tag)?;
        Ok(RunWriter { file: AtomicFile::create(path)?, tag: tag.to_string() })
    }

    /// Writes lines before the first ranking, such as comments: [`read_run`] skips those of
    /// [`IrMetadata::header`](crate::provenance::IrMetadata::header), and `trec_eval` does not.
    ///
    /// # Errors
    /// [`RunFileError::File`] if the file cannot be written.
    pub fn write_header(&mut self, lines: &str) -> Result<(), RunFileError> {
        let path = self.file.path().to_path_buf();
        Ok(self.file.write_all(lines.as_bytes()).map_err(FileError::new("write", &path))?)
    }

    /// Writes the ranking of one query: docids with their scores, best first.
    ///
    /// # Errors
    /// [`RunFileError::Id`] for a query id or docid that is empty, or has white space or control characters;
    /// [`RunFileError::Score`] for a score that is not finite or above the previous one; [`RunFileError::File`] if the
    /// file cannot be written.
    pub fn write<'a>(
        &mut self,
        query: &str,
        ranking: impl IntoIterator<Item = (&'a str, f32)>,
    ) -> Result<(), RunFileError> {
        let path = self.file.path().to_path_buf();
        check_id(&path, "query id", query)?;
        let mut previous = f32::INFINITY;
        for (rank, (document, score)) in (1_u32..).zip(ranking) {
            check_id(&path, "docid", document)?;
            if !score.is_finite() || score > previous {
                return Err(RunFileError::Score {
                    path,
                    query: query.to_string(),
                    document: document.to_string(),
                    rank,
                    score,
                });
            }
            previous = score;
            let tag = &self.tag;
            writeln!(self.file, "{query} Q0 {document} {rank} {score} {tag}")
                .map_err(FileError::new("write", &path))?;
        }
        Ok(())
    }

    /// Moves the complete file to its path.
    ///
    /// # Errors
    /// [`RunFileError::File`] if the file cannot be flushed to disk or renamed.
    pub fn finish(self) -> Result<(), RunFileError> {
        Ok(self.file.commit()?)
    }
}

/// Writes qrels from `(query id, docid, grade)`.
///
/// # Errors
/// [`RunFileError::Id`] for a query id or docid that is empty, or has white space or control characters;
/// [`RunFileError::File`] if the file cannot be written. The path keeps its old content then.
pub fn write_qrels<'a>(
    path: &Path,
    judgements: impl IntoIterator<Item = (&'a str, &'a str, u32)>,
) -> Result<(), RunFileError> {
    let mut file = AtomicFile::create(path)?;
    for (query, document, grade) in judgements {
        check_qrels(path, [(query, document, grade)])?;
        writeln!(file, "{query} 0 {document} {grade}").map_err(FileError::new("write", path))?;
    }
    Ok(file.commit()?)
}

/// Reads a TREC run, in the order of its lines. Comments with metadata at its beginning are skipped.
///
/// # Errors
/// [`RunFileError::File`] if the file is missing, not a regular file or cannot be read; [`RunFileError::Line`] for a
/// line that is not UTF-8, has other than six fields, or has a rank or score that is not a number.
pub fn read_run(path: &Path) -> Result<Vec<RunLine>, RunFileError> {
    let expected = "6 fields: query Q0 document rank score tag";
    read_lines(path, expected, |line, [query, _, document, rank, score, tag]| {
        Ok(RunLine {
            query: query.to_string(),
            document: document.to_string(),
            rank: line.number("the rank", rank, "a whole number", |_| true)?,
            score: line
                .number("the score", score, "a finite number", |score: &f64| score.is_finite())?,
            tag: tag.to_string(),
        })
    })
}

/// Reads TREC qrels, in the order of their lines.
///
/// # Errors
/// [`RunFileError::File`] if the file is missing, not a regular file or cannot be read; [`RunFileError::Line`] for a
/// line that is not UTF-8, has other than four fields, or has a grade that is not an integer.
pub fn read_qrels(path: &Path) -> Result<Vec<QrelsLine>, RunFileError> {
    let expected = "4 fields: query 0 document grade";
    read_lines(path, expected, |line, [query, _, document, grade]| {
        Ok(QrelsLine {
            query: query.to_string(),
            document: document.to_string(),
            grade: line.number("the grade", grade, "a whole number", |_| true)?,
        })
    })
}

/// Writes the queries whose relevant document is at rank 1, as `(docid token, query id)`.
///
/// # Errors
/// The file cannot be written, for example because its directory does not exist or the disk is full.
pub fn write_correct_queries(path: &Path, correct: &[(String, String)]) -> Result<(), FileError> {
    write_atomically(path, |file| Ok(serde_json::to_writer(file, correct)?))
}

/// Reads a correct-queries file as `(docid token, query id)`; integer query ids are converted to text.
///
/// # Errors
/// [`RunFileError::File`] if the file is missing, not a regular file or cannot be read; [`RunFileError::Json`] if it is
/// not a JSON array of pairs of a docid token and a query id.
pub fn read_correct_queries(path: &Path) -> Result<Vec<(String, String)>, RunFileError> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a query id must be a string or an integer")]
    enum QueryId {
        Text(String),
        Number(i64),
    }
    let file = open_regular(path).map_err(FileError::new("read", path))?;
    let pairs: Vec<(String, QueryId)> = serde_json::from_reader(BufReader::new(file))
        .map_err(|source| RunFileError::Json { path: path.to_path_buf(), source })?;
    Ok(pairs
        .into_iter()
        .map(|(token, query)| match query {
            QueryId::Text(id) => (token, id),
            QueryId::Number(id) => (token, id.to_string()),
        })
        .collect())
}

/// Checks that TREC files can represent all of `ids`; `path` is named in the error.
pub(crate) fn check_docids<'a>(
    path: &Path,
    ids: impl IntoIterator<Item = &'a str>,
) -> Result<(), RunFileError> {
    ids.into_iter().try_for_each(|id| check_id(path, "docid", id))
}

/// Checks that a qrels file at `path` can represent all of `judgements`, `(query id, docid, grade)`.
pub(crate) fn check_qrels<'a>(
    path: &Path,
    judgements: impl IntoIterator<Item = (&'a str, &'a str, u32)>,
) -> Result<(), RunFileError> {
    judgements.into_iter().try_for_each(|(query, document, _)| {
        check_id(path, "query id", query)?;
        check_id(path, "docid", document)
    })
}

/// Returns whether TREC files can represent an id as one field of a line.
pub(crate) fn fits_trec(id: &str) -> bool {
    // Control characters too: Python's `str.split` splits at some of them.
    !id.is_empty() && !id.contains(|letter: char| letter.is_whitespace() || letter.is_control())
}

fn check_id(path: &Path, field: &'static str, id: &str) -> Result<(), RunFileError> {
    match fits_trec(id) {
        true => Ok(()),
        false => Err(RunFileError::Id { path: path.to_path_buf(), field, id: id.to_string() }),
    }
}

/// File and line number, for errors.
struct LineLocation<'a> {
    path: &'a Path,
    line: usize,
}

impl LineLocation<'_> {
    fn error(&self, field: &'static str, found: &str, expected: &'static str) -> RunFileError {
        RunFileError::Line {
            path: self.path.to_path_buf(),
            line: self.line,
            field,
            found: found.to_string(),
            expected,
        }
    }

    fn number<T: FromStr>(
        &self,
        field: &'static str,
        found: &str,
        expected: &'static str,
        allowed: impl Fn(&T) -> bool,
    ) -> Result<T, RunFileError> {
        let number = found.parse().ok().filter(allowed);
        number.ok_or_else(|| self.error(field, found, expected))
    }
}

/// Parses each line of exactly `FIELDS` fields; blank lines are skipped, and the metadata of [`crate::provenance`] at the
/// beginning.
fn read_lines<T, const FIELDS: usize>(
    path: &Path,
    expected: &'static str,
    parse: impl Fn(&LineLocation, [&str; FIELDS]) -> Result<T, RunFileError>,
) -> Result<Vec<T>, RunFileError> {
    let mut reader = BufReader::new(open_regular(path).map_err(FileError::new("read", path))?);
    let mut lines = Vec::new();
    let mut bytes = Vec::new();
    let mut in_header = false;
    for line in 1.. {
        bytes.clear();
        let read = reader.read_until(b'\n', &mut bytes);
        if read.map_err(FileError::new("read", path))? == 0 {
            break;
        }
        let location = LineLocation { path, line };
        let text = str::from_utf8(&bytes).map_err(|_| {
            let found = String::from_utf8_lossy(&bytes);
            location.error("the line", found.trim_end(), "text in UTF-8")
        })?;
        in_header |= line == 1 && text.trim_end() == HEADER_START;
        if in_header {
            in_header = text.trim_end() != HEADER_END;
            continue;
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        if fields.is_empty() {
            continue;
        }
        let fields = <[&str; FIELDS]>::try_from(fields)
            .map_err(|_| location.error("the line", text.trim_end(), expected))?;
        lines.push(parse(&location, fields)?);
    }
    Ok(lines)
}
