//! What `eval`, `search` and `probe` are pointed at: a checkpoint, and the corpus it was trained on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use crate::checkpoint::{Checkpoint, checkpoint_at};
use crate::corpus::{self, CorpusOptions, Layout, LoadedCorpus, OnProblem};
use crate::device::{ComputeDevice, device};
use crate::recipe::Recipe;
use crate::retriever::Retriever;
use crate::run::{RunDirectory, RunError};

/// A checkpoint and its corpus.
#[derive(Debug, Args)]
pub struct Target {
    /// A checkpoint directory, or a run directory (its best checkpoint, else its latest).
    checkpoint: PathBuf,

    #[command(flatten)]
    with: With,
}

/// What a checkpoint is asked with.
#[derive(Debug, Clone, Args)]
pub struct With {
    /// The corpus: a directory, a file or bundled:atlas [default: the one in the run's recipe].
    #[arg(long)]
    corpus: Option<String>,

    /// The corpus's layout: auto, paper, dsi or beir.
    #[arg(long, default_value = "auto", value_parser = super::picked::<Layout>)]
    layout: Layout,

    /// What to do with data that cannot be used as they are: refuse or skip [default: as the run did, else
    /// refuse].
    #[arg(long, value_name = "HOW", value_parser = super::picked::<OnProblem>)]
    on_problem: Option<OnProblem>,

    /// auto, cpu, cuda or cuda:N (also cuda+f32: products in f32).
    #[arg(long, default_value = "auto")]
    device: String,
}

impl Target {
    /// A checkpoint or run, with the corpus of its run.
    pub fn at(checkpoint: PathBuf) -> Self {
        let with = With {
            corpus: None,
            layout: Layout::Auto,
            on_problem: None,
            device: "auto".to_owned(),
        };
        Self { checkpoint, with }
    }

    /// A checkpoint or run, with what is given beside it.
    pub fn new(checkpoint: PathBuf, with: With) -> Self {
        Self { checkpoint, with }
    }

    /// Opens the checkpoint, with its device.
    pub fn open(&self) -> Result<(Checkpoint, ComputeDevice)> {
        let device = device(&self.with.device)?;
        let directory = self.directory()?;
        Ok((Checkpoint::open(&directory, &device)?, device))
    }

    /// The checkpoint's own directory.
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

    /// The corpus that was named, or else the one in the recipe of the run that the checkpoint is in, with
    /// the documents that the run left out of training.
    pub fn corpus(&self) -> Result<LoadedCorpus> {
        let mut options = match &self.with.corpus {
            Some(path) => CorpusOptions {
                path: path.clone(),
                layout: self.with.layout,
                on_problem: self
                    .run_recipe()?
                    .map_or(OnProblem::Refuse, |recipe| recipe.corpus.on_problem),
                ..CorpusOptions::default()
            },
            None => self.recipe()?.corpus.options(),
        };
        options.on_problem = self.with.on_problem.unwrap_or(options.on_problem);
        corpus::load(&options).map_err(|errors| match errors.are_skippable() {
            true => anyhow!(
                "{errors}\nhere `--on-problem skip` stands for corpus.on_problem = \"skip\""
            ),
            false => errors.into(),
        })
    }

    /// The files and directories that it is read from, each with what names it.
    pub fn inputs(&self) -> Result<Vec<(&'static str, PathBuf)>> {
        Ok(match &self.with.corpus {
            Some(path) => vec![("--corpus", PathBuf::from(path))],
            None => match self.run_recipe()? {
                None => Vec::new(),
                Some(Recipe { corpus, .. }) => [("corpus.path", PathBuf::from(corpus.path))]
                    .into_iter()
                    .chain(corpus.generated_queries.map(|path| ("corpus.generated_queries", path)))
                    .collect(),
            },
        })
    }

    fn recipe(&self) -> Result<Recipe> {
        self.run_recipe()?.with_context(|| {
            let checkpoint = self.checkpoint.display();
            format!("{checkpoint} is not inside a run directory: name its --corpus")
        })
    }

    /// The recipe of the run that the checkpoint is in, if it is in one.
    pub fn run_recipe(&self) -> Result<Option<Recipe>> {
        let directory = self.directory()?;
        // <run>/checkpoints/<checkpoint>
        let run = directory.parent().and_then(Path::parent).unwrap_or(Path::new("."));
        match RunDirectory::open(run) {
            Ok(run) => Ok(Some(Recipe::from_file(&run.recipe(), &[])?)),
            Err(RunError::NotARun { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the checkpoint and its corpus.
    pub fn retriever(&self) -> Result<Retriever> {
        let loaded = self.corpus()?;
        // What was only noted has been reported before training; what is skipped changes the numbers that follow.
        for finding in loaded.findings.iter().filter(|finding| finding.kind.is_skippable()) {
            tracing::warn!("corpus: {finding}");
        }
        let (checkpoint, device) = self.open()?;
        Ok(Retriever::new(checkpoint, loaded, device)?)
    }
}
