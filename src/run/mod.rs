//! A run: one training, with its own directory.

mod directory;
mod environment;

pub use directory::{Overwrite, RunDirectory, RunError};
pub(crate) use environment::{peak_memory, resident_memory};
pub use environment::{Environment, GitRevision};
