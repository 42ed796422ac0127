//! Plans a run from its recipe and reports all problems at once.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::convert::Infallible;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::Device;

use super::base::{Base, DocidSources};
use super::callback::Cadence;
use super::checks::{
    missing_metrics, missing_splits, splits_to_probe, unfit_for_shards, unfit_probes,
};
use super::detect_stages::{resolve_stages, stages_of};
use super::held_out::HeldOut;
use super::plan_error::{PlanError, PlanErrors};
use super::probe_base::ProbeBase;
use super::query_sets::{QuerySource, metrics_of};
use super::shards::DOCIDS;
use crate::advise::StageDetection;
use crate::checkpoint::unmerged;
use crate::component::{LowRank, Stages, Trainable, TrainableTable};
use crate::corpus::{self, Corpus, CorpusErrors, Findings, Split};
use crate::device::{ComputeDevice, Precision, device};
use crate::docid::{DocidVocabulary, TextTokenizer, TokenizerError};
use crate::prefix::FrozenPrefix;
use crate::probe::Probe;
use crate::recipe::{ProbesSection, Recipe, StagesSetting};
use crate::retrieval::evaluation::QuerySet;
use crate::t5::weights::{self, Origin, StoredTensors, WeightsError};
use crate::t5::{GenirModel, T5, T5Config, initial_factor};
use crate::task::{Epochs, Examples, Mixture, Sentinels, Task, TaskError};

/// A recipe that was checked against its corpus, its base model and its device.
pub struct Plan {
    /// The recipe.
    pub recipe: Recipe,
    /// Where the run computes, without autodiff.
    pub device: Device,
    /// Precision of products with weights on a GPU.
    pub precision: Precision,
    /// Documents, queries and judgements.
    pub corpus: Corpus,
    /// Rows of the documents that give no example.
    pub left_out: HashSet<u32>,
    /// Skipped parts of the corpus, and remarks on it.
    pub findings: Findings,
    /// Rows of documents that cannot be told apart: see [`Examples::duplicate_documents`].
    pub alike: Vec<Vec<u32>>,
    /// The base's tokenizer.
    pub tokenizer: TextTokenizer,
    /// Docids by row.
    pub docids: DocidVocabulary,
    /// Training examples of all tasks.
    pub examples: Examples,
    /// The examples of an epoch.
    pub mixture: Mixture,
    /// The division of epochs into updates and batches.
    pub epochs: Epochs,
    /// The query sets of each evaluation, encoded once: samples of what was trained on, then the splits, each set with
    /// its split.
    pub query_sets: Vec<(QuerySet, Option<Split>)>,
    /// The texts that are held out of denoising.
    pub held_out: HeldOut,
    /// The sentinel tokens of denoising; none where it is not trained.
    pub sentinels: Sentinels,
    /// Stages of the decoder; none where it has too few layers.
    pub stages: Option<Stages>,
    /// How the stages were detected, if the recipe asked for it. [`Plan::recipe`] then has their numbers.
    pub detection: Option<StageDetection>,
    /// Probes of the recipe's `probes.run` that are not measured since the decoder has no stages.
    pub unmeasured: Vec<Probe>,
    /// Dotted names of the trained parameters, low-rank factors among them.
    pub trained: BTreeSet<String>,
    /// The matrices that LoRA adapts, by dotted name.
    pub lora: BTreeMap<String, LowRank>,
    /// Trained and frozen parameters by part.
    pub table: TrainableTable,
    pub(super) base: Base,
    probe_base: Option<ProbeBase>,
}

impl Plan {
    /// Reads the corpus, the base's configuration, its tokenizer and the headers of its weights, and makes the
    /// examples. Weights are read by [`Plan::model`].
    ///
    /// # Errors
    /// All problems at once, each with its recipe key: of the device, the base model, the corpus, the docids, the
    /// stages, the trainable set, the tasks, and of what is evaluated, saved and probed.
    pub fn new(recipe: Recipe) -> Result<Self, PlanErrors> {
        Self::assemble(recipe, Vec::new())
    }

