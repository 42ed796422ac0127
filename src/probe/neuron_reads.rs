//! P6 (Fig. 5 right): input attribution of active MLP neurons by source component.
//!
//! A neuron is active if its pre-activation is positive; in gated models, that of its gate (the paper has no gated
//! models).

use super::ProbeResult;
use super::context::{ProbeContext, ProbedBatch};
use super::input_attribution::{Attribution, Contributions, ReadAccumulator, sources};
use crate::component::Component;

/// Returns the accumulator of the probe.
pub(super) fn accumulator(context: &ProbeContext) -> ReadAccumulator {
    ReadAccumulator::new(context, add_batch, ProbeResult::NeuronReads)
}

fn add_batch(all: &mut Attribution, context: &ProbeContext, batch: &ProbedBatch) {
    for (layer, block) in context.model.t5.decoder.layers.iter().enumerate() {
        let found = &batch.trace.layers[layer];
        let sources = sources(&batch.trace, layer, Component::Mlp); // [batch, sources, d_model]
        let [batch, count, d_model] = sources.dims();
        let read = all.as_reader_input(sources, &block.mlp.norm, &found.residual_mid_cross);
        let neurons = block.mlp.gate.as_ref().unwrap_or(&block.mlp.input);
        let parts =
            neurons.forward(read.reshape([batch * count, d_model]), context.model.t5.precision());
        let [_, d_ff] = parts.dims();
        all.add(
            layer,
            Contributions {
                parts: parts.reshape([batch, count, d_ff]),
                active: found.mlp_pre.clone().greater_elem(0.0).float(),
                whole: found.mlp_pre.clone(),
            },
        );
    }
}
