//! Ranks of relevant docids after an intervention.

use serde::{Deserialize, Serialize};

use super::number;

/// Ranks of relevant docids over queries: percentages below rank cutoffs, mean and median.
///
/// With [`super::Over::Correct`] every docid had rank 1 before the intervention, so `beyond_1` is the % of queries
/// whose relevant docid is no longer ranked first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankShift {
    /// Number of queries.
    pub queries: usize,
    /// % of queries whose relevant docid is not at rank 1.
    #[serde(with = "number")]
    pub beyond_1: f64,
    /// % of queries whose relevant docid is ranked below 5.
    #[serde(with = "number")]
    pub beyond_5: f64,
    /// % of queries whose relevant docid is ranked below 10.
    #[serde(with = "number")]
    pub beyond_10: f64,
    /// % of queries whose relevant docid is ranked below 100.
    #[serde(with = "number")]
    pub beyond_100: f64,
    /// Mean rank.
    #[serde(with = "number")]
    pub mean_rank: f64,
    /// Median rank; for an even number of queries the mean of the middle two.
    #[serde(with = "number")]
    pub median_rank: f64,
    /// Best rank of any query; 0 if there is no query.
    pub best_rank: u32,
    /// Worst rank of any query; 0 if there is no query.
    pub worst_rank: u32,
    /// Histogram of the ranks in log2 bins: entry i counts the ranks from 2^i to 2^(i+1) - 1.
    pub octaves: Vec<u64>,
    /// With the option `per_query`: the rank for each of [`super::MeasuredOn::measured_queries`], in their order.
    /// Otherwise empty and not written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<u32>,
}

impl RankShift {
    /// Statistics of `of_queries`, one rank for each query; `per_query` stores the ranks as well.
    pub(super) fn of(of_queries: Vec<u32>, per_query: bool) -> Self {
        let mut ranks = of_queries.clone();
        ranks.sort_unstable();
        let count = ranks.len();
        let beyond = |least: u32| {
            let beyond = ranks.iter().filter(|&&rank| rank > least).count();
            100.0 * beyond as f64 / count as f64
        };
        let mut octaves = Vec::new();
        for rank in &ranks {
            let octave = rank.max(&1).ilog2() as usize;
            octaves.resize(octaves.len().max(octave + 1), 0);
            octaves[octave] += 1;
        }
        Self {
            queries: count,
            beyond_1: beyond(1),
            beyond_5: beyond(5),
            beyond_10: beyond(10),
            beyond_100: beyond(100),
            mean_rank: ranks.iter().map(|&rank| f64::from(rank)).sum::<f64>() / count as f64,
            median_rank: median(&ranks),
            best_rank: ranks.first().copied().unwrap_or(0),
            worst_rank: ranks.last().copied().unwrap_or(0),
            octaves,
            ranks: if per_query { of_queries } else { Vec::new() },
        }
    }
}

/// The median of sorted values: for an even number the mean of the middle two; NaN for none.
pub(super) fn median(sorted: &[u32]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => f64::from(sorted[middle]),
        _ => f64::midpoint(f64::from(sorted[middle - 1]), f64::from(sorted[middle])),
    }
}
