//! DSI-style JSONL, as DSI-transformers and DSI-QG write it: every line is `{"text_id": 7, "text": ".."}`,
//! and a document and the queries for it share their `text_id`.
//!
//! A directory holds, each ending in `.jsonl` or `.json`, perhaps with `.gz`:
//!
//! - the documents, one a line: `documents.jsonl` or `corpus.jsonl`;
//! - the queries of a split: a file whose name has the split as one of its words (`train.jsonl`,
//!   `NQ_10k_valid.json`, `xorqa_DSI_dev_data.json`); `val`, `valid`, `validation` and `dev` are one split.
//!
//! Several lines of documents with one `text_id` are several texts of one document: each is an indexing example.
//!
//! Without a file of documents the train file holds both, as the released data do, and the mark in front
//! of a text says what it is: `document: ` or `passage: `, `question: ` or `query: ` (any case). The same
//! holds for one file given in place of a directory. The mark is taken away wherever it stands: what is
//! put in front of a text is the recipe's to say. A query gets the id `<split>-<line>`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::builder::{CorpusBuilder, QueryKind, Stop};
use super::error::{CorpusError, FileLocation};
use super::files;
use super::findings::Kind;
use super::read::{self, Id, Text, nullable};
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
    #[serde(deserialize_with = "nullable")]
    text: Text,
}

/// The files of a DSI-style corpus.
#[derive(Default)]
pub(super) struct Files {
    pub documents: Option<PathBuf>,
    pub splits: Vec<(Split, PathBuf)>,
}

/// What is looked for, in words.
pub(super) fn looked_for() -> Vec<String> {
    DOCUMENTS
        .iter()
        .map(|&name| name.to_owned())
        .chain(Split::ALL.iter().map(|split| format!("*{split}*.jsonl")))
        .collect()
}

/// Whether there is a file of documents alone.
pub(super) fn has_documents(directory: &Path) -> bool {
    DOCUMENTS.iter().any(|name| files::find(directory, name).is_some())
}

pub(super) fn read(
    path: &Path,
    generated: Option<&Path>,
    builder: &mut CorpusBuilder,
) -> Result<(), Stop> {
    let files = files(path, generated).map_err(|error| builder.stop(error))?;
    let train = files.splits.iter().find(|(split, _)| *split == Split::Train);
    let Some(documents) = files.documents.as_ref().or(train.map(|(_, file)| file)) else {
        let found = files.splits.iter().map(|(_, file)| file.as_path());
        let error = match files.splits.is_empty() {
            true => CorpusError::NothingFound {
                path: path.display().to_string(),
                layout: Layout::Dsi,
                looked_for: looked_for(),
            },
            false => {
                let missing = "documents.jsonl, corpus.jsonl or *train*.jsonl";
                files::missing(path, Layout::Dsi, missing, found)
            }
        };
        return Err(builder.stop(error));
    };
    let mut queries_of_train = Vec::new();
    match files.documents {
        Some(_) => read::json_lines(documents, RIGHT, builder, |builder, place, line: Line| {
            builder.text(place, line.text_id.0, unmarked(line.text, &DOCUMENT_MARKS));
        }),
        // The document of a query may stand below it.
        None => queries_of_train = read_mixed(documents, builder),
    }
    builder.documents_end(documents)?;
    for (split, file) in &files.splits {
        let part = QueryKind::Split(*split);
        let add = |builder: &mut CorpusBuilder, place: &FileLocation, line: Line| {
            let id = format!("{split}-{}", place.line.unwrap_or(0));
            let query = (id, unmarked(line.text, &QUERY_MARKS));
            builder.pair(part, place, query, &line.text_id.0);
        };
        match files.documents.is_none() && *split == Split::Train {
            true => {
                let lines = std::mem::take(&mut queries_of_train);
                lines.into_iter().for_each(|(place, line)| add(builder, &place, line));
            }
            false => read::json_lines(file, RIGHT, builder, add),
        }
        builder.queries_end(part, file);
    }
    Ok(())
}

/// Reads the documents of a file that holds queries too, which are given back.
fn read_mixed(file: &Path, builder: &mut CorpusBuilder) -> Vec<(FileLocation, Line)> {
    let mut queries = Vec::new();
    read::json_lines(file, RIGHT, builder, |builder, place, line: Line| {
        if has_mark(&line.text.text, &QUERY_MARKS).is_some() {
            queries.push((place.clone(), line));
        } else if has_mark(&line.text.text, &DOCUMENT_MARKS).is_some() {
            builder.text(place, line.text_id.0, unmarked(line.text, &DOCUMENT_MARKS));
        } else {
            let text = read::beginning(&line.text.text);
            let what = format_args!("the text `{text}` has no mark; right would be {RIGHT_MARK}");
            builder.note(Kind::Malformed, place, what);
        }
    });
    queries
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

fn unmarked(mut text: Text, marks: &[&str]) -> Text {
    if let Some(length) = has_mark(&text.text, marks) {
        text.text.drain(..length);
    }
    text
}

/// Finds the files; a path that is a file is the train file. A file of generated queries is no split's, whatever its name.
pub(super) fn files(path: &Path, generated: Option<&Path>) -> Result<Files, CorpusError> {
    if !path.is_dir() {
        return Ok(Files { documents: None, splits: vec![(Split::Train, path.to_path_buf())] });
    }
    let documents = DOCUMENTS.iter().filter_map(|name| files::find(path, name)).collect();
    let documents = files::only(path, "the documents", documents)?;
    let generated = generated.filter(|file| file.parent() == Some(path));
    let generated = generated.and_then(Path::file_name).and_then(|name| name.to_str());
    let splits = files::of_splits(path, |name| {
        let stem = name.strip_suffix(".jsonl").or_else(|| name.strip_suffix(".json"))?;
        let is_generated = generated.is_some_and(|file| files::without_gz(file) == name);
        files::split_among_words(stem).filter(|_| !is_generated)
    })?;
    Ok(Files { documents, splits })
}
