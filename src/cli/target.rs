//! What `eval`, `search` and `probe` are pointed at: a checkpoint, and the corpus it was trained on.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use crate::checkpoint::{Checkpoint, checkpoint_at};
use crate::corpus::{
    self, Corpus, CorpusOptions, Document, Layout, LoadedCorpus, OnProblem, Split,
};
use crate::device::{ComputeDevice, Precision, device};
use crate::docid::{DocidVocabulary, EncodeOptions};
use crate::recipe::Recipe;
use crate::retrieval::evaluation::QuerySet;
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

    /// Opens the checkpoint and the corpus, to ask queries of one split after another.
    pub fn asked(&self) -> Result<Asked> {
        let LoadedCorpus { corpus, left_out, findings } = self.corpus()?;
        // What was only noted has been told before the training; what is skipped changes the numbers that follow.
        for finding in findings.iter().filter(|finding| finding.kind.is_skippable()) {
            tracing::warn!("corpus: {finding}");
        }
        let (checkpoint, device) = self.open()?;
        let rows = rows_of(&corpus, &checkpoint.docids)?;
        Ok(Asked { checkpoint, device, corpus, left_out, rows })
    }
}

/// A checkpoint and the corpus whose queries it is asked.
pub struct Asked {
    pub checkpoint: Checkpoint,
    pub device: ComputeDevice,
    pub corpus: Corpus,
    left_out: HashSet<u32>,
    /// The docid row of each document of the corpus.
    rows: Vec<u32>,
}

impl Asked {
    /// Has the checkpoint, and models that are opened beside it, computed in another precision.
    pub fn compute_in(&mut self, precision: Precision) {
        self.device.precision = precision;
        let t5 = &mut self.checkpoint.model.t5;
        *t5 = t5.clone().computed_in(precision);
    }

    /// The queries of `split`, or a sample of `most` of them that `seed` draws.
    pub fn queries(&self, split: Split, most: Option<usize>, seed: u64) -> Result<QuerySet> {
        self.encoded(split, most, seed, &self.checkpoint.encoding().queries())
    }

    /// The same, each query cut and padded to `length` tokens without a mask, as the paper's `eval.py` asks.
    pub fn unmasked_queries(
        &self,
        split: Split,
        most: Option<usize>,
        seed: u64,
        length: usize,
    ) -> Result<QuerySet> {
        let encoding = EncodeOptions { max_tokens: length, ..self.checkpoint.encoding().queries() };
        let mut set = self.encoded(split, most, seed, &encoding)?;
        set.pad_unmasked(length, self.checkpoint.tokenizer.pad_id());
        Ok(set)
    }

    fn encoded(
        &self,
        split: Split,
        most: Option<usize>,
        seed: u64,
        encoding: &EncodeOptions,
    ) -> Result<QuerySet> {
        let queries = self.corpus.split(split);
        if queries.is_empty() {
            bail!("the corpus has no {split} queries");
        }
        let (name, how) = (split.to_string(), (&self.checkpoint.tokenizer, encoding));
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
