//! The checkpoint that `eval`, `search` and `probe` read, with the corpus that it was trained on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde_json::json;

use crate::checkpoint::{Checkpoint, checkpoint_at};
use crate::corpus::{self, CorpusOptions, Layout, LoadedCorpus, OnProblem, Split};
use crate::device::{ComputeDevice, describe, device};
use crate::processes::World;
use crate::provenance::{IrMetadata, trained_method};
use crate::recipe::Recipe;
use crate::retriever::Retriever;
use crate::run::{Environment, RunDirectory, RunError};

/// A checkpoint and its corpus.
#[derive(Debug, Args)]
pub struct Target {
    /// Checkpoint directory, or run directory (its best checkpoint, else its latest).
    checkpoint: PathBuf,

    #[command(flatten)]
    options: TargetOptions,
}

/// Options that select corpus and device.
#[derive(Debug, Clone, Args)]
pub struct TargetOptions {
    /// Corpus: a directory, a file, bundled:atlas or bundled:almanac [default: the corpus in the run's recipe].
    #[arg(long)]
    corpus: Option<String>,

    /// Layout of the corpus: auto, paper, dsi or beir.
    #[arg(long, default_value = "auto", value_parser = super::parse_choice::<Layout>)]
    layout: Layout,

    /// How to handle unusable records of the corpus: refuse or skip [default: as in the run's recipe, else refuse].
    #[arg(long, value_name = "HOW", value_parser = super::parse_choice::<OnProblem>)]
    on_problem: Option<OnProblem>,

    /// Device: auto, cpu, cuda or cuda:N (cuda+f32 computes matrix products in f32).
    #[arg(long, default_value = "auto")]
    device: String,
}

impl TargetOptions {
    /// Loads the corpus given by `--corpus`, or else that of `recipe`, which also says how to handle unusable records.
    ///
    /// # Errors
    /// The corpus cannot be read, or there is neither of the two.
    pub fn load_corpus(&self, recipe: Option<&Recipe>) -> Result<LoadedCorpus> {
        let mut options = match (&self.corpus, recipe.map(|recipe| recipe.corpus.options())) {
            (Some(path), of_recipe) => {
                let CorpusOptions { on_problem, limits, .. } = of_recipe.unwrap_or_default();
                let (path, layout) = (path.clone(), self.layout);
                CorpusOptions { path, layout, on_problem, limits, ..CorpusOptions::default() }
            }
            (None, Some(of_recipe)) => of_recipe,
            (None, None) => bail!("there is no corpus: give it with --corpus"),
        };
        options.on_problem = self.on_problem.unwrap_or(options.on_problem);
        corpus::load(&options).map_err(|errors| match errors.are_skippable() {
            true => anyhow!(
                "{errors}\non this command line, corpus.on_problem = \"skip\" is `--on-problem skip`"
            ),
            false => errors.into(),
        })
    }

    /// Returns the path of the corpus: that of `--corpus`, or else of `recipe`.
    pub fn corpus_path(&self, recipe: Option<&Recipe>) -> String {
        let of_recipe = recipe.map(|recipe| recipe.corpus.path.clone());
        self.corpus.clone().or(of_recipe).unwrap_or_default()
    }

    /// Returns whether `--corpus` is given.
    pub fn has_corpus(&self) -> bool {
        self.corpus.is_some()
    }

    /// Returns the files of the corpus, each with the option or key that names it.
    pub fn corpus_inputs(&self, recipe: Option<Recipe>) -> Vec<(&'static str, PathBuf)> {
        match (&self.corpus, recipe) {
            (Some(path), _) => vec![("--corpus", PathBuf::from(path))],
            (None, None) => Vec::new(),
            (None, Some(Recipe { corpus, .. })) => [("corpus.path", PathBuf::from(corpus.path))]
                .into_iter()
                .chain(corpus.generated_queries.map(|path| ("corpus.generated_queries", path)))
                .collect(),
        }
    }
}

impl Target {
    /// A checkpoint or run, with the corpus of its run and the default device.
    pub fn at(checkpoint: PathBuf) -> Self {
        let options = TargetOptions {
            corpus: None,
            layout: Layout::Auto,
            on_problem: None,
            device: "auto".to_owned(),
        };
        Self { checkpoint, options }
    }

    /// A checkpoint or run with these options.
    pub fn new(checkpoint: PathBuf, options: TargetOptions) -> Self {
        Self { checkpoint, options }
    }

    /// Opens the checkpoint on the selected device: with all docid rows, or with this process's part of them, for a ranking
    /// by all processes of `world`.
    pub fn open(&self, world: Option<&World>) -> Result<(Checkpoint, ComputeDevice)> {
        let device = device(&self.options.device)?;
        let directory = self.directory()?;
        let checkpoint = match world {
            None => Checkpoint::open(&directory, &device),
            Some(world) => Checkpoint::open_part(&directory, &device, world),
        };
        Ok((checkpoint?, device))
    }

