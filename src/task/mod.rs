//! The training tasks: examples, their mixture, epochs, the sampler and batches.

use serde::{Deserialize, Serialize};

use crate::choice::choice;
use crate::docid::{EncodeOptions, TokenizerError};

mod batch;
mod denoising;
mod epochs;
mod examples;
mod mixture;
mod sampler;

pub use batch::{
    Batch, BatchPart, DenoisingBatch, IGNORED, PartExamples, collate, collate_corrupted,
};
pub use denoising::{Corrupted, Denoising, Sentinels, SpanCounts};
pub use epochs::Epochs;
pub use examples::Examples;
pub use mixture::{Mixture, TaskShare};
pub use sampler::Sampler;

choice! {
    /// A training task.
    Task {
        /// Document text to docid.
        Indexing = "indexing",
        /// Query to docid.
        Retrieval = "retrieval",
        /// Corrupted text to what was replaced in it: T5's pre-training.
        Denoising = "denoising",
    }
}

impl Task {
    /// The tasks whose target is a docid.
    pub const OF_DOCIDS: [Self; 2] = [Self::Indexing, Self::Retrieval];

    /// Returns whether the target of the task is a docid.
    pub fn is_of_docids(self) -> bool {
        Self::OF_DOCIDS.contains(&self)
    }
}

/// Options for creating examples from a corpus.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskOptions {
    /// The tasks to train, at least one.
    pub tasks: Vec<Task>,
    /// Number of indexing examples for each retrieval example, see [`Mixture`]; `None`: every example once an epoch.
    pub ratio: Option<f64>,
    /// Encoding of the texts.
    pub encoding: Encoding,
    /// The settings of denoising, where it is trained.
    pub denoising: Denoising,
}

impl Default for TaskOptions {
    /// The settings of the paper: indexing and retrieval, ratio 32.
    fn default() -> Self {
        Self {
            tasks: Task::OF_DOCIDS.to_vec(),
            ratio: Some(32.0),
            encoding: Encoding::default(),
            denoising: Denoising::default(),
        }
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
    #[error("no task is given; expected one or more of indexing, retrieval and denoising")]
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
    #[error(
        "ratio {ratio} needs indexing and retrieval, and only {task} is trained; remove the ratio"
    )]
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
    /// Denoising is trained, and no text can be corrupted.
    #[error(
        "denoising needs documents with a text of at least {} tokens and there are none that are not left out or held \
         out",
        Denoising::LEAST_TEXT
    )]
    NoTexts,
    /// The length of corrupted texts is too small.
    #[error(
        "denoising_tokens {tokens}: a corrupted text has at least {} tokens: a token, a sentinel and `</s>`",
        Denoising::LEAST_TOKENS
    )]
    DenoisingTokens {
        /// The length found.
        tokens: usize,
    },
    /// The noise density is not a fraction.
    #[error("noise_density {noise_density}: expected a number above 0 and below 1")]
    NoiseDensity {
        /// The density found.
        noise_density: f64,
    },
    /// The mean length of spans is below 1.
    #[error("mean_noise_span_length {mean_noise_span_length}: expected a number of at least 1")]
    MeanNoiseSpanLength {
        /// The length found.
        mean_noise_span_length: f64,
    },
    /// The tokenizer has too few sentinels.
    #[error(
        "denoising replaces spans by the sentinel tokens `<extra_id_0>`, `<extra_id_1>` and so on: a text of {longest} \
         tokens has {needed} spans, and the tokenizer has {found} sentinels (no `{first_missing}`); {}",
        without_sentinels(*found)
    )]
    Sentinels {
        /// Number of sentinels of the tokenizer.
        found: usize,
        /// Number of sentinels that are needed.
        needed: usize,
        /// The first one that is missing.
        first_missing: String,
        /// Number of tokens of the longest text that is corrupted at once.
        longest: usize,
    },
    /// The ratio of denoising is not a number above 0.
    #[error("denoising_ratio {ratio} is not a finite number above 0")]
    DenoisingRatio {
        /// The ratio found.
        ratio: f64,
    },
    /// There is a ratio of denoising to other tasks, and there are none, or no denoising.
    #[error(
        "denoising_ratio {ratio} mixes denoising with indexing or retrieval; train denoising and one of these, or remove \
         the ratio"
    )]
    DenoisingRatioOfOne {
        /// The ratio found.
        ratio: f64,
    },
    /// No parameter that denoising computes with is trained.
    #[error(
        "denoising trains no parameter: trainable.select has docids only, which denoising does not use; select a \
         component of the model, or remove denoising"
    )]
    NothingToDenoise,
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

/// What to do about too few sentinels.
fn without_sentinels(found: usize) -> &'static str {
    match found {
        0 => "take a base model with T5's tokenizer, or make one with `genir tokenizer train`",
        _ => {
            "take a smaller task.denoising_tokens or task.noise_density, a larger task.mean_noise_span_length, or a \
             tokenizer with more sentinels"
        }
    }
}
