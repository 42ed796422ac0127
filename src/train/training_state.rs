//! The state of a training between two updates, besides the weights: `trainer_state.json` in a checkpoint.
//!
//! A run that continues from a checkpoint computes the same weights as one that was never interrupted, bit for bit on
//! the CPU. What makes a step is in three files: the weights in `model.safetensors`, the moments of the optimizer in
//! `optimizer.safetensors`, and this state. The order of the examples and dropout are pure functions of the seed and
//! the step, so that neither a generator nor a position of a sampler has to be stored. Tests kill runs at random
//! moments and compare the bytes (`tests/testsuite/resume.rs`).

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::TRAINER_STATE;
use crate::exact::Exact;
use crate::files::{FileError, read_regular_to_string, write_atomically};
use crate::monitor::GrowingFiles;

/// The optimizer's state in a checkpoint.
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";

/// The state of a training after an update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingState {
    /// Version of the file format.
    pub format: u32,
    /// The version of genir that wrote it.
    pub genir: String,
    /// Number of updates.
    pub step: u64,
    /// Which callbacks were called after this update.
    pub(super) called: Called,
    /// The reason for which a callback stopped the run at this step, if one did.
    pub(super) stopped: Option<String>,
    /// The update itself.
    pub(super) update: UpdateRecord,
    /// The costs of the run so far.
    pub(super) costs: CostRecord,
    /// Number of updates of each parameter in the optimizer.
    pub(super) optimizer_steps: BTreeMap<String, usize>,
    /// States of callbacks by name.
    pub(super) callbacks: BTreeMap<String, Value>,
    /// The resolved recipe.
    pub recipe: String,
    /// A hash of the training examples in order, and of the docids.
    pub(super) examples: String,
    /// What the bits of a result depend on besides the recipe.
    pub arithmetic: Arithmetic,
    /// Sizes of `metrics.jsonl`, TensorBoard events and results of probes.
    pub(super) files: BTreeMap<PathBuf, u64>,
    /// What could not be written to them, in base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) retained: BTreeMap<PathBuf, String>,
}

/// The callbacks that were called for an update when a checkpoint of it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Called {
    /// None: a signal came before.
    None,
    /// Those of these names: a signal interrupted the next one, which comes before the checkpoint.
    Some(Vec<String>),
    /// Those before the checkpoint.
    Before,
    /// All.
    All,
}

/// The latest update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct UpdateRecord {
    pub loss: Exact,
    pub learning_rate: Exact,
    pub gradient_norm: Exact,
    pub examples: u64,
    pub metrics: BTreeMap<String, Exact>,
}

/// Costs up to the checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CostRecord {
    pub total_seconds: f64,
    /// By phase.
    pub seconds: BTreeMap<String, f64>,
    /// Of updates and of the frozen prefix. States of versions before it was measured have none.
    #[serde(default)]
    pub processor_seconds: f64,
    pub examples: u64,
}

/// Version, device and instruction set, which the bits of a result depend on besides the recipe and the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arithmetic {
    /// The version of genir.
    pub genir: String,
    /// The device, with its precision.
    pub device: String,
    /// The instruction set of the kernels on the CPU.
    pub instructions: String,
}

impl Arithmetic {
    /// Of this process on `device`.
    pub(crate) fn of(device: String) -> Self {
        Self {
            genir: env!("CARGO_PKG_VERSION").to_owned(),
            device,
            instructions: instructions().to_owned(),
        }
    }

    /// The differences from `other` as text: `device cpu, now cuda:0`.
    pub(super) fn differences(&self, now: &Self) -> Vec<String> {
        let pairs = [
            ("genir", self.genir.clone(), now.genir.clone()),
            ("device", self.device.clone(), now.device.clone()),
            ("instructions", self.instructions.clone(), now.instructions.clone()),
        ];
        let differing = pairs.into_iter().filter(|(_, before, now)| before != now);
        differing.map(|(name, before, now)| format!("{name} {before}, now {now}")).collect()
    }
}

/// The instruction set that the kernels select at run time.
fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return "avx512";
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return "avx2";
        }
    }
    std::env::consts::ARCH
}

/// Errors of reading a training state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its content is not a state.
    #[error("{}: not a training state of genir: {found}", file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// The problem.
        found: String,
    },
    /// It has another format.
    #[error(
        "{}: format {found}, written by genir {genir}; this is genir {}, which reads format {}: continue the run with \
         genir {genir}", file.display(), env!("CARGO_PKG_VERSION"), TrainingState::FORMAT
    )]
    Format {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u64,
        /// The version of genir that wrote it.
        genir: String,
    },
}

impl TrainingState {
    /// The version of the format that this version of genir writes and reads.
    pub const FORMAT: u32 = 1;

    /// Reads the state in a checkpoint; `None` if it has none.
    ///
    /// # Errors
    /// The file cannot be read, or is not a state in this format.
    pub fn read(checkpoint: &Path) -> Result<Option<Self>, StateError> {
        let file = checkpoint.join(TRAINER_STATE);
        if !file.exists() {
            return Ok(None);
        }
        let text = read_regular_to_string(&file).map_err(FileError::new("read", &file))?;
        let wrong = |error: serde_json::Error| StateError::Wrong {
            file: file.clone(),
            found: error.to_string(),
        };
        // The format first: another one may differ in anything else.
        let value: Value = serde_json::from_str(&text).map_err(wrong)?;
        match value["format"].as_u64() {
            Some(found) if found != u64::from(Self::FORMAT) => {
                let genir = value["genir"].as_str().unwrap_or("(unknown)").to_owned();
                Err(StateError::Format { file, found, genir })
            }
            _ => serde_json::from_value(value).map(Some).map_err(wrong),
        }
    }

    /// Writes the state into a checkpoint.
    pub(super) fn write(&self, checkpoint: &Path) -> Result<(), FileError> {
        write_atomically(&checkpoint.join(TRAINER_STATE), |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        })
    }

    /// Adds the growing files of the run.
    pub(super) fn with_files(mut self, files: GrowingFiles) -> Self {
        self.files = files.sizes;
        let retained = files.retained.into_iter();
        self.retained = retained.map(|(path, bytes)| (path, STANDARD.encode(bytes))).collect();
        self
    }

    /// The growing files of the run.
    pub(super) fn growing_files(&self) -> GrowingFiles {
        let decode =
            |(path, text): (&PathBuf, &String)| Some((path.clone(), STANDARD.decode(text).ok()?));
        GrowingFiles {
            sizes: self.files.clone(),
            retained: self.retained.iter().filter_map(decode).collect(),
        }
    }
}
