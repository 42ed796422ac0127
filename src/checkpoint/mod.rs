//! Checkpoints, which are directories in Hugging Face's layout and are written atomically, and base models.
//!
//! | file | content |
//! | --- | --- |
//! | `config.json`, `generation_config.json`, `model.safetensors` | as in transformers; docid rows follow text token rows |
//! | `tokenizer.json` and its companions | the base's tokenizer with an added token `@DOC_ID_<id>@` for each document |
//! | `docids.json` | the docids in row order |
//! | `optimizer.safetensors`, `trainer_state.json` | what a resumed run continues from, besides the weights: see [`crate::train`] |
//! | `adapter/` | of a LoRA run: the adapter as `peft` reads it, from which a resumed run continues too |
//! | `genir.json` | [`Manifest`]: the step, its metrics, the encoding of texts, and the size and checksum of each file |

mod adapter;
mod base;
mod bundled;
mod download;
mod hub;
mod manifest;
mod read;
mod transport;
mod write;

use std::path::PathBuf;

use thiserror::Error;

pub use adapter::Adapter;
pub(crate) use adapter::unmerged;
pub use base::{BaseError, BaseFiles, locate};
pub use bundled::BundledBase;
pub use hub::{HubProblem, HubSettings};
pub(crate) use manifest::MANIFEST;
pub use manifest::{FileRecord, Manifest};
pub use read::{Checkpoint, checkpoint_at};
pub use write::{CheckpointContents, WriteFiles, link, prune, write};
pub(crate) use write::{TRAINER_STATE, add_metrics, is_own_file};

use crate::docid::{DocidError, TokenizerError};
use crate::files::FileError;
use crate::t5::ConfigError;
use crate::t5::weights::WeightsError;

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
    /// Files are not as they were written.
    #[error(
        "{directory}: the checkpoint is damaged or was changed: {}; restore its files, or use another checkpoint \
         (if the change is intended, remove `files` from its {MANIFEST})", changed.join(", ")
    )]
    Changed {
        /// The directory.
        directory: PathBuf,
        /// The files, each with its problem.
        changed: Vec<String>,
    },
    /// A trained parameter is not finite.
    #[error(
        "{directory}: the weights are not finite: `{tensor}` has {count} values that are NaN or infinite; no checkpoint was written"
    )]
    NotFinite {
        /// The directory that would have been written.
        directory: PathBuf,
        /// The first such parameter.
        tensor: String,
        /// Number of its values that are not finite.
        count: usize,
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