    /// The files and directories that the run reads, each with the key that names it.
    pub fn inputs(&self) -> Vec<(&'static str, PathBuf)> {
        let corpus = &self.recipe.corpus;
        let mut inputs = vec![
            ("model.base", self.base_directory().to_path_buf()),
            ("corpus.path", PathBuf::from(&corpus.path)),
            ("cache.directory", self.recipe.cache.settings().directory),
        ];
        let generated = corpus.generated_queries.clone();
        inputs.extend(generated.map(|path| ("corpus.generated_queries", path)));
        inputs
    }

    pub(super) fn assemble(
        mut recipe: Recipe,
        mut problems: Vec<PlanError>,
    ) -> Result<Self, PlanErrors> {
        let device = note(&mut problems, device(&recipe.run.device).map_err(PlanError::from));
        let loaded = match corpus::load(&recipe.corpus.options()) {
            Ok(loaded) => Some(loaded),
            Err(CorpusErrors(errors)) => {
                problems.extend(errors.into_iter().map(PlanError::from));
                None
            }
        };
        let base = note(&mut problems, Base::of(&recipe.model).map_err(PlanError::from));
        if let Some((_, base)) = &base {
            problems.extend(base.problems());
        }
        let tasks = recipe.task.options();
        let examples = match (&loaded, &base) {
            (Some(loaded), Some((tokenizer, _))) => {
                let made = Examples::build(&loaded.corpus, tokenizer, &tasks, &loaded.left_out);
                let mixed = made.and_then(|examples| {
                    let mixture = Mixture::new(&examples, &tasks)?;
                    let train = &recipe.train;
                    let epochs =
                        Epochs::new(mixture.per_epoch(), train.batch_size, train.accumulate)?;
                    let corpus = &loaded.corpus;
                    let held_out = Examples::held_out(corpus, tokenizer, &tasks, &loaded.left_out)?;
                    let sentinels = match tasks.tasks.contains(&Task::Denoising) {
                        true => Sentinels::of(tokenizer, &tasks.denoising)?,
                        false => Sentinels::default(),
                    };
                    Ok((examples, mixture, epochs, HeldOut::new(held_out), sentinels))
                });
                note(&mut problems, mixed.map_err(PlanError::from))
            }
            _ => None,
        };
        if let Some(loaded) = &loaded {
            problems.extend(missing_splits(&recipe, &loaded.corpus));
        }
        let query_sets = match (&loaded, &base) {
            (Some(loaded), Some((tokenizer, _))) => {
                let corpus = &loaded.corpus;
                let source =
                    QuerySource { recipe: &recipe, corpus, left_out: &loaded.left_out, tokenizer };
                let sets = note(&mut problems, source.evaluated().map_err(PlanError::from));
                let held_out =
                    examples.as_ref().is_none_or(|(.., held_out, _)| !held_out.is_empty());
                problems.extend(
                    sets.iter().flat_map(|sets| missing_metrics(&recipe, corpus, sets, held_out)),
                );
                sets
            }
            _ => None,
        };
        let docids = loaded.as_ref().and_then(|loaded| {
            // Without a task whose target is a docid, a model has none.
            let docids = match recipe.task.of_docids() {
                0 => DocidVocabulary::new(std::iter::empty::<&str>()),
                _ => DocidVocabulary::from_corpus(&loaded.corpus),
            };
            note(&mut problems, docids.map_err(PlanError::from))
        });
        let documents = docids.as_ref().map_or(1, DocidVocabulary::len);
        if recipe.docids.shard && recipe.stages == Some(StagesSetting::Detect) {
            let problem = "stages = \"detect\" reads all docid rows of the base in one process; give the layers of the stages \
                           as numbers";
            problems.push(PlanError::Shard(problem));
        }
        let detection = match (&device, &loaded, &base) {
            // What is measured takes seconds to minutes: it waits until all else is right.
            (Some(device), Some(loaded), Some(base)) if problems.is_empty() => {
                let found = resolve_stages(&mut recipe, loaded, base, device);
                note(&mut problems, found).flatten()
            }
            _ => None,
        };
        let stages = base.as_ref().and_then(|(_, base)| {
            note(&mut problems, stages_of(&recipe, base.config.num_decoder_layers))
        });
        let trained = match (&base, &stages) {
            (Some((_, base)), Some(stages)) => {
                let trained = trained_of(&recipe, base, stages.as_ref(), documents);
                note(&mut problems, trained)
            }
            _ => None,
        };
        let unmeasured = match (&stages, recipe.probes.as_mut()) {
            (Some(None), Some(section)) => section.leave_out_without_stages(),
            _ => Vec::new(),
        };
        let mut probe_base = None;
        if let Some(section) = &recipe.probes {
            if let Some(loaded) = &loaded {
                problems
                    .extend(splits_to_probe(section, &loaded.corpus).err().into_iter().flatten());
            }
            if let (Some((_, base)), Some(stages)) = (&base, &stages) {
                problems.extend(unfit_probes(section, stages.as_ref(), &base.config));
            }
            if let Some((_, base)) = &base {
                probe_base = note(&mut problems, find_probe_base(&recipe, section, base)).flatten();
            }
        }
        if let Some((trainable, _)) = &trained {
            problems.extend(unfit_for_shards(&recipe, &trainable.trained));
        }
        match (device, loaded, base, examples, query_sets, docids, stages, trained) {
            (
                Some(ComputeDevice { device, precision }),
                Some(loaded),
                Some((tokenizer, base)),
                Some((examples, mixture, epochs, held_out, sentinels)),
                Some(query_sets),
                Some(docids),
                Some(stages),
                Some((Trainable { trained, lora }, table)),
            ) if problems.is_empty() => Ok(Self {
                recipe,
                device,
                precision,
                corpus: loaded.corpus,
                left_out: loaded.left_out,
                findings: loaded.findings,
                alike: examples.duplicate_documents(),
                tokenizer,
                docids,
                examples,
                mixture,
                epochs,
                query_sets,
                held_out,
                sentinels,
                stages,
                detection,
                unmeasured,
                trained,
                lora,
                table,
                base,
                probe_base,
            }),
            _ => Err(PlanErrors(problems)),
        }
    }

