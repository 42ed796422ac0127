//! P1, residual contribution (Fig. 3): how much each component adds to the residual stream, and in which direction.

use serde::{Deserialize, Serialize};

use super::record::number;
use crate::component::{Component, Stage};

/// Means over queries, for each component of each decoder layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResidualContribution {
    /// By layer, components in the order in which they run.
    pub contributions: Vec<Contribution>,
    /// Outputs of Stage III against each MLP output of Stage I: the paper's remark finds them below -0.9.
    pub priming: Vec<PrimingCosine>,
}

/// What one component adds to the residual stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    pub layer: usize,
    pub stage: Stage,
    pub component: Component,
    /// Norm of the output over the norm of what the whole layer changes, `|x| / |r_post - r_pre|`.
    #[serde(with = "number")]
    pub ratio: f64,
    /// Cosine with the residual stream after the layer: what the paper plots.
    #[serde(with = "number")]
    pub cosine_post: f64,
    /// Cosine with the residual stream before the layer: what the paper's text says.
    #[serde(with = "number")]
    pub cosine_pre: f64,
}

/// How far a late output points against an early one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrimingCosine {
    /// A layer of Stage III.
    pub layer: usize,
    pub component: Component,
    /// A layer of Stage I, whose MLP output the cosine is with.
    pub mlp_layer: usize,
    #[serde(with = "number")]
    pub cosine: f64,
}
