//! The work of a process that is not the first: it trains with the others, and does its share of what the first one orders.

use super::super::TrainError;
use super::super::callbacks::{ProbeSets, Probed};
use super::super::plan::Plan;
use super::super::ranked_sets::RankedSets;
use super::{Outcome, Trainer};
use crate::allocator::MemoryScope;
use crate::prefix::TextSet;
use crate::processes::Order;
use crate::t5::GenirModel;

/// The sets that a process which is not the first evaluates and measures for it.
pub(super) struct Follower<'a> {
    ranked: RankedSets<'a>,
    probed: Option<ProbeSets<'a>>,
}

impl<'a> Follower<'a> {
    fn new(plan: &'a Plan) -> Result<Self, TrainError> {
        let probed = plan.recipe.probes.as_ref().map(|section| ProbeSets::new(plan, section));
        Ok(Self { ranked: RankedSets::new(plan), probed: probed.transpose()? })
    }

    /// The texts that it reads in a run of `steps` updates, as the callbacks of the first process ask for them.
    pub fn text_sets(&self, steps: u64) -> Vec<TextSet<'_>> {
        let mut sets = self.ranked.text_sets(steps);
        sets.extend(self.probed.iter().flat_map(|probed| probed.text_sets(steps)));
        sets
    }
}

impl Trainer<'_> {
    /// Trains `model` together with the first process, which has all callbacks and decides when the training ends.
    ///
    /// # Errors
    /// A loss or gradient that is not finite, which the first process reports; or MPI fails.
    pub(in super::super) fn follow(&mut self, model: GenirModel) -> Result<Outcome, TrainError> {
        self.follower = Some(Follower::new(self.plan)?);
        Ok(self.train(model, None)?.1)
    }

    /// Does what the first process orders, and returns whether an update follows.
    pub(super) fn follow_orders(&mut self, model: &GenirModel) -> Result<bool, TrainError> {
        let (Some(world), Some(follower)) = (self.world, &mut self.follower) else {
            return Ok(false);
        };
        // Between two updates the model is the same. Freed first, so that its memory is returned with the rest.
        let mut ranking: Option<(GenirModel, MemoryScope)> = None;
        loop {
            match world.hear()? {
                Order::Update => return Ok(true),
                Order::End => return Ok(false),
                Order::Rank { set, round } => {
                    let begin = || (model.merged(), MemoryScope::begin());
                    let (model, _) = ranking.get_or_insert_with(begin);
                    let prefix = self.prefix.as_deref();
                    follower.ranked.rank_share((set, round), world, model, prefix)?;
                }
                Order::HeldOut => {
                    let _memory = MemoryScope::begin();
                    self.plan.held_out.loss_of_all(world, self.plan, model)?;
                }
                Order::Probe { probes } => {
                    ranking = None;
                    let (step, prefix) = (self.newest.number, self.prefix.as_ref());
                    let probed = Probed { model, step, prefix };
                    if let Some(sets) = &mut follower.probed {
                        let _memory = MemoryScope::begin();
                        let due = sets.ordered(probes);
                        match sets.measure(Some(world), &due, probed, &|| Ok(())) {
                            // The first process keeps the results, was interrupted, or reports the same error.
                            Ok(_) | Err(TrainError::Interrupted | TrainError::Probe(_)) => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
                Order::Rows { what } => {
                    if let Some(shards) = &self.shards {
                        shards.send(what, model, &self.optimizer)?;
                    }
                }
                // The prefix comes before all updates.
                Order::Prefix { .. } => {}
            }
        }
    }
}
