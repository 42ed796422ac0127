//! P2 (Fig. 4): logit lens: the rank of the relevant docid in intermediate residual streams projected to the
//! vocabulary.

use serde::{Deserialize, Serialize};

use super::context::{ProbeAccumulator, ProbeContext, ProbedBatch};
use super::lens::{LogitSum, TokenLogits, ordered};
use super::number;
use super::shift::median;
use super::{ProbeResult, RankShift};
use crate::choice::choice;
use crate::component::{Component, Stage, Stages};
use crate::processes::ProcessesError;

choice! {
    /// The activation that is projected to the vocabulary.
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
    /// A group of tokens.
    TokenGroup {
        /// Docid tokens.
        Docids = "docids",
        /// Text tokens: all other tokens.
        Words = "words",
    }
}

/// Ranks at every layer by the logits of intermediate activations, after the final RMSNorm and the output matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogitLens {
    /// Ranks of the relevant docid, by layer and site.
    pub sites: Vec<SiteRank>,
    /// Ranks of all tokens of a group at [`LensSite::ResidualPost`], among text tokens and docids.
    pub populations: Vec<PopulationRanks>,
}

/// Ranks of the relevant docid at one site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteRank {
    /// The layer, from 0.
    pub layer: usize,
    /// The stage of the layer; none if the decoder has no stages.
    pub stage: Option<Stage>,
    /// The activation within the layer.
    pub site: LensSite,
    /// Ranks of the relevant docid.
    #[serde(flatten)]
    pub ranks: RankShift,
}

/// Statistics of the ranks of all tokens of a group, among text tokens and docids: computed for each query, then
/// averaged over queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PopulationRanks {
    /// The layer, from 0.
    pub layer: usize,
    /// The stage of the layer; none if the decoder has no stages.
    pub stage: Option<Stage>,
    /// The group of tokens.
    pub group: TokenGroup,
    /// Mean rank.
    #[serde(with = "number")]
    pub mean: f64,
    /// Median rank; for an even number of tokens the mean of the middle two.
    #[serde(with = "number")]
    pub median: f64,
    /// Lowest rank.
    #[serde(with = "number")]
    pub best: f64,
    /// Highest rank.
    #[serde(with = "number")]
    pub worst: f64,
}

/// Running sums of the probe.
pub(super) struct Accumulator {
    stages: Option<Stages>,
    sums: Sums,
}

/// Ranks and sums over queries.
#[derive(Serialize, Deserialize)]
pub(super) struct Sums {
    queries: usize,
    /// Ranks of relevant docids by layer and site.
    ranks: Vec<Vec<Vec<u32>>>,
    /// Sums by layer, for docids and for text tokens.
    populations: Vec<[Population; 2]>,
}

/// Rank statistics of the tokens of a group: of one query, or summed over queries.
#[derive(Default, Clone, Copy, Serialize, Deserialize)]
struct Population {
    mean: f64,
    median: f64,
    best: f64,
    worst: f64,
}

impl Accumulator {
    pub fn new(context: &ProbeContext) -> Self {
        Self { stages: context.options.stages.clone(), sums: Sums::new(context.depth()) }
    }
}

impl Sums {
    fn new(depth: usize) -> Self {
        Self {
            queries: 0,
            ranks: vec![vec![Vec::new(); LensSite::ALL.len()]; depth],
            populations: vec![Default::default(); depth],
        }
    }
}

impl ProbeAccumulator for Accumulator {
    type OfBatch = Sums;

    fn measure(&self, context: &ProbeContext, batch: &ProbedBatch) -> Sums {
        let candidates = context.lens().candidates;
        let found = context.lens().unscaled(batch.trace.summands(), |row, summands| {
            at_sites(summands, |_, site, logits| {
                let populations = (site == LensSite::ResidualPost).then(|| populations(logits));
                (logits.rank(batch.targets[row], candidates), populations)
            })
        });
        let mut sums = Sums::new(context.depth());
        sums.queries = batch.measured.len();
        for of_query in found {
            for (layer, found) in of_query.into_iter().enumerate() {
                for (ranks, (rank, populations)) in sums.ranks[layer].iter_mut().zip(found) {
                    ranks.push(rank);
                    for (sum, found) in
                        sums.populations[layer].iter_mut().zip(populations.into_iter().flatten())
                    {
                        sum.add(found);
                    }
                }
            }
        }
        sums
    }

