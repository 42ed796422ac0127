//! P1 (Fig. 3): norm and direction of each component's contribution to the residual stream.

use std::ops::Range;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::ProbeResult;
use super::context::{ProbeAccumulator, ProbeContext, ProbedBatch};
use super::number;
use crate::component::{ByComponent, Component, Stage, Stages};
use crate::processes::ProcessesError;

/// Means over queries, for each component of each decoder layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResidualContribution {
    /// By layer, components in the order in which they run.
    pub contributions: Vec<Contribution>,
    /// Cosines of the outputs of Stage III with each MLP output of Stage I, which the paper reports as below -0.9.
    /// Empty if the decoder has no stages.
    pub priming: Vec<PrimingCosine>,
}

/// Contribution of one component to the residual stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    /// The layer, from 0.
    pub layer: usize,
    /// The stage of the layer; none if the decoder has no stages.
    pub stage: Option<Stage>,
    /// The component.
    pub component: Component,
    /// Norm of the output divided by the norm of the layer's total change, `|x| / |r_post - r_pre|`.
    #[serde(with = "number")]
    pub ratio: f64,
    /// Cosine with the residual stream after the layer, as plotted in the paper.
    #[serde(with = "number")]
    pub cosine_post: f64,
    /// Cosine with the residual stream before the layer, as described in the paper's text.
    #[serde(with = "number")]
    pub cosine_pre: f64,
}

/// Cosine of an output of Stage III with an MLP output of Stage I.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrimingCosine {
    /// A layer of Stage III.
    pub layer: usize,
    /// The component.
    pub component: Component,
    /// A layer of Stage I, whose MLP output is compared.
    pub mlp_layer: usize,
    /// Mean cosine over queries.
    #[serde(with = "number")]
    pub cosine: f64,
}

/// Running sums over queries.
pub(super) struct Accumulator {
    stages: Option<Stages>,
    sums: Sums,
}

/// Sums over queries.
#[derive(Serialize, Deserialize)]
pub(super) struct Sums {
    queries: usize,
    /// Sums of the ratio, the cosine with r_post and the cosine with r_pre, by layer and component.
    contributions: Vec<ByComponent<[f64; 3]>>,
    /// Sums of cosines by layer of Stage III, component and layer of Stage I.
    priming: Vec<ByComponent<Vec<f64>>>,
}

impl Accumulator {
    pub fn new(context: &ProbeContext) -> Self {
        let stages = context.options.stages.clone();
        Self { sums: Sums::new(context.depth(), stages.as_ref()), stages }
    }
}

impl Sums {
    fn new(depth: usize, stages: Option<&Stages>) -> Self {
        let (first, third) = first_and_third(stages);
        let priming = || ByComponent::new(|_| vec![0.0; first.len()]);
        Self {
            queries: 0,
            contributions: vec![ByComponent::default(); depth],
            priming: third.map(|_| priming()).collect(),
        }
    }
}

impl ProbeAccumulator for Accumulator {
    type OfBatch = Sums;

    fn measure(&self, context: &ProbeContext, batch: &ProbedBatch) -> Sums {
        let mut found = Sums::new(context.depth(), self.stages.as_ref());
        found.queries = batch.measured.len();
        let layers = &batch.trace.layers;
        for (sums, layer) in found.contributions.iter_mut().zip(layers) {
            let change = layer.residual_post.clone() - layer.residual_pre.clone(); // [batch, d_model]
            let change = norm(change); // [batch, 1]
            for (component, output) in layer.outputs.iter() {
                let sums = &mut sums[component];
                sums[0] = total(norm(output.clone()) / change.clone());
                sums[1] = total(cosine(output, &layer.residual_post));
                sums[2] = total(cosine(output, &layer.residual_pre));
            }
        }
        let (first, third) = first_and_third(self.stages.as_ref());
        for (sums, layer) in found.priming.iter_mut().zip(third) {
            for (component, output) in layers[layer].outputs.iter() {
                for (sum, early) in sums[component].iter_mut().zip(first.clone()) {
                    let early = batch.trace.output_of(early, Component::Mlp);
                    *sum = total(cosine(output, early));
                }
            }
        }
        found
    }

    fn add(&mut self, found: Sums) {
        self.sums.queries += found.queries;
        for (sums, found) in self.sums.contributions.iter_mut().zip(found.contributions) {
            for (component, found) in found.iter() {
                sums[component].iter_mut().zip(found).for_each(|(sum, value)| *sum += value);
            }
        }
        for (sums, found) in self.sums.priming.iter_mut().zip(found.priming) {
            for (component, found) in found.iter() {
                sums[component].iter_mut().zip(found).for_each(|(sum, value)| *sum += value);
            }
        }
    }

    fn finish(self: Box<Self>, _context: &ProbeContext) -> Result<ProbeResult, ProcessesError> {
        let mean = |sum: f64| sum / self.sums.queries as f64;
        let mut contributions = Vec::new();
        for (layer, sums) in self.sums.contributions.iter().enumerate() {
            for (component, [ratio, post, pre]) in sums.iter() {
                contributions.push(Contribution {
                    layer,
                    stage: self.stages.as_ref().map(|stages| stages.of(layer)),
                    component,
                    ratio: mean(*ratio),
                    cosine_post: mean(*post),
                    cosine_pre: mean(*pre),
                });
            }
        }
        let mut priming = Vec::new();
        let (first, third) = first_and_third(self.stages.as_ref());
        for (layer, sums) in third.zip(&self.sums.priming) {
            for (component, sums) in sums.iter() {
                for (mlp_layer, sum) in first.clone().zip(sums) {
                    let cosine = mean(*sum);
                    priming.push(PrimingCosine { layer, component, mlp_layer, cosine });
                }
            }
        }
        let found = ResidualContribution { contributions, priming };
        Ok(ProbeResult::ResidualContribution(found))
    }
}

/// The layers of Stages I and III; none if there are no stages.
fn first_and_third(stages: Option<&Stages>) -> (Range<usize>, Range<usize>) {
    stages.map_or((0..0, 0..0), |stages| (stages.first.clone(), stages.third.clone()))
}

/// Euclidean norm of each row: `[batch, d_model] -> [batch, 1]`.
fn norm(rows: Tensor<2>) -> Tensor<2> {
    rows.square().sum_dim(1).sqrt()
}

/// Cosine similarity by row; NaN if a row is zero: `[batch, d_model] -> [batch, 1]`.
fn cosine(one: &Tensor<2>, other: &Tensor<2>) -> Tensor<2> {
    let product = (one.clone() * other.clone()).sum_dim(1); // [batch, 1]
    product / (norm(one.clone()) * norm(other.clone()))
}

/// The sum of a batch's values, in f64.
fn total(values: Tensor<2>) -> f64 {
    values.into_data().iter::<f64>().sum()
}
