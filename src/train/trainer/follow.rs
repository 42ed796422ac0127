//! What a process does that is not the first: it trains with the others, and does its share of what the first one orders.

use super::super::TrainError;
use super::super::ranked_sets::RankedSets;
use super::{Outcome, Trainer};
use crate::allocator::MemoryScope;
use crate::processes::{Order, ProcessesError};
use crate::t5::GenirModel;

impl Trainer<'_> {
    /// Trains `model` together with the first process, which has all callbacks and decides when the training ends.
    ///
    /// # Errors
    /// A loss or gradient that is not finite, which the first process reports; or MPI fails.
    pub(in super::super) fn follow(&mut self, model: GenirModel) -> Result<Outcome, TrainError> {
        self.ranked = Some(RankedSets::new(self.plan));
        Ok(self.train(model, None)?.1)
    }

    /// Does what the first process orders, and returns whether an update follows.
    pub(super) fn follow_orders(&self, model: &GenirModel) -> Result<bool, ProcessesError> {
        let (Some(world), Some(ranked)) = (self.world, &self.ranked) else { return Ok(false) };
        // Between two updates the model is the same. Freed first, so that its memory is returned with the rest.
        let mut ranking: Option<(GenirModel, MemoryScope)> = None;
        loop {
            match world.hear()? {
                Order::Update => return Ok(true),
                Order::End => return Ok(false),
                Order::Rank { set, round } => {
                    let begin = || (model.merged(), MemoryScope::begin());
                    let (model, _) = ranking.get_or_insert_with(begin);
                    ranked.rank_share((set, round), world, model, self.prefix.as_deref())?;
                }
            }
        }
    }
}
