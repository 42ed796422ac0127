//! The denoising loss of documents that are held out.

use burn::module::Module;
use burn::tensor::Device;

use super::plan::Plan;
use super::text_step::{TextBatch, text_loss};
use crate::device::pad_to_multiple_of;
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
        let device: &Device = &plan.device;
        let model = model.valid();
        let denoising = &plan.recipe.task.options().denoising;
        let how = (denoising, &plan.sentinels);
        let (mut sum, mut count) = (0.0, 0);
        for chosen in self.order.chunks(plan.recipe.evaluate.batch_size) {
            let (pad_id, multiple) = (plan.tokenizer.pad_id(), pad_to_multiple_of(device));
            let batch = collate_corrupted(&self.examples, chosen, how, SEED, pad_id, multiple);
            let (loss, labels) =
                text_loss(&model.t5, &TextBatch::of(&batch, plan.config(), device));
            sum += loss * labels as f64;
            count += labels;
        }
        (count > 0).then(|| sum / count as f64)
    }
}
