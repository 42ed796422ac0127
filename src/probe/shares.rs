//! What a part of the model reads, as shares of the earlier components that wrote it: the common form of P6 and P7.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::bench::Bench;
use super::record::number;
use super::trace::Trace;
use crate::choice::choice;
use crate::component::{Component, Stage, Stages};
use crate::t5::RmsNorm;

choice! {
    /// How contributions are computed.
    Variant {
        /// As the paper's scripts do: against the raw weights.
        Paper = "paper",
        /// With the weight and scale of the RMSNorm folded in: contributions add up to what is read.
        Exact = "exact",
    }
}

/// From which earlier components each layer reads, as shares of the positive contributions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reads {
    pub variant: Variant,
    /// By reading layer.
    pub layers: Vec<LayerReads>,
    /// By stage of the reading layer: means over its layers, those without a reader left out.
    pub stages: Vec<StageReads>,
    /// Exact variant: the largest deviation of the sum of contributions from the value that the model computed,
    /// over that value's largest magnitude in its layer and query.
    pub largest_deviation: Option<f64>,
}

/// What one layer reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerReads {
    pub layer: usize,
    pub stage: Stage,
    /// Mean number of readers a query: active neurons, or heads.
    #[serde(with = "number")]
    pub readers: f64,
    /// Every source before it, in order; they sum to 1, and are undefined where no query has a reader.
    pub shares: Vec<Share>,
}

/// One source's share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    pub source: Source,
    /// None for the start embedding.
    pub layer: Option<usize>,
    #[serde(with = "number")]
    pub share: f64,
}

choice! {
    /// What wrote to the residual stream.
    Source {
        /// The start token's embedding.
        Start = "start",
        /// A self-attention.
        SelfAttention = "self_attention",
        /// A cross-attention.
        CrossAttention = "cross_attention",
        /// An MLP.
        Mlp = "mlp",
    }
}

impl From<Component> for Source {
    fn from(component: Component) -> Self {
        match component {
            Component::SelfAttention => Self::SelfAttention,
            Component::CrossAttention => Self::CrossAttention,
            Component::Mlp => Self::Mlp,
        }
    }
}

/// What the layers of one stage read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageReads {
    pub stage: Stage,
    /// The start embedding, then each component type of each stage; they sum to 1. Empty where nothing reads.
    pub shares: Vec<StageShare>,
}

/// One type of source in one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageShare {
    #[serde(flatten)]
    pub source: StageSource,
    #[serde(with = "number")]
    pub share: f64,
}

/// A type of source in a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageSource {
    pub source: Source,
    /// None for the start embedding.
    #[serde(rename = "source_stage")]
    pub stage: Option<Stage>,
}

/// Shares while they are measured: sums over queries.
pub(super) struct Shares {
    pub variant: Variant,
    stages: Stages,
    layers: Vec<LayerSums>,
    largest_deviation: f64,
}

#[derive(Default, Clone)]
struct LayerSums {
    /// Queries with a reader.
    queries: usize,
    /// Readers of all queries, and the number of queries seen.
    readers: f64,
    seen: usize,
    /// By source.
    shares: Vec<f64>,
}

/// What the parts of one layer read in a batch.
pub(super) struct Contributions {
    /// `[batch, sources, readers]`
    pub parts: Tensor<3>,
    /// What the model computed of all sources together, `[batch, readers]`.
    pub whole: Tensor<2>,
    /// 1 where a reader counts, 0 where not: `[batch, readers]`.
    pub active: Tensor<2>,
}

/// The start embedding and every output before a layer's component, in order: `[batch, sources, d_model]`.
pub(super) fn sources(trace: &Trace, layer: usize, reader: Component) -> Tensor<3> {
    let earlier = trace.layers[..layer].iter().flat_map(|layer| &layer.outputs);
    let same = trace.layers[layer].outputs.iter().take(reader as usize);
    let all = [&trace.start].into_iter().chain(earlier).chain(same);
    Tensor::stack(all.cloned().collect(), 1)
}

impl Shares {
    pub fn new(bench: &Bench) -> Self {
        let stages = bench.options.stages.clone();
        Self {
            variant: bench.options.variant,
            layers: vec![LayerSums::default(); stages.depth()],
            stages,
            largest_deviation: 0.0,
        }
    }

    /// Sources as a reader behind `norm` meets them in this variant; `[batch, sources, d_model]` both.
    pub fn as_read(&self, sources: Tensor<3>, norm: &RmsNorm, residual: &Tensor<2>) -> Tensor<3> {
        match self.variant {
            Variant::Paper => sources,
            Variant::Exact => norm.of_parts(sources, residual.clone()),
        }
    }

