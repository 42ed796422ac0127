//! P5, encoder swap (Tab. 2): how well the decoder retrieves from another model's encoder.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::bench::{Bench, Measure, Other, ProbedBatch};
use super::queries::{Measured, States};
use super::record::number;
use super::{ProbeResult, QueryRanks, RankShift};
use crate::choice::choice;
use crate::retrieval::ranking::EncodedQuery;
use crate::t5::{EncoderStates, NoTap, Pass, T5};

choice! {
    /// Whose final RMSNorm the states of another encoder go through before the decoder reads them.
    EncoderNorm {
        /// The other model's: its whole encoder is swapped in.
        Other = "other",
        /// The model's own, as in the paper's released code, which replaces the residual stream after the last encoder
        /// layer.
        Own = "own",
    }
}

/// The decoder on the states of other encoders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderSwap {
    /// Records of older versions, which do not say, have the other model's.
    #[serde(default = "of_other")]
    pub encoder_norm: EncoderNorm,
    /// One for each other encoder.
    pub swaps: Vec<Swap>,
}

fn of_other() -> EncoderNorm {
    EncoderNorm::Other
}

/// The decoder on the states of one other encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Swap {
    /// The name of the model that it is from, the base model first.
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
    /// Where ranks of every query were asked for: from the other encoder, then from the model's own. Empty and not
    /// written otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_query: Vec<QueryRanks>,
}

/// How the queries for documents held out are ranked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutScore {
    /// Mean reciprocal rank, over all ranks.
    #[serde(with = "number")]
    pub mrr: f64,
    /// Share of the queries at rank 1.
    #[serde(rename = "hits@1", with = "number")]
    pub hits_1: f64,
    /// Queries at rank 1.
    pub first: usize,
}

/// The probe while it measures: ranks from the base model's encoder and from the other one.
pub(super) struct Measuring {
    ranks: [Vec<u32>; 2],
    /// The two models with the model's own final RMSNorm, where that is asked for.
    with_own_norm: [Option<T5>; 2],
    /// None of theirs: what is stored of the base's states for other probes has its own norm.
    not_stored: States,
}

/// An encoder that takes the place of the model's own.
struct Swapped<'a> {
    other: &'a Other,
    /// What encodes.
    t5: &'a T5,
    /// What is stored of its states.
    stored: &'a States,
}

impl Measuring {
    pub fn new(bench: &Bench) -> Self {
        let with_own_norm = |other: Option<&Other>| {
            let mut t5 =
                other.filter(|_| bench.options.encoder_norm == EncoderNorm::Own)?.t5.clone();
            t5.encoder.final_norm = bench.model.t5.encoder.final_norm.clone();
            Some(t5)
        };
        Self {
            ranks: Default::default(),
            with_own_norm: [bench.base, bench.encoder].map(with_own_norm),
            not_stored: States::default(),
        }
    }

    /// The base model's encoder and the other one.
    fn encoders<'a>(&'a self, bench: &'a Bench) -> [Option<Swapped<'a>>; 2] {
        let swapped = |other: Option<&'a Other>, own_norm: &'a Option<T5>, stored: &'a States| {
            let other = other?;
            Some(match own_norm {
                Some(t5) => Swapped { other, t5, stored: &self.not_stored },
                None => Swapped { other, t5: &other.t5, stored },
            })
        };
        let [base, encoder] = &self.with_own_norm;
        [
            swapped(bench.base, base, &bench.states.base),
            swapped(bench.encoder, encoder, &bench.states.other),
        ]
    }
}

/// Ranks of `targets` by the model's decoder, from given states.
fn ranks_from(bench: &Bench, states: &EncoderStates, targets: &[u32]) -> Vec<u32> {
    let output = bench.model.t5.decode_start(states, &mut Pass::evaluate(&mut NoTap));
    let ranks = bench.lens().output_ranks(vec![output], targets); // from [batch, d_model]
    ranks.into_iter().flatten().collect()
}

impl Measure for Measuring {
    fn see(&mut self, bench: &Bench, batch: &ProbedBatch) {
        let asked: Vec<usize> = batch.measured.iter().map(|found| found.query).collect();
        let found = self.encoders(bench).map(|swapped| {
            let Some(Swapped { t5, stored, .. }) = swapped else { return Vec::new() };
            ranks_from(bench, &bench.states(stored, t5, bench.queries, &asked), &batch.targets)
        });
        self.ranks.iter_mut().zip(found).for_each(|(ranks, found)| ranks.extend(found));
    }

    fn finish(self: Box<Self>, bench: &Bench) -> ProbeResult {
        let swap = |(swapped, ranks): (Option<Swapped>, &Vec<u32>)| {
            let swapped = swapped?;
            Some(Swap {
                encoder: swapped.other.name.clone(),
                ranks: RankShift::of(ranks.clone(), bench.options.per_query),
                held_out: held_out(bench, &swapped),
            })
        };
        let swaps = self.encoders(bench).into_iter().zip(&self.ranks).filter_map(swap).collect();
        let encoder_norm = bench.options.encoder_norm;
        ProbeResult::EncoderSwap(EncoderSwap { encoder_norm, swaps })
    }
}

/// The queries for documents that the other model was trained without, correct or not.
fn held_out(bench: &Bench, swapped: &Swapped) -> Option<HeldOut> {
    let left_out = &swapped.other.left_out;
    let questions = &bench.queries.questions;
    let asks = |(query, question): (usize, &EncodedQuery)| {
        let mut relevant = question.relevant.iter();
        let target = *relevant.find(|row| left_out.contains(row))?;
        Some(Measured { query, target })
    };
    let asked: Vec<Measured> = questions.iter().enumerate().filter_map(asks).collect();
    if asked.is_empty() {
        return None;
    }
    let relevant = questions.iter().flat_map(|question| &question.relevant);
    let documents: HashSet<&u32> = relevant.filter(|row| left_out.contains(row)).collect();
    let (mut from_other, mut from_own, mut per_query) = (Vec::new(), Vec::new(), Vec::new());
    for batch in bench.queries.batches(asked.clone(), bench.options.batch_size) {
        let queries: Vec<usize> = batch.iter().map(|found| found.query).collect();
        let targets: Vec<u32> = batch.iter().map(|found| found.target).collect();
        let ranks = |stored: &States, t5: &T5| {
            let states = bench.states(stored, t5, bench.queries, &queries);
            ranks_from(bench, &states, &targets)
        };
        let other = ranks(swapped.stored, swapped.t5);
        let own = ranks(&bench.states.own, &bench.model.t5);
        if bench.options.per_query {
            per_query.extend(batch.iter().zip(&other).zip(&own).map(|((found, &other), &own)| {
                bench.query_ranks(bench.queries, found.query, found.target, vec![other, own])
            }));
        }
        from_other.extend(other);
        from_own.extend(own);
    }
    Some(HeldOut {
        documents: documents.len(),
        queries: asked.len(),
        swapped: HeldOutScore::of(&from_other),
        own: HeldOutScore::of(&from_own),
        per_query,
    })
}

impl HeldOutScore {
    fn of(ranks: &[u32]) -> Self {
        let count = ranks.len() as f64;
        let first = ranks.iter().filter(|&&rank| rank == 1).count();
        let reciprocal = ranks.iter().map(|&rank| 1.0 / f64::from(rank));
        Self { mrr: reciprocal.sum::<f64>() / count, hits_1: first as f64 / count, first }
    }
}
