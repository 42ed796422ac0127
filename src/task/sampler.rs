//! The order in which examples are seen: a pure function of seed and position.

use super::{Epochs, Examples, Mixture, Task};
use crate::random;

/// Updates among which examples are sorted by length. A longer window saves more padding and makes updates more
/// alike in length and task.
const WINDOW: usize = 16;

/// Says which examples make update number `update` of a run, and how they are cut into batches.
///
/// The answer depends on the examples, the mixture, the examples of an update, the seed and the number of the update,
/// and on nothing that was asked before: a number is all that a resumed run needs. What is kept between calls is the
/// plan of one epoch.
///
/// The plan of an epoch: every example as often as the mixture says, all of them shuffled; in windows of some
/// updates, sorted by length and cut into updates, so that an update has texts of about one length; the
/// updates of a window shuffled. Only the last update of an epoch may be short. How many batches an update is cut
/// into has no part in this: 4 batches of 32 are the examples of one batch of 128.
#[derive(Debug, Clone)]
pub struct Sampler {
    /// Tokens of each example.
    lengths: Vec<u32>,
    indexing: usize,
    mixture: Mixture,
    epochs: Epochs,
    seed: u64,
    epoch: Option<u64>,
    plan: Vec<u32>,
}

impl Sampler {
    /// A sampler over these examples, whose mixture makes these epochs.
    pub fn new(examples: &Examples, mixture: &Mixture, epochs: Epochs, seed: u64) -> Self {
        Self {
            lengths: (0..examples.len()).map(|index| examples.tokens(index).len() as u32).collect(),
            indexing: examples.count(Task::Indexing),
            mixture: *mixture,
            epochs,
            seed,
            epoch: None,
            plan: Vec::new(),
        }
    }

    /// The examples of update `update`, counted from 0 over all epochs.
    pub fn update(&mut self, update: u64) -> &[u32] {
        let (epoch, place) = self.epochs.place(update);
        if self.epoch != Some(epoch) {
            self.plan = self.plan_of(epoch);
            self.epoch = Some(epoch);
        }
        &self.plan[place]
    }

    /// The batches of update `update`: its examples, cut.
    pub fn batches(&mut self, update: u64) -> impl Iterator<Item = &[u32]> {
        let size = self.epochs.largest_batch() as usize;
        self.update(update).chunks(size)
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
        let window = WINDOW * self.epochs.largest_update() as usize;
        for (number, window) in plan.chunks_mut(window).enumerate() {
            // The sort is stable: examples of one length stay shuffled.
            window.sort_by_key(|&example| self.lengths[example as usize]);
            self.shuffle_updates(window, epoch, number);
        }
        plan
    }

    /// Shuffles the whole updates of a window; a short one stays at its end.
    fn shuffle_updates(&self, window: &mut [u32], epoch: u64, number: usize) {
        let size = self.epochs.largest_update() as usize;
        let mut order: Vec<usize> = (0..window.len() / size).collect();
        random::shuffle(&mut order, self.seed, epoch, &format!("window {number}"));
        let sorted = window.to_vec();
        for (to, &from) in window.chunks_exact_mut(size).zip(&order) {
            to.copy_from_slice(&sorted[from * size..][..size]);
        }
    }
}
