//! The query sets that a run evaluates: the queries of its splits, and samples of its training texts.

use std::collections::HashSet;

use crate::corpus::{Corpus, Query, Split};
use crate::docid::{EncodeOptions, TextTokenizer, TokenizerError};
use crate::recipe::Recipe;
use crate::retrieval::evaluation::QuerySet;
use crate::retrieval::{Metrics, names};
use crate::task::Task;

/// Where the query sets of a run come from.
pub(super) struct QuerySource<'a> {
    pub recipe: &'a Recipe,
    pub corpus: &'a Corpus,
    /// Rows of the documents that give no example.
    pub left_out: &'a HashSet<u32>,
    pub tokenizer: &'a TextTokenizer,
}

impl QuerySource<'_> {
    /// The query sets of the run's evaluations, encoded: samples of what was trained on first, then the splits (each
    /// set with its split) that have queries.
    pub fn evaluated(&self) -> Result<Vec<(QuerySet, Option<Split>)>, TokenizerError> {
        let section = &self.recipe.evaluate;
        let mut sets = Vec::new();
        if section.memorisation > 0 {
            sets.extend(self.memorised()?.into_iter().map(|set| (set, None)));
        }
        for &split in section.splits.iter().filter(|split| !self.corpus.split(**split).is_empty()) {
            let set = match section.unmasked_padding {
                None => self.of_split(split, section.queries)?,
                Some(length) => self.of_split_unmasked(split, section.queries, length)?,
            };
            sets.push((set, Some(split)));
        }
        Ok(sets)
    }

    /// The queries of a split, or `most` of them that the run's seed draws.
    pub fn of_split(&self, split: Split, most: Option<usize>) -> Result<QuerySet, TokenizerError> {
        self.encoded(split, most, &self.recipe.task.encoding().queries())
    }

    /// The same, cut and padded to `length` tokens that are all attended to, as in the paper's `eval.py`.
    fn of_split_unmasked(
        &self,
        split: Split,
        most: Option<usize>,
        length: usize,
    ) -> Result<QuerySet, TokenizerError> {
        let encoding = self.recipe.task.encoding().queries();
        let encoding = EncodeOptions { max_tokens: length, ..encoding };
        let mut set = self.encoded(split, most, &encoding)?;
        set.pad_unmasked(length, self.tokenizer.pad_id());
        Ok(set)
    }

    fn encoded(
        &self,
        split: Split,
        most: Option<usize>,
        encoding: &EncodeOptions,
    ) -> Result<QuerySet, TokenizerError> {
        let (name, queries) = (split.to_string(), self.corpus.split(split));
        let how = (self.tokenizer, encoding);
        let seed = self.recipe.run.seed;
        QuerySet::of_queries(&name, self.corpus, queries, self.left_out, most, seed, how)
    }

    /// Samples of what was trained on, of each task.
    fn memorised(&self) -> Result<Vec<QuerySet>, TokenizerError> {
        let Self { recipe, corpus, left_out, tokenizer } = *self;
        let (seed, most) = (recipe.run.seed, recipe.evaluate.memorisation);
        let encoding = recipe.task.encoding();
        let mut sets = Vec::new();
        for &task in &recipe.task.tasks {
            let name = names::of_memorisation(task);
            sets.push(match task {
                // Its target is no docid: see `Plan::held_out`.
                Task::Denoising => continue,
                Task::Indexing => {
                    let rows: Vec<u32> = (0..corpus.documents.len() as u32)
                        .filter(|row| !left_out.contains(row))
                        .collect();
                    let how = (tokenizer, &encoding.documents());
                    QuerySet::of_documents(&name, corpus, &rows, most, seed, how)?
                }
                Task::Retrieval => {
                    let how = (tokenizer, &encoding.queries());
                    let trained = |query: &&Query| {
                        query.relevant.iter().all(|judged| !left_out.contains(&judged.document))
                    };
                    let queries: Vec<Query> =
                        corpus.train.iter().filter(trained).cloned().collect();
                    let most = Some(most);
                    QuerySet::of_queries(&name, corpus, &queries, left_out, most, seed, how)?
                        .without_seen_split()
                }
            });
        }
        Ok(sets)
    }
}

/// The names of all metrics that evaluations of these sets give, such as `validation/unseen/hits@1`; where texts are held
/// out of denoising, the loss of these, too.
pub(super) fn metrics_of(sets: &[(QuerySet, Option<Split>)], held_out: bool) -> Vec<String> {
    let rankings = sets.iter().flat_map(|(set, _)| set.rankings());
    let metrics = |(ranking, _)| Metrics::NAMES.map(|metric| format!("{ranking}/{metric}"));
    let denoising = held_out.then(|| names::DENOISING_LOSS.to_owned());
    rankings.flat_map(metrics).chain(denoising).collect()
}
