//! A run: one training, with its own directory.

mod directory;
mod environment;
mod lock;
mod start;

pub use directory::{Overwrite, RunDirectory, RunError};
pub(crate) use environment::resident_memory;
pub use environment::{Environment, GitRevision};
pub use start::NewRun;
