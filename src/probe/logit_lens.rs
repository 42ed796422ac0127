//! P2, logit lens (Fig. 4): at which rank the relevant docid stands when the decoder is read off early.

use serde::{Deserialize, Serialize};

use super::bench::{Bench, Measure, ProbedBatch};
use super::lens::{LogitSum, TokenLogits, ordered};
use super::record::number;
use super::shift::median;
use super::{ProbeResult, RankShift};
use crate::choice::choice;
use crate::component::{Component, Stage, Stages};
use crate::retrieval::CandidateSet;

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
    /// The layer, from 0.
    pub layer: usize,
    /// The stage of the layer; none where the decoder has no stages.
    pub stage: Option<Stage>,
    /// Where in the layer.
    pub site: LensSite,
    /// Ranks of the relevant docid.
    #[serde(flatten)]
    pub ranks: RankShift,
}

/// Ranks of all tokens of a kind in the whole vocabulary, words and docids: each is taken within a query, then
/// averaged over queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PopulationRanks {
    /// The layer, from 0.
    pub layer: usize,
    /// The stage of the layer; none where the decoder has no stages.
    pub stage: Option<Stage>,
    /// The kind of token.
    pub group: TokenGroup,
    /// Mean rank.
    #[serde(with = "number")]
    pub mean: f64,
    /// Of an even count of tokens the mean of the middle two.
    #[serde(with = "number")]
    pub median: f64,
    /// Lowest rank.
    #[serde(with = "number")]
    pub best: f64,
    /// Highest rank.
    #[serde(with = "number")]
    pub worst: f64,
}

/// The probe while it measures.
pub(super) struct Measuring {
    stages: Option<Stages>,
    queries: usize,
    /// Ranks of relevant docids by layer and site.
    ranks: Vec<Vec<Vec<u32>>>,
    /// By layer, of docids and of words.
    populations: Vec<[Population; 2]>,
}

/// Ranks of the tokens of a group: of one query, or summed over queries.
#[derive(Default, Clone, Copy)]
struct Population {
    mean: f64,
    median: f64,
    best: f64,
    worst: f64,
}

impl Measuring {
    pub fn new(bench: &Bench) -> Self {
        let depth = bench.depth();
        Self {
            stages: bench.options.stages.clone(),
            queries: 0,
            ranks: vec![vec![Vec::new(); LensSite::ALL.len()]; depth],
            populations: vec![Default::default(); depth],
        }
    }
}

impl Measure for Measuring {
    fn see(&mut self, bench: &Bench, batch: &ProbedBatch) {
        self.queries += batch.measured.len();
        let vocabulary = bench.lens().vocabulary;
        // The residual stream is the sum of all outputs before it and the start embedding.
        let outputs = batch.trace.layers.iter().flat_map(|layer| layer.outputs.clone());
        let summands = [batch.trace.start.clone()].into_iter().chain(outputs).collect();
        let found = bench
            .lens()
            .unscaled(summands, |row, summands| of_query(summands, batch.targets[row], vocabulary));
        for of_query in found {
            for (layer, found) in of_query.into_iter().enumerate() {
                for (ranks, rank) in self.ranks[layer].iter_mut().zip(found.ranks) {
                    ranks.push(rank);
                }
                for (sum, found) in self.populations[layer].iter_mut().zip(found.populations) {
                    sum.add(found);
                }
            }
        }
    }

    fn finish(self: Box<Self>, bench: &Bench) -> ProbeResult {
        let stage = |layer| self.stages.as_ref().map(|stages| stages.of(layer));
        let mut sites = Vec::new();
        for (layer, ranks) in self.ranks.into_iter().enumerate() {
            for (&site, ranks) in LensSite::ALL.iter().zip(ranks) {
                let ranks = RankShift::of(ranks, bench.options.per_query);
                sites.push(SiteRank { layer, stage: stage(layer), site, ranks });
            }
        }
        let mut populations = Vec::new();
        for (layer, sums) in self.populations.iter().enumerate() {
            for (&group, sum) in TokenGroup::ALL.iter().zip(sums) {
                let mean = |sum: f64| sum / self.queries as f64;
                populations.push(PopulationRanks {
                    layer,
                    stage: stage(layer),
                    group,
                    mean: mean(sum.mean),
                    median: mean(sum.median),
                    best: mean(sum.best),
                    worst: mean(sum.worst),
                });
            }
        }
        ProbeResult::LogitLens(LogitLens { sites, populations })
    }
}

