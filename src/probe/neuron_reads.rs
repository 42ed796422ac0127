//! P6, what MLP neurons read (Fig. 5 right): from which earlier components active neurons are activated.
//!
//! A neuron is active where its pre-activation is above 0; in gated models that is the gate's (the paper has none).

use super::ProbeResult;
use super::context::{ProbeAccumulator, ProbeContext, ProbedBatch};
use super::input_attribution::{AttributionSums, Contributions, sources};
use crate::component::Component;

/// The probe while it measures.
pub(super) struct Accumulator {
    shares: AttributionSums,
}

impl Accumulator {
    pub fn new(context: &ProbeContext) -> Self {
        Self { shares: AttributionSums::new(context) }
    }
}

impl ProbeAccumulator for Accumulator {
    fn add_batch(&mut self, context: &ProbeContext, batch: &ProbedBatch) {
        for (layer, block) in context.model.t5.decoder.layers.iter().enumerate() {
            let found = &batch.trace.layers[layer];
            let sources = sources(&batch.trace, layer, Component::Mlp); // [batch, sources, d_model]
            let [batch, count, d_model] = sources.dims();
            let read =
                self.shares.as_reader_input(sources, &block.mlp.norm, &found.residual_mid_cross);
            let neurons = block.mlp.gate.as_ref().unwrap_or(&block.mlp.input);
            let parts = neurons
                .forward(read.reshape([batch * count, d_model]), context.model.t5.precision());
            let [_, d_ff] = parts.dims();
            self.shares.add(
                layer,
                Contributions {
                    parts: parts.reshape([batch, count, d_ff]),
                    active: found.mlp_pre.clone().greater_elem(0.0).float(),
                    whole: found.mlp_pre.clone(),
                },
            );
        }
    }

    fn finish(self: Box<Self>, _bench: &ProbeContext) -> ProbeResult {
        ProbeResult::NeuronReads(self.shares.finish())
    }
}
