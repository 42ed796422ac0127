//! What a run needs at its peak, estimated from its sizes before it starts.

use std::collections::BTreeSet;
use std::fmt;

use crate::component::TrainableTable;
use crate::recipe::{Optimizer, ProbesSection, Recipe};
use crate::t5::{FeedForward, T5Config};

/// Bytes that a training step holds, by what they are for.
///
/// An estimate: what a step holds at once depends on the order in which temporaries are freed. The corpus
/// and its tokens are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// All parameters.
    pub parameters: usize,
    /// Gradients of the trained ones.
    pub gradients: usize,
    /// Optimizer state of the trained ones.
    pub optimizer: usize,
    /// Activations kept for the backward pass, and logits.
    pub activations: usize,
    /// The copy of the base model that probes compare with; 0 where none does.
    pub base: usize,
}

const F32: usize = size_of::<f32>();

impl MemoryEstimate {
    pub(super) fn new(
        recipe: &Recipe,
        config: &T5Config,
        table: &TrainableTable,
        trained: &BTreeSet<String>,
        documents: usize,
    ) -> Self {
        let trained_count = table.total.trained;
        let states = match recipe.optimizer.optimizer {
            Optimizer::AdamW { .. } => 2 * trained_count,
            // A row and a column of second moments for each matrix: the square roots of its size, about.
            Optimizer::Adafactor { .. } => trained_count / config.d_model.max(1) * 2,
        };
        let compares = |section: &ProbesSection| section.run.iter().any(|probe| probe.uses_base());
        let base = match recipe.probes.as_ref().is_some_and(compares) {
            true => table.total.parameters - documents * config.d_model,
            false => 0,
        };
        // Accumulated gradients stand beside those of the newest batch.
        let copies = if recipe.train.accumulate > 1 { 2 } else { 1 };
        Self {
            parameters: F32 * table.total.parameters,
            gradients: F32 * trained_count * copies,
            optimizer: F32 * states,
            activations: F32 * activations(recipe, config, trained, documents),
            base: F32 * base,
        }
    }

    /// All of it, in bytes.
    pub fn total(&self) -> usize {
        self.parameters + self.gradients + self.optimizer + self.activations + self.base
    }
}

/// Floats kept for the backward pass of one batch.
fn activations(
    recipe: &Recipe,
    config: &T5Config,
    trained: &BTreeSet<String>,
    documents: usize,
) -> usize {
    let batch = recipe.train.batch_size;
    let length = recipe.task.document_tokens.max(recipe.task.query_tokens);
    let positions = batch * length;
    let (width, inner, wide) = (config.d_model, config.inner(), config.d_ff);
    let halves = if config.feed_forward == FeedForward::GatedGelu { 4 } else { 2 };
    // Norm (input, square, scaled, output), sum and residual of a component: six tensors of the stream's
    // width. Queries, keys, values and their mix; scores and pattern; the MLP before and after its activation.
    let attention = |targets: usize, sources: usize| {
        targets * (6 * width + 2 * inner)
            + sources * 2 * inner
            + 2 * config.num_heads * targets * sources / batch.max(1)
    };
    let mlp = |rows: usize| rows * (6 * width + halves * wide);
    let encoder_layer = attention(positions, positions) + mlp(positions);
    let decoder_layer = attention(batch, batch) + attention(batch, positions) + mlp(batch);
    // Words are embedded before the encoder: training either keeps all of it; otherwise one layer at a time.
    let encoder_trained =
        trained.iter().any(|name| name.starts_with("t5.encoder.") || name == "t5.shared.weight");
    let encoder = if encoder_trained { config.num_layers } else { 1 } * encoder_layer;
    let logits = 4 * batch * (config.vocab_size + documents);
    encoder + config.num_decoder_layers * decoder_layer + logits
}

impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        write!(
            f,
            "about {} MiB at the peak of a step: parameters {}, gradients {}, optimizer {}, \
             activations {}",
            mib(self.total()),
            mib(self.parameters),
            mib(self.gradients),
            mib(self.optimizer),
            mib(self.activations)
        )?;
        if self.base > 0 {
            write!(f, ", the base model for probes {}", mib(self.base))?;
        }
        f.write_str(" (the corpus and its tokens not counted)")
    }
}
