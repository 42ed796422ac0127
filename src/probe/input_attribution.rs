//! Input attribution by source component, shared by P6 and P7.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::context::{ProbeAccumulator, ProbeContext, ProbedBatch};
use super::trace::Trace;
use super::{ProbeResult, number};
use crate::choice::choice;
use crate::component::{Component, Stage, Stages};
use crate::processes::ProcessesError;
use crate::t5::RmsNorm;

choice! {
    /// The definition of a contribution.
    Variant {
        /// As the paper's scripts do: against the raw weights.
        Paper = "paper",
        /// With the weight and scale of the RMSNorm folded in: contributions add up to what is read.
        Exact = "exact",
    }
}

choice! {
    /// The order of averaging of shares. Where every reader reads for every query, as heads do, both give the
    /// same.
    AverageFirst {
        /// Over the readers of a query, then over queries: every query counts the same.
        Readers = "readers",
        /// Over the queries in which a reader reads, then over readers, as the paper's released code does: every
        /// reader that ever reads counts the same.
        Queries = "queries",
    }
}

/// Input attribution of each layer: each source component's share of the positive contributions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputAttribution {
    /// The definition of contributions.
    pub variant: Variant,
    /// Records of older versions, which do not say, averaged over readers first.
    #[serde(default = "readers_first")]
    pub average_first: AverageFirst,
    /// By reading layer.
    pub layers: Vec<LayerAttribution>,
    /// By stage of the reading layer: means over its layers, those without a reader left out; undefined where one of
    /// them is. Empty where the decoder has no stages.
    pub stages: Vec<StageAttribution>,
    /// Exact variant: the largest deviation of the sum of contributions from the value that the model computed,
    /// over that value's largest magnitude in its layer and query. Where a value was not finite it is undefined: NaN
    /// here, and `null` in JSON as it is in the paper's variant, which has none.
    pub largest_deviation: Option<f64>,
}

fn readers_first() -> AverageFirst {
    AverageFirst::Readers
}

/// Input attribution of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerAttribution {
    /// The layer, from 0.
    pub layer: usize,
    /// The stage of the layer; none where the decoder has no stages.
    pub stage: Option<Stage>,
    /// Mean number of readers a query: active neurons, or heads. Undefined where the model computed a value that is
    /// not finite.
    #[serde(with = "number")]
    pub readers: f64,
    /// Every source before it, in order; they sum to 1, and are undefined where no query has a reader.
    pub shares: Vec<SourceShare>,
}

/// One source's share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceShare {
    /// The type of the source component.
    pub source: Source,
    /// None for the start embedding.
    pub layer: Option<usize>,
    /// Its share of the positive contributions, between 0 and 1.
    #[serde(with = "number")]
    pub share: f64,
}

choice! {
    /// The type of a source component.
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

/// Input attribution of the layers of one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageAttribution {
    /// The stage of the reading layer.
    pub stage: Stage,
    /// The start embedding, then each component type of each stage; they sum to 1. Empty where nothing reads.
    pub shares: Vec<StageShare>,
}

/// One type of source in one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageShare {
    /// The source's type and stage.
    #[serde(flatten)]
    pub source: StageSource,
    /// Its share of the positive contributions, between 0 and 1.
    #[serde(with = "number")]
    pub share: f64,
}

/// A type of source in a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageSource {
    /// The type of the source component.
    pub source: Source,
    /// None for the start embedding.
    #[serde(rename = "source_stage")]
    pub stage: Option<Stage>,
}

/// A probe of one type of reader, which is measured with `add_batch` and stored as `result`.
pub(super) struct ReadAccumulator {
    all: Attribution,
    add_batch: fn(&mut Attribution, &ProbeContext, &ProbedBatch),
    result: fn(InputAttribution) -> ProbeResult,
}

impl ReadAccumulator {
    pub fn new(
        context: &ProbeContext,
        add_batch: fn(&mut Attribution, &ProbeContext, &ProbedBatch),
        result: fn(InputAttribution) -> ProbeResult,
    ) -> Self {
        Self { all: Attribution::new(context), add_batch, result }
    }
}

impl ProbeAccumulator for ReadAccumulator {
    type OfBatch = AttributionSums;

    fn measure(&self, context: &ProbeContext, batch: &ProbedBatch) -> AttributionSums {
        let mut of_batch = Attribution::new(context);
        (self.add_batch)(&mut of_batch, context, batch);
        of_batch.sums
    }

    fn add(&mut self, found: AttributionSums) {
        self.all.sums.add(&found);
    }

