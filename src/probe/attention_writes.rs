//! P8, what cross-attention writes (Tab. 5 and 6): words or docids.

use serde::{Deserialize, Serialize};

use super::record::number;
use crate::component::Stage;

/// What the logit lens reads off cross-attention's outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttentionWrites {
    /// % of docid tokens among all tokens: what chance would give.
    #[serde(with = "number")]
    pub chance: f64,
    /// By layer: the whole output first, then each head's share of it.
    pub layers: Vec<DocidShare>,
    /// By stage: the mean over its layers of the whole output, and the mean over its layers and heads.
    pub stages: Vec<DocidShare>,
    /// The top tokens of each head for sample queries.
    pub samples: Vec<HeadWords>,
}

/// How many of the top tokens are docids, means over queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DocidShare {
    pub stage: Stage,
    /// None for a whole stage.
    pub layer: Option<usize>,
    /// `output`, `head 3`, or `heads` for the mean over all heads.
    pub of: String,
    /// % of docid tokens among the top 10.
    #[serde(with = "number")]
    pub top_10: f64,
    /// % of docid tokens among the top 100 (or all tokens, where there are fewer).
    #[serde(with = "number")]
    pub top_100: f64,
    /// % of docid tokens among the top 1,000 (or all tokens, where there are fewer).
    #[serde(with = "number")]
    pub top_1000: f64,
}

/// What one head writes for one query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeadWords {
    /// The query's id.
    pub query: String,
    pub layer: usize,
    pub head: usize,
    /// The top 5 tokens, best first.
    pub tokens: Vec<String>,
}
