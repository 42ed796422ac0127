//! From a recipe to all that a run needs before its first step, with everything that is wrong told at once.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use burn::tensor::Device;
use thiserror::Error;

use super::base::{Base, OpenBaseError};
use super::callback::Cadence;
use super::memory::MemoryEstimate;
use crate::checkpoint::{CheckpointError, Encoding, consecutive};
use crate::component::{SelectorError, Stages, StagesError, TrainableTable, trainable_set};
use crate::corpus::{self, Corpus, CorpusError, Split};
use crate::device::{DeviceError, device};
use crate::docid::{DocidError, DocidVocabulary, RowInit, TextTokenizer, TokenizerError};
use crate::prefix::{FrozenPrefix, Reading};
use crate::probe::{Probe, ProbeError, ProbeOptions, Suite};
use crate::recipe::{Init, ProbesSection, Recipe};
use crate::t5::weights::{self, Origin, StoredTensors, WeightsError};
use crate::t5::{GenirModel, T5, T5Config};
use crate::task::{Examples, Mixture, TaskError};

/// A recipe that has been held against its corpus, its base model and its device.
pub struct Plan {
    /// The recipe.
    pub recipe: Recipe,
    /// Where the run computes, without autodiff.
    pub device: Device,
    /// Documents, queries and judgements.
    pub corpus: Corpus,
    /// Rows of the documents that give no example.
    pub left_out: HashSet<u32>,
    /// The base's tokenizer.
    pub tokenizer: TextTokenizer,
    /// Docids by row.
    pub docids: DocidVocabulary,
    /// Training examples of both tasks.
    pub examples: Examples,
    /// What an epoch is made of.
    pub mixture: Mixture,
    /// Stages of the decoder.
    pub stages: Stages,
    /// Dotted names of the trained parameters.
    pub trained: BTreeSet<String>,
    /// Trained and frozen parameters by part.
    pub table: TrainableTable,
    base: Base,
}

/// One thing that stands in the way of a run.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The device cannot be had.
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
        /// Why not.
        problem: ProbeError,
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

/// Everything that stands in the way of a run.
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

impl Plan {
    /// Reads the corpus, the base's configuration and tokenizer, and makes the examples. Weights are read
    /// by [`Plan::model`].
    pub fn new(recipe: Recipe) -> Result<Self, PlanErrors> {
        let mut problems = Vec::new();
        let device = note(&mut problems, device(&recipe.run.device).map_err(PlanError::from));
        let corpus = note(&mut problems, read_corpus(&recipe));
        let base = note(&mut problems, Base::of(&recipe.model).map_err(PlanError::from));
        let tasks = recipe.task.options();
        let examples = match (&corpus, &base) {
            (Some((corpus, left_out)), Some((tokenizer, _))) => {
                let made = Examples::build(corpus, tokenizer, &tasks, left_out);
                let mixed = made.and_then(|examples| {
                    let mixture = Mixture::new(&examples, &tasks)?;
                    Ok((examples, mixture))
                });
                note(&mut problems, mixed.map_err(PlanError::from))
            }
            _ => None,
        };
        let docids = corpus.as_ref().and_then(|(corpus, _)| {
            note(&mut problems, DocidVocabulary::from_corpus(corpus).map_err(PlanError::from))
        });
        let documents = docids.as_ref().map_or(1, DocidVocabulary::len);
        let stages = base.as_ref().and_then(|(_, base)| {
            note(&mut problems, stages_of(&recipe, base.config.num_decoder_layers))
        });
        let trained = match (&base, &stages) {
            (Some((_, base)), Some(stages)) => {
                note(&mut problems, trained_of(&recipe, base, stages, documents))
            }
            _ => None,
        };
        if let Some(section) = &recipe.probes {
            if let Some((corpus, _)) = &corpus {
                problems.extend(splits_to_probe(section, corpus).err());
            }
            if let (Some((_, base)), Some(stages)) = (&base, &stages) {
                problems.extend(unfit_patches(section, stages, &base.config));
            }
        }
        match (device, corpus, base, examples, docids, stages, trained) {
            (
                Some(device),
                Some((corpus, left_out)),
                Some((tokenizer, base)),
                Some((examples, mixture)),
                Some(docids),
                Some(stages),
                Some((trained, table)),
            ) if problems.is_empty() => Ok(Self {
                recipe,
                device,
                corpus,
                left_out,
                tokenizer,
                docids,
                examples,
                mixture,
                stages,
                trained,
                table,
                base,
            }),
            _ => Err(PlanErrors(problems)),
        }
    }

