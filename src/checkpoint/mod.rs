//! Checkpoints: directories in Hugging Face's layout, written whole or not at all, and base models.
//!
//! | file | what |
//! | --- | --- |
//! | `config.json`, `generation_config.json`, `model.safetensors` | as transformers writes them; docid rows behind the word rows |
//! | `tokenizer.json` and its companions | the base's tokenizer with one added token `@DOC_ID_<id>@` a document |
//! | `docids.json` | the documents' ids in the order of their rows |
//! | `genir.json` | [`Manifest`]: the step, and how texts were encoded |

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

pub use base::{BaseError, Wanted, locate};
pub use bundled::BundledBase;
pub use hub::{HubProblem, HubSettings};
pub use read::{Checkpoint, checkpoint_at};
pub(crate) use write::is_own_file;
pub use write::{Contents, link, prune, write};

use crate::docid::{DocidError, TokenizerError};
use crate::files::FileError;
use crate::t5::ConfigError;
use crate::t5::weights::WeightsError;
use crate::task::Encoding;

/// Name of the manifest's file.
pub(crate) const MANIFEST: &str = "genir.json";

/// What a checkpoint of ours says about itself beside what transformers reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this file's form.
    pub format: u32,
    /// Version of genir that wrote it.
    pub genir: String,
    /// Updates done.
    pub step: u64,
    /// Metrics measured at this step.
    pub metrics: BTreeMap<String, f64>,
    /// How texts become tokens.
    pub encoding: Encoding,
}

impl Manifest {
    /// The form that this version writes and reads.
    pub const FORMAT: u32 = 1;
}

/// Why a checkpoint cannot be read or written.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights are wrong.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer is wrong.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The docid list cannot be written.
    #[error(transparent)]
    Docids(#[from] DocidError),
    /// A file or directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The manifest is not one of ours.
    #[error("{file}: {found}; expected what genir writes (format {})", Manifest::FORMAT)]
    Manifest {
        /// The file.
        file: PathBuf,
        /// What was found.
        found: String,
    },
    /// The checkpoint is a plain T5.
    #[error(
        "{directory}: no docids: its tokenizer has no token of the form @DOC_ID_<id>@, so this is a \
         base model; fine-tune it first (genir train)"
    )]
    NoDocids {
        /// The directory.
        directory: PathBuf,
    },
    /// There is a checkpoint already.
    #[error("{directory}: there is a checkpoint already; it is not overwritten")]
    Exists {
        /// The directory.
        directory: PathBuf,
    },
}
