//! What can be wrong with a corpus, said with its file, place, value and what would be right.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::Layout;

/// Where in a file something was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as it was opened.
    pub file: PathBuf,
    /// Position in the file's top-level JSON array, from 0.
    pub element: Option<usize>,
    /// Line, from 1. In a JSON array: the line where reading stopped.
    pub line: Option<usize>,
    /// Column, from 1, where the JSON parser stopped.
    pub column: Option<usize>,
}

impl Place {
    /// A line of a file that is read line by line.
    pub(super) fn line(file: &Path, line: usize) -> Self {
        Self { file: file.to_path_buf(), element: None, line: Some(line), column: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(element) = self.element {
            write!(f, ", element [{element}]")?;
        }
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        Ok(())
    }
}

/// What is wrong at one place of a file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Not the JSON or TSV that the layout asks for.
    #[error("{found}; right would be {right}")]
    Malformed {
        /// What was found there.
        found: String,
        /// An example of the right form.
        right: &'static str,
    },
    /// Two documents with one id.
    #[error(
        "document id `{id}` is used twice: document number {first} of the corpus has it already"
    )]
    DuplicateDocument {
        /// The id that both have.
        id: String,
        /// Number of the first one in the corpus, from 1.
        first: usize,
    },
    /// Two queries of one split with one id.
    #[error("query id `{id}` is used twice in {part}; ids must differ within a split")]
    DuplicateQuery {
        /// The id that both have.
        id: String,
        /// `train queries`, `validation queries`, ... or the file of all queries.
        part: String,
    },
    /// One document judged twice for one query.
    #[error("document `{document}` is judged twice for query `{query}`")]
    DuplicateJudgement {
        /// Id of the query.
        query: String,
        /// Id of the document.
        document: String,
    },
    /// A judgement names a document that the corpus does not have.
    #[error(
        "query `{query}` is judged for document `{document}`, but the corpus has no such document \
         (it has {documents})"
    )]
    UnknownDocument {
        /// Id of the query.
        query: String,
        /// The id that no document has.
        document: String,
        /// Number of documents of the corpus.
        documents: usize,
    },
    /// A judgement names a query that the file of queries does not have.
    #[error("query `{query}` is judged, but {queries} has no such query")]
    UnknownQuery {
        /// The id that no query has.
        query: String,
        /// The file of queries.
        queries: String,
    },
    /// A query without any relevant document can neither be learnt nor judged.
    #[error("query `{query}` names no relevant document; at least one id is needed")]
    NoJudgement {
        /// Id of the query.
        query: String,
    },
}

/// Why a corpus could not be loaded, or documents could not be left out.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// The file system or the gzip stream failed.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// The file or directory.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// None of the files of a layout is there.
    #[error("found no corpus at {path} (layout: {layout}); looked for {}", looked_for.join(", "))]
    NothingFound {
        /// The path that was given.
        path: String,
        /// The layout that was asked for.
        layout: Layout,
        /// The files that would have been read; each may also end in `.gz`.
        looked_for: Vec<String>,
    },
    /// More than one reading is possible.
    #[error("{path} can be read in more than one way: {}; {right}", candidates.join(", "))]
    Ambiguous {
        /// The path that was given.
        path: String,
        /// The files or layouts between which nothing decides.
        candidates: Vec<String>,
        /// What decides.
        right: &'static str,
    },
    /// A bundled corpus of another name.
    #[error("there is no bundled corpus `{name}`; the one that exists is `bundled:atlas`")]
    UnknownBundled {
        /// The name after `bundled:`.
        name: String,
    },
    /// A name that is no split's.
    #[error("unknown split `{found}`; right would be train, validation (val, valid, dev) or test")]
    UnknownSplit {
        /// The name found.
        found: String,
    },
    /// Bytes that are not UTF-8.
    #[error("{}, line {line}: not UTF-8; convert the file to UTF-8", file.display())]
    NotUtf8 {
        /// The file.
        file: PathBuf,
        /// Line of the first wrong byte, from 1.
        line: usize,
    },
    /// One element or line is wrong.
    #[error("{place}: {problem}")]
    At {
        /// Where.
        place: Box<Place>,
        /// What.
        problem: Problem,
    },
    /// Texts of nothing but white space.
    #[error("{count} of the {part} have an empty text, the first with the ids: {}", first.join(", "))]
    EmptyTexts {
        /// `documents`, `train queries`, ...
        part: String,
        /// How many.
        count: usize,
        /// The ids of the first five.
        first: Vec<String>,
    },
    /// A corpus of no documents.
    #[error("the corpus at {path} has no documents")]
    NoDocuments {
        /// The path that was given.
        path: String,
    },
    /// Documents to leave out that the corpus does not have.
    #[error("{count} of the ids to leave out belong to no document, the first: {}", first.join(", "))]
    UnknownLeftOut {
        /// How many.
        count: usize,
        /// The first five.
        first: Vec<String>,
    },
    /// Nothing would be left to train on.
    #[error("cannot leave out {count} of {documents} documents: at least one must stay")]
    TooManyLeftOut {
        /// How many were to be left out.
        count: usize,
        /// How many there are.
        documents: usize,
    },
}
