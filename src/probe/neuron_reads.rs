//! P6, what MLP neurons read (Fig. 5 right): from which earlier components active neurons are activated.
//!
//! A neuron is active where its pre-activation is above 0; in gated models that is the gate's (the paper has none).

use super::ProbeResult;
use super::bench::{Bench, Measure, ProbedBatch};
use super::shares::{Contributions, Shares, sources};
use crate::component::Component;

/// The probe while it measures.
pub(super) struct Measuring {
    shares: Shares,
}

impl Measuring {
    pub fn new(bench: &Bench) -> Self {
        Self { shares: Shares::new(bench) }
    }
}

impl Measure for Measuring {
    fn see(&mut self, bench: &Bench, batch: &ProbedBatch) {
        for (layer, block) in bench.model.t5.decoder.layers.iter().enumerate() {
            let found = &batch.trace.layers[layer];
            let sources = sources(&batch.trace, layer, Component::Mlp); // [batch, sources, d_model]
            let [batch, count, d_model] = sources.dims();
            let read = self.shares.as_read(sources, &block.mlp.norm, &found.residual_mid_cross);
            let neurons = block.mlp.gate.as_ref().unwrap_or(&block.mlp.input);
            let parts =
                neurons.forward(read.reshape([batch * count, d_model]), bench.model.t5.precision());
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

    fn finish(self: Box<Self>, _bench: &Bench) -> ProbeResult {
        ProbeResult::NeuronReads(self.shares.finish())
    }
}