    /// Updates in one pass over the examples.
    pub fn steps_per_epoch(&self) -> u64 {
        let batch = (self.recipe.train.batch_size * self.recipe.train.accumulate) as u64;
        self.mixture.per_epoch().div_ceil(batch)
    }

    /// Updates of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.recipe.train.length.steps(self.steps_per_epoch())
    }

    /// When the run evaluates.
    pub fn evaluations(&self) -> Cadence {
        let section = &self.recipe.evaluate;
        let every = section.every.map(|span| span.steps(self.steps_per_epoch()));
        Cadence { every, at_start: section.at_start, at_end: true }
    }

    /// The training texts, as often as the whole run reads them.
    pub fn reading(&self) -> Reading<'_> {
        let (of_epoch, batch) = (self.mixture.per_epoch(), self.recipe.train.batch_size as u64);
        let batches = self.total_steps() * self.recipe.train.accumulate as u64;
        let epoch = of_epoch.div_ceil(batch);
        let examples = 0..self.examples.len();
        Reading {
            name: "training".to_owned(),
            texts: examples.map(|example| self.examples.tokens(example)).collect(),
            reads: batches / epoch * of_epoch + (batches % epoch * batch).min(of_epoch),
        }
    }

    /// What the run will need at its peak.
    pub fn memory(&self) -> MemoryEstimate {
        MemoryEstimate::of(self)
    }

    /// Probability of dropout in training, in what comes after the frozen prefix.
    pub fn dropout(&self) -> f64 {
        self.recipe.model.dropout.unwrap_or(self.base.config.dropout_rate)
    }

    /// The model before the first step, on `device` (with or without autodiff).
    ///
    /// A document that is a docid of the base already keeps its row; the others get rows as
    /// `docids.rows` says.
    pub fn model(&self, device: &Device) -> Result<GenirModel, PlanError> {
        let Base { directory, config, imported, .. } = &self.base;
        let t5 = self.base(device)?;
        let mut rows = self.new_rows(&t5)?;
        if self.recipe.model.init == Init::Pretrained
            && let Some(imported) = imported
        {
            let tensors = StoredTensors::open(directory)?;
            let place = consecutive(imported, directory)?;
            let known = weights::load_docids(&tensors, config, place, &Device::flex())?;
            let known = known.weight.val().into_data();
            let known: &[f32] = known.as_slice().unwrap_or_default();
            let width = config.d_model;
            for (row, id) in self.docids.ids().enumerate() {
                if let Some(from) = imported.vocabulary.row(id) {
                    let from = from as usize * width;
                    rows[row * width..][..width].copy_from_slice(&known[from..from + width]);
                }
            }
        }
        Ok(GenirModel { docids: weights::docids_from(rows, config.d_model, device), t5 })
    }

    /// The T5 before the first step, on `device`: what probes compare the trained one with.
    pub fn base(&self, device: &Device) -> Result<T5, PlanError> {
        Ok(self.base.t5(self.recipe.run.seed, device)?)
    }

    /// The same beside the `model` that this run trains (off the autodiff graph): what is frozen is there once.
    pub fn base_beside(&self, model: &T5) -> Result<T5, PlanError> {
        let trained = |name: &str| self.trained.contains(&format!("t5.{name}"));
        Ok(self.origin()?.t5_beside(model, trained)?)
    }

    /// Where the weights of [`Plan::base`] come from.
    pub fn origin(&self) -> Result<Origin, WeightsError> {
        self.base.origin(self.recipe.run.seed)
    }

    /// Sizes and switches of the model.
    pub fn config(&self) -> &T5Config {
        &self.base.config
    }

    /// Whether the word embedding is the output matrix too.
    pub fn is_tied(&self) -> bool {
        self.base.tied
    }

    /// What comes before every trained parameter; none where the encoder or the word embedding is trained.
    pub fn frozen_prefix(&self) -> Option<FrozenPrefix> {
        let trained = self.trained.iter().map(String::as_str);
        FrozenPrefix::of(trained, self.config().num_decoder_layers)
    }

    /// Rows for all documents as `docids.rows` says, `[documents, d_model]`.
    fn new_rows(&self, t5: &T5) -> Result<Vec<f32>, PlanError> {
        match self.recipe.docids.rows {
            RowInit::Random => {
                Ok(weights::random_rows(t5.config(), self.docids.len(), self.recipe.run.seed))
            }
            RowInit::Text => {
                let texts: Vec<&str> =
                    self.corpus.documents.iter().map(|document| document.text.as_str()).collect();
                let encoding = Encoding::from(&self.recipe.task.options()).documents();
                Ok(weights::rows_from_text(t5, &self.tokenizer.encode_batch(&texts, &encoding)?))
            }
        }
    }
}

