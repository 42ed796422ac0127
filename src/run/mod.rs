//! A run: one training, with its own directory.

mod directory;
mod environment;

pub use directory::{Overwrite, RunDirectory, RunError};
pub use environment::{Environment, GitRevision};
pub(crate) use environment::{peak_memory, resident_memory};
