//! The two training tasks: examples, their mixture, epochs, the sampler and batches.

use serde::{Deserialize, Serialize};

use crate::choice::choice;
use crate::docid::{EncodeOptions, TokenizerError};

mod batch;
mod epochs;
mod examples;
mod mixture;
mod sampler;

pub use batch::{Batch, collate};
pub use epochs::Epochs;
pub use examples::Examples;
pub use mixture::{Mixture, TaskShare};
pub use sampler::Sampler;

choice! {
    /// A training task; the target of both is a docid.
    #[derive(Hash)]
    Task {
        /// Document text to docid.
        Indexing = "indexing",
        /// Query to docid.
        Retrieval = "retrieval",
    }
}

/// Options for creating examples from a corpus.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskOptions {
    /// The tasks to train: one or both.
    pub tasks: Vec<Task>,
    /// Number of indexing examples for each retrieval example, see [`Mixture`]; `None`: every example once an epoch.
    pub ratio: Option<f64>,
    /// Encoding of the texts.
    pub encoding: Encoding,
}

impl Default for TaskOptions {
    /// The settings of the paper: both tasks, ratio 32.
    fn default() -> Self {
        Self { tasks: Task::ALL.to_vec(), ratio: Some(32.0), encoding: Encoding::default() }
    }
}

/// Encoding of documents and queries, in training and in a checkpoint's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoding {
    /// Maximum number of tokens of a document, `</s>` included.
    pub document_tokens: usize,
    /// Maximum number of tokens of a query, `</s>` included.
    pub query_tokens: usize,
    /// Prepended to every document unchanged.
    pub indexing_prefix: String,
    /// Prepended to every query unchanged.
    pub retrieval_prefix: String,
    /// True if documents and queries are lowercased.
    pub lowercase: bool,
}

impl Encoding {
    /// Returns the options for encoding queries.
    pub fn queries(&self) -> EncodeOptions {
        EncodeOptions {
            max_tokens: self.query_tokens,
            prefix: self.retrieval_prefix.clone(),
            lowercase: self.lowercase,
        }
    }

    /// Returns the options for encoding documents.
    pub fn documents(&self) -> EncodeOptions {
        EncodeOptions {
            max_tokens: self.document_tokens,
            prefix: self.indexing_prefix.clone(),
            lowercase: self.lowercase,
        }
    }
}

impl Default for Encoding {
    /// The settings of the paper: 32 tokens, no prefix.
    fn default() -> Self {
        Self {
            document_tokens: 32,
            query_tokens: 32,
            indexing_prefix: String::new(),
            retrieval_prefix: String::new(),
            lowercase: false,
        }
    }
}

/// Errors of the training tasks.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No task is given.
    #[error("no task is given; expected indexing, retrieval or both")]
    NoTask,
    /// Retrieval is trained, and there is no training query.
    #[error(
        "the mixture needs training queries and there are none ({left_out}); give the corpus training or \
         generated queries, or train indexing alone"
    )]
    NoTrainingQueries {
        /// The reason.
        left_out: String,
    },
    /// Indexing is trained, and there is no document to index.
    #[error(
        "the mixture needs documents to index and there are none: all are left out or have no text"
    )]
    NoDocuments,
    /// The ratio is not a number above 0.
    #[error("ratio {ratio} is not a finite number above 0")]
    Ratio {
        /// The ratio found.
        ratio: f64,
    },
    /// There is a ratio between two tasks, and only one is trained.
    #[error("ratio {ratio} needs both tasks, and only {task} is trained; remove the ratio")]
    RatioOfOne {
        /// The ratio found.
        ratio: f64,
        /// The task that is trained.
        task: Task,
    },
    /// An epoch has more examples than a 32-bit index can address.
    #[error("ratio {ratio} gives {examples} examples an epoch; at most {most} are possible")]
    TooMany {
        /// The ratio.
        ratio: f64,
        /// Number of examples of an epoch.
        examples: u64,
        /// The maximum.
        most: u64,
    },
    /// The batch size is 0.
    #[error("batch size 0; expected at least 1")]
    BatchSize,
    /// The number of accumulated batches is 0.
    #[error("0 batches are accumulated for an update; expected at least 1")]
    Accumulate,
    /// A text could not be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}
