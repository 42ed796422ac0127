//! The two training tasks: examples, their mixture, how an epoch is divided, the sampler and its batches.

use serde::{Deserialize, Serialize};

use crate::choice::choice;
use crate::docid::{EncodeOptions, TokenizerError};

mod batch;
mod epochs;
mod examples;
mod mixture;
mod sampler;

pub use batch::{Batch, assemble};
pub use epochs::Epochs;
pub use examples::Examples;
pub use mixture::{Mixture, Share};
pub use sampler::Sampler;

choice! {
    /// What a text is turned into its docid for.
    #[derive(Hash)]
    Task {
        /// Document text to docid.
        Indexing = "indexing",
        /// Query to docid.
        Retrieval = "retrieval",
    }
}

/// How a corpus becomes examples.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskOptions {
    /// The tasks to train: one or both.
    pub tasks: Vec<Task>,
    /// Indexing examples per retrieval example, see [`Mixture`]; `None`: every example once an epoch.
    pub ratio: Option<f64>,
    /// How the texts become tokens.
    pub encoding: Encoding,
}

impl Default for TaskOptions {
    /// The paper's: both tasks, ratio 32.
    fn default() -> Self {
        Self { tasks: Task::ALL.to_vec(), ratio: Some(32.0), encoding: Encoding::default() }
    }
}

/// How documents and queries become tokens, in training and by a checkpoint's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoding {
    /// The most tokens of a document, `</s>` included.
    pub document_tokens: usize,
    /// The most tokens of a query, `</s>` included.
    pub query_tokens: usize,
    /// Put in front of every document, as it is.
    pub indexing_prefix: String,
    /// Put in front of every query, as it is.
    pub retrieval_prefix: String,
    /// Whether documents and queries are lower-cased.
    pub lowercase: bool,
}

impl Encoding {
    /// How queries are encoded.
    pub fn queries(&self) -> EncodeOptions {
        EncodeOptions {
            max_tokens: self.query_tokens,
            prefix: self.retrieval_prefix.clone(),
            lowercase: self.lowercase,
        }
    }

    /// How documents are encoded.
    pub fn documents(&self) -> EncodeOptions {
        EncodeOptions {
            max_tokens: self.document_tokens,
            prefix: self.indexing_prefix.clone(),
            lowercase: self.lowercase,
        }
    }
}

impl Default for Encoding {
    /// The paper's: 32 tokens, nothing in front.
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

/// Why there is nothing to train on as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No task at all.
    #[error("no task is named; right would be indexing, retrieval or both")]
    NoTask,
    /// Retrieval is to be trained and there is no query to train it with.
    #[error(
        "the mixture needs training queries and there are none ({left_out}); give the corpus training or \
         generated queries, or train indexing alone"
    )]
    NoTrainingQueries {
        /// What is known of the reason.
        left_out: String,
    },
    /// Indexing is to be trained and there is no document to train it with.
    #[error(
        "the mixture needs documents to index and there are none: all of them are left out or have no text"
    )]
    NoDocuments,
    /// A ratio that is not a number above 0.
    #[error("ratio {ratio} is not a finite number above 0")]
    Ratio {
        /// The ratio found.
        ratio: f64,
    },
    /// A ratio between two tasks when only one is trained.
    #[error("ratio {ratio} needs both tasks, and only {task} is trained; leave the ratio out")]
    RatioOfOne {
        /// The ratio found.
        ratio: f64,
        /// The task that is trained.
        task: Task,
    },
    /// More examples in one epoch than can be numbered.
    #[error("ratio {ratio} makes {examples} examples an epoch; at most {most} are possible")]
    TooMany {
        /// The ratio.
        ratio: f64,
        /// Examples an epoch.
        examples: u64,
        /// The most.
        most: u64,
    },
    /// A batch of nothing.
    #[error("batch size 0; right would be at least 1")]
    BatchSize,
    /// An update of no batch.
    #[error("0 batches are accumulated for an update; right would be at least 1")]
    Accumulate,
    /// A text could not be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}
