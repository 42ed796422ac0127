//! The order of examples: a pure function of seed and position.

use super::{BatchPart, Epochs, Examples, Mixture, PartExamples, Task};
use crate::random;

/// Number of updates over which examples are sorted by length. A longer window saves more padding, and makes the
/// examples of an update more similar in length and task.
const WINDOW: usize = 16;

/// Selects the examples of each update of a run and divides them into batches.
///
/// The result depends only on the examples, the mixture, the size of an update, the seed and the index of the update,
/// not on earlier calls: a resumed run needs that index only. The order of one epoch is cached between calls.
///
/// The order of an epoch: all examples, as often as the mixture defines, are shuffled; within windows of several
/// updates they are sorted by length and divided into updates, so that the texts of an update have similar lengths; the
/// updates of each window are shuffled. Examples of denoising, which have targets of their own kind, are sorted behind the
/// others of a window, so that most updates have one kind. Only the last update of an epoch may be short. The number of batches of an
/// update has no effect: 4 batches of 32 are the same examples as one batch of 128.
#[derive(Debug, Clone)]
pub struct Sampler {
    /// Number of tokens of each example.
    lengths: Vec<u32>,
    indexing: usize,
    of_docids: usize,
    mixture: Mixture,
    epochs: Epochs,
    seed: u64,
    epoch: Option<u64>,
    plan: Vec<u32>,
}

impl Sampler {
    /// Creates a sampler of `examples`; `epochs` is the division of `mixture` into updates.
    pub fn new(examples: &Examples, mixture: &Mixture, epochs: Epochs, seed: u64) -> Self {
        Self {
            lengths: (0..examples.len()).map(|index| examples.tokens(index).len() as u32).collect(),
            indexing: examples.count(Task::Indexing),
            of_docids: examples.of_docids(),
            mixture: *mixture,
            epochs,
            seed,
            epoch: None,
            plan: Vec::new(),
        }
    }

    /// Returns the examples of an update, counted from 0 over all epochs.
    pub fn update(&mut self, update: u64) -> &[u32] {
        let (epoch, place) = self.epochs.locate(update);
        if self.epoch != Some(epoch) {
            self.plan = self.plan_of(epoch);
            self.epoch = Some(epoch);
        }
        &self.plan[place]
    }

    /// Returns the batches of an update.
    pub fn batches(&mut self, update: u64) -> impl Iterator<Item = &[u32]> {
        let size = self.epochs.max_batch_size() as usize;
        self.update(update).chunks(size)
    }

    /// Returns the batches of an update, those with examples of both kinds divided into two parts. The position of a
    /// denoising example, which its spans are a function of, is the number of examples before it in the run: it does not
    /// depend on the division into batches.
    pub fn parts(&mut self, update: u64) -> Vec<BatchPart> {
        let (first, of_docids) = (self.epochs.first_batch(update), self.of_docids);
        let before = self.epochs.examples_after(update);
        let size = self.epochs.max_batch_size() as usize;
        let mut parts = Vec::new();
        for (number, batch) in self.update(update).chunks(size).enumerate() {
            let number = number as u64;
            let positions = before + number * size as u64..;
            let (docids, texts): (Vec<_>, Vec<_>) = batch
                .iter()
                .copied()
                .zip(positions)
                .partition(|&(example, _)| (example as usize) < of_docids);
            let docids = docids.into_iter().map(|(example, _)| example).collect::<Vec<u32>>();
            let found = [PartExamples::Docids(docids), PartExamples::Denoising(texts)];
            let whole = found.into_iter().filter(|examples| !examples.is_empty());
            parts.extend(whole.map(|examples| BatchPart { batch: first + number, examples }));
        }
        parts
    }

    fn plan_of(&self, epoch: u64) -> Vec<u32> {
        let mut plan = Vec::with_capacity(self.mixture.per_epoch() as usize);
        let tasks = [
            (Task::Indexing, 0),
            (Task::Retrieval, self.indexing),
            (Task::Denoising, self.of_docids),
        ];
        for (task, first) in tasks {
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
        let window = WINDOW * self.epochs.max_update_size() as usize;
        for (number, window) in plan.chunks_mut(window).enumerate() {
            // The sort is stable: examples of equal length remain shuffled.
            window.sort_by_key(|&example| {
                let example = example as usize;
                (example >= self.of_docids, self.lengths[example])
            });
            self.shuffle_updates(window, epoch, number);
        }
        plan
    }

    /// Shuffles the full updates of a window; a short one remains at its end.
    fn shuffle_updates(&self, window: &mut [u32], epoch: u64, number: usize) {
        let size = self.epochs.max_update_size() as usize;
        let mut order: Vec<usize> = (0..window.len() / size).collect();
        random::shuffle(&mut order, self.seed, epoch, &format!("window {number}"));
        let sorted = window.to_vec();
        for (to, &from) in window.chunks_exact_mut(size).zip(&order) {
            to.copy_from_slice(&sorted[from * size..][..size]);
        }
    }
}
