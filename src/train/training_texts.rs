//! The texts that a run trains on again and again, for which the frozen prefix can be stored.

use super::plan::Plan;
use crate::prefix::TextSet;

impl Plan {
    /// The training texts whose target is a docid, as often as the whole run reads them. Texts of denoising are corrupted
    /// anew each time: nothing can be stored for them.
    pub fn training_texts(&self) -> TextSet<'_> {
        let examples = 0..self.examples.of_docids();
        let reads = self.epochs.examples_after(self.total_steps());
        let reads = match self.is_denoising() {
            true => (reads as f64 * self.mixture.share_of_docids()).round() as u64,
            false => reads,
        };
        TextSet {
            name: "training".to_owned(),
            texts: examples.map(|example| self.examples.tokens(example)).collect(),
            reads,
        }
    }

    /// Returns whether denoising is one of the tasks.
    pub fn is_denoising(&self) -> bool {
        self.recipe.task.denoising.is_some()
    }
}
