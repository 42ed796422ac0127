//! P5, encoder swap (Tab. 2): how well the decoder retrieves from another model's encoder.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::bench::{Batch, Bench, Measure, Other};
use super::queries::{Measured, States};
use super::record::number;
use super::{ProbeResult, RankShift};
use crate::retrieval::ranking::Question;
use crate::t5::{EncoderStates, NoTap, Pass, T5};

/// The decoder on the states of other encoders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderSwap {
    pub swaps: Vec<Swap>,
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

/// The probe while it measures: ranks from the base model's encoder and from the other one.
#[derive(Default)]
pub(super) struct Measuring {
    ranks: [Vec<u32>; 2],
}

/// The base model and the other one, with the states that they made of the queries.
fn encoders<'a>(bench: &Bench<'a>) -> [Option<(&'a Other, &'a States)>; 2] {
    let queries = bench.queries;
    [
        bench.base.map(|base| (base, &queries.base)),
        bench.encoder.map(|other| (other, &queries.other)),
    ]
}

/// Ranks of `targets` by the model's decoder, from given states.
fn ranks_from(bench: &Bench, states: &EncoderStates, targets: &[u32]) -> Vec<u32> {
    let output = bench.model.t5.decode_start(states, &mut Pass::evaluate(&mut NoTap));
    let ranks = bench.lens().output_ranks(vec![output], targets); // from [batch, d_model]
    ranks.into_iter().flatten().collect()
}

impl Measure for Measuring {
    fn see(&mut self, bench: &Bench, batch: &Batch) {
        let asked: Vec<usize> = batch.measured.iter().map(|found| found.query).collect();
        for (ranks, encoder) in self.ranks.iter_mut().zip(encoders(bench)) {
            let Some((other, kept)) = encoder else { continue };
            let states = bench.states(kept, &other.t5, bench.queries, &asked);
            ranks.extend(ranks_from(bench, &states, &batch.targets));
        }
    }

    fn finish(self: Box<Self>, bench: &Bench) -> ProbeResult {
        let swap = |(found, ranks): (Option<(&Other, &States)>, Vec<u32>)| {
            let (other, kept) = found?;
            Some(Swap {
                encoder: other.name.clone(),
                ranks: RankShift::of(ranks),
                held_out: held_out(bench, other, kept),
            })
        };
        let swaps = encoders(bench).into_iter().zip(self.ranks).filter_map(swap).collect();
        ProbeResult::EncoderSwap(EncoderSwap { swaps })
    }
}

/// The queries for documents that `other` was trained without, correct or not.
fn held_out(bench: &Bench, other: &Other, kept: &States) -> Option<HeldOut> {
    let questions = &bench.queries.questions;
    let asks = |(query, question): (usize, &Question)| {
        let mut relevant = question.relevant.iter();
        let target = *relevant.find(|row| other.left_out.contains(row))?;
        Some(Measured { query, target })
    };
    let asked: Vec<Measured> = questions.iter().enumerate().filter_map(asks).collect();
    if asked.is_empty() {
        return None;
    }
    let relevant = questions.iter().flat_map(|question| &question.relevant);
    let documents: HashSet<&u32> = relevant.filter(|row| other.left_out.contains(row)).collect();
    let (mut swapped, mut own) = (Vec::new(), Vec::new());
    for batch in bench.queries.batches(asked.clone(), bench.options.batch_size) {
        let queries: Vec<usize> = batch.iter().map(|found| found.query).collect();
        let targets: Vec<u32> = batch.iter().map(|found| found.target).collect();
        let ranks = |kept: &States, t5: &T5| {
            let states = bench.states(kept, t5, bench.queries, &queries);
            ranks_from(bench, &states, &targets)
        };
        swapped.extend(ranks(kept, &other.t5));
        own.extend(ranks(&bench.queries.own, &bench.model.t5));
    }
    Some(HeldOut {
        documents: documents.len(),
        queries: asked.len(),
        swapped: HeldOutScore::of(&swapped),
        own: HeldOutScore::of(&own),
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
