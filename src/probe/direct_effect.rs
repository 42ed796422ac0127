//! P2b, direct effect: how far one type of component leads by itself.

use serde::{Deserialize, Serialize};

use super::bench::{Batch, Bench, Measure};
use super::{ProbeResult, RankShift};
use crate::component::Component;

/// Whose outputs are summed. Self-attention of a one-token decoder brings nothing of the query.
const SUMMED: [Component; 2] = [Component::Mlp, Component::CrossAttention];

/// Ranks under logits from the outputs of one type of component, summed over all layers. The outputs are those of
/// an unpatched pass; the start embedding is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DirectEffect {
    /// For MLPs and for cross-attention.
    pub effects: Vec<EffectOfType>,
}

/// The ranks that one type of component leads to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EffectOfType {
    pub component: Component,
    #[serde(flatten)]
    pub ranks: RankShift,
}

/// The probe while it measures: ranks under each type's sum.
#[derive(Default)]
pub(super) struct Measuring {
    ranks: [Vec<u32>; SUMMED.len()],
}

impl Measure for Measuring {
    fn see(&mut self, bench: &Bench, batch: &Batch) {
        for (ranks, component) in self.ranks.iter_mut().zip(SUMMED) {
            let layers = 0..batch.trace.layers.len();
            let outputs = layers.map(|layer| batch.trace.output_of(layer, component).clone());
            let sum = outputs.reduce(|sum, output| sum + output); // [batch, d_model]
            ranks.extend(sum.into_iter().flat_map(|sum| bench.lens().ranks(sum, &batch.targets)));
        }
    }

    fn finish(self: Box<Self>, _bench: &Bench) -> ProbeResult {
        let effects = SUMMED.into_iter().zip(self.ranks);
        let effect = |(component, ranks)| EffectOfType { component, ranks: RankShift::of(ranks) };
        ProbeResult::DirectEffect(DirectEffect { effects: effects.map(effect).collect() })
    }
}
