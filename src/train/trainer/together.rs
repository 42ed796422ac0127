//! The agreement of a trainer with the other processes that train the same run.

use std::ops::Range;

use super::super::shards::DOCIDS;
use super::Trainer;
use crate::processes::{Order, ProcessesError, World};
use crate::t5::GenirModel;
use crate::t5::weights::weights_digest;
use crate::task::BatchPart;

impl Trainer<'_> {
    /// Gives the other processes an order, if there are any.
    pub(super) fn order(&self, order: Order) -> Result<(), ProcessesError> {
        self.world.map_or(Ok(()), |world| world.order(order))
    }

    /// The sum of a number over all processes.
    pub(super) fn of_all(&self, own: f64) -> Result<f64, ProcessesError> {
        match self.world {
            None => Ok(own),
            Some(world) => Ok(world.all_gather(&[own])?.iter().sum()),
        }
    }

    /// Checks that all processes begin with the same weights, to the bit.
    pub(super) fn check_weights(&self, model: &GenirModel) -> Result<(), ProcessesError> {
        match self.world {
            None => Ok(()),
            Some(world) => {
                // Each process has its own docid rows where they are divided.
                let divided = self.shards.is_some().then_some(DOCIDS);
                let digest = weights_digest(model, divided);
                world.agree(&[("the weights that they begin with, by BLAKE3", digest)])
            }
        }
    }

    /// The places of this process's parts among those of an update: whole batches, as many for each process where the
    /// update is not a short one.
    pub(super) fn own(&self, parts: &[BatchPart]) -> Range<usize> {
        match self.world {
            None => 0..parts.len(),
            Some(world) => {
                let up_to = |rank| parts.partition_point(|part| self.owner(parts, part) < rank);
                up_to(world.rank())..up_to(world.rank() + 1)
            }
        }
    }

    /// The rank of the process that computes one of the `parts` of an update.
    pub(super) fn owner(&self, parts: &[BatchPart], part: &BatchPart) -> usize {
        let share = self.plan.recipe.train.accumulate / self.world.map_or(1, World::count);
        (part.batch - parts[0].batch) as usize / share.max(1)
    }

    /// The losses of all parts of an update, each of the process that has computed it.
    pub(super) fn losses_of_all(
        &self,
        parts: &[BatchPart],
        own: Vec<f64>,
    ) -> Result<Vec<f64>, ProcessesError> {
        let Some(world) = self.world else { return Ok(own) };
        let all = world.all_gather(&own)?; // [processes, parts]
        let of_part = |(at, part)| all[self.owner(parts, part) * parts.len() + at];
        Ok(parts.iter().enumerate().map(of_part).collect())
    }
}
