//! P5 (Tab. 2): retrieval effectiveness of the decoder with another model's encoder.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::context::{ComparisonModel, ProbeAccumulator, ProbeContext, ProbedBatch};
use super::number;
use super::queries::{QueryTarget, States};
use super::{ProbeResult, QueryRanks, RankShift};
use crate::choice::choice;
use crate::processes::ProcessesError;
use crate::retrieval::ranking::EncodedQuery;
use crate::t5::{EncoderStates, NoTap, Pass, T5};

choice! {
    /// The final RMSNorm that is applied to the states of another encoder before the decoder reads them.
    EncoderNorm {
        /// The other model's: its complete encoder is swapped in.
        Other = "other",
        /// The model's own, as in the paper's released code, which replaces the residual stream after the last encoder
        /// layer.
        Own = "own",
    }
}

/// Ranks of the decoder with the states of other encoders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderSwap {
    /// Records of older versions lack this field; they used the other model's.
    #[serde(default = "default_encoder_norm")]
    pub encoder_norm: EncoderNorm,
    /// One for each other encoder.
    pub swaps: Vec<Swap>,
}

fn default_encoder_norm() -> EncoderNorm {
    EncoderNorm::Other
}

/// Ranks of the decoder with the states of one other encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Swap {
    /// The name of the encoder's model; the base model is listed first.
    pub encoder: String,
    /// Ranks for the measured queries.
    pub ranks: RankShift,
    /// Metrics for queries about documents that the other model was not trained on; none if it was trained on all.
    pub held_out: Option<HeldOut>,
}

/// Metrics for queries about documents that the encoder's model was not trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Number of relevant documents that were left out of the other model's training.
    pub documents: usize,
    /// Number of queries about them.
    pub queries: usize,
    /// Metrics with the other encoder.
    pub swapped: HeldOutScore,
    /// Metrics with the model's own encoder.
    pub own: HeldOutScore,
    /// With the option `per_query`: ranks with the other encoder, then with the model's own. Otherwise empty and not
    /// written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_query: Vec<QueryRanks>,
}

/// Metrics of the queries about held-out documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutScore {
    /// Mean reciprocal rank, without a cutoff.
    #[serde(with = "number")]
    pub mrr: f64,
    /// Fraction of the queries with rank 1.
    #[serde(rename = "hits@1", with = "number")]
    pub hits_1: f64,
    /// Number of queries with rank 1.
    pub first: usize,
}

/// Ranks with the base model's encoder and with the other one, collected over batches.
pub(super) struct Accumulator {
    ranks: [Vec<u32>; 2],
    /// The two models with the probed model's final RMSNorm; none unless [`EncoderNorm::Own`] is set.
    with_own_norm: [Option<T5>; 2],
    /// Always empty: the stored states of the base model, which other probes use too, are normalised by its own norm.
    not_stored: States,
}

/// An encoder that replaces the model's own.
struct Swapped<'a> {
    other: &'a ComparisonModel,
    /// The model that encodes: `other`, perhaps with the probed model's final RMSNorm.
    t5: &'a T5,
    /// Its stored states.
    stored: &'a States,
}

impl Accumulator {
    pub fn new(context: &ProbeContext) -> Self {
        let with_own_norm = |other: Option<&ComparisonModel>| {
            let mut t5 =
                other.filter(|_| context.options.encoder_norm == EncoderNorm::Own)?.t5.clone();
            t5.encoder.final_norm = context.model.t5.encoder.final_norm.clone();
            Some(t5)
        };
        Self {
            ranks: Default::default(),
            with_own_norm: [context.base, context.encoder].map(with_own_norm),
            not_stored: States::default(),
        }
    }

    /// The base model's encoder and the other one, where there are such models.
    fn encoders<'a>(&'a self, context: &'a ProbeContext) -> [Option<Swapped<'a>>; 2] {
        let swapped =
            |other: Option<&'a ComparisonModel>, own_norm: &'a Option<T5>, stored: &'a States| {
                let other = other?;
                Some(match own_norm {
                    Some(t5) => Swapped { other, t5, stored: &self.not_stored },
                    None => Swapped { other, t5: &other.t5, stored },
                })
            };
        let [base, encoder] = &self.with_own_norm;
        [
            swapped(context.base, base, &context.states.base),
            swapped(context.encoder, encoder, &context.states.other),
        ]
    }
}

