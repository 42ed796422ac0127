//! Ranks the query sets of a run: the same on the process that evaluates and on those that rank a share.

use std::cell::OnceCell;

use super::plan::Plan;
use crate::prefix::{Prefix, TextSet};
use crate::processes::{ProcessesError, World};
use crate::retrieval::DocidOrder;
use crate::retrieval::evaluation::QuerySet;
use crate::retrieval::ranking::{RankOptions, Ranking, batches_of, rank};
use crate::retrieval::run_files::fits_trec;
use crate::retrieval::together::{rank_share, rank_together};
use crate::t5::GenirModel;

/// The query sets of a plan, and what is needed to rank their queries.
pub(super) struct RankedSets<'a> {
    plan: &'a Plan,
    order: DocidOrder,
    /// For each set, whether its rankings are written to a run file.
    is_written: Vec<bool>,
    /// The batches of each set, for its shares.
    batches: Vec<OnceCell<Vec<Vec<usize>>>>,
}

impl<'a> RankedSets<'a> {
    /// Rankings of a split are written if TREC files can represent its ids. Others are not a reason to lose a run, since
    /// metrics need no files: the plan warns of them.
    pub fn new(plan: &'a Plan) -> Self {
        // Any document may be in a ranking, judged or not.
        let docids_fit = plan.docids.ids().all(fits_trec);
        let queries_fit =
            |set: &QuerySet| set.judgements(&plan.docids).all(|(query, _, _)| fits_trec(query));
        let is_written = plan
            .query_sets
            .iter()
            .map(|(set, split)| split.is_some() && docids_fit && queries_fit(set))
            .collect();
        let batches = plan.query_sets.iter().map(|_| OnceCell::new()).collect();
        Self { plan, order: DocidOrder::new(&plan.docids), is_written, batches }
    }

    /// Returns whether the rankings of the set with this index are written to a run file.
    pub fn is_written(&self, set: usize) -> bool {
        self.is_written[set]
    }

    /// The texts of all sets in a run of `steps` updates.
    pub fn text_sets(&self, steps: u64) -> Vec<TextSet<'a>> {
        let times = self.plan.evaluations().times(steps);
        self.plan.query_sets.iter().map(|(set, _)| set.text_set(times)).collect()
    }

    /// Ranks the set with this index, together with the other processes of `world` if there are any, and calls `each` with
    /// the index of each query and its ranking.
    pub fn rank<E: From<ProcessesError>>(
        &self,
        set: usize,
        world: Option<&World>,
        model: &GenirModel,
        prefix: Option<&Prefix>,
        each: impl FnMut(usize, Ranking) -> Result<(), E>,
    ) -> Result<(), E> {
        let (options, device) = (self.options(set, prefix), &self.plan.device);
        let queries = &self.plan.query_sets[set].0.queries;
        match world {
            None => rank(model, device, queries, options, each),
            Some(world) => rank_together((world, set), model, device, queries, options, each),
        }
    }

    /// Ranks the share of this process, which is not the first, in a round of the set with this index.
    pub fn rank_share(
        &self,
        (set, round): (usize, usize),
        world: &World,
        model: &GenirModel,
        prefix: Option<&Prefix>,
    ) -> Result<(), ProcessesError> {
        let (options, device) = (self.options(set, prefix), &self.plan.device);
        let queries = &self.plan.query_sets[set].0.queries;
        let batches = self.batches[set].get_or_init(|| batches_of(queries, options.batch_size));
        rank_share((world, round), model, device, queries, options, batches)
    }

    fn options<'o>(&'o self, set: usize, prefix: Option<&'o Prefix>) -> RankOptions<'o> {
        let section = &self.plan.recipe.evaluate;
        RankOptions {
            order: &self.order,
            candidates: section.vocabulary,
            depth: if self.is_written[set] { section.run_depth } else { 0 },
            batch_size: section.batch_size,
            pad_id: self.plan.tokenizer.pad_id(),
            prefix,
        }
    }
}
