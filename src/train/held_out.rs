//! The denoising loss of documents that are held out.

use burn::module::Module;
use burn::tensor::Device;

use super::plan::Plan;
use super::text_step::{TextBatch, text_loss};
use crate::device::pad_to_multiple_of;
use crate::processes::{ProcessesError, World};
use crate::t5::GenirModel;
use crate::task::{Examples, collate_corrupted};

/// The seed of the spans of held-out texts: they are the same at each evaluation of each run, so that losses compare.
const SEED: u64 = 0;

/// Pieces of the documents that are held out of denoising, sorted by length.
#[derive(Debug, Clone, Default)]
pub struct HeldOut {
    examples: Examples,
    /// Indices of the examples, each with the position that its spans are a function of.
    order: Vec<(u32, u64)>,
}

impl HeldOut {
    pub(super) fn new(examples: Examples) -> Self {
        let mut order: Vec<(u32, u64)> =
            (0..examples.len() as u32).map(|index| (index, u64::from(index))).collect();
        order.sort_by_key(|&(index, _)| examples.tokens(index as usize).len());
        Self { examples, order }
    }

    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Returns whether nothing is held out.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Number of tokens of the longest piece.
    pub(super) fn longest(&self) -> usize {
        self.order.last().map_or(0, |&(index, _)| self.examples.tokens(index as usize).len())
    }

    /// The sources of the pieces, `doc:<id>`.
    pub(super) fn ids(&self) -> impl Iterator<Item = String> {
        (0..self.examples.len()).map(|index| self.examples.source_id(index))
    }

    /// Mean loss of all labels, in nats per token, without dropout; `None` if nothing is held out. Labels are the
    /// sentinels, the tokens that they replace, and `</s>`.
    pub fn loss(&self, plan: &Plan, model: &GenirModel) -> Option<f64> {
        mean(self.losses(plan, model, 0, 1).into_iter())
    }

    /// The same, together with the other processes of `world`. All of them call it, and each computes other batches.
    ///
    /// # Errors
    /// MPI fails.
    pub(super) fn loss_of_all(
        &self,
        world: &World,
        plan: &Plan,
        model: &GenirModel,
    ) -> Result<Option<f64>, ProcessesError> {
        let count = world.count();
        let own = self.losses(plan, model, world.rank(), count);
        tracing::debug!("{world:?} has the loss of held-out documents: {} batches", own.len());
        let all = world.all_gather_each(own.as_flattened())?;
        let batches: Vec<&[[f64; 2]]> = all.iter().map(|losses| losses.as_chunks().0).collect();
        // The first batch of each process, then the second one of each: the order and the bits of one process.
        let rounds = batches[0].len();
        let of_all = (0..rounds * count).filter_map(|at| batches[at % count].get(at / count));
        Ok(mean(of_all.copied()))
    }

    /// Of every `step`th batch from the one with the number `first`: the sum of the losses of its labels, and their number.
    fn losses(&self, plan: &Plan, model: &GenirModel, first: usize, step: usize) -> Vec<[f64; 2]> {
        let device: &Device = &plan.device;
        let model = model.valid();
        let denoising = &plan.recipe.task.options().denoising;
        let how = (denoising, &plan.sentinels);
        let (pad_id, multiple) = (plan.tokenizer.pad_id(), pad_to_multiple_of(device));
        let batches = self.order.chunks(plan.recipe.evaluate.batch_size).skip(first).step_by(step);
        let loss = |chosen| {
            let batch = collate_corrupted(&self.examples, chosen, how, SEED, pad_id, multiple);
            let (loss, labels) =
                text_loss(&model.t5, &TextBatch::of(&batch, plan.config(), device));
            [loss * labels as f64, labels as f64]
        };
        batches.map(loss).collect()
    }
}

/// The mean loss of all labels of some batches, from what [`HeldOut::losses`] returns; `None` of no labels.
fn mean(batches: impl Iterator<Item = [f64; 2]>) -> Option<f64> {
    let [sum, count] =
        batches.fold([0.0; 2], |[sum, count], [loss, labels]| [sum + loss, count + labels]);
    (count > 0.0).then(|| sum / count)
}