    fn finish(self: Box<Self>, _context: &ProbeContext) -> Result<ProbeResult, ProcessesError> {
        Ok((self.result)(self.all.finish()))
    }
}

/// Sums of input attribution over queries, with the options that say how they are summed.
pub(super) struct Attribution {
    /// The definition of contributions.
    pub variant: Variant,
    average_first: AverageFirst,
    stages: Option<Stages>,
    sums: AttributionSums,
}

/// Sums over queries, from which the shares follow.
#[derive(Serialize, Deserialize)]
pub(super) struct AttributionSums {
    layers: Vec<LayerSums>,
    /// NaN from the first value on that is not finite.
    largest_deviation: f64,
}

#[derive(Default, Clone, Serialize, Deserialize)]
struct LayerSums {
    /// Readers of all queries, and the number of queries seen.
    readers: f64,
    seen: usize,
    /// By source, then by what is averaged over last: `[sources, columns]`. One column holds all queries where readers
    /// are averaged over first; there is one for each reader where queries are.
    shares: Vec<f64>,
    /// By column: what its sums are divided by. Queries with a reader, or queries in which the reader reads.
    counts: Vec<f64>,
}

/// Contributions to the inputs of one layer's readers (neurons or heads) in a batch.
pub(super) struct Contributions {
    /// `[batch, sources, readers]`
    pub parts: Tensor<3>,
    /// The values that the model computed from all sources together, `[batch, readers]`.
    pub whole: Tensor<2>,
    /// 1 where a reader counts, 0 where not: `[batch, readers]`.
    pub active: Tensor<2>,
}

/// The start embedding and every output before a layer's component, in order: `[batch, sources, d_model]`.
pub(super) fn sources(trace: &Trace, layer: usize, reader: Component) -> Tensor<3> {
    let earlier = trace.layers[..layer].iter().flat_map(|layer| layer.outputs.iter());
    let same = trace.layers[layer].outputs.iter().take_while(|(component, _)| *component != reader);
    let outputs = earlier.chain(same).map(|(_, output)| output);
    let all = [&trace.start].into_iter().chain(outputs);
    Tensor::stack(all.cloned().collect(), 1)
}

impl AttributionSums {
    fn new(depth: usize) -> Self {
        Self { layers: vec![LayerSums::default(); depth], largest_deviation: 0.0 }
    }

    /// Adds the sums over other queries.
    fn add(&mut self, other: &Self) {
        self.largest_deviation = larger(self.largest_deviation, other.largest_deviation);
        for (sums, found) in self.layers.iter_mut().zip(&other.layers) {
            sums.readers += found.readers;
            sums.seen += found.seen;
            sums.shares.resize(found.shares.len(), 0.0);
            sums.counts.resize(found.counts.len(), 0.0);
            let own = sums.shares.iter_mut().chain(&mut sums.counts);
            let values = found.shares.iter().chain(&found.counts);
            own.zip(values).for_each(|(sum, value)| *sum += value);
        }
    }
}

impl Attribution {
    pub fn new(context: &ProbeContext) -> Self {
        Self {
            variant: context.options.variant,
            average_first: context.options.average_first,
            stages: context.options.stages.clone(),
            sums: AttributionSums::new(context.depth()),
        }
    }

    /// Sources as inputs of a reader after `norm`, in this variant: `[batch, sources, d_model]` both.
    pub fn as_reader_input(
        &self,
        sources: Tensor<3>,
        norm: &RmsNorm,
        residual: &Tensor<2>,
    ) -> Tensor<3> {
        match self.variant {
            Variant::Paper => sources,
            Variant::Exact => norm.apply_to_parts(sources, residual.clone()),
        }
    }