/// Keeps a result's value, or its error among the others.
fn note<T>(problems: &mut Vec<PlanError>, result: Result<T, PlanError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

fn read_corpus(recipe: &Recipe) -> Result<(Corpus, HashSet<u32>), PlanError> {
    let corpus = corpus::load(&recipe.corpus.options())?;
    let left_out = recipe.corpus.leave_out.resolve(&corpus)?;
    Ok((corpus, left_out))
}

fn stages_of(recipe: &Recipe, depth: usize) -> Result<Stages, PlanError> {
    match &recipe.stages {
        Some(stages) => {
            stages.check_depth(depth)?;
            Ok(stages.clone())
        }
        None => Ok(Stages::scaled(depth)?),
    }
}

fn trained_of(
    recipe: &Recipe,
    base: &Base,
    stages: &Stages,
    documents: usize,
) -> Result<(BTreeSet<String>, TrainableTable), PlanError> {
    let parameters = GenirModel::parameter_sizes(&base.config, base.tied, documents);
    let names = parameters.iter().map(|(name, _)| name.as_str());
    let trained = trainable_set(&recipe.trainable.select, stages, names)?;
    let table = TrainableTable::new(&parameters, &trained, stages);
    Ok((trained, table))
}

/// The split whose queries are probed, and the one that circuits are judged on.
pub(super) fn splits_to_probe(
    section: &ProbesSection,
    corpus: &Corpus,
) -> Result<(Split, Split), PlanError> {
    let has = |key, split: Split| match corpus.split(split).is_empty() {
        true => Err(PlanError::NoProbeQueries { key, split }),
        false => Ok(split),
    };
    let split = has("split", section.split)?;
    let test = match section.test_split {
        Some(test) => has("test_split", test)?,
        None if corpus.test.is_empty() => split,
        None => Split::Test,
    };
    Ok((split, test))
}

/// What is wrong with each patch that `[probes]` asks for.
fn unfit_patches(section: &ProbesSection, stages: &Stages, config: &T5Config) -> Vec<PlanError> {
    let options =
        ProbeOptions { patches: Vec::new(), circuit: Vec::new(), ..section.options(stages) };
    let unfit = |key, probe, options| match Suite::new(&[probe], options, config) {
        Ok(_) => None,
        Err(problem) => Some(PlanError::Probes { key, problem }),
    };
    let patches = section.patches.iter().filter_map(|patch| {
        let options = ProbeOptions { patches: vec![patch.clone()], ..options.clone() };
        unfit("patches", Probe::StagePatching, options)
    });
    let circuit = section.circuit_patches.iter().filter_map(|patch| {
        let options = ProbeOptions { circuit: vec![patch.clone()], ..options.clone() };
        unfit("circuit_patches", Probe::Circuit, options)
    });
    patches.chain(circuit).collect()
}
