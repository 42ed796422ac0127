//! The stored form of a probe's result, with the data it was measured on: one JSON object.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::{
    AttentionWrites, Circuit, DirectEffect, EncoderSwap, InputAttribution, LogitLens, Over, Probe,
    ResidualContribution, StagePatching,
};
use crate::choice::choice;
use crate::component::Stages;
use crate::retrieval::CandidateSet;

/// Version of the form of [`Record`].
pub const SCHEMA: u32 = 1;

/// One measurement: a line of `probes/<probe>.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this form, [`SCHEMA`].
    pub schema: u32,
    /// Version of genir that measured.
    pub genir: String,
    /// The model and the queries.
    pub measured_on: MeasuredOn,
    /// Seconds of this probe, without the time that all probes of the measurement share. If several processes share the queries,
    /// until all of them have measured theirs.
    pub seconds: f64,
    /// The probe's name and its result.
    #[serde(flatten)]
    pub result: ProbeResult,
}

/// The model and the queries that a probe was measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasuredOn {
    /// Checkpoint or run directory.
    pub checkpoint: String,
    /// Updates done; none where the checkpoint does not say.
    pub step: Option<u64>,
    /// The name of the query set, such as `validation`.
    pub queries: String,
    /// Queries ranked.
    pub ranked: usize,
    /// Of those, the ones whose relevant docid has rank 1.
    pub correct: usize,
    /// Queries that means are over: the correct ones or all.
    pub over: Over,
    /// Number of the queries that means are over.
    pub measured: usize,
    /// Where a file named the queries that means are over, whatever `over` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<NamedQueries>,
    /// The candidate set of ranks: text tokens and docids, or docids only. Every rank in the result is of this kind,
    /// but for those of whole groups of tokens, which are in the whole vocabulary.
    pub vocabulary: CandidateSet,
    /// Decoder layers of each stage; none where the decoder has too few layers for stages.
    pub stages: Option<Stages>,
    /// The base model, where the probe used one.
    pub base: Option<String>,
    /// Where ranks of every query were asked for: the measured queries with the docid that each is measured by, and its
    /// rank without intervention. Ranks in the result follow their order. Empty and not written otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured_queries: Vec<QueryRanks>,
}

/// Numbers of queries that a file named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedQueries {
    /// Pairs of docid and query in the file.
    pub pairs: usize,
    /// Of those, the ones that means are over: each pair once.
    pub used: usize,
    /// Of those used, the ones whose docid this model ranks first.
    pub ranked_first: usize,
}

/// Ranks of one docid for one query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryRanks {
    /// The query's id.
    pub query: String,
    /// The docid token.
    pub docid: String,
    /// One rank or several, in an order that the field says which holds this.
    pub ranks: Vec<u32>,
}

/// The name of a candidate set in messages.
pub fn describe_candidates(vocabulary: CandidateSet) -> &'static str {
    match vocabulary {
        CandidateSet::All => "text tokens and docids",
        CandidateSet::Docids => "docids",
    }
}

/// A probe that was due during training and was not measured: a line of its history, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Version of this form, [`SCHEMA`].
    pub schema: u32,
    /// Version of genir that trained.
    pub genir: String,
    /// The probe that was due.
    pub probe: Probe,
    /// When and why.
    pub skipped: SkippedAt,
}

/// When a probe was skipped, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedAt {
    /// Updates done.
    pub step: u64,
    /// The reason.
    pub reason: SkipReason,
    /// The reason as text, with the numbers.
    pub message: String,
}

choice! {
    /// The reason for which a scheduled probe is not measured.
    SkipReason {
        /// It would have taken more than `probes.max_share` of the training time.
        MaxShare = "max_share",
        /// No query has its relevant docid at rank 1, so that there is nothing to average over.
        NoCorrectQuery = "no_correct_query",
    }
}

impl Skipped {
    /// A record of `probe` skipped after `step` updates.
    pub fn new(probe: Probe, step: u64, reason: SkipReason, message: String) -> Self {
        let genir = env!("CARGO_PKG_VERSION").to_owned();
        Self { schema: SCHEMA, genir, probe, skipped: SkippedAt { step, reason, message } }
    }
}

