//! A checkpoint with the corpus whose documents it ranks, for evaluations and probes.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use thiserror::Error;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::corpus::{self, Corpus, CorpusErrors, Document, LoadedCorpus, Split};
use crate::device::{ComputeDevice, Precision};
use crate::docid::{EncodeOptions, TokenizerError};
use crate::probe::Subject;
use crate::recipe::{Recipe, RecipeErrors};
use crate::retrieval::ranking::EncodedQuery;
use crate::retrieval::{
    BatchTooLarge, DocidOrder, EvaluationResult, QuerySet, RankOptions, check_batch_memory,
    evaluate_with_tap,
};
use crate::run::{RunDirectory, RunError};
use crate::t5::{NoTap, Tap};

/// A checkpoint with the corpus that it ranks: encodes the queries of a split for evaluations and probes.
///
/// To search typed queries, see [`crate::Searcher`].
pub struct Retriever {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The device of the weights.
    pub device: ComputeDevice,
    /// The corpus.
    pub corpus: Corpus,
    left_out: HashSet<u32>,
    /// The docid row of each document of the corpus.
    rows: Vec<u32>,
    /// See [`Retriever::docid_order`].
    order: OnceLock<DocidOrder>,
}

/// Errors of combining a checkpoint with a corpus.
#[derive(Debug, Error)]
pub enum RetrieverError {
    /// The directory is not the directory of a run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The recipe of the run is invalid.
    #[error(transparent)]
    Recipe(#[from] RecipeErrors),
    /// The run has no checkpoint of this name.
    #[error("{} does not exist; checkpoints of the run: {}", path.display(), listed(found))]
    NoCheckpoint {
        /// The missing checkpoint.
        path: PathBuf,
        /// The names of those that exist, sorted.
        found: Vec<String>,
    },
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The corpus cannot be read.
    #[error(transparent)]
    Corpus(#[from] CorpusErrors),
    /// A document of the corpus has no docid in the checkpoint.
    #[error(
        "the checkpoint was trained on another corpus: document `{document}` is not among its {docids} docids"
    )]
    OtherCorpus {
        /// The id of the first such document.
        document: String,
        /// Number of docids of the checkpoint.
        docids: usize,
    },
    /// A split is empty.
    #[error("the corpus has no {split} queries")]
    NoQueries {
        /// The split.
        split: Split,
    },
    /// A query cannot be tokenized.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

fn listed(names: &[String]) -> String {
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

impl Retriever {
    /// Opens the checkpoint `name` (`best`, `latest`, `step-000500`) of the run in `directory`, on `device`, with the
    /// corpus of the run's recipe.
    ///
    /// # Errors
    /// The directory is not a run, or has no checkpoint of this name; the checkpoint or the corpus cannot be read; the
    /// corpus has changed since the training, so that a document has no docid.
    pub fn open(
        directory: &Path,
        name: &str,
        device: ComputeDevice,
    ) -> Result<Self, RetrieverError> {
        let run = RunDirectory::open(directory)?;
        let recipe = Recipe::from_file(&run.recipe(), &[])?;
        let path = run.checkpoints().join(name);
        if !path.is_dir() {
            return Err(RetrieverError::NoCheckpoint { path, found: names(&run.checkpoints()) });
        }
        let checkpoint = Checkpoint::open(&path, &device)?;
        Self::new(checkpoint, corpus::load(&recipe.corpus.options())?, device)
    }

    /// Looks up the docid of each document. The documents of `loaded` may be a subset of the checkpoint's, in any
    /// order.
    ///
    /// # Errors
    /// A document has no docid.
    pub fn new(
        checkpoint: Checkpoint,
        loaded: LoadedCorpus,
        device: ComputeDevice,
    ) -> Result<Self, RetrieverError> {
        let docids = &checkpoint.docids;
        let row = |document: &Document| {
            docids.row(&document.id).ok_or_else(|| RetrieverError::OtherCorpus {
                document: document.id.clone(),
                docids: docids.len(),
            })
        };
        let rows = loaded.corpus.documents.iter().map(row).collect::<Result<_, _>>()?;
        let LoadedCorpus { corpus, left_out, .. } = loaded;
        Ok(Self { checkpoint, device, corpus, left_out, rows, order: OnceLock::new() })
    }

    /// Sets the precision of matrix products, also for models that are opened on [`Self::device`] later.
    pub fn compute_in(&mut self, precision: Precision) {
        self.device.precision = precision;
        let t5 = &mut self.checkpoint.model.t5;
        *t5 = t5.clone().with_precision(precision);
    }

    /// Returns the tokenized queries of `split`, or a random sample of `most` of them.
    ///
    /// # Errors
    /// The split is empty, or a query cannot be tokenized.
    pub fn queries(
        &self,
        split: Split,
        most: Option<usize>,
        seed: u64,
    ) -> Result<QuerySet, RetrieverError> {
        self.encoded(split, most, seed, &self.checkpoint.encoding().queries())
    }

    /// Checks that batches of `batch_size` of these queries can be encoded, as [`check_batch_memory`] does.
    ///
    /// # Errors
    /// A batch of the longest queries needs more memory than the process can have.
    pub(crate) fn check_batches(
        &self,
        queries: &[EncodedQuery],
        batch_size: usize,
    ) -> Result<(), BatchTooLarge> {
        let config = self.checkpoint.model.t5.config();
        check_batch_memory(config, queries, batch_size, &self.device.device)
    }

    /// Returns [`Self::queries`], each truncated and padded to `length` tokens without a mask, as in the paper's
    /// `eval.py`.
    ///
    /// # Errors
    /// As for [`Self::queries`].
    pub fn unmasked_queries(
        &self,
        split: Split,
        most: Option<usize>,
        seed: u64,
        length: usize,
    ) -> Result<QuerySet, RetrieverError> {
        let encoding = EncodeOptions { max_tokens: length, ..self.checkpoint.encoding().queries() };
        let mut set = self.encoded(split, most, seed, &encoding)?;
        set.pad_unmasked(length, self.checkpoint.tokenizer.pad_id());
        Ok(set)
    }

    /// Returns the order of documents with equal logits, which is computed once.
    pub fn docid_order(&self) -> &DocidOrder {
        self.order.get_or_init(|| DocidOrder::new(&self.checkpoint.docids))
    }

    /// Returns the options of [`Self::evaluate`], for [`evaluate`](crate::retrieval::evaluate) with others: docids are
    /// ranked among docids, in batches of 128 queries.
    pub fn rank_options(&self) -> RankOptions<'_> {
        RankOptions::new(self.docid_order(), self.checkpoint.tokenizer.pad_id())
    }

    /// Ranks the documents of the checkpoint for `queries`, and returns their metrics.
    pub fn evaluate(&self, queries: &QuerySet) -> EvaluationResult {
        self.evaluate_with_tap(queries, &mut NoTap)
    }

    /// Like [`Self::evaluate`], but every forward pass goes through `tap`: the metrics of an ablated or patched model.
    ///
    /// ```no_run
    /// use burn::tensor::Tensor;
    /// use genir::Retriever;
    /// use genir::corpus::Split;
    /// use genir::t5::{Hook, Site, Tap};
    ///
    /// /// Zero ablation of all cross-attention.
    /// struct WithoutCrossAttention;
    ///
    /// impl Tap for WithoutCrossAttention {
    ///     fn wants(&self, _site: Site) -> bool {
    ///         false
    ///     }
    ///
    ///     fn replace_output(&mut self, site: Site, shape: [usize; 3]) -> Option<Tensor<3>> {
    ///         let is_cross_attention = site.hook == Hook::CrossAttentionOut;
    ///         is_cross_attention.then(|| Tensor::zeros(shape, &burn::tensor::Device::flex()))
    ///     }
    /// }
    ///
    /// # fn main() -> anyhow::Result<()> {
    /// let device = genir::device::device("cpu")?;
    /// let retriever = Retriever::open("runs/quickstart".as_ref(), "best", device)?;
    /// let queries = retriever.queries(Split::Test, None, 0)?;
    /// for result in [
    ///     retriever.evaluate(&queries),
    ///     retriever.evaluate_with_tap(&queries, &mut WithoutCrossAttention),
    /// ] {
    ///     let metrics = result.all.expect("there are queries");
    ///     println!("{:?}", metrics.values().collect::<Vec<_>>());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn evaluate_with_tap(&self, queries: &QuerySet, tap: &mut dyn Tap) -> EvaluationResult {
        let model = &self.checkpoint.model;
        evaluate_with_tap(model, &self.device.device, queries, self.rank_options(), tap)
    }

    /// The model as [`crate::probe::Suite`] measures it; `name` stands for it in results.
    pub fn subject(&self, name: &str) -> Subject<'_> {
        let checkpoint = &self.checkpoint;
        Subject {
            model: &checkpoint.model,
            device: &self.device.device,
            tokenizer: &checkpoint.tokenizer,
            docids: &checkpoint.docids,
            checkpoint: name.to_owned(),
            step: checkpoint.manifest.as_ref().map(|manifest| manifest.step),
            encoder_is_frozen: false,
        }
    }

    fn encoded(
        &self,
        split: Split,
        most: Option<usize>,
        seed: u64,
        encoding: &EncodeOptions,
    ) -> Result<QuerySet, RetrieverError> {
        let queries = self.corpus.split(split);
        if queries.is_empty() {
            return Err(RetrieverError::NoQueries { split });
        }
        let (name, encoder) = (split.to_string(), (&self.checkpoint.tokenizer, encoding));
        let left_out = &self.left_out;
        let mut set =
            QuerySet::of_queries(&name, &self.corpus, queries, left_out, most, seed, encoder)?;
        set.map_rows(&self.rows);
        Ok(set)
    }
}

/// Returns the names in a directory, sorted; none if it cannot be read.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}
