//! P2, logit lens (Fig. 4): at which rank the relevant docid stands when the decoder is read off early.

use serde::{Deserialize, Serialize};

use super::RankShift;
use super::record::number;
use crate::choice::choice;
use crate::component::Stage;

choice! {
    /// What is read off.
    LensSite {
        /// The residual stream after self-attention.
        ResidualMid = "residual_mid",
        /// The residual stream after cross-attention.
        ResidualMidCross = "residual_mid_cross",
        /// The residual stream after the layer.
        ResidualPost = "residual_post",
        /// Cross-attention's output alone.
        CrossAttentionOut = "cross_attention_out",
        /// The MLP's output alone.
        MlpOut = "mlp_out",
    }
}

choice! {
    /// Tokens of one kind.
    TokenGroup {
        /// Docid tokens.
        Docids = "docids",
        /// All others.
        Words = "words",
    }
}

/// Ranks at every layer, through the final RMSNorm and the output matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogitLens {
    /// Of the relevant docid, by layer and site.
    pub sites: Vec<SiteRank>,
    /// Of all tokens of a kind, at [`LensSite::ResidualPost`], in the whole vocabulary.
    pub populations: Vec<PopulationRanks>,
}

/// Ranks of the relevant docid at one site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteRank {
    pub layer: usize,
    pub stage: Stage,
    pub site: LensSite,
    #[serde(flatten)]
    pub ranks: RankShift,
}

/// Ranks of all tokens of a kind in the whole vocabulary, words and docids: each is taken within a query, then
/// averaged over queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PopulationRanks {
    pub layer: usize,
    pub stage: Stage,
    pub group: TokenGroup,
    #[serde(with = "number")]
    pub mean: f64,
    /// Of an even count of tokens the mean of the middle two.
    #[serde(with = "number")]
    pub median: f64,
    #[serde(with = "number")]
    pub best: f64,
    #[serde(with = "number")]
    pub worst: f64,
}
