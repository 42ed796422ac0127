//! P2, logit lens (Fig. 4): at which rank the relevant docid stands when the decoder is read off early.

use burn::tensor::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::bench::{Batch, Bench, Measure};
use super::lens::{LensRows, ordered};
use super::record::number;
use super::shift::median;
use super::trace::LayerTrace;
use super::{ProbeResult, RankShift};
use crate::choice::choice;
use crate::component::{Stage, Stages};
use crate::retrieval::Vocabulary;

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

/// The probe while it measures.
pub(super) struct Measuring {
    stages: Stages,
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
    pub fn new(stages: &Stages) -> Self {
        let depth = stages.depth();
        Self {
            stages: stages.clone(),
            queries: 0,
            ranks: vec![vec![Vec::new(); LensSite::ALL.len()]; depth],
            populations: vec![Default::default(); depth],
        }
    }
}

impl LensSite {
    /// What is read off at this site, `[batch, d_model]`.
    fn of(self, layer: &LayerTrace) -> Tensor<2> {
        match self {
            Self::ResidualMid => layer.residual_mid.clone(),
            Self::ResidualMidCross => layer.residual_mid_cross.clone(),
            Self::ResidualPost => layer.residual_post.clone(),
            Self::CrossAttentionOut => layer.outputs[1].clone(),
            Self::MlpOut => layer.outputs[2].clone(),
        }
    }
}

impl Measure for Measuring {
    fn see(&mut self, bench: &Bench, batch: &Batch) {
        self.queries += batch.measured.len();
        let lens = bench.lens();
        let counted: Vec<LensSite> =
            LensSite::ALL.iter().copied().filter(|site| *site != LensSite::ResidualPost).collect();
        let layers = &batch.trace.layers;
        let read_off = layers.iter().flat_map(|layer| counted.iter().map(|site| site.of(layer)));
        let found = lens.ranks(read_off.collect(), &batch.targets);
        for (of_layer, ranks) in self.ranks.iter_mut().zip(found.chunks(counted.len())) {
            for (site, ranks) in counted.iter().zip(ranks) {
                of_layer[*site as usize].extend(ranks);
            }
        }
        let posts = layers.iter().map(|layer| LensSite::ResidualPost.of(layer)).collect();
        lens.each(posts, |layer, logits| {
            for (ranks, target) in populations(&logits, &batch.targets, lens.vocabulary) {
                for (sum, found) in self.populations[layer].iter_mut().zip(ranks) {
                    sum.add(found);
                }
                self.ranks[layer][LensSite::ResidualPost as usize].push(target);
            }
        });
    }

    fn finish(self: Box<Self>, _bench: &Bench) -> ProbeResult {
        let stages = &self.stages;
        let mut sites = Vec::new();
        for (layer, ranks) in self.ranks.into_iter().enumerate() {
            for (&site, ranks) in LensSite::ALL.iter().zip(ranks) {
                let ranks = RankShift::of(ranks);
                sites.push(SiteRank { layer, stage: stages.of(layer), site, ranks });
            }
        }
        let mut populations = Vec::new();
        for (layer, sums) in self.populations.iter().enumerate() {
            for (&group, sum) in TokenGroup::ALL.iter().zip(sums) {
                let mean = |sum: f64| sum / self.queries as f64;
                populations.push(PopulationRanks {
                    layer,
                    stage: stages.of(layer),
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

/// For each query of a batch: ranks of all docids and of all words, and the rank of its target.
///
/// A mean of ranks compares every token with every other: no counting on the device gives it, so the two groups are
/// put in order here, one query at a time on each thread.
fn populations(
    logits: &LensRows,
    targets: &[u32],
    vocabulary: Vocabulary,
) -> Vec<([Population; 2], u32)> {
    let of_query = |((words, docids), &target): ((&[f32], &[f32]), &u32)| {
        let target = !ordered(docids[target as usize]);
        let (words, docids) = (descending(words), descending(docids));
        let above = |group: &[u32]| group.partition_point(|&key| key < target) as u32;
        let words_above = if vocabulary == Vocabulary::All { above(&words) } else { 0 };
        let rank = 1 + above(&docids) + words_above;
        ([ranks_of(&docids, &words), ranks_of(&words, &docids)], rank)
    };
    logits.rows().zip(targets).map(of_query).collect()
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
