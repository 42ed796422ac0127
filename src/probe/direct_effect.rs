//! P2b, direct effect: how far one type of component leads by itself.

use serde::{Deserialize, Serialize};

use super::context::{ProbeAccumulator, ProbeContext, ProbedBatch};
use super::{ProbeResult, RankShift};
use crate::component::Component;

/// Whose outputs are summed. Self-attention of a one-token decoder brings nothing of the query.
const SUMMED: [Component; 2] = [Component::Mlp, Component::CrossAttention];

/// Ranks under logits from the outputs of one type of component, summed over all layers. The outputs are those of
/// an unpatched pass; the start embedding is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DirectEffect {
    /// For MLPs and for cross-attention.
    pub effects: Vec<ComponentEffect>,
}

/// The ranks that one type of component leads to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComponentEffect {
    /// The type of component.
    pub component: Component,
    /// Ranks of the relevant docid.
    #[serde(flatten)]
    pub ranks: RankShift,
}

/// The probe while it measures: ranks under each type's sum.
#[derive(Default)]
pub(super) struct Accumulator {
    ranks: [Vec<u32>; SUMMED.len()],
}

impl ProbeAccumulator for Accumulator {
    fn add_batch(&mut self, context: &ProbeContext, batch: &ProbedBatch) {
        let sum = |component| {
            let layers = 0..batch.trace.layers.len();
            let outputs = layers.map(|layer| batch.trace.output_of(layer, component).clone());
            outputs.reduce(|sum, output| sum + output) // [batch, d_model]
        };
        let sums = SUMMED.into_iter().filter_map(sum).collect();
        let found = context.lens().ranks(sums, &batch.targets);
        self.ranks.iter_mut().zip(found).for_each(|(ranks, found)| ranks.extend(found));
    }

    fn finish(self: Box<Self>, context: &ProbeContext) -> ProbeResult {
        let effects = SUMMED.into_iter().zip(self.ranks);
        let effect = |(component, ranks)| ComponentEffect {
            component,
            ranks: RankShift::of(ranks, context.options.per_query),
        };
        ProbeResult::DirectEffect(DirectEffect { effects: effects.map(effect).collect() })
    }
}
