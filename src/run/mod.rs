//! A run: one training, with its own directory.

mod directory;
mod environment;

pub(crate) use directory::CHECKPOINTS;
pub use directory::{Overwrite, RunDirectory, RunError};
pub(crate) use environment::resident_memory;
pub use environment::{Environment, GitRevision};
