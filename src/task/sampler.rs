//! The order in which examples are seen: a pure function of seed and position.

use super::{Examples, Mixture, Task, TaskError};
use crate::random;

/// Batches among which examples are sorted by length. A longer window saves more padding and makes batches more
/// alike in length and task.
const WINDOW: usize = 16;

/// Says which examples make batch number `position` of a run.
///
/// The answer depends on the examples, the mixture, the batch size, the seed and the position, and on nothing
/// that was asked before: a position is all that a resumed run needs. What is kept between calls is the plan
/// of one epoch.
///
/// The plan of an epoch: every example as often as the mixture says, all of them shuffled; in windows of some
/// batches, sorted by length and cut into batches, so that a batch has texts of about one length; the
/// batches of a window shuffled. Only the last batch of an epoch may be short.
#[derive(Debug, Clone)]
pub struct Sampler {
    /// Tokens of each example.
    lengths: Vec<u32>,
    indexing: usize,
    mixture: Mixture,
    batch_size: usize,
    seed: u64,
    epoch: Option<u64>,
    plan: Vec<u32>,
}

impl Sampler {
    /// A sampler over these examples.
    pub fn new(
        examples: &Examples,
        mixture: &Mixture,
        batch_size: usize,
        seed: u64,
    ) -> Result<Self, TaskError> {
        if batch_size == 0 {
            return Err(TaskError::BatchSize);
        }
        Ok(Self {
            lengths: (0..examples.len()).map(|index| examples.tokens(index).len() as u32).collect(),
            indexing: examples.count(Task::Indexing),
            mixture: *mixture,
            batch_size,
            seed,
            epoch: None,
            plan: Vec::new(),
        })
    }

    /// Batches an epoch; the last one may be short.
    pub fn batches_per_epoch(&self) -> u64 {
        self.mixture.per_epoch().div_ceil(self.batch_size as u64)
    }

    /// The examples of batch `position`, counted from 0 over all epochs.
    pub fn batch(&mut self, position: u64) -> Vec<u32> {
        let epoch = position / self.batches_per_epoch();
        if self.epoch != Some(epoch) {
            self.plan = self.plan_of(epoch);
            self.epoch = Some(epoch);
        }
        let start = (position % self.batches_per_epoch()) as usize * self.batch_size;
        let end = (start + self.batch_size).min(self.plan.len());
        self.plan[start..end].to_vec()
    }

    fn plan_of(&self, epoch: u64) -> Vec<u32> {
        let mut plan = Vec::with_capacity(self.mixture.per_epoch() as usize);
        for (task, first) in [(Task::Indexing, 0), (Task::Retrieval, self.indexing)] {
            let share = self.mixture.share(task);
            if share.examples == 0 {
                continue;
            }
            let mut examples: Vec<u32> = (first as u32..).take(share.examples as usize).collect();
            for _ in 0..share.per_epoch / share.examples {
                plan.extend_from_slice(&examples);
            }
            let extra = (share.per_epoch % share.examples) as usize;
            random::shuffle(&mut examples, self.seed, epoch, &format!("extra {task}"));
            plan.extend_from_slice(&examples[..extra]);
        }
        random::shuffle(&mut plan, self.seed, epoch, "order of examples");
        let window = WINDOW * self.batch_size;
        for (number, window) in plan.chunks_mut(window).enumerate() {
            // The sort is stable: examples of one length stay shuffled.
            window.sort_by_key(|&example| self.lengths[example as usize]);
            self.shuffle_batches(window, epoch, number);
        }
        plan
    }

    /// Shuffles the whole batches of a window; a short one stays at its end.
    fn shuffle_batches(&self, window: &mut [u32], epoch: u64, number: usize) {
        let mut order: Vec<usize> = (0..window.len() / self.batch_size).collect();
        random::shuffle(&mut order, self.seed, epoch, &format!("window {number}"));
        let sorted = window.to_vec();
        for (to, &from) in window.chunks_exact_mut(self.batch_size).zip(&order) {
            let start = from * self.batch_size;
            to.copy_from_slice(&sorted[start..start + self.batch_size]);
        }
    }
}
