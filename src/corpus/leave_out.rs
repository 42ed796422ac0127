//! Documents that are left out of training: they have a docid row, but give no example of any task.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::{Corpus, CorpusError};
use crate::random;

/// The documents to leave out of training. Serialised as the keys of `[corpus.leave_out]` in a recipe, which is absent
/// for [`LeaveOut::None`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub enum LeaveOut {
    /// No documents.
    #[default]
    #[serde(skip)]
    None,
    /// The documents with these ids.
    #[serde(rename = "ids")]
    Ids(Vec<String>),
    /// Random documents, which depend only on `seed`.
    #[serde(untagged)]
    Count {
        /// Number of documents.
        count: usize,
        /// Random seed; runs with the same corpus and seed leave out the same documents.
        seed: u64,
    },
}

impl LeaveOut {
    /// Returns the indices into [`Corpus::documents`] of the documents to leave out.
    ///
    /// # Errors
    /// [`CorpusError::UnknownLeftOut`] with the number and the first five of the ids that no document has;
    /// [`CorpusError::TooManyLeftOut`] if no document would remain.
    pub fn resolve(&self, corpus: &Corpus) -> Result<HashSet<u32>, CorpusError> {
        let left_out: HashSet<u32> = match self {
            Self::None => HashSet::new(),
            Self::Ids(ids) => rows_of(ids, corpus)?,
            Self::Count { count, seed } => {
                let mut rows: Vec<u32> = (0..corpus.documents.len() as u32).collect();
                random::shuffle(&mut rows, *seed, 0, "documents to leave out");
                rows.truncate(*count);
                rows.into_iter().collect()
            }
        };
        let requested = match self {
            Self::Count { count, .. } => *count,
            _ => left_out.len(),
        };
        if requested > 0 && requested >= corpus.documents.len() {
            return Err(CorpusError::TooManyLeftOut {
                count: requested,
                documents: corpus.documents.len(),
            });
        }
        Ok(left_out)
    }
}

fn rows_of(ids: &[String], corpus: &Corpus) -> Result<HashSet<u32>, CorpusError> {
    let rows: HashMap<&str, u32> =
        (0..).zip(&corpus.documents).map(|(row, document)| (document.id.as_str(), row)).collect();
    let unknown: Vec<&String> = ids.iter().filter(|id| !rows.contains_key(id.as_str())).collect();
    if !unknown.is_empty() {
        return Err(CorpusError::UnknownLeftOut {
            count: unknown.len(),
            first: unknown.into_iter().take(5).cloned().collect(),
        });
    }
    Ok(ids.iter().filter_map(|id| rows.get(id.as_str()).copied()).collect())
}
