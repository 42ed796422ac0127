//! A checkpoint and the corpus whose documents it ranks: what evaluations and probes ask.

use std::collections::HashSet;

use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::corpus::{Corpus, Document, LoadedCorpus, Split};
use crate::device::{ComputeDevice, Precision};
use crate::docid::{EncodeOptions, TokenizerError};
use crate::probe::Subject;
use crate::retrieval::evaluation::QuerySet;

/// A checkpoint, and a corpus whose documents have docids in it.
pub struct Retriever {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The device of its weights.
    pub device: ComputeDevice,
    /// The corpus.
    pub corpus: Corpus,
    left_out: HashSet<u32>,
    /// The docid row of each document of the corpus.
    rows: Vec<u32>,
}

/// Why a checkpoint cannot be asked the queries of a corpus.
#[derive(Debug, Error)]
pub enum RetrieverError {
    /// A document has no docid.
    #[error(
        "this checkpoint is of another corpus: document `{document}` is none of its {docids} docids"
    )]
    OtherCorpus {
        /// The id of the first such document.
        document: String,
        /// Docids of the checkpoint.
        docids: usize,
    },
    /// A split is empty.
    #[error("the corpus has no {split} queries")]
    NoQueries {
        /// The split.
        split: Split,
    },
    /// A query cannot be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

impl Retriever {
    /// Finds the docid of each document; `loaded` may have its documents in another order than the checkpoint its docids,
    /// and fewer.
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

    /// Computes products in `precision` from now on, and so do models that are opened on [`Self::device`].
    pub fn compute_in(&mut self, precision: Precision) {
        self.device.precision = precision;
        let t5 = &mut self.checkpoint.model.t5;
        *t5 = t5.clone().with_precision(precision);
    }

    /// The encoded queries of `split`, or a sample of `most` of them that `seed` draws.
    ///
    /// # Errors
    /// The split is empty, or a query cannot be encoded.
    pub fn queries(
        &self,
        split: Split,
        most: Option<usize>,
        seed: u64,
    ) -> Result<QuerySet, RetrieverError> {
        self.encoded(split, most, seed, &self.checkpoint.encoding().queries())
    }

    /// [`Self::queries`], each truncated and padded to `length` tokens without a mask, as the paper's `eval.py` does.
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
        set.use_rows(&self.rows);
        Ok(set)
    }
}