    /// Updates of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.recipe.train.length.steps(&self.epochs)
    }

    /// When the run evaluates.
    pub fn evaluations(&self) -> Cadence {
        let section = &self.recipe.evaluate;
        let every = section.every.map(|span| span.steps(&self.epochs));
        Cadence { every, at_start: section.at_start, at_end: true }
    }

    /// The names of the metrics that each evaluation gives, such as `validation/unseen/hits@1`.
    pub fn metrics(&self) -> Vec<String> {
        metrics_of(&self.query_sets, !self.held_out.is_empty())
    }

    /// Probability of dropout in training, in what comes after the frozen prefix.
    pub fn dropout(&self) -> f64 {
        self.recipe.model.dropout.unwrap_or(self.base.config.dropout_rate)
    }

    /// The model before the first step, on `device` (with or without autodiff).
    ///
    /// A document that is a docid of the base already keeps its row; the others get rows as
    /// `docids.rows` says.
    ///
    /// # Errors
    /// As for [`Plan::base`]; [`PlanError::Tokenizer`] if the text of a document cannot be encoded for its row;
    /// [`PlanError::Weights`] if the rows of known docids cannot be read.
    pub fn model(&self, device: &Device) -> Result<GenirModel, PlanError> {
        self.model_with_rows(device, 0..self.docids.len())
    }

    /// The same with some of its docid rows only.
    pub(super) fn model_with_rows(
        &self,
        device: &Device,
        own: Range<usize>,
    ) -> Result<GenirModel, PlanError> {
        let t5 = self.base(device)?;
        let mut rows = self.new_rows(&t5, device, own.clone())?;
        let width = self.config().d_model;
        let ids = self.docids.ids().skip(own.start).take(own.len());
        let (places, values) = self.base.known_rows(ids)?;
        for (row, values) in places.into_iter().zip(values.chunks_exact(width)) {
            rows[row * width..][..width].copy_from_slice(values);
        }
        let model = GenirModel { docids: weights::docids_from(rows, width, device), t5 };
        let seed = self.recipe.run.seed;
        match model.with_lora(&self.lora, |name, shape| {
            Ok::<_, Infallible>(initial_factor(seed, name, shape))
        }) {
            Ok(model) => Ok(model),
            Err(never) => match never {},
        }
    }

    /// The model in a checkpoint of this plan's run, with some of its docid rows, on `device` (with or without autodiff).
    ///
    /// # Errors
    /// The weights cannot be read, or are not those of a model of this plan.
    pub(super) fn model_of(
        &self,
        checkpoint: &Path,
        device: &Device,
        own: Range<usize>,
    ) -> Result<GenirModel, WeightsError> {
        let words = self.config().vocab_size as u32;
        let rows: Vec<u32> = own.map(|row| words + row as u32).collect();
        let tensors = StoredTensors::open(checkpoint)?;
        let docids = weights::load_docids(&tensors, self.config(), &rows, device)?;
        let compute = &ComputeDevice { device: device.clone(), precision: self.precision };
        let t5 = Origin::files(self.config().clone(), tensors).t5(self.is_tied(), compute)?;
        let merged = GenirModel { t5, docids };
        match self.lora.is_empty() {
            true => Ok(merged),
            false => unmerged(merged, &self.lora, &self.origin()?, checkpoint),
        }
    }

    /// A hash of the training examples in order, of the docids and of the queries that are evaluated.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut text = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        self.docids.ids().for_each(&mut text);
        self.held_out.ids().for_each(|id| text(&id));
        for split in &self.recipe.evaluate.splits {
            for query in self.corpus.split(*split) {
                text(&query.id);
                text(&query.text);
            }
        }
        for example in 0..self.examples.len() {
            let tokens = self.examples.tokens(example);
            hasher.update(&(tokens.len() as u64).to_le_bytes());
            tokens.iter().for_each(|token| {
                hasher.update(&token.to_le_bytes());
            });
            hasher.update(&self.examples.target(example).to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// True if the base has weights, used or not.
    pub fn base_has_weights(&self) -> bool {
        self.base.has_weights()
    }

    /// Where the docid rows of [`Plan::model`] come from.
    pub fn docid_sources(&self) -> DocidSources {
        self.base.docid_rows(&self.docids)
    }

    /// The queries of a split, or `most` of them that the run's seed draws.
    pub(super) fn queries_of(
        &self,
        split: Split,
        most: Option<usize>,
    ) -> Result<QuerySet, TokenizerError> {
        let Self { recipe, corpus, left_out, tokenizer, .. } = self;
        QuerySource { recipe, corpus, left_out, tokenizer }.of_split(split, most)
    }

    /// The T5 before the first step, on `device`: what probes compare the trained one with.
    ///
    /// # Errors
    /// [`PlanError::Weights`] if a weight of the base model is missing, has another shape or type, or cannot be read. A
    /// model from scratch has no files and no errors.
    pub fn base(&self, device: &Device) -> Result<T5, PlanError> {
        let device = &ComputeDevice { device: device.clone(), precision: self.precision };
        Ok(self.base.t5(self.recipe.run.seed, device)?)
    }

    /// Reads the weights of the base model, and of that of the probes, once: what their headers do not show.
    ///
    /// # Errors
    /// A value is not finite, or a file cannot be read.
    pub fn check_values(&self) -> Result<(), PlanErrors> {
        let other = self.probe_base.as_ref().filter(|other| !other.is_start());
        let bases = [Some(&self.base), other.map(|other| &other.base)].into_iter().flatten();
        let problems: Vec<PlanError> = bases.filter_map(|base| base.check_values().err()).collect();
        if problems.is_empty() { Ok(()) } else { Err(PlanErrors(problems)) }
    }

    /// The base model that the probes compare with; none where none does.
    pub fn probe_base(&self) -> Option<&ProbeBase> {
        self.probe_base.as_ref()
    }

    /// The same beside the `model` that this run trains (off the autodiff graph, merged): what is frozen is there once.
    ///
    /// # Errors
    /// As for [`Plan::base`].
    pub fn base_sharing_frozen(&self, model: &T5) -> Result<T5, PlanError> {
        let changed = |name: &str| {
            let name = format!("t5.{name}");
            self.trained.contains(&name) || self.lora.contains_key(&name)
        };
        Ok(self.origin()?.t5_sharing_frozen(model, changed)?)
    }

    /// Where the weights of [`Plan::base`] come from.
    ///
    /// # Errors
    /// The files of the base model's weights cannot be opened any more. A model from scratch has none.
    pub fn origin(&self) -> Result<Origin, WeightsError> {
        self.base.origin(self.recipe.run.seed)
    }

    /// Sizes and switches of the model.
    pub fn config(&self) -> &T5Config {
        &self.base.config
    }

    /// The directory of the base model.
    pub fn base_directory(&self) -> &Path {
        &self.base.directory
    }

    /// Returns whether the word embedding is the output matrix too.
    pub fn is_tied(&self) -> bool {
        self.base.tied
    }

    /// The frozen prefix; `None` if the encoder or the word embedding is trained, or no task has a docid as its target:
    /// corrupted texts differ each time that they are seen.
    pub fn frozen_prefix(&self) -> Option<FrozenPrefix> {
        if self.recipe.task.of_docids() == 0 {
            return None;
        }
        let trained = self.trained.iter().map(String::as_str);
        FrozenPrefix::of(trained, self.config().num_decoder_layers)
    }

    /// The parameters that the recipe's selectors name, and their counts.
    pub(super) fn select_trained(&self) -> Result<(Trainable, TrainableTable), PlanError> {
        trained_of(&self.recipe, &self.base, self.stages.as_ref(), self.docids.len())
    }
}

/// Returns a result's value, or adds its error to `problems`.
fn note<T>(problems: &mut Vec<PlanError>, result: Result<T, PlanError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

fn trained_of(
    recipe: &Recipe,
    base: &Base,
    stages: Option<&Stages>,
    documents: usize,
) -> Result<(Trainable, TrainableTable), PlanError> {
    let mut parameters = GenirModel::parameter_shapes(&base.config, base.tied, documents);
    // Without documents there is no such parameter.
    parameters.retain(|(_, shape)| !shape.contains(&0));
    let trainable = Trainable::of(&recipe.trainable.select, stages, &parameters)?;
    let is_denoising = recipe.task.denoising.is_some();
    if is_denoising && trainable.trained.iter().all(|name| name == DOCIDS) {
        return Err(TaskError::NothingToDenoise.into());
    }
    parameters.extend(trainable.factors(&parameters));
    let sizes: Vec<(String, usize)> =
        parameters.into_iter().map(|(name, shape)| (name, shape.iter().product())).collect();
    let table = TrainableTable::new(&sizes, &trainable.trained, stages);
    Ok((trainable, table))
}

/// The base model that the probes compare with, if one does, in the shape of the run's own.
fn find_probe_base(
    recipe: &Recipe,
    section: &ProbesSection,
    base: &Base,
) -> Result<Option<ProbeBase>, PlanError> {
    if !section.uses_base() {
        return Ok(None);
    }
    let named = section.base.as_deref();
    let found = ProbeBase::find(recipe, named).map_err(PlanError::ProbeBase)?;
    let Some(found) = found else { return Ok(None) };
    match found.differs_from(&base.config) {
        // The run's own base is checked on its own.
        None if found.is_start() => Ok(Some(found)),
        None => match found.base.check() {
            Ok(()) => Ok(Some(found)),
            Err(problem) => Err(PlanError::ProbeBase(problem.into())),
        },
        Some((key, found_there, expected)) => {
            let name = found.name;
            Err(PlanError::ProbeBaseShape { name, key, found: found_there, expected })
        }
    }
}
