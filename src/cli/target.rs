//! What `eval` and `search` are pointed at: a checkpoint, and the corpus it was trained on.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::checkpoint::Checkpoint;
use crate::corpus::{self, Corpus, CorpusOptions, Layout, LeaveOut};
use crate::device::device;
use crate::recipe::Recipe;
use crate::run::RunDirectory;

/// A checkpoint and its corpus.
#[derive(Debug, Args)]
pub struct Target {
    /// A checkpoint directory, or a run directory (its best checkpoint, else its latest).
    checkpoint: PathBuf,

    /// The corpus: a directory, a file or bundled:atlas [default: the one in the run's recipe].
    #[arg(long)]
    corpus: Option<String>,

    /// The corpus's layout: auto, paper, dsi or beir.
    #[arg(long, default_value = "auto", value_parser = super::picked::<Layout>)]
    layout: Layout,

    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
}

impl Target {
    /// Opens the checkpoint, with its device.
    pub fn open(&self) -> Result<(Checkpoint, burn::tensor::Device)> {
        let device = device(&self.device)?;
        let directory = self.directory()?;
        Ok((Checkpoint::open(&directory, &device)?, device))
    }

    /// The checkpoint's own directory.
    fn directory(&self) -> Result<PathBuf> {
        let path = &self.checkpoint;
        if path.join("config.json").exists() {
            return Ok(path.clone());
        }
        let checkpoints = path.join("checkpoints");
        let found = ["best", "latest"].map(|name| checkpoints.join(name));
        match found.into_iter().find(|path| path.join("config.json").exists()) {
            Some(found) => Ok(found),
            None => bail!(
                "{}: neither a checkpoint (no config.json) nor a run with one (no checkpoints/best or \
                 checkpoints/latest)",
                path.display()
            ),
        }
    }

    /// The corpus that was named, or else the one in the recipe of the run that the checkpoint is in, with
    /// the documents that the run left out of training.
    pub fn corpus(&self) -> Result<(Corpus, HashSet<u32>)> {
        let (options, left_out) = match &self.corpus {
            Some(path) => {
                let (path, layout) = (path.clone(), self.layout);
                (CorpusOptions { path, layout, generated_queries: None }, LeaveOut::None)
            }
            None => {
                let section = self.recipe()?.corpus;
                (section.options(), section.leave_out)
            }
        };
        let corpus = corpus::load(&options)?;
        let left_out = left_out.resolve(&corpus)?;
        Ok((corpus, left_out))
    }

    fn recipe(&self) -> Result<Recipe> {
        let directory = self.directory()?;
        // <run>/checkpoints/<checkpoint>
        let run = directory.parent().and_then(Path::parent).unwrap_or(Path::new("."));
        let opened = RunDirectory::open(run).with_context(|| {
            format!("{} is not inside a run directory: name its --corpus", directory.display())
        })?;
        Ok(Recipe::from_file(&opened.recipe(), &[])?)
    }
}
