//! The outcome and the cost of a run: `summary.json`.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{FileError, read_regular_to_string};
use crate::json_number;

/// The content of `summary.json`, which is written when a run ends for any reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The version of genir.
    pub genir: String,
    /// The compute device.
    pub device: String,
    /// The outcome of the run.
    pub ended: RunOutcome,
    /// The reason why the run ended before its last step, if it did.
    pub reason: Option<String>,
    /// Number of updates that were performed.
    pub steps: u64,
    /// Number of updates in the recipe.
    pub total_steps: u64,
    /// Number of epochs of these updates, with their fraction.
    pub epochs: f64,
    /// Number of examples of these updates, counted each time they were seen.
    pub examples: u64,
    /// Mean loss over the examples of the last update.
    pub loss: Option<f64>,
    /// The best value of the metric that selects the best checkpoint.
    pub best: Option<Best>,
    /// The last evaluation.
    pub last: Option<Evaluation>,
    /// Number of parameters.
    pub parameters: Parameters,
    /// Size of the optimizer state in bytes.
    pub optimizer_state_bytes: u64,
    /// Peak resident memory of the process in bytes (Linux; `None` elsewhere). GPU memory is not included.
    pub peak_memory_bytes: Option<u64>,
    /// The most GPU memory in bytes that the process held when it was read (NVML), at the cadence of the log; `None` on the
    /// CPU, and where the machine does not tell. What Burn keeps for later allocations is included.
    #[serde(default)]
    pub peak_gpu_memory_bytes: Option<u64>,
    /// Joules that the processors of the machine have used, those of other processes included (RAPL); `None` where the
    /// machine does not tell. The energy of a GPU is not included.
    #[serde(default)]
    pub processor_joules: Option<f64>,
    /// Joules that the GPU has used, those of other processes included (NVML; NVIDIA's Volta and newer); `None` on the CPU,
    /// and where the machine does not tell.
    #[serde(default)]
    pub gpu_joules: Option<f64>,
    /// Processor time of updates and of the frozen prefix, in seconds, summed over all threads; `None` in runs of versions
    /// before it was measured.
    #[serde(default)]
    pub processor_seconds: Option<f64>,
    /// Wall time by phase.
    pub seconds: Seconds,
}

impl Summary {
    /// Reads a run's `summary.json` ([`RunDirectory::summary`](super::RunDirectory::summary)).
    ///
    /// # Errors
    /// The file is missing, since the run has not ended; it is not a regular file, or was not written by genir.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = read_regular_to_string(path).map_err(FileError::new("read", path))?;
        serde_json::from_str(&text).map_err(|error| {
            FileError::new("read", path)(io::Error::new(ErrorKind::InvalidData, error.to_string()))
        })
    }
}

/// The outcome of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunOutcome {
    /// It performed its last update.
    Finished,
    /// A callback stopped it.
    Stopped,
    /// A signal ended it; the same command continues it.
    Interrupted,
    /// An error ended it.
    Failed,
}

/// The best value of a metric; the first one of equal values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The name of the metric.
    pub metric: String,
    /// The value.
    pub value: f64,
    /// Number of updates before it was measured.
    pub step: u64,
}

/// All metrics of one evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Number of updates before the evaluation.
    pub step: u64,
    /// Metrics by name, as in `metrics.jsonl`; what is not finite is one of the strings `"NaN"`, `"inf"` and `"-inf"`.
    #[serde(with = "json_number::map")]
    pub metrics: BTreeMap<String, f64>,
}

/// Number of trained and frozen parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// Number of trained parameters.
    pub trained: usize,
    /// Number of frozen parameters.
    pub frozen: usize,
}

/// Wall time in seconds, by phase.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Total time, from the plan to the end.
    pub total: f64,
    /// Loading or computing the stored frozen prefix.
    pub prefix: f64,
    /// Training steps.
    pub steps: f64,
    /// Ranking queries.
    pub evaluation: f64,
    /// Measuring probes.
    pub probes: f64,
    /// Writing checkpoints.
    pub saving: f64,
    /// Other work, such as reading weights and logging.
    pub other: f64,
}
