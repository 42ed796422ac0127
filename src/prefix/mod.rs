//! The frozen prefix: what comes before every trained parameter, computed once for each text and stored.
//!
//! Encoder states and the decoder's residual at the first trained layer are a fixed function of the text while the
//! encoder is frozen. [`Prefix::prepare`] computes them for the texts that a run reads more than once, before its
//! first step, and keeps them in memory and in files that the next run finds by a hash over all they follow from.
//! Training, evaluation and probes then start from them. Where nothing is stored they are computed for each batch:
//! the same computation, off the autodiff graph and without dropout.

mod compute;
mod directory;
mod element;
mod error;
mod file;
mod frozen;
#[doc(hidden)] // for fuzz/
pub mod fuzzing;
mod key;
mod pooled;
mod prefetch;
mod prepare;
mod settings;
mod store;
mod stored;
mod texts;
mod together;
mod write_lock;

pub use compute::{BATCH_POSITIONS, FrozenModel};
pub use directory::{StoredFile, clear, stored_files};
pub use element::Element;
pub use error::CacheError;
pub use frozen::{FrozenPrefix, PrefixOutput};
pub use prefetch::Prefetcher;
pub use prepare::{Prefix, Progress, TextSet};
pub use settings::{CacheSettings, default_directory};
pub(crate) use store::Store;
pub(crate) use stored::mebibytes;
pub use stored::{PrefixStorage, StoredPrefix, bytes_held, describe_storage};
pub(crate) use together::SharedTexts;
