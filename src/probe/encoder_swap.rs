//! P5, encoder swap (Tab. 2): how well the decoder retrieves from another model's encoder.

use serde::{Deserialize, Serialize};

use super::RankShift;
use super::record::number;

/// The decoder on the states of other encoders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderSwap {
    pub swaps: Vec<Swap>,
}

/// The decoder on the states of one other encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Swap {
    /// `base`, or the directory of the checkpoint that the encoder is from.
    pub encoder: String,
    /// On the measured queries.
    pub ranks: RankShift,
    /// On queries for documents that the other model was trained without; none where it left none out.
    pub held_out: Option<HeldOut>,
}

/// Queries for documents that the encoder's model never saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Documents left out of the other model's training that a query here asks for.
    pub documents: usize,
    /// Queries for them.
    pub queries: usize,
    /// From the other encoder.
    pub swapped: HeldOutScore,
    /// From the model's own encoder.
    pub own: HeldOutScore,
}

/// How the queries for documents held out are ranked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutScore {
    /// Mean reciprocal rank, over all ranks.
    #[serde(with = "number")]
    pub mrr: f64,
    #[serde(rename = "hits@1", with = "number")]
    pub hits_1: f64,
    /// Queries at rank 1.
    pub first: usize,
}
