//! A checkpoint with the corpus whose documents it ranks, for evaluations and probes.

use std::collections::HashSet;

use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::corpus::{Corpus, Document, LoadedCorpus, Split};
use crate::device::{ComputeDevice, Precision};
use crate::docid::{EncodeOptions, TokenizerError};
use crate::probe::Subject;
use crate::retrieval::evaluation::QuerySet;

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
}

/// Errors of combining a checkpoint with a corpus.
#[derive(Debug, Error)]
pub enum RetrieverError {
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

impl Retriever {
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
        Ok(Self { checkpoint, device, corpus, left_out, rows })
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
