//! The JSONL layout of DSI-transformers and DSI-QG: every line is `{"text_id": 7, "text": ".."}`, and a document and
//! its queries share a `text_id`.
//!
//! A directory has these files, each with the extension `.jsonl` or `.json`, optionally followed by `.gz`:
//!
//! - the documents, one per line: `documents.jsonl` or `corpus.jsonl`;
//! - the queries of a split: a file whose name contains the split as a word (`train.jsonl`, `NQ_10k_valid.json`,
//!   `xorqa_DSI_dev_data.json`); `val`, `valid`, `validation` and `dev` are one split.
//!
//! Several document lines with the same `text_id` are several texts of one document, and each gives an indexing
//! example.
//!
//! Without a file of documents, the train file has both, as in the released data, and the prefix of a text
//! distinguishes them: `document: ` or `passage: `, `question: ` or `query: ` (in any case). The same applies to a
//! single file instead of a directory. These prefixes are always stripped; the recipe sets the prefixes for training. A
//! query gets the id `<split>-<line>`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::builder::{Aborted, CorpusBuilder, QueryKind};
use super::error::CorpusError;
use super::files;
use super::location::FileLocation;
use super::read::{self, Id, nullable};
use super::text::Text;
use super::{Layout, Split};

const DOCUMENTS: [&str; 2] = ["documents.jsonl", "corpus.jsonl"];
const DOCUMENT_PREFIXES: [&str; 2] = ["document: ", "passage: "];
const QUERY_PREFIXES: [&str; 2] = ["question: ", "query: "];

/// The key of the id that a document and its queries share.
const ID: &str = "text_id";
const EXPECTED: &str = r#"{"text_id": 7, "text": "..."}"#;
const EXPECTED_PREFIX: &str = "a text that starts with `document: `, `passage: `, `question: ` or `query: `, \
     or a separate file of documents (documents.jsonl or corpus.jsonl)";

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

/// Returns the names of the expected files, for messages.
pub(super) fn expected_files() -> Vec<String> {
    DOCUMENTS
        .iter()
        .map(|&name| name.to_owned())
        .chain(Split::ALL.iter().map(|split| format!("*{split}*.jsonl")))
        .collect()
}

/// Returns whether there is a separate file of documents.
pub(super) fn has_documents(directory: &Path) -> bool {
    DOCUMENTS.iter().any(|name| files::find(directory, name).is_some())
}

pub(super) fn read(
    path: &Path,
    generated: Option<&Path>,
    builder: &mut CorpusBuilder,
) -> Result<(), Aborted> {
    let files = files(path, generated).map_err(|error| builder.abort(error))?;
    let train = files.splits.iter().find(|(split, _)| *split == Split::Train);
    let Some(documents) = files.documents.as_ref().or(train.map(|(_, file)| file)) else {
        let found = files.splits.iter().map(|(_, file)| file.as_path());
        let error = match files.splits.is_empty() {
            true => CorpusError::NothingFound {
                path: path.display().to_string(),
                layout: Layout::Dsi,
                looked_for: expected_files(),
            },
            false => {
                let missing = "documents.jsonl, corpus.jsonl or *train*.jsonl";
                files::missing(path, Layout::Dsi, missing, found)
            }
        };
        return Err(builder.abort(error));
    };
    let mut queries_of_train = Vec::new();
    match files.documents {
        Some(_) => {
            read::json_lines(documents, ID, EXPECTED, builder, |builder, location, line: Line| {
                builder.text(location, line.text_id.0, strip_prefix(line.text, &DOCUMENT_PREFIXES));
            })
        }
        // The document of a query may follow it.
        None => queries_of_train = read_mixed(documents, builder),
    }
    builder.finish_documents(documents)?;
    for (split, file) in &files.splits {
        let kind = QueryKind::Split(*split);
        let add = |builder: &mut CorpusBuilder, location: &FileLocation, line: Line| {
            let id = format!("{split}-{}", location.line.unwrap_or(0));
            let query = (id, strip_prefix(line.text, &QUERY_PREFIXES));
            builder.pair(kind, location, query, &line.text_id.0);
        };
        match files.documents.is_none() && *split == Split::Train {
            true => {
                let lines = std::mem::take(&mut queries_of_train);
                lines.into_iter().for_each(|(location, line)| add(builder, &location, line));
            }
            false => read::json_lines(file, ID, EXPECTED, builder, add),
        }
        builder.finish_queries(kind, file);
    }
    Ok(())
}

/// Reads the documents of a file that also has queries, and returns the queries.
fn read_mixed(file: &Path, builder: &mut CorpusBuilder) -> Vec<(FileLocation, Line)> {
    let mut queries = Vec::new();
    read::json_lines(file, ID, EXPECTED, builder, |builder, location, line: Line| {
        if prefix_length(&line.text.text, &QUERY_PREFIXES).is_some() {
            queries.push((location.clone(), line));
        } else if prefix_length(&line.text.text, &DOCUMENT_PREFIXES).is_some() {
            builder.text(location, line.text_id.0, strip_prefix(line.text, &DOCUMENT_PREFIXES));
        } else {
            let text = read::beginning(&line.text.text);
            let what = format_args!("the text `{text}` has no prefix; expected {EXPECTED_PREFIX}");
            builder.malformed_line(location, Some(line.text_id.0), what);
        }
    });
    queries
}

/// Returns the length of the prefix of `text` in bytes, if it starts with one of `prefixes`.
fn prefix_length(text: &str, prefixes: &[&str]) -> Option<usize> {
    prefixes
        .iter()
        .map(|prefix| prefix.len())
        .zip(prefixes)
        .find(|(length, prefix)| {
            text.get(..*length).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        })
        .map(|(length, _)| length)
}

fn strip_prefix(mut text: Text, prefixes: &[&str]) -> Text {
    if let Some(length) = prefix_length(&text.text, prefixes) {
        text.text.drain(..length);
    }
    text
}

/// Finds the files of the corpus; a path that is a file is the train file. A file of generated queries is never the
/// file of a split.
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