    fn add(&mut self, found: Sums) {
        self.sums.queries += found.queries;
        let sites = self.sums.ranks.iter_mut().flatten();
        for (ranks, found) in sites.zip(found.ranks.into_iter().flatten()) {
            ranks.extend(found);
        }
        let groups = self.sums.populations.iter_mut().flatten();
        for (sum, found) in groups.zip(found.populations.into_iter().flatten()) {
            sum.add(found);
        }
    }

    fn finish(self: Box<Self>, context: &ProbeContext) -> Result<ProbeResult, ProcessesError> {
        let stage = |layer| self.stages.as_ref().map(|stages| stages.of(layer));
        let mut sites = Vec::new();
        for (layer, ranks) in self.sums.ranks.into_iter().enumerate() {
            for (&site, ranks) in LensSite::ALL.iter().zip(ranks) {
                let ranks = RankShift::of(ranks, context.options.per_query);
                sites.push(SiteRank { layer, stage: stage(layer), site, ranks });
            }
        }
        let mut populations = Vec::new();
        for (layer, sums) in self.sums.populations.iter().enumerate() {
            for (&group, sum) in TokenGroup::ALL.iter().zip(sums) {
                let mean = |sum: f64| sum / self.sums.queries as f64;
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
        Ok(ProbeResult::LogitLens(LogitLens { sites, populations }))
    }
}

/// Calls `read` with the layer and the unscaled logits at each of [`LensSite::ALL`], for one query, and returns its
/// results by layer. `summands` are the logits of the summands of the residual stream ([`super::trace::Trace::summands`]).
pub(super) fn at_sites<R>(
    summands: &[TokenLogits],
    mut read: impl FnMut(usize, LensSite, TokenLogits) -> R,
) -> Vec<[R; LensSite::ALL.len()]> {
    let Some((start, outputs)) = summands.split_first() else { return Vec::new() };
    let mut residual = LogitSum::of(*start);
    let (layers, _) = outputs.as_chunks::<{ Component::ALL.len() }>();
    let of_layer = |(layer, &[attention, cross_attention, mlp]): (usize, &[TokenLogits; 3])| {
        let mut after = |output: TokenLogits, site: LensSite| {
            residual.add(output);
            read(layer, site, residual.logits())
        };
        let mid = after(attention, LensSite::ResidualMid);
        let mid_cross = after(cross_attention, LensSite::ResidualMidCross);
        let post = after(mlp, LensSite::ResidualPost);
        let cross_alone = read(layer, LensSite::CrossAttentionOut, cross_attention);
        let mlp_alone = read(layer, LensSite::MlpOut, mlp);
        [mid, mid_cross, post, cross_alone, mlp_alone]
    };
    layers.iter().enumerate().map(of_layer).collect()
}

/// Rank statistics of all docids and of all text tokens; undefined if a logit is NaN, which cannot be ranked.
///
/// A mean of ranks needs the rank of every token, so both groups are sorted here, one query per thread at a time.
fn populations(logits: TokenLogits) -> [Population; 2] {
    if logits.has_nan() {
        return [Population { mean: f64::NAN, median: f64::NAN, best: f64::NAN, worst: f64::NAN };
            2];
    }
    let (text, docids) = (descending(logits.text), descending(logits.docids));
    [ranks_of(&docids, &text), ranks_of(&text, &docids)]
}

/// Sort keys of the values, the highest value first.
fn descending(values: &[f32]) -> Vec<u32> {
    let mut keys: Vec<u32> = values.iter().map(|&value| !ordered(value)).collect();
    keys.sort_unstable();
    keys
}

/// Rank statistics of a group's tokens among the group and `others`, both sorted by rank.
fn ranks_of(group: &[u32], others: &[u32]) -> Population {
    let (mut above, mut own_above) = (0, 0);
    let mut ranks = Vec::with_capacity(group.len());
    for (place, key) in group.iter().enumerate() {
        // Equal logits share a rank: only strictly higher ones count.
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
        let ranks =
            |words: &[f32], docids: &[f32]| populations(TokenLogits { text: words, docids });
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
