//! Errors of planning a run.

use std::fmt;

use thiserror::Error;

use crate::advise::{DetectionError, instead};
use crate::checkpoint::{BaseError, CheckpointError};
use crate::component::{SelectorError, StagesError};
use crate::corpus::{CorpusError, Split};
use crate::device::DeviceError;
use crate::docid::{DocidError, TokenizerError};
use crate::probe::ProbeError;
use crate::run::RunError;
use crate::t5::ConfigError;
use crate::t5::weights::WeightsError;
use crate::task::TaskError;

/// Errors of opening a base model.
#[derive(Debug, Error)]
pub enum OpenBaseError {
    /// It cannot be found or fetched.
    #[error(transparent)]
    Find(#[from] BaseError),
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its tokenizer is wrong.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its list of docids is wrong.
    #[error(transparent)]
    Docids(#[from] DocidError),
    /// Its weights are wrong.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// A problem that prevents a run.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The device is not available.
    #[error("run.device: {0}")]
    Device(#[from] DeviceError),
    /// The base model cannot be used.
    #[error("model.base: {0}")]
    Base(#[from] OpenBaseError),
    /// The base's tokenizer is wrong.
    #[error("model.base: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// The base's weights are wrong.
    #[error("model.base: {0}")]
    Weights(#[from] WeightsError),
    /// The base's docids are out of order.
    #[error("model.base: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The corpus is wrong.
    #[error("corpus: {0}")]
    Corpus(#[from] CorpusError),
    /// The documents' ids cannot be docids.
    #[error("corpus: {0}")]
    Docids(#[from] DocidError),
    /// The stages do not fit the decoder.
    #[error("stages: {0}")]
    Stages(#[from] StagesError),
    /// The stages cannot be detected.
    #[error("stages = \"detect\": {0}")]
    DetectStages(#[from] DetectionError),
    /// There are no queries to detect stages with.
    #[error(
        "stages = \"detect\": the corpus has neither validation nor training queries to measure the base model on; give \
         the layers of the stages as numbers"
    )]
    NoQueriesForStages,
    /// Patching does not confirm the stages.
    #[error(
        "stages = \"detect\": P3 does not confirm the stages that P1 shows in the base model: {}; {}",
        found.replace('\n', "; "), instead(*depth)
    )]
    StagesNotConfirmed {
        /// The stages with what was measured.
        found: String,
        /// The decoder's number of layers.
        depth: usize,
    },
    /// The docid rows cannot be divided among processes.
    #[error("docids.shard: {0}")]
    Shard(&'static str),
    /// The trainable set is not one.
    #[error("trainable.select: {0}")]
    Selector(#[from] SelectorError),
    /// The tasks cannot be made of this corpus.
    #[error("task: {0}")]
    Task(#[from] TaskError),
    /// The probes cannot be measured on this model.
    #[error("probes.{key}: {problem}")]
    Probes {
        /// The key that asks for it.
        key: &'static str,
        /// The reason.
        problem: ProbeError,
    },
    /// The base model of the probes cannot be used.
    #[error("probes.base: {0}")]
    ProbeBase(OpenBaseError),
    /// The base model of the probes has another shape than the model that is trained.
    #[error(
        "probes.base: {name} has another shape: `{key}` is {found}, and {expected} in the model that is trained"
    )]
    ProbeBaseShape {
        /// The base model.
        name: String,
        /// The key of `config.json` that differs.
        key: &'static str,
        /// Its value there.
        found: usize,
        /// Its value in the model that is trained; of the word embedding's rows, the least.
        expected: usize,
    },
    /// The run directory cannot be used.
    #[error("run.directory: {0}")]
    Run(#[from] RunError),
    /// The run needs more memory than there is.
    #[error(
        "memory: the run needs about {needed} MiB at its peak and can have {available} MiB, the machine's memory and swap \
         space or the limit of its control group; take a smaller model, a smaller train.batch_size with more \
         train.accumulate, shorter texts (task.max_tokens), or fewer trained parameters"
    )]
    Memory {
        /// MiB that it needs by the estimate, without mapped files.
        needed: u64,
        /// MiB that its process can have.
        available: u64,
    },
    /// A split to evaluate is empty.
    #[error("evaluate.splits: the corpus has no {split} queries; {}", in_place(others))]
    NoQueries {
        /// The split.
        split: Split,
        /// Those that are not empty.
        others: Vec<Split>,
    },
    /// No evaluation of the run gives a metric that it goes by.
    #[error(
        "{key}: no evaluation of this run gives `{metric}`, because nothing that it ranks is of that kind; there are \
         metrics of {}", rankings.join(", ")
    )]
    NoMetric {
        /// The recipe's key.
        key: &'static str,
        /// The metric.
        metric: String,
        /// The metrics that there are.
        rankings: Vec<String>,
    },
    /// A split to probe is empty.
    #[error("probes.{key}: the corpus has no {split} queries")]
    NoProbeQueries {
        /// The key that names the split.
        key: &'static str,
        /// The split.
        split: Split,
    },
}

/// All problems that prevent a run.
#[derive(Debug)]
pub struct PlanErrors(pub Vec<PlanError>);

impl fmt::Display for PlanErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} problem{} with this run:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for PlanErrors {}

/// The splits that could be evaluated instead of one without queries.
fn in_place(others: &[Split]) -> String {
    match others {
        [] => "it has none of any split, so evaluate what is memorised: evaluate.splits=[] \
               evaluate.memorisation=100"
            .to_owned(),
        others => {
            let words: Vec<String> = others.iter().map(Split::to_string).collect();
            format!("it has {} queries", words.join(" and "))
        }
    }
}
