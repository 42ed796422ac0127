//! Ranks documents for query texts.

use std::convert::Infallible;

use thiserror::Error;

use super::ranking::{EncodedQuery, RankOptions, rank};
use super::{BatchTooLarge, DocidOrder, check_batch_memory};
use crate::checkpoint::Checkpoint;
use crate::docid::TokenizerError;

/// Ranks the documents of a checkpoint for queries.
pub struct Searcher<'a> {
    checkpoint: &'a Checkpoint,
    order: DocidOrder,
}

/// Errors of a search.
#[derive(Debug, Error)]
pub enum SearchError {
    /// The query cannot be tokenized.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The query is too long for the memory that there is.
    #[error(transparent)]
    TooLong(#[from] BatchTooLarge),
}

/// One ranked document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit<'a> {
    /// Its docid.
    pub docid: &'a str,
    /// Its logit; comparable within one query only.
    pub score: f32,
}

impl<'a> Searcher<'a> {
    /// Sorts the docids once, to rank documents with equal logits.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint, order: DocidOrder::new(&checkpoint.docids) }
    }

    /// Returns at most `depth` documents for `query`, best first.
    ///
    /// # Errors
    /// The query cannot be tokenized, or is too long.
    pub fn search(&self, query: &str, depth: usize) -> Result<Vec<Hit<'a>>, SearchError> {
        let Checkpoint { model, tokenizer, docids, .. } = self.checkpoint;
        let encoding = self.checkpoint.encoding().queries();
        let tokens = tokenizer.encode_batch(&[query], &encoding)?;
        let queries: Vec<EncodedQuery> = tokens
            .into_iter()
            .map(|tokens| EncodedQuery { tokens, relevant: Vec::new() })
            .collect();
        let options = RankOptions { depth, ..RankOptions::new(&self.order, tokenizer.pad_id()) };
        let mut hits = Vec::new();
        let device = model.docids.weight.device();
        check_batch_memory(model.t5.config(), &queries, 1, &device)?;
        let Ok(()) = rank(model, &device, &queries, options, |_, ranking| {
            let best = ranking.best.into_iter();
            hits.extend(best.map(|(row, score)| Hit { docid: docids.id(row), score }));
            Ok::<(), Infallible>(())
        });
        Ok(hits)
    }
}
