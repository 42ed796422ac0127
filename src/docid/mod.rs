//! The docid vocabulary: maps docids to rows of the docid embedding and formats them as tokens.
//!
//! Docids are atomic: each document has one row of a separate parameter, in document order. Docids never go through
//! the tokenizer at run time; only [`TextTokenizer::export`] adds them to it.

use std::io;
use std::path::{Path, PathBuf};

use rayon::slice::ParallelSliceMut;
use serde::ser::{SerializeSeq, Serializer};

use crate::choice::choice;
use crate::corpus::Corpus;
use crate::files::{FileError, read_regular, write_atomically};

mod charsmap;
pub mod tokenizer;
mod tokenizer_file;
mod unigram;

pub use tokenizer::{
    EncodeOptions, ImportedDocids, LoadedTokenizer, TextTokenizer, TokenizerError,
};
pub use unigram::{T5_SENTINELS, TrainTokenizerError, UnigramOptions, UnigramTokenizer};

const TOKEN_START: &str = "@DOC_ID_";
const TOKEN_END: &str = "@";

/// Errors of a docid vocabulary or its file.
#[derive(Debug, thiserror::Error)]
pub enum DocidError {
    /// Two rows have the same docid.
    #[error("docid `{docid}` is used for row {first} and row {second}; docids must differ")]
    Duplicate {
        /// The docid.
        docid: String,
        /// The first row with this docid.
        first: u32,
        /// The second row with this docid.
        second: u32,
    },
    /// Two docid tokens have the same token id.
    #[error("docids `{one}` and `{other}` both have token id {id}; token ids must differ")]
    SameTokenId {
        /// The first docid token.
        one: String,
        /// The second docid token.
        other: String,
        /// Their common token id.
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
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file has other docids than the tokenizer of its checkpoint.
    #[error("{}: {found} docids, and {expected} in tokenizer.json; both must list the rows of one model", file.display())]
    OtherCount {
        /// The file.
        file: PathBuf,
        /// Number of its docids.
        found: usize,
        /// Number of docids among the tokens.
        expected: usize,
    },
    /// A row of the file has another docid than in the tokenizer of its checkpoint.
    #[error(
        "{}: row {row} is `{found}`, and `{expected}` in tokenizer.json; both must list the rows of one model in the same \
         order",
        file.display()
    )]
    OtherRow {
        /// The file.
        file: PathBuf,
        /// The first row that differs.
        row: u32,
        /// The docid in the file.
        found: String,
        /// The docid among the tokens.
        expected: String,
    },
    /// The docids in a file are not those of a vocabulary.
    #[error("{}: {source}", file.display())]
    InFile {
        /// The file.
        file: PathBuf,
        /// The problem.
        source: Box<DocidError>,
    },
    /// The file is not a JSON array of strings.
    #[error("{}: {source}; expected a JSON array of docids as strings", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// The JSON error, with line and column.
        source: serde_json::Error,
    },
}

choice! {
    /// Initialisation of docid embeddings.
    RowInit {
        /// T5's initialisation of embeddings.
        Random = "random",
        /// The mean text token embedding of the document's tokens.
        Text = "text",
        /// The mean encoder state of the document's tokens, scaled to the size of text token rows.
        Encoder = "encoder",
    }
}

/// Docids in document order: row `i` of the docid parameter belongs to `documents[i]`.
///
/// All docids share one string with offsets, so that a million of them take a few large allocations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocidVocabulary {
    /// All docids, concatenated.
    text: String,
    /// The end of each docid in `text`.
    ends: Vec<usize>,
    /// Rows sorted by docid, for binary search.
    sorted: Vec<u32>,
}

impl DocidVocabulary {
    /// Creates a vocabulary of these docids, in this order.
    ///
    /// # Errors
    /// [`DocidError::Duplicate`] if a docid occurs twice, with both rows.
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

    /// Creates the vocabulary of a corpus's document ids.
    ///
    /// # Errors
    /// [`DocidError::Duplicate`] if two documents have the same id.
    pub fn from_corpus(corpus: &Corpus) -> Result<Self, DocidError> {
        Self::new(corpus.documents.iter().map(|document| &document.id))
    }

    /// Number of docids, which is the number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there is no docid.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the docid of a row.
    ///
    /// # Panics
    ///
    /// Panics if `row` is not below [`len`](Self::len), as indexing does.
    pub fn id(&self, row: u32) -> &str {
        let row = row as usize;
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.text[start..self.ends[row]]
    }

    /// Returns the row of a docid, if it is in the vocabulary.
    pub fn row(&self, id: &str) -> Option<u32> {
        self.sorted
            .binary_search_by_key(&id, |&row| self.id(row))
            .ok()
            .map(|found| self.sorted[found])
    }

    /// Returns the docids in row order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        (0..self.len() as u32).map(|row| self.id(row))
    }

    /// Returns the docid of a row as a token, `@DOC_ID_<id>@`. Panics as [`id`](Self::id) does.
    pub fn token(&self, row: u32) -> String {
        token(self.id(row))
    }

    /// Returns the docid of a token of the form `@DOC_ID_<id>@`.
    pub fn parse_token(token: &str) -> Option<&str> {
        token.strip_prefix(TOKEN_START)?.strip_suffix(TOKEN_END).filter(|id| !id.is_empty())
    }

    /// Writes the docids as a JSON array of strings, in row order.
    ///
    /// # Errors
    /// [`DocidError::Write`] if the file cannot be written, for example because its directory does not exist or the
    /// disk is full.
    pub fn write(&self, file: &Path) -> Result<(), DocidError> {
        write_atomically(file, |file| {
            let mut serializer = serde_json::Serializer::new(file);
            let mut array = serializer.serialize_seq(Some(self.len()))?;
            for id in self.ids() {
                array.serialize_element(id)?;
            }
            Ok(array.end()?)
        })?;
        Ok(())
    }

    /// Reads a file that [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// [`DocidError::File`] if the file is missing, not a regular file or cannot be read; [`DocidError::Malformed`] if
    /// it is not a JSON array of strings; [`DocidError::Duplicate`] if a docid occurs twice.
    pub fn read(file: &Path) -> Result<Self, DocidError> {
        let bytes = read_regular(file)
            .map_err(|source| DocidError::File { file: file.to_path_buf(), source })?;
        let docids: Vec<String> = serde_json::from_slice(&bytes)
            .map_err(|source| DocidError::Malformed { file: file.to_path_buf(), source })?;
        Self::new(docids).map_err(|source| DocidError::InFile {
            file: file.to_path_buf(),
            source: Box::new(source),
        })
    }
}

fn token(id: &str) -> String {
    format!("{TOKEN_START}{id}{TOKEN_END}")
}
