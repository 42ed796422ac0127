//! Evaluation, checkpoints, early stopping and logging: `[evaluate]`, `[save]`, `[stop]` and `[log]`.

use serde::{Serialize, Serializer};

use super::data::TaskSection;
use super::ranges::{NOT_NEGATIVE, not_negative};
use super::reader::Section;
use super::training::Span;
use crate::corpus::Split;
use crate::retrieval::{CandidateSet, Metrics, names};
use crate::task::Task;

/// `[evaluate]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvaluateSection {
    /// Interval, `every_steps` or `every_epochs`; `None`: after the last step only.
    #[serde(flatten, serialize_with = "every")]
    pub every: Option<Span>,
    /// The splits that are evaluated.
    pub splits: Vec<Split>,
    /// Number of random queries of each split; `None`: all.
    pub queries: Option<usize>,
    /// Number of queries in a batch.
    pub batch_size: usize,
    /// The candidate set.
    pub vocabulary: CandidateSet,
    /// Number of tokens to which queries of the splits are truncated and padded without a mask, as in the paper's
    /// `eval.py` (128 there); `None`: with a mask, as in training.
    pub unmasked_padding: Option<usize>,
    /// Number of indexing examples, and of training queries, that are ranked to measure memorisation; 0: none.
    pub memorisation: usize,
    /// Number of documents for each query in run files.
    pub run_depth: usize,
    /// True if the model is evaluated before the first step.
    pub at_start: bool,
    /// True if the denoising loss of held-out documents is measured: as `[task]` says, not a key of this section.
    #[serde(skip)]
    pub denoising: bool,
}

/// Serialises an interval as the key `every_steps` or `every_epochs`, which [`Span::read`] reads.
pub(super) fn every<S: Serializer>(span: &Option<Span>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Every {
        every_steps: Option<u64>,
        every_epochs: Option<f64>,
    }
    let (every_steps, every_epochs) = match *span {
        None => (None, None),
        Some(Span::Steps(steps)) => (Some(steps), None),
        Some(Span::Epochs(epochs)) => (None, Some(epochs)),
    };
    let every = Every { every_steps, every_epochs };
    every.serialize(serializer)
}

/// Maximum number of tokens to which queries are padded. Memory grows with each padding token.
pub const MAX_PADDING: usize = 4096;

impl EvaluateSection {
    pub(super) fn read(section: &mut Section<'_, '_>, task: &TaskSection) -> Self {
        let ranks = task.of_docids() > 0 || task.tasks.is_empty();
        let splits = if ranks { vec![Split::Validation] } else { Vec::new() };
        let evaluate = Self {
            every: Span::read(section, "every_steps", "every_epochs"),
            splits: section.choices("splits").or(splits),
            queries: section.integer("queries", 1).optional(),
            batch_size: section.integer("batch_size", 1).or(64),
            vocabulary: section.choice("vocabulary").or(CandidateSet::Docids),
            unmasked_padding: section.integer("unmasked_padding", 1).optional(),
            memorisation: section.integer("memorisation", 0).or(0),
            run_depth: section.integer("run_depth", 1).or(100),
            at_start: section.boolean("at_start").or(false),
            denoising: task.evaluates_denoising(),
        };
        if evaluate.unmasked_padding.is_some_and(|length| length > MAX_PADDING) {
            let message = format!("expected an integer from 1 to {MAX_PADDING}");
            section.problem("unmasked_padding", message);
        }
        if !ranks {
            let message = "docids cannot be ranked: task.tasks has denoising only";
            if !evaluate.splits.is_empty() {
                section.problem("splits", format!("{message}; remove the key"));
            }
            if evaluate.memorisation > 0 {
                section.problem("memorisation", format!("{message}; remove the key"));
            }
        } else if evaluate.splits.is_empty() && evaluate.memorisation == 0 && !evaluate.denoising {
            let message = "expected at least one split, or examples for `memorisation`";
            section.conflict("splits", &["memorisation"], message.to_owned());
        }
        evaluate
    }

    /// Returns the names of the rankings that evaluations compute: those of each split in order, then those of
    /// memorisation.
    pub fn rankings(&self) -> Vec<String> {
        let splits = self.splits.iter().copied().flat_map(names::of_split);
        let memorised = Task::OF_DOCIDS.into_iter().filter(|_| self.memorisation > 0);
        splits.chain(memorised.map(names::of_memorisation)).collect()
    }

    /// Returns the names of the metrics that evaluations compute, such as `validation/hits@1` and
    /// `validation/unseen/hits@1`, in the order of [`EvaluateSection::rankings`], then `denoising/loss`.
    pub fn metrics(&self) -> Vec<String> {
        let metrics_of = |ranking| Metrics::NAMES.map(|metric| format!("{ranking}/{metric}"));
        let denoising = self.denoising.then(|| names::DENOISING_LOSS.to_owned());
        self.rankings().into_iter().flat_map(metrics_of).chain(denoising).collect()
    }
}

/// `[save]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SaveSection {
    /// Interval in steps; `None`: at each evaluation.
    pub every_steps: Option<u64>,
    /// Number of latest checkpoints that are kept in addition to the best one.
    pub keep_last: usize,
    /// The metric that selects the best checkpoint; by default, the first of [`EvaluateSection::metrics`].
    pub best_metric: String,
}

impl SaveSection {
    pub(super) fn read(section: &mut Section<'_, '_>, evaluate: &EvaluateSection) -> Self {
        let first_metric = evaluate.metrics().into_iter().next();
        Self {
            every_steps: section.integer("every_steps", 1).optional(),
            keep_last: section.integer("keep_last", 1).or(2),
            best_metric: section.string("best_metric").or(first_metric.unwrap_or_default()),
        }
    }
}

/// `[stop]`: early stopping.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StopSection {
    /// The metric; by default, the one that selects the best checkpoint.
    pub metric: String,
    /// Number of evaluations without improvement after which training stops.
    pub patience: u64,
    /// Minimum change that counts as an improvement.
    pub min_delta: f64,
}

impl StopSection {
    pub(super) fn read(section: &mut Section<'_, '_>, best_metric: &str) -> Self {
        Self {
            metric: section.string("metric").or(best_metric.to_owned()),
            patience: section.integer("patience", 1).required(),
            min_delta: section.float("min_delta", NOT_NEGATIVE, not_negative).or(0.0),
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogSection {
    /// Interval between log lines, in steps.
    pub every_steps: u64,
}

impl LogSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self { every_steps: section.integer("every_steps", 1).or(10) }
    }
}