    /// Adds a batch of one layer.
    pub fn add(&mut self, layer: usize, found: Contributions) {
        let Contributions { parts, whole, active } = found;
        let [batch, sources, readers] = parts.dims();
        let sum = parts.clone().sum_dim(1).squeeze_dim::<2>(1); // [batch, readers]
        // 0, or NaN where anything is not finite: comparisons below would take it for a reader that is silent.
        let undefined = (sum.clone() + whole.clone()).mul_scalar(0.0).sum_dim(1); // [batch, 1]
        let undefined: Vec<f64> = undefined.into_data().iter::<f64>().collect();
        if self.variant == Variant::Exact {
            let apart = (sum - whole.clone()).abs().max_dim(1).into_data(); // [batch, 1]
            let size = whole.abs().max_dim(1).into_data(); // [batch, 1]
            let of_query = apart.iter::<f64>().zip(size.iter::<f64>()).zip(&undefined);
            for ((apart, size), undefined) in of_query {
                // Nothing deviates where nothing was computed: no neuron of a layer need have a value but 0.
                let deviation = if apart == 0.0 { 0.0 } else { apart / size };
                let largest = &mut self.sums.largest_deviation;
                *largest = larger(*largest, deviation + undefined);
            }
        }
        let positive = parts.clamp_min(0.0);
        let total = positive.clone().sum_dim(1); // [batch, 1, readers]
        let counts = active.unsqueeze_dim::<3>(1) * total.clone().greater_elem(0.0).float();
        // Where nothing is counted the divisor is 1 and the weight 0.
        let weight = counts.clone() / (total.clone() + total.equal_elem(0.0).float());
        let shares = positive * weight; // [batch, sources, readers]

        let sums = &mut self.sums.layers[layer];
        sums.seen += batch;
        match self.average_first {
            AverageFirst::Readers => {
                sums.resize(sources, 1);
                let shares: Vec<f64> = shares.sum_dim(2).into_data().iter::<f64>().collect();
                let counts = counts.sum_dim(2).into_data(); // [batch, 1, 1]
                let queries = shares.chunks(sources).zip(counts.iter::<f64>()).zip(undefined);
                for ((of_query, readers), undefined) in queries {
                    let readers = readers + undefined;
                    sums.readers += readers;
                    // Not finite is counted too: what it makes undefined is seen to be.
                    if readers > 0.0 || readers.is_nan() {
                        sums.counts[0] += 1.0;
                        let sums = sums.shares.iter_mut().zip(of_query);
                        sums.for_each(|(sum, share)| *sum += share / readers);
                    }
                }
            }
            AverageFirst::Queries => {
                sums.resize(sources, readers);
                let undefined: f64 = undefined.iter().sum();
                let shares = shares.sum_dim(0).into_data(); // [1, sources, readers]
                let counts = counts.sum_dim(0).into_data(); // [1, 1, readers]
                let shares = sums.shares.iter_mut().zip(shares.iter::<f64>());
                shares.for_each(|(sum, share)| *sum += share + undefined);
                for (sum, count) in sums.counts.iter_mut().zip(counts.iter::<f64>()) {
                    *sum += count + undefined;
                    sums.readers += count + undefined;
                }
            }
        }
    }

    /// Means over all batches.
    pub fn finish(self) -> InputAttribution {
        let layers: Vec<LayerAttribution> = self
            .sums
            .layers
            .iter()
            .enumerate()
            .map(|(layer, sums)| LayerAttribution {
                layer,
                stage: self.stages.as_ref().map(|stages| stages.of(layer)),
                readers: sums.readers / sums.seen as f64,
                shares: sums.shares(),
            })
            .collect();
        let by_stage = |stages: &Stages| {
            Stage::ALL
                .into_iter()
                .map(|stage| StageAttribution::of(stage, &layers, stages))
                .collect()
        };
        let stages = self.stages.as_ref().map(by_stage).unwrap_or_default();
        let largest_deviation =
            (self.variant == Variant::Exact).then_some(self.sums.largest_deviation);
        let Self { variant, average_first, .. } = self;
        InputAttribution { variant, average_first, layers, stages, largest_deviation }
    }
}

/// The larger of two numbers, and NaN where one is: `f64::max` would pass over it.
fn larger(one: f64, other: f64) -> f64 {
    if one.is_nan() || one > other { one } else { other }
}

impl LayerSums {
    fn resize(&mut self, sources: usize, columns: usize) {
        self.shares.resize(sources * columns, 0.0);
        self.counts.resize(columns, 0.0);
    }

    /// The share of each source, in the order of [`sources`]: the mean over columns that counted anything.
    fn shares(&self) -> Vec<SourceShare> {
        let columns = self.counts.len().max(1);
        let counted = |count: &f64| *count > 0.0 || count.is_nan();
        let read = self.counts.iter().filter(|count| counted(count)).count() as f64;
        let share = |(place, sums): (usize, &[f64])| {
            let sums = sums.iter().zip(&self.counts).filter(|(_, count)| counted(count));
            let component = place.checked_sub(1).map(|place| Component::ALL[place % 3]);
            SourceShare {
                source: component.map_or(Source::Start, Source::from),
                layer: place.checked_sub(1).map(|place| place / 3),
                share: sums.map(|(sum, count)| sum / count).sum::<f64>() / read,
            }
        };
        self.shares.chunks(columns).enumerate().map(share).collect()
    }
}

