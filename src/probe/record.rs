//! What is kept of a probe: its result and what it was measured on, as one JSON object.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    AttentionWrites, Circuit, DirectEffect, EncoderSwap, LogitLens, Over, Probe, Reads,
    ResidualContribution, StagePatching,
};
use crate::component::Stages;
use crate::retrieval::Vocabulary;

/// Version of the form of [`Record`].
pub const SCHEMA: u32 = 1;

/// One measurement: a line of `probes/<probe>.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this form, [`SCHEMA`].
    pub schema: u32,
    /// Version of genir that measured.
    pub genir: String,
    /// What was measured on.
    pub measured_on: MeasuredOn,
    /// Seconds that this probe took beside what all probes of the call share.
    pub seconds: f64,
    /// The probe's name and its result.
    #[serde(flatten)]
    pub result: ProbeResult,
}

/// What a probe was measured on.
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
    /// How many those are.
    pub measured: usize,
    /// What a docid is ranked among.
    pub vocabulary: Vocabulary,
    /// Decoder layers of each stage.
    pub stages: Stages,
    /// The base model, where the probe used one.
    pub base: Option<String>,
}

/// What a docid is ranked among, in words.
pub fn ranked_among(vocabulary: Vocabulary) -> &'static str {
    match vocabulary {
        Vocabulary::All => "words and docids",
        Vocabulary::Docids => "docids",
    }
}

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "probe", content = "result", rename_all = "snake_case")]
pub enum ProbeResult {
    ResidualContribution(ResidualContribution),
    LogitLens(LogitLens),
    DirectEffect(DirectEffect),
    StagePatching(StagePatching),
    Circuit(Circuit),
    EncoderSwap(EncoderSwap),
    NeuronReads(Reads),
    AttentionReads(Reads),
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

/// Why a stored result cannot be read.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The line is no record of this version.
    #[error("{place}: {found}; expected a probe's result of schema {SCHEMA}")]
    Wrong {
        /// File and line.
        place: String,
        /// What was found.
        found: String,
    },
}

impl Record {
    /// Reads one line of JSON; `place` stands for it in the error.
    pub fn parse(line: &str, place: impl FnOnce() -> String) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let wrong = |found: String| RecordError::Wrong { place: place(), found };
        match serde_json::from_str::<Version>(line) {
            Ok(Version { schema: SCHEMA }) => {
                serde_json::from_str(line).map_err(|error| wrong(error.to_string()))
            }
            Ok(Version { schema }) => Err(wrong(format!("schema {schema}"))),
            Err(error) => Err(wrong(error.to_string())),
        }
    }
}

/// Serde for numbers that may be undefined (a mean over nothing): NaN is `null`.
pub(super) mod number {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(*value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}
