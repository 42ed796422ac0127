//! What a part of the model reads, as shares of the earlier components that wrote it: the common form of P6 and P7.

use serde::{Deserialize, Serialize};

use super::record::number;
use crate::choice::choice;
use crate::component::{Component, Stage};

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
    /// By stage of the reading layer: means over its layers.
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
    /// Every source before it, in order; they sum to 1.
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
    /// The start embedding, then each component type of each stage; they sum to 1.
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