    /// Takes in a batch of one layer.
    pub fn add(&mut self, layer: usize, found: Contributions) {
        let Contributions { parts, whole, active } = found;
        let [batch, sources, _] = parts.dims();
        if self.variant == Variant::Exact {
            let sum = parts.clone().sum_dim(1).squeeze_dim::<2>(1); // [batch, readers]
            let deviation = (sum - whole.clone()).abs().max_dim(1) / whole.abs().max_dim(1); // [batch, 1]
            for value in deviation.into_data().iter::<f64>() {
                self.largest_deviation = self.largest_deviation.max(value);
            }
        }
        let positive = parts.clamp_min(0.0);
        let total = positive.clone().sum_dim(1); // [batch, 1, readers]
        let counts = active.unsqueeze_dim::<3>(1) * total.clone().greater_elem(0.0).float();
        // Where nothing is counted the divisor is 1 and the weight 0.
        let weight = counts.clone() / (total.clone() + total.equal_elem(0.0).float());
        let shares = (positive * weight).sum_dim(2); // [batch, sources, 1]
        let counts = counts.sum_dim(2); // [batch, 1, 1]

        let sums = &mut self.layers[layer];
        sums.shares.resize(sources, 0.0);
        sums.seen += batch;
        let (shares, counts) = (shares.into_data(), counts.into_data());
        let shares: Vec<f64> = shares.iter::<f64>().collect();
        for (of_query, readers) in shares.chunks(sources).zip(counts.iter::<f64>()) {
            sums.readers += readers;
            if readers > 0.0 {
                sums.queries += 1;
                sums.shares
                    .iter_mut()
                    .zip(of_query)
                    .for_each(|(sum, share)| *sum += share / readers);
            }
        }
    }

    /// Means over all that was taken in.
    pub fn finish(self) -> Reads {
        let layers: Vec<LayerReads> = self
            .layers
            .iter()
            .enumerate()
            .map(|(layer, sums)| LayerReads {
                layer,
                stage: self.stages.of(layer),
                readers: sums.readers / sums.seen as f64,
                shares: sums.shares.iter().enumerate().map(|place| sums.share(place)).collect(),
            })
            .collect();
        let stages = Stage::ALL.into_iter();
        let stages = stages.map(|stage| StageReads::of(stage, &layers, &self.stages)).collect();
        let largest_deviation = (self.variant == Variant::Exact).then_some(self.largest_deviation);
        Reads { variant: self.variant, layers, stages, largest_deviation }
    }
}

impl LayerSums {
    /// The share of the source at `place` in the order of [`sources`].
    fn share(&self, (place, sum): (usize, &f64)) -> Share {
        let component = place.checked_sub(1).map(|place| Component::ALL[place % 3]);
        Share {
            source: component.map_or(Source::Start, Source::from),
            layer: place.checked_sub(1).map(|place| place / 3),
            share: sum / self.queries as f64,
        }
    }
}

impl StageReads {
    /// Means over the layers of `stage`, summed by type and stage of the source.
    fn of(stage: Stage, layers: &[LayerReads], stages: &Stages) -> Self {
        let readers = layers[stages.layers(stage).clone()].iter();
        let readers: Vec<&LayerReads> = readers.filter(|layer| layer.readers > 0.0).collect();
        let mut shares: Vec<StageShare> = Vec::new();
        for (source, of_stage) in all_sources() {
            let mut found = readers.iter().flat_map(|layer| &layer.shares).filter(|share| {
                share.source == source && share.layer.map(|layer| stages.of(layer)) == of_stage
            });
            let Some(first) = found.next() else { continue };
            let sum = found.fold(first.share, |sum, share| sum + share.share);
            let source = StageSource { source, stage: of_stage };
            shares.push(StageShare { source, share: sum / readers.len() as f64 });
        }
        Self { stage, shares }
    }
}

/// Every type of source in every stage, in order.
fn all_sources() -> impl Iterator<Item = (Source, Option<Stage>)> {
    let written = Stage::ALL.into_iter().flat_map(|stage| {
        Component::ALL.into_iter().map(move |component| (Source::from(component), Some(stage)))
    });
    [(Source::Start, None)].into_iter().chain(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_where_nothing_reads_does_not_hide_the_rest_of_its_stage() {
        let reading = LayerSums { queries: 2, readers: 6.0, seen: 2, shares: vec![0.5, 1.5] };
        let silent = LayerSums { queries: 0, readers: 0.0, seen: 2, shares: vec![0.0; 5] };
        let layers = vec![reading, silent.clone(), silent.clone(), silent];
        let stages = Stages::consecutive(0..2, 2..3, 3..4).expect("three stages");
        let shares = Shares { variant: Variant::Paper, stages, layers, largest_deviation: 0.0 };
        let reads = shares.finish();
        let of = |stage: usize| reads.stages[stage].shares.iter().map(|share| share.share);
        assert!(of(0).eq([0.25, 0.75]) && of(1).count() == 0, "{:?}", reads.stages);
        assert!(reads.layers[1].shares.iter().all(|share| share.share.is_nan()));
    }
}
