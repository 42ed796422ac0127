//! Training: from a recipe to a run directory.
//!
//! A [`Plan`] is a recipe that was checked against its corpus, base model and device. [`find_start`] says whether it
//! starts a run or continues an interrupted one; a [`Training`] does either, with the [`callbacks`] of the recipe and
//! your own ([`Callback`]). [`Requests`] let another thread ask it to save or to stop. [`replay()`] repeats steps of a
//! run and compares their bits. [`Trainer`], [`Optimizer`] and [`forward_backward`] are what it is made of.

mod adafactor;
mod adamw;
mod adapter;
mod arithmetic;
mod arms;
mod base;
mod callback;
pub mod callbacks;
mod checkpoints;
mod checks;
mod costs;
mod detect_stages;
mod docid_rows;
mod exchange;
mod failed_step;
mod gradient_sum;
mod held_out;
mod memory;
mod optimizer;
mod optimizer_state;
mod pairwise_sum;
mod plan;
mod plan_error;
mod probe_base;
mod query_sets;
mod ranked_sets;
mod replay;
mod requests;
mod resume;
mod schedule;
mod shards;
mod step;
mod text_step;
mod to_start;
mod trainer;
mod training;
mod training_state;
mod training_texts;
mod warnings;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use adamw::AdamW;
pub use arms::{ArmCosts, arms_table, costs_table, named_sets};
pub use base::{Base, DocidSources, name_of_base};
pub use callback::{Cadence, Callback, Ending, TrainerState, Verdict};
pub use costs::{Costs, Phase};
pub use failed_step::FailedStep;
pub use held_out::HeldOut;
pub use memory::MemoryEstimate;
pub use optimizer::{Optimizer, UpdateError, Updated};
pub use plan::Plan;
pub use plan_error::{OpenBaseError, PlanError, PlanErrors};
pub use probe_base::ProbeBase;
pub use replay::{Comparison, Replay, ReplayError, ReplayOptions, ReplayedStep, replay};
pub use requests::Requests;
pub use resume::{MAY_CHANGE, Resume, ResumeError, ResumePoint, Start, find_start};
pub(crate) use resume::{RunState, run_state};
pub use schedule::Schedule;
pub use step::{StepInput, StepOptions, forward_backward};
pub use text_step::{TextBatch, forward_backward_text, text_loss};
pub use trainer::{Outcome, Trainer};
pub use training::{Training, follow};
pub use training_state::{Arithmetic, StateError, TrainingState};

use crate::checkpoint::CheckpointError;
use crate::docid::TokenizerError;
use crate::files::FileError;
use crate::probe::ProbeError;
use crate::processes::ProcessesError;
use crate::retrieval::run_files::RunFileError;
use crate::run::RunError;
use crate::t5::weights::WeightsError;
use crate::task::TaskError;

/// The value that was not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// The loss of a batch.
    Loss,
    /// The norm of an update's gradients.
    GradientNorm,
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NonFinite::Loss => "loss",
            NonFinite::GradientNorm => "gradient norm",
        })
    }
}

/// Where the state before a failed step is, and the command that repeats the step; nothing without such a state.
fn repeated_by(dump: &Option<PathBuf>, step: u64) -> String {
    let Some(dump) = dump else { return String::new() };
    // <run>/failed-step/step-<updates>
    let run = dump.parent().and_then(Path::parent).unwrap_or(dump);
    format!(
        ". The state before it is in {}; `genir replay {} --step {step}` repeats it",
        dump.display(),
        run.display()
    )
}

/// Errors of training.
#[derive(Debug, Error)]
pub enum TrainError {
    /// A callback was broken off because a signal asked the training to stop.
    #[error("interrupted by a signal")]
    Interrupted,
    /// The loss or the gradient norm is not finite.
    #[error(
        "the {what} is {value} at step {step} (learning rate {learning_rate:e}); the update was not \
         applied, and earlier checkpoints are untouched. Its examples: {}{}", examples.join(", "), repeated_by(dump, *step)
    )]
    NotFinite {
        /// The value that is not finite.
        what: NonFinite,
        /// Its value.
        value: f64,
        /// The step.
        step: u64,
        /// Its learning rate.
        learning_rate: f64,
        /// Ids of its documents and queries.
        examples: Vec<String>,
        /// The state before it, in `failed-step/` of the run; `None` if it could not be written.
        dump: Option<PathBuf>,
    },
    /// A trained parameter is not finite.
    #[error(
        "`{tensor}` has {count} values that are NaN or infinite after step {step} (learning rate {learning_rate:e}, \
         gradient norm {gradient_norm}); earlier checkpoints are untouched. `genir replay RUN --step {step}` repeats \
         the step from the checkpoint before it"
    )]
    ParameterNotFinite {
        /// The first such parameter.
        tensor: String,
        /// Number of its values that are not finite.
        count: usize,
        /// The newest step.
        step: u64,
        /// Its learning rate.
        learning_rate: f64,
        /// Its gradient norm before clipping.
        gradient_norm: f64,
    },
    /// An evaluation did not give the metric that decides.
    #[error(
        "{key}: the evaluation did not measure `{metric}` (no query of that kind); it measured {}",
        measured.join(", ")
    )]
    NoMetric {
        /// The recipe's key.
        key: &'static str,
        /// The metric.
        metric: String,
        /// The metrics that there are.
        measured: Vec<String>,
    },
    /// The model cannot be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A query set or metric is missing.
    #[error(transparent)]
    Plans(#[from] PlanErrors),
    /// The examples cannot be sampled.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A text cannot be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A checkpoint cannot be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The state of a callback in a checkpoint cannot be read.
    #[error("the state of a callback in the checkpoint cannot be read: {0}")]
    CallbackState(#[from] serde_json::Error),
    /// The run cannot continue.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// The weights or the optimizer's state in a checkpoint cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A run file cannot be written.
    #[error(transparent)]
    RunFile(#[from] RunFileError),
    /// The probes cannot be measured.
    #[error("probes: {0}")]
    Probe(#[from] ProbeError),
    /// The run directory cannot be used.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The recipe cannot be written as TOML.
    #[error("the recipe cannot be written as TOML: {0}")]
    Recipe(#[from] toml::ser::Error),
    /// The processes that train together cannot go on.
    #[error(transparent)]
    Processes(#[from] ProcessesError),
    /// Another file of the run cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}
