//! Where relevant docids stand after an intervention.

use serde::{Deserialize, Serialize};

use super::record::number;

/// Ranks of relevant docids over queries: as percentages beyond a rank, and as means.
///
/// With [`super::Over::Correct`] every docid had rank 1 before, so `beyond_1` is the % of queries lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankShift {
    /// Queries counted.
    pub queries: usize,
    /// % of queries whose relevant docid is not at rank 1.
    #[serde(with = "number")]
    pub beyond_1: f64,
    /// % beyond rank 5.
    #[serde(with = "number")]
    pub beyond_5: f64,
    /// % beyond rank 10.
    #[serde(with = "number")]
    pub beyond_10: f64,
    /// % beyond rank 100.
    #[serde(with = "number")]
    pub beyond_100: f64,
    /// Mean rank.
    #[serde(with = "number")]
    pub mean_rank: f64,
    /// Median rank; of an even count the mean of the middle two.
    #[serde(with = "number")]
    pub median_rank: f64,
    /// Best rank of any query; 0 where there is no query.
    pub best_rank: u32,
    /// Worst rank of any query; 0 where there is no query.
    pub worst_rank: u32,
    /// Queries by rank, in octaves: place i counts the ranks from 2^i to 2^(i+1) - 1.
    pub octaves: Vec<u64>,
}