impl StageAttribution {
    /// Means over the layers of `stage`, summed by type and stage of the source.
    fn of(stage: Stage, layers: &[LayerAttribution], stages: &Stages) -> Self {
        let readers = layers[stages.layers(stage).clone()].iter();
        let reads = |layer: &&LayerAttribution| layer.readers > 0.0 || layer.readers.is_nan();
        let readers: Vec<&LayerAttribution> = readers.filter(reads).collect();
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

    fn shares(layers: usize, variant: Variant, average_first: AverageFirst) -> Attribution {
        let stages = Stages::consecutive(0..layers - 2, layers - 2..layers - 1, layers - 1..layers);
        Attribution {
            variant,
            average_first,
            stages: Some(stages.expect("three stages")),
            sums: AttributionSums::new(layers),
        }
    }

    /// A batch of two queries, one source and three readers; `active` says which read.
    fn found(parts: [[[f32; 3]; 2]; 2], active: [[f32; 3]; 2]) -> Contributions {
        let device = burn::tensor::Device::flex();
        let parts = Tensor::<3>::from_data(parts, &device); // [2, 2, 3]
        Contributions {
            whole: parts.clone().sum_dim(1).squeeze_dim(1),
            parts,
            active: Tensor::from_data(active, &device),
        }
    }

    #[test]
    fn a_layer_where_nothing_reads_does_not_hide_the_rest_of_its_stage() {
        let reading =
            LayerSums { readers: 6.0, seen: 2, shares: vec![0.5, 1.5], counts: vec![2.0] };
        let silent = LayerSums { readers: 0.0, seen: 2, shares: vec![0.0; 5], counts: vec![0.0] };
        let mut shares = shares(4, Variant::Paper, AverageFirst::Readers);
        shares.sums.layers = vec![reading, silent.clone(), silent.clone(), silent];
        let reads = shares.finish();
        let of = |stage: usize| reads.stages[stage].shares.iter().map(|share| share.share);
        assert!(of(0).eq([0.25, 0.75]) && of(1).count() == 0, "{:?}", reads.stages);
        assert!(reads.layers[1].shares.iter().all(|share| share.share.is_nan()));
    }

    #[test]
    fn shares_are_averaged_over_readers_or_over_queries_first() {
        // The first reader reads for both queries, the second for the first one only, the third never.
        let parts = [[[1.0, 1.0, 1.0], [3.0, 1.0, 1.0]], [[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]];
        let active = [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]];
        for (first, expected) in [
            (AverageFirst::Readers, (0.375 + 1.0) / 2.0),
            (AverageFirst::Queries, ((0.25 + 1.0) / 2.0 + 0.5) / 2.0),
        ] {
            let mut shares = shares(3, Variant::Paper, first);
            shares.add(0, found(parts, active));
            let layer = &shares.finish().layers[0];
            assert_eq!(layer.readers, 1.5, "{first}");
            assert!((layer.shares[0].share - expected).abs() < 1e-7, "{first}: {layer:?}");
            assert!((layer.shares[1].share - (1.0 - expected)).abs() < 1e-7, "{first}: {layer:?}");
        }
    }

    #[test]
    fn what_is_not_finite_leaves_nothing_defined() {
        let fine = [[[1.0, 1.0, 1.0], [3.0, 1.0, 1.0]], [[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]];
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for first in AverageFirst::ALL {
                let mut parts = fine;
                parts[1][0][2] = broken;
                let mut shares = shares(3, Variant::Exact, *first);
                // A NaN is above nothing, so the reader is not active; what comes before and after is fine.
                let active = [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]];
                shares.add(1, found(fine, active));
                shares.add(0, found(parts, active));
                shares.add(1, found(fine, active));
                let reads = shares.finish();
                let what = format!("{broken} {first}: {reads:?}");
                assert!(reads.largest_deviation.is_some_and(f64::is_nan), "{what}");
                assert!(reads.layers[0].readers.is_nan(), "{what}");
                assert!(reads.layers[0].shares.iter().all(|share| share.share.is_nan()), "{what}");
                assert!(reads.stages[0].shares.iter().all(|share| share.share.is_nan()), "{what}");
                assert!(reads.layers[1].shares.iter().all(|share| share.share > 0.0), "{what}");
            }
        }
    }

    #[test]
    fn a_layer_of_zeros_deviates_by_nothing() {
        let mut shares = shares(3, Variant::Exact, AverageFirst::Readers);
        shares.add(0, found([[[0.0; 3]; 2]; 2], [[1.0; 3]; 2]));
        assert_eq!(shares.finish().largest_deviation, Some(0.0));
    }
}
