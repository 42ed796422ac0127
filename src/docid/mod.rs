//! The docid vocabulary: which docid is which row, and how a docid is written as a token.
//!
//! Docids are atomic: one row of a parameter of their own for each document, in document order. They never
//! go through the tokenizer while running; only [`TextTokenizer::export`] writes them there.

use std::io;
use std::path::{Path, PathBuf};

use rayon::slice::ParallelSliceMut;
use serde::ser::{SerializeSeq, Serializer};

use crate::choice::choice;
use crate::corpus::Corpus;
use crate::files::{FileError, write_whole};

pub mod tokenizer;
mod tokenizer_file;

pub use tokenizer::{
    EncodeOptions, ImportedDocids, LoadedTokenizer, TextTokenizer, TokenizerError,
};

const TOKEN_START: &str = "@DOC_ID_";
const TOKEN_END: &str = "@";

/// What can be wrong with a docid vocabulary or its file.
#[derive(Debug, thiserror::Error)]
pub enum DocidError {
    /// Two rows of one docid.
    #[error("docid `{docid}` is used for row {first} and row {second}; docids must differ")]
    Duplicate {
        /// The docid.
        docid: String,
        /// The row that has it first.
        first: u32,
        /// Another row that has it.
        second: u32,
    },
    /// Two docid tokens of one token id.
    #[error("docids `{one}` and `{other}` both have token id {id}; token ids must differ")]
    SameTokenId {
        /// A docid token.
        one: String,
        /// Another one.
        other: String,
        /// The id of both.
        id: u32,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// The file cannot be read.
    #[error("cannot use {}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not a JSON array of strings.
    #[error("{}: {source}; right would be a JSON array of strings, one docid each", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What serde said, with line and column.
        source: serde_json::Error,
    },
}

choice! {
    /// How the docid rows of a new model start.
    RowInit {
        /// As T5 starts its embedding.
        Random = "random",
        /// From the mean word embedding of the document's tokens.
        Text = "text",
    }
}

/// Docids in document order: row `i` of the docid parameter belongs to `documents[i]`.
///
/// Kept in one string with offsets and one sorted list of rows, so that a million of them are a few large
/// allocations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocidVocabulary {
    /// All docids, one after the other.
    text: String,
    /// Where each ends in `text`.
    ends: Vec<usize>,
    /// All rows in the order of their docids, to find a row by bisection.
    sorted: Vec<u32>,
}

impl DocidVocabulary {
    /// A vocabulary of these docids, in this order.
    pub fn new<S: AsRef<str>>(docids: impl IntoIterator<Item = S>) -> Result<Self, DocidError> {
        let mut text = String::new();
        let ends: Vec<usize> = docids
            .into_iter()
            .map(|docid| {
                text.push_str(docid.as_ref());
                text.len()
            })
            .collect();
        let mut vocabulary = Self { text, sorted: Vec::new(), ends };
        let mut sorted: Vec<u32> = (0..vocabulary.ends.len() as u32).collect();
        // By row as well, so that a docid used twice names its first row first.
        sorted.par_sort_unstable_by_key(|&row| (vocabulary.id(row), row));
        if let Some(pair) =
            sorted.windows(2).find(|pair| vocabulary.id(pair[0]) == vocabulary.id(pair[1]))
        {
            return Err(DocidError::Duplicate {
                docid: vocabulary.id(pair[0]).to_owned(),
                first: pair[0],
                second: pair[1],
            });
        }
        vocabulary.sorted = sorted;
        Ok(vocabulary)
    }

    /// The ids of a corpus's documents.
    pub fn from_corpus(corpus: &Corpus) -> Result<Self, DocidError> {
        Self::new(corpus.documents.iter().map(|document| &document.id))
    }

    /// Number of docids, which is the number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no docid.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The docid of a row.
    ///
    /// # Panics
    ///
    /// When `row` is not below [`len`](Self::len), as indexing does.
    pub fn id(&self, row: u32) -> &str {
        let row = row as usize;
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.text[start..self.ends[row]]
    }

    /// The row of a docid, if it has one.
    pub fn row(&self, id: &str) -> Option<u32> {
        self.sorted
            .binary_search_by_key(&id, |&row| self.id(row))
            .ok()
            .map(|found| self.sorted[found])
    }

    /// The docids in row order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        (0..self.len() as u32).map(|row| self.id(row))
    }

    /// The docid of a row as a token: `@DOC_ID_<id>@`. Panics as [`id`](Self::id) does.
    pub fn token(&self, row: u32) -> String {
        token(self.id(row))
    }

    /// The docid that a token of the form `@DOC_ID_<id>@` stands for.
    pub fn parse_token(token: &str) -> Option<&str> {
        token.strip_prefix(TOKEN_START)?.strip_suffix(TOKEN_END).filter(|id| !id.is_empty())
    }

    /// Writes the docids as a JSON array of strings, in row order.
    pub fn write(&self, file: &Path) -> Result<(), DocidError> {
        write_whole(file, |file| {
            let mut serializer = serde_json::Serializer::new(file);
            let mut array = serializer.serialize_seq(Some(self.len()))?;
            for id in self.ids() {
                array.serialize_element(id)?;
            }
            Ok(array.end()?)
        })?;
        Ok(())
    }

    /// Reads what [`write`](Self::write) wrote.
    pub fn read(file: &Path) -> Result<Self, DocidError> {
        let bytes = std::fs::read(file)
            .map_err(|source| DocidError::File { file: file.to_path_buf(), source })?;
        let docids: Vec<String> = serde_json::from_slice(&bytes)
            .map_err(|source| DocidError::Malformed { file: file.to_path_buf(), source })?;
        Self::new(docids)
    }
}

fn token(id: &str) -> String {
    format!("{TOKEN_START}{id}{TOKEN_END}")
}