    /// Returns the directory of the checkpoint.
    ///
    /// # Errors
    /// The path is neither a checkpoint nor a run with one.
    pub fn directory(&self) -> Result<PathBuf> {
        match checkpoint_at(&self.checkpoint) {
            Some(found) => Ok(found),
            None => bail!(
                "{}: neither a checkpoint (no config.json) nor a run with one (no checkpoints/best or \
                 checkpoints/latest)",
                self.checkpoint.display()
            ),
        }
    }

    /// Loads the corpus given by `--corpus`, or else the one in the recipe of the checkpoint's run, with the documents
    /// that were excluded from its training.
    pub fn corpus(&self) -> Result<LoadedCorpus> {
        let recipe = match &self.options.corpus {
            Some(_) => self.run_recipe()?,
            None => Some(self.recipe()?),
        };
        self.options.load_corpus(recipe.as_ref())
    }

    /// Returns the input files and directories, each with the option or key that names it.
    pub fn inputs(&self) -> Result<Vec<(&'static str, PathBuf)>> {
        let recipe = match &self.options.corpus {
            Some(_) => None,
            None => self.run_recipe()?,
        };
        Ok(self.options.corpus_inputs(recipe))
    }

    fn recipe(&self) -> Result<Recipe> {
        self.run_recipe()?.with_context(|| {
            let checkpoint = self.checkpoint.display();
            let run = self.run_directory().and_then(|run| Ok(RunDirectory::open(&run)?));
            let reason = run.err().map_or(String::new(), |error| format!(" ({error})"));
            format!(
                "{checkpoint} is not inside a run directory: give its corpus with --corpus{reason}"
            )
        })
    }

    /// Returns the directory that would be the run of the checkpoint: `<run>/checkpoints/<checkpoint>`.
    fn run_directory(&self) -> Result<PathBuf> {
        let directory = self.directory()?;
        Ok(directory.parent().and_then(Path::parent).unwrap_or(Path::new(".")).to_owned())
    }

    /// Returns the run that the checkpoint is in.
    ///
    /// # Errors
    /// It is in none.
    pub fn run(&self) -> Result<RunDirectory> {
        let run = RunDirectory::open(&self.run_directory()?);
        run.with_context(|| format!("{} is not in a run", self.checkpoint.display()))
    }

    /// Returns the recipe of the run that the checkpoint is in, if it is in one.
    pub fn run_recipe(&self) -> Result<Option<Recipe>> {
        match RunDirectory::open(&self.run_directory()?) {
            Ok(run) => Ok(Some(Recipe::from_file(&run.recipe(), &[])?)),
            Err(RunError::NotARun { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the metadata of the run file of `split`, ranked by the checkpoint that `retriever` holds.
    pub fn metadata(&self, retriever: &Retriever, split: Split) -> Result<IrMetadata> {
        let ComputeDevice { device, precision } = &retriever.device;
        let environment = Environment::capture(&describe(device, *precision));
        let recipe = self.run_recipe()?;
        let method = match &recipe {
            Some(recipe) => trained_method(recipe),
            None => {
                json!({ "name": "generative retrieval", "method": "T5 that generates atomic docids" })
            }
        };
        let path = self.options.corpus_path(recipe.as_ref());
        let metadata = IrMetadata::new("genir", &environment, method)
            .with_parameter("checkpoint", self.directory()?.display().to_string())
            .with_collection(&path, &retriever.corpus, split);
        // Another corpus than that of the run says nothing about the training.
        Ok(match recipe.filter(|_| !self.options.has_corpus()) {
            Some(recipe) => metadata.with_training(&recipe, &retriever.corpus),
            None => metadata,
        })
    }

    /// Opens the checkpoint and its corpus.
    pub fn retriever(&self) -> Result<Retriever> {
        self.retriever_of(None)
    }

    /// As [`Self::retriever`]; for `world` see [`Self::open`].
    pub fn retriever_of(&self, world: Option<&World>) -> Result<Retriever> {
        let loaded = self.corpus()?;
        warn_of_skipped(&loaded);
        let (checkpoint, device) = self.open(world)?;
        Ok(Retriever::new(checkpoint, loaded, device)?)
    }
}

/// Warns of skipped records, which change the metrics. Other findings are reported before training.
pub fn warn_of_skipped(loaded: &LoadedCorpus) {
    for finding in loaded.findings.iter().filter(|finding| finding.kind.is_skippable()) {
        tracing::warn!("corpus: {finding}");
    }
}
