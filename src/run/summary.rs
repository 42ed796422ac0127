//! What came of a run and what it cost: `summary.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The content of `summary.json`, written when a run is over, however it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The version of genir.
    pub genir: String,
    /// The device that computed.
    pub device: String,
    /// How it ended.
    pub ended: Ended,
    /// Why it ended before its last step; none where it did not.
    pub reason: Option<String>,
    /// Updates that were made.
    pub steps: u64,
    /// Updates that the recipe asks for.
    pub total_steps: u64,
    /// Epochs that the updates are, with their fraction.
    pub epochs: f64,
    /// Examples that the updates were made from, each time counted.
    pub examples: u64,
    /// Mean loss of the last update's examples.
    pub loss: Option<f64>,
    /// The best value of the metric by which the best checkpoint is known.
    pub best: Option<Best>,
    /// The newest evaluation.
    pub last: Option<Evaluation>,
    /// Number of parameters.
    pub parameters: Parameters,
    /// Bytes of the optimizer's state.
    pub optimizer_state_bytes: u64,
    /// The most memory that the process held, in bytes (resident set size; Linux, none elsewhere). The memory of a GPU is
    /// not in it, and is not measured.
    pub peak_memory_bytes: Option<u64>,
    /// Where the time went.
    pub seconds: Seconds,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// After its last update.
    Finished,
    /// A callback stopped it.
    Stopped,
    /// By an error.
    Failed,
}

/// The best value of a metric; the first of equals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its name.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// Updates before it was measured.
    pub step: u64,
}

/// All metrics of one evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Updates before it.
    pub step: u64,
    /// By name, as in `metrics.jsonl`.
    pub metrics: BTreeMap<String, f64>,
}

/// Number of parameters, by whether they were trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// Those that were trained.
    pub trained: usize,
    /// Those that were not.
    pub frozen: usize,
}

/// Wall time in seconds, by what it was spent on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// All of it, from the plan to the end.
    pub total: f64,
    /// Finding or computing what is stored of the frozen prefix.
    pub prefix: f64,
    /// Updates.
    pub steps: f64,
    /// Ranking queries.
    pub evaluation: f64,
    /// Measuring probes.
    pub probes: f64,
    /// Writing checkpoints.
    pub saving: f64,
    /// The rest: reading weights, logging.
    pub other: f64,
}