/// One line of stored results.
#[derive(Debug, Clone, PartialEq)]
pub enum HistoryLine {
    /// A result.
    Measured(Box<Record>),
    /// The result was skipped.
    Skipped(Skipped),
}

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "probe", content = "result", rename_all = "snake_case")]
pub enum ProbeResult {
    /// P1.
    ResidualContribution(ResidualContribution),
    /// P2.
    LogitLens(LogitLens),
    /// P2b.
    DirectEffect(DirectEffect),
    /// P3.
    StagePatching(StagePatching),
    /// P4.
    Circuit(Circuit),
    /// P5.
    EncoderSwap(EncoderSwap),
    /// P6.
    NeuronReads(InputAttribution),
    /// P7.
    AttentionReads(InputAttribution),
    /// P8.
    AttentionWrites(AttentionWrites),
}

impl ProbeResult {
    /// The probe that gave it.
    pub fn probe(&self) -> Probe {
        match self {
            Self::ResidualContribution(_) => Probe::ResidualContribution,
            Self::LogitLens(_) => Probe::LogitLens,
            Self::DirectEffect(_) => Probe::DirectEffect,
            Self::StagePatching(_) => Probe::StagePatching,
            Self::Circuit(_) => Probe::Circuit,
            Self::EncoderSwap(_) => Probe::EncoderSwap,
            Self::NeuronReads(_) => Probe::NeuronReads,
            Self::AttentionReads(_) => Probe::AttentionReads,
            Self::AttentionWrites(_) => Probe::AttentionWrites,
        }
    }
}

/// Errors of reading stored results.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The line is no record of this version.
    #[error("{place}: {found}; expected a probe's result of schema {SCHEMA}")]
    Wrong {
        /// File and line.
        place: String,
        /// The value found.
        found: String,
    },
}

impl Record {
    /// Reads a result from one line of JSON; `place` stands for it in the error.
    ///
    /// # Errors
    /// [`RecordError::Wrong`] if the line is not JSON, has another schema, lacks a field, or says that a probe was
    /// skipped.
    pub fn parse(line: &str, place: impl Fn() -> String) -> Result<Self, RecordError> {
        match HistoryLine::parse(line, &place)? {
            HistoryLine::Measured(record) => Ok(*record),
            HistoryLine::Skipped(Skipped { skipped, .. }) => Err(RecordError::Wrong {
                place: place(),
                found: format!("a probe that was skipped at step {}", skipped.step),
            }),
        }
    }
}

impl HistoryLine {
    /// Reads one line of JSON; `place` stands for it in the error.
    ///
    /// # Errors
    /// [`RecordError::Wrong`] if the line is not JSON, has another schema or lacks a field.
    pub fn parse(line: &str, place: impl Fn() -> String) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Form {
            schema: u32,
            skipped: Option<IgnoredAny>,
        }
        let wrong = |found: String| RecordError::Wrong { place: place(), found };
        let error = |error: serde_json::Error| wrong(error.to_string());
        match serde_json::from_str::<Form>(line).map_err(error)? {
            Form { schema: SCHEMA, skipped: None } => {
                let value = serde_json::from_str(line).map_err(error)?;
                check_indices(&value).map_err(wrong)?;
                serde_json::from_str(line).map(|record| Self::Measured(Box::new(record)))
            }
            Form { schema: SCHEMA, skipped: Some(_) } => {
                serde_json::from_str(line).map(Self::Skipped)
            }
            Form { schema, .. } => return Err(wrong(format!("schema {schema}"))),
        }
        .map_err(error)
    }
}

/// Checks every index of a layer or a head in a record: axes and tables have a place for each index up to the largest.
pub(super) fn check_indices(value: &Value) -> Result<(), String> {
    /// More than any T5 has.
    const MOST: u64 = 4096;
    match value {
        Value::Array(values) => values.iter().try_for_each(check_indices),
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| match value.as_u64() {
            Some(index)
                if index >= MOST && matches!(key.as_str(), "layer" | "mlp_layer" | "head") =>
            {
                Err(format!("{key} {index} is of no T5, which have fewer than {MOST}"))
            }
            _ => check_indices(value),
        }),
        _ => Ok(()),
    }
}
