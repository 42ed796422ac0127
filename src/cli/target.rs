//! What `eval`, `search` and `probe` are pointed at: a checkpoint, and the corpus it was trained on.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::checkpoint::{Checkpoint, checkpoint_at};
use crate::corpus::{self, Corpus, CorpusOptions, Document, Layout, LeaveOut, Split};
use crate::device::device;
use crate::docid::DocidVocabulary;
use crate::recipe::Recipe;
use crate::retrieval::evaluation::QuerySet;
use crate::run::{RunDirectory, RunError};

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
    /// A checkpoint or run, with the corpus of its run.
    pub fn at(checkpoint: PathBuf) -> Self {
        Self { checkpoint, corpus: None, layout: Layout::Auto, device: "auto".to_owned() }
    }

    /// Opens the checkpoint, with its device.
    pub fn open(&self) -> Result<(Checkpoint, burn::tensor::Device)> {
        let device = device(&self.device)?;
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

    /// Opens the checkpoint and the corpus, to ask queries of one split after another.
    pub fn asked(&self) -> Result<Asked> {
        let (corpus, left_out) = self.corpus()?;
        let (checkpoint, device) = self.open()?;
        let rows = rows_of(&corpus, &checkpoint.docids)?;
        Ok(Asked { checkpoint, device, corpus, left_out, rows })
    }
}

/// A checkpoint and the corpus whose queries it is asked.
pub struct Asked {
    pub checkpoint: Checkpoint,
    pub device: burn::tensor::Device,
    pub corpus: Corpus,
    left_out: HashSet<u32>,
    /// The docid row of each document of the corpus.
    rows: Vec<u32>,
}

impl Asked {
    /// The queries of `split`, or a sample of `most` of them that `seed` draws.
    pub fn queries(&self, split: Split, most: Option<usize>, seed: u64) -> Result<QuerySet> {
        let queries = self.corpus.split(split);
        if queries.is_empty() {
            bail!("the corpus has no {split} queries");
        }
        let encoding = self.checkpoint.encoding().queries();
        let (name, how) = (split.to_string(), (&self.checkpoint.tokenizer, &encoding));
        let left_out = &self.left_out;
        let mut set =
            QuerySet::of_queries(&name, &self.corpus, queries, left_out, most, seed, how)?;
        set.use_rows(&self.rows);
        Ok(set)
    }
}

/// The docid row of each document of the corpus. A checkpoint may have its docids in another order, as the
/// paper's released ones have.
fn rows_of(corpus: &Corpus, docids: &DocidVocabulary) -> Result<Vec<u32>> {
    let row = |document: &Document| {
        docids.row(&document.id).with_context(|| {
            format!(
                "this checkpoint is of another corpus: document `{}` is none of its {} docids",
                document.id,
                docids.len()
            )
        })
    };
    corpus.documents.iter().map(row).collect()
}
