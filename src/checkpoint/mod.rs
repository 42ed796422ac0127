//! Checkpoints, which are directories in Hugging Face's layout and are written atomically, and base models.
//!
//! | file | content |
//! | --- | --- |
//! | `config.json`, `generation_config.json`, `model.safetensors` | as in transformers; docid rows follow text token rows |
//! | `tokenizer.json` and its companions | the base's tokenizer with an added token `@DOC_ID_<id>@` for each document |
//! | `docids.json` | the docids in row order |
//! | `genir.json` | [`Manifest`]: the step, its metrics and the encoding of texts |

mod base;
mod bundled;
mod download;
mod hub;
mod read;
mod transport;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use base::{BaseError, BaseFiles, locate};
pub use bundled::BundledBase;
pub use hub::{HubProblem, HubSettings};
pub use read::{Checkpoint, checkpoint_at};
pub(crate) use write::is_own_file;
pub use write::{CheckpointContents, link, prune, write};

use crate::docid::{DocidError, TokenizerError};
use crate::files::FileError;
use crate::t5::ConfigError;
use crate::t5::weights::WeightsError;
use crate::task::Encoding;

/// The file name of the manifest.
pub(crate) const MANIFEST: &str = "genir.json";

/// The metadata of a checkpoint written by genir that transformers does not read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the file format.
    pub format: u32,
    /// Version of genir that wrote it.
    pub genir: String,
    /// Number of updates before the checkpoint.
    pub step: u64,
    /// Metrics measured at this step.
    pub metrics: BTreeMap<String, f64>,
    /// The encoding of texts in training.
    pub encoding: Encoding,
}

impl Manifest {
    /// The version of the format that this version of genir writes and reads.
    pub const FORMAT: u32 = 1;
}

/// Errors of reading or writing a checkpoint.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights are invalid.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer is invalid.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The list of docids cannot be written.
    #[error(transparent)]
    Docids(#[from] DocidError),
    /// A file or directory cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The manifest is invalid.
    #[error("{file}: {found}; expected a manifest written by genir (format {})", Manifest::FORMAT)]
    Manifest {
        /// The file.
        file: PathBuf,
        /// The problem.
        found: String,
    },
    /// The checkpoint is a T5 without docids.
    #[error(
        "{directory}: no docids: its tokenizer has no token of the form @DOC_ID_<id>@, so this is a \
         base model; fine-tune it first (genir train)"
    )]
    NoDocids {
        /// The directory.
        directory: PathBuf,
    },
    /// The checkpoint exists already.
    #[error("{directory}: the checkpoint exists already; it is not overwritten")]
    Exists {
        /// The directory.
        directory: PathBuf,
    },
}
