//! DSI-style JSONL, as DSI-transformers and DSI-QG write it: every line is `{"text_id": 7, "text": ".."}`,
//! and a document and the queries for it share their `text_id`.
//!
//! A directory holds, each ending in `.jsonl` or `.json`, perhaps with `.gz`:
//!
//! - the documents, one a line: `documents.jsonl` or `corpus.jsonl`;
//! - the queries of a split: a file whose name has the split as one of its words (`train.jsonl`,
//!   `NQ_10k_valid.json`, `xorqa_DSI_dev_data.json`); `val`, `valid`, `validation` and `dev` are one split.
//!
//! Without a file of documents the train file holds both, as the released data do, and the mark in front
//! of a text says what it is: `document: ` or `passage: `, `question: ` or `query: ` (any case). The same
//! holds for one file given in place of a directory. The mark is taken away wherever it stands: what is
//! put in front of a text is the recipe's to say. A query gets the id `<split>-<line>`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::builder::{CorpusBuilder, Part};
use super::error::{CorpusError, Place, Problem};
use super::read::{self, Id};
use super::{Layout, Split};

const DOCUMENTS: [&str; 2] = ["documents.jsonl", "corpus.jsonl"];
const DOCUMENT_MARKS: [&str; 2] = ["document: ", "passage: "];
const QUERY_MARKS: [&str; 2] = ["question: ", "query: "];

const RIGHT: &str = r#"{"text_id": 7, "text": "..."}"#;
const RIGHT_MARK: &str = "a text that starts with `document: `, `passage: `, `question: ` or `query: `, \
     or documents in a file of their own (documents.jsonl or corpus.jsonl)";

#[derive(Deserialize)]
struct Line {
    text_id: Id,
    text: String,
}

/// The files of a DSI-style corpus.
#[derive(Default)]
struct Files {
    documents: Option<PathBuf>,
    splits: Vec<(Split, PathBuf)>,
}

/// What is looked for, in words.
pub(super) fn looked_for() -> Vec<String> {
    DOCUMENTS
        .iter()
        .map(|&name| name.to_owned())
        .chain(Split::ALL.iter().map(|split| format!("*{split}*.jsonl")))
        .collect()
}

pub(super) fn is_here(path: &Path) -> Result<bool, CorpusError> {
    let files = files(path)?;
    Ok(files.documents.is_some() || !files.splits.is_empty())
}

pub(super) fn read(path: &Path, builder: &mut CorpusBuilder) -> Result<(), CorpusError> {
    let files = files(path)?;
    let train = files.splits.iter().any(|(split, _)| *split == Split::Train);
    if files.documents.is_none() && !train {
        return Err(CorpusError::NothingFound {
            path: path.display().to_string(),
            layout: Layout::Dsi,
            looked_for: looked_for(),
        });
    }
    let mixed = files.documents.is_none();
    if let Some(file) = &files.documents {
        read::json_lines(file, RIGHT, |_, line: Line| {
            builder.document(line.text_id.0, unmarked(line.text, &DOCUMENT_MARKS))
        })?;
    }
    for (split, file) in &files.splits {
        read_split(file, *split, mixed && *split == Split::Train, builder)?;
    }
    Ok(())
}

/// Reads the queries of a split and, from a mixed file, the documents too.
fn read_split(
    file: &Path,
    split: Split,
    mixed: bool,
    builder: &mut CorpusBuilder,
) -> Result<(), CorpusError> {
    // The document of a query may stand below it in a mixed file.
    let mut queries = Vec::new();
    read::json_lines(file, RIGHT, |number, line: Line| {
        if !mixed || has_mark(&line.text, &QUERY_MARKS).is_some() {
            queries.push((number, line));
            return Ok(());
        }
        if has_mark(&line.text, &DOCUMENT_MARKS).is_none() {
            return Err(Problem::Malformed {
                found: format!("the text `{}` has no mark", read::beginning(&line.text)),
                right: RIGHT_MARK,
            });
        }
        builder.document(line.text_id.0, unmarked(line.text, &DOCUMENT_MARKS))
    })?;
    for (number, line) in queries {
        let text = unmarked(line.text, &QUERY_MARKS);
        builder
            .query(Part::Split(split), format!("{split}-{number}"), text, [line.text_id.0])
            .map_err(|problem| CorpusError::At {
                place: Box::new(Place::line(file, number)),
                problem,
            })?;
    }
    Ok(())
}

/// The length of the mark that `text` starts with.
fn has_mark(text: &str, marks: &[&str]) -> Option<usize> {
    marks
        .iter()
        .map(|mark| mark.len())
        .zip(marks)
        .find(|(length, mark)| {
            text.get(..*length).is_some_and(|start| start.eq_ignore_ascii_case(mark))
        })
        .map(|(length, _)| length)
}

fn unmarked(mut text: String, marks: &[&str]) -> String {
    if let Some(length) = has_mark(&text, marks) {
        text.drain(..length);
    }
    text
}

/// Finds the files; a path that is a file is the train file.
fn files(path: &Path) -> Result<Files, CorpusError> {
    if !path.is_dir() {
        return Ok(Files { documents: None, splits: vec![(Split::Train, path.to_path_buf())] });
    }
    let failed = |source| CorpusError::Read { file: path.to_path_buf(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    let mut files = Files {
        documents: only(path, DOCUMENTS.iter().filter_map(|name| read::find(path, name)))?,
        splits: Vec::new(),
    };
    for &split in Split::ALL {
        let stems: Vec<&str> = names
            .iter()
            .map(|name| name.strip_suffix(".gz").unwrap_or(name))
            .filter(|name| split_of(name) == Some(split))
            .collect();
        // `x.jsonl` and `x.jsonl.gz` are one file; `find` takes the plain one.
        let mut found: Vec<PathBuf> =
            stems.iter().filter_map(|name| read::find(path, name)).collect();
        found.dedup();
        if let Some(file) = only(path, found.into_iter())? {
            files.splits.push((split, file));
        }
    }
    Ok(files)
}

/// The one file of `found`, if there is any.
fn only(path: &Path, found: impl Iterator<Item = PathBuf>) -> Result<Option<PathBuf>, CorpusError> {
    let mut found: Vec<PathBuf> = found.collect();
    if found.len() > 1 {
        return Err(CorpusError::Ambiguous {
            path: path.display().to_string(),
            candidates: found.iter().map(|file| file.display().to_string()).collect(),
            right: "leave one of them in the directory",
        });
    }
    Ok(found.pop())
}

/// The split that is one of the words of a file's name without `.gz`.
fn split_of(name: &str) -> Option<Split> {
    let stem = name.strip_suffix(".jsonl").or_else(|| name.strip_suffix(".json"))?;
    stem.split(['_', '-', '.', ' ']).find_map(|word| word.to_ascii_lowercase().parse().ok())
}
