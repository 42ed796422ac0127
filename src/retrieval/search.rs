//! Ranks documents for typed queries.

use std::convert::Infallible;

use super::DocidOrder;
use super::ranking::{Question, RankOptions, rank};
use crate::checkpoint::Checkpoint;
use crate::docid::TokenizerError;

/// Ranks the documents of a checkpoint for queries.
pub struct Searcher<'a> {
    checkpoint: &'a Checkpoint,
    order: DocidOrder,
}

/// One document that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit<'a> {
    /// Its docid.
    pub docid: &'a str,
    /// Its logit.
    pub score: f32,
}

impl<'a> Searcher<'a> {
    /// Prepares the order of docids, in which equal scores are ranked.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint, order: DocidOrder::of(&checkpoint.docids) }
    }

    /// The `depth` best documents for `query`, best first.
    ///
    /// # Errors
    /// The query cannot be encoded.
    pub fn search(&self, query: &str, depth: usize) -> Result<Vec<Hit<'a>>, TokenizerError> {
        let Checkpoint { model, tokenizer, docids, .. } = self.checkpoint;
        let encoding = self.checkpoint.encoding().queries();
        let tokens = tokenizer.encode_batch(&[query], &encoding)?;
        let questions: Vec<Question> =
            tokens.into_iter().map(|tokens| Question { tokens, relevant: Vec::new() }).collect();
        let options = RankOptions { depth, ..RankOptions::new(&self.order, tokenizer.pad_id()) };
        let mut hits = Vec::new();
        let device = model.docids.weight.device();
        let Ok(()) = rank(model, &device, &questions, options, |_, ranking| {
            let best = ranking.best.into_iter();
            hits.extend(best.map(|(row, score)| Hit { docid: docids.id(row), score }));
            Ok::<(), Infallible>(())
        });
        Ok(hits)
    }
}
