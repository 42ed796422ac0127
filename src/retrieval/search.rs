//! Ranks documents for query texts.

use thiserror::Error;

use super::ranking::{EncodedQuery, RankOptions, Ranking};
use super::together::rank_with_all;
use super::{BatchTooLarge, DocidOrder, check_batch_memory};
use crate::checkpoint::Checkpoint;
use crate::docid::TokenizerError;
use crate::processes::{Order, ProcessesError, World};

/// Ranks the documents of a checkpoint for queries.
pub struct Searcher<'a> {
    checkpoint: &'a Checkpoint,
    order: DocidOrder,
    /// The processes that search together: the docid rows may be divided among them.
    world: Option<&'a World>,
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
    /// The other processes of the search cannot be reached.
    #[error(transparent)]
    Processes(#[from] ProcessesError),
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
        Self { checkpoint, order: DocidOrder::new(&checkpoint.docids), world: None }
    }

    /// Searches together with the other processes of `world`, which [follow](Self::follow) the first one.
    pub(crate) fn with(self, world: Option<&'a World>) -> Self {
        Self { world, ..self }
    }

    /// Searches for the queries of the first process until it ends; this process is another one, with the same checkpoint.
    ///
    /// # Errors
    /// As for [`Self::search`].
    pub(crate) fn follow(&self, world: &World, depth: usize) -> Result<(), SearchError> {
        while world.hear()? != Order::End {
            let query = world.texts("")?.swap_remove(0);
            self.rank(&self.encoded(&query)?, depth)?;
        }
        Ok(())
    }

    /// Returns at most `depth` documents for `query`, best first.
    ///
    /// # Errors
    /// The query cannot be tokenized, or is too long.
    pub fn search(&self, query: &str, depth: usize) -> Result<Vec<Hit<'a>>, SearchError> {
        let queries = self.encoded(query)?;
        if let Some(world) = self.world {
            world.order(Order::Rank { set: 0, round: 0 })?;
            world.texts(query)?;
        }
        let best = self.rank(&queries, depth)?.into_iter();
        let docids = &self.checkpoint.docids;
        Ok(best.map(|(row, score)| Hit { docid: docids.id(row), score }).collect())
    }

    /// The query's tokens, if its batch fits into memory.
    fn encoded(&self, query: &str) -> Result<[EncodedQuery; 1], SearchError> {
        let Checkpoint { model, tokenizer, .. } = self.checkpoint;
        let encoding = self.checkpoint.encoding().queries();
        let tokens = tokenizer.encode_batch(&[query], &encoding)?.into_iter().flatten().collect();
        let queries = [EncodedQuery { tokens, relevant: Vec::new() }];
        check_batch_memory(model.t5.config(), &queries, 1, &model.docids.weight.device())?;
        Ok(queries)
    }

    /// The first documents of the query's ranking with their logits.
    fn rank(
        &self,
        queries: &[EncodedQuery],
        depth: usize,
    ) -> Result<Vec<(u32, f32)>, ProcessesError> {
        let Checkpoint { model, tokenizer, .. } = self.checkpoint;
        let options = RankOptions { depth, ..RankOptions::new(&self.order, tokenizer.pad_id()) };
        let (device, mut best) = (model.docids.weight.device(), Vec::new());
        let each = |_, ranking: Ranking| {
            best = ranking.best;
            Ok::<_, ProcessesError>(())
        };
        rank_with_all(self.world, model, &device, queries, options, each)?;
        Ok(best)
    }
}