/// What is found in one layer for one query.
struct Found {
    /// Of the target, at each of [`LensSite::ALL`].
    ranks: [u32; LensSite::ALL.len()],
    /// Of docids and of words.
    populations: [Population; 2],
}

/// What is found in each layer for one query, from the unscaled logits of the start embedding and of the three outputs
/// of each layer.
fn of_query(summands: &[TokenLogits], target: u32, vocabulary: CandidateSet) -> Vec<Found> {
    let Some((start, outputs)) = summands.split_first() else { return Vec::new() };
    let mut residual = LogitSum::of(*start);
    let (layers, _) = outputs.as_chunks::<{ Component::ALL.len() }>();
    let of_layer = |&[attention, cross_attention, mlp]: &[TokenLogits; 3]| {
        let mut then = |output: TokenLogits| {
            residual.add(output);
            residual.logits().rank(target, vocabulary)
        };
        let [mid, mid_cross, post] = [attention, cross_attention, mlp].map(&mut then);
        let alone = [cross_attention, mlp].map(|output| output.rank(target, vocabulary));
        Found {
            ranks: [mid, mid_cross, post, alone[0], alone[1]],
            populations: populations(residual.logits()),
        }
    };
    layers.iter().map(of_layer).collect()
}

/// Ranks of all docids and of all words; undefined where a logit is NaN, which has no place among others.
///
/// A mean of ranks compares every token with every other: no counting on the device gives it, so the two groups are
/// put in order here, one query at a time on each thread.
fn populations(logits: TokenLogits) -> [Population; 2] {
    if logits.has_nan() {
        return [Population { mean: f64::NAN, median: f64::NAN, best: f64::NAN, worst: f64::NAN };
            2];
    }
    let (words, docids) = (descending(logits.words), descending(logits.docids));
    [ranks_of(&docids, &words), ranks_of(&words, &docids)]
}

/// Numbers that order as the values do, the highest first.
fn descending(values: &[f32]) -> Vec<u32> {
    let mut keys: Vec<u32> = values.iter().map(|&value| !ordered(value)).collect();
    keys.sort_unstable();
    keys
}

/// Ranks of a group's tokens among its own and `others`, both ascending in rank.
fn ranks_of(group: &[u32], others: &[u32]) -> Population {
    let (mut above, mut own_above) = (0, 0);
    let mut ranks = Vec::with_capacity(group.len());
    for (place, key) in group.iter().enumerate() {
        // Equal logits share a rank: only those strictly greater count.
        if place > 0 && group[place - 1] != *key {
            own_above = place;
        }
        while above < others.len() && others[above] < *key {
            above += 1;
        }
        ranks.push((1 + own_above + above) as u32);
    }
    let at = |rank: Option<&u32>| rank.map_or(f64::NAN, |&rank| f64::from(rank));
    Population {
        mean: ranks.iter().map(|&rank| f64::from(rank)).sum::<f64>() / ranks.len() as f64,
        median: median(&ranks),
        best: at(ranks.first()),
        worst: at(ranks.last()),
    }
}

impl Population {
    fn add(&mut self, other: Self) {
        self.mean += other.mean;
        self.median += other.median;
        self.best += other.best;
        self.worst += other.worst;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_all_tokens_are_undefined_where_a_logit_is_nan() {
        let ranks = |words: &[f32], docids: &[f32]| populations(TokenLogits { words, docids });
        let [docids, words] = ranks(&[1.0, 4.0], &[3.0, 2.0]);
        assert_eq!((docids.mean, docids.best, docids.worst), (2.5, 2.0, 3.0));
        assert_eq!((words.mean, words.best, words.worst), (2.5, 1.0, 4.0));
        for (words, docids) in [([f32::NAN, 4.0], [3.0, 2.0]), ([f32::NAN; 2], [f32::NAN; 2])] {
            for found in ranks(&words, &docids) {
                let all = [found.mean, found.median, found.best, found.worst];
                assert!(all.iter().all(|figure| figure.is_nan()), "{all:?}");
            }
        }
    }
}