/// Ranks of `targets` by the model's decoder with the given states.
fn ranks_from(context: &ProbeContext, states: &EncoderStates, targets: &[u32]) -> Vec<u32> {
    let output = context.model.t5.decode_start(states, &mut Pass::evaluate(&mut NoTap));
    let ranks = context.lens().output_ranks(vec![output], targets); // from [batch, d_model]
    ranks.into_iter().flatten().collect()
}

impl ProbeAccumulator for Accumulator {
    /// The ranks of the relevant docids, with each of the encoders.
    type OfBatch = [Vec<u32>; 2];

    fn measure(&self, context: &ProbeContext, batch: &ProbedBatch) -> [Vec<u32>; 2] {
        let batch_queries: Vec<usize> = batch.measured.iter().map(|found| found.query).collect();
        self.encoders(context).map(|swapped| {
            let Some(Swapped { t5, stored, .. }) = swapped else { return Vec::new() };
            ranks_from(
                context,
                &context.states(stored, t5, context.queries, &batch_queries),
                &batch.targets,
            )
        })
    }

    fn add(&mut self, found: [Vec<u32>; 2]) {
        self.ranks.iter_mut().zip(found).for_each(|(ranks, found)| ranks.extend(found));
    }

    fn finish(self: Box<Self>, context: &ProbeContext) -> Result<ProbeResult, ProcessesError> {
        let mut swaps = Vec::new();
        for (swapped, ranks) in self.encoders(context).into_iter().zip(&self.ranks) {
            let Some(swapped) = swapped else { continue };
            swaps.push(Swap {
                encoder: swapped.other.name.clone(),
                ranks: RankShift::of(ranks.clone(), context.options.per_query),
                held_out: held_out(context, &swapped)?,
            });
        }
        let encoder_norm = context.options.encoder_norm;
        Ok(ProbeResult::EncoderSwap(EncoderSwap { encoder_norm, swaps }))
    }
}

/// Metrics for all queries about documents that the other model was not trained on; none if there are none.
fn held_out(context: &ProbeContext, swapped: &Swapped) -> Result<Option<HeldOut>, ProcessesError> {
    let left_out = &swapped.other.left_out;
    let questions = &context.queries.questions;
    let held_out_target = |(query, question): (usize, &EncodedQuery)| {
        let mut relevant = question.relevant.iter();
        let target = *relevant.find(|row| left_out.contains(row))?;
        Some(QueryTarget { query, target })
    };
    let held_out: Vec<QueryTarget> =
        questions.iter().enumerate().filter_map(held_out_target).collect();
    if held_out.is_empty() {
        return Ok(None);
    }
    let relevant = questions.iter().flat_map(|question| &question.relevant);
    let documents: HashSet<&u32> = relevant.filter(|row| left_out.contains(row)).collect();
    let (mut from_other, mut from_own, mut per_query) = (Vec::new(), Vec::new(), Vec::new());
    let batches = context.queries.batches(held_out.clone(), context.options.batch_size);
    // Each query with its ranks, by the other encoder and by the model's own.
    let ranked = |batch: &Vec<QueryTarget>| -> Vec<(QueryTarget, [u32; 2])> {
        let queries: Vec<usize> = batch.iter().map(|found| found.query).collect();
        let targets: Vec<u32> = batch.iter().map(|found| found.target).collect();
        let ranks = |stored: &States, t5: &T5| {
            let states = context.states(stored, t5, context.queries, &queries);
            ranks_from(context, &states, &targets)
        };
        let other = ranks(swapped.stored, swapped.t5);
        let own = ranks(&context.states.own, &context.model.t5);
        batch.iter().copied().zip(other.into_iter().zip(own).map(<[u32; 2]>::from)).collect()
    };
    context.group.share(&batches, ranked, |found| {
        for (found, [other, own]) in found {
            if context.options.per_query {
                let QueryTarget { query, target } = found;
                let ranks = vec![other, own];
                per_query.push(context.query_ranks(context.queries, query, target, ranks));
            }
            from_other.push(other);
            from_own.push(own);
        }
        Ok::<_, ProcessesError>(())
    })?;
    Ok(Some(HeldOut {
        documents: documents.len(),
        queries: held_out.len(),
        swapped: HeldOutScore::of(&from_other),
        own: HeldOutScore::of(&from_own),
        per_query,
    }))
}

impl HeldOutScore {
    fn of(ranks: &[u32]) -> Self {
        let count = ranks.len() as f64;
        let first = ranks.iter().filter(|&&rank| rank == 1).count();
        let reciprocal = ranks.iter().map(|&rank| 1.0 / f64::from(rank));
        Self { mrr: reciprocal.sum::<f64>() / count, hits_1: first as f64 / count, first }
    }
}
