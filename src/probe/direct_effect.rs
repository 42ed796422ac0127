//! P2b: direct logit attribution by component type.

use serde::{Deserialize, Serialize};

use super::context::{ProbeAccumulator, ProbeContext, ProbedBatch};
use super::{ProbeResult, RankShift};
use crate::component::Component;
use crate::processes::ProcessesError;

/// The component types whose outputs are summed. Self-attention of a one-token decoder carries no information about the
/// query.
const SUMMED: [Component; 2] = [Component::Mlp, Component::CrossAttention];

/// Ranks by the logits of the summed outputs of one component type over all layers. The outputs come from an unpatched
/// forward pass; the embedding of the start token is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DirectEffect {
    /// One entry for MLPs and one for cross-attention.
    pub effects: Vec<ComponentEffect>,
}

/// Ranks by the summed outputs of one component type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComponentEffect {
    /// The component type.
    pub component: Component,
    /// Ranks of the relevant docid.
    #[serde(flatten)]
    pub ranks: RankShift,
}

/// Ranks by the sum of each component type, collected over batches.
#[derive(Default)]
pub(super) struct Accumulator {
    ranks: [Vec<u32>; SUMMED.len()],
}

impl ProbeAccumulator for Accumulator {
    type OfBatch = Vec<Vec<u32>>;

    fn measure(&self, context: &ProbeContext, batch: &ProbedBatch) -> Vec<Vec<u32>> {
        let sum = |component| {
            let layers = 0..batch.trace.layers.len();
            let outputs = layers.map(|layer| batch.trace.output_of(layer, component).clone());
            outputs.reduce(|sum, output| sum + output) // [batch, d_model]
        };
        let sums = SUMMED.into_iter().filter_map(sum).collect();
        context.lens().ranks(sums, &batch.targets)
    }

    fn add(&mut self, found: Vec<Vec<u32>>) {
        self.ranks.iter_mut().zip(found).for_each(|(ranks, found)| ranks.extend(found));
    }

    fn finish(self: Box<Self>, context: &ProbeContext) -> Result<ProbeResult, ProcessesError> {
        let effects = SUMMED.into_iter().zip(self.ranks);
        let effect = |(component, ranks)| ComponentEffect {
            component,
            ranks: RankShift::of(ranks, context.options.per_query),
        };
        Ok(ProbeResult::DirectEffect(DirectEffect { effects: effects.map(effect).collect() }))
    }
}
