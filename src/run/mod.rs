//! A run: one training with its own directory.

mod directory;
mod energy;
mod environment;
mod gpu_meter;
mod lock;
mod start;
mod summary;

pub(crate) use directory::{CHECKPOINTS, LATEST};
pub use directory::{Overwrite, RunDirectory, RunError};
pub(crate) use energy::EnergyMeter;
pub use environment::{Environment, GitRevision, Resumption};
pub(crate) use environment::{available_to_process, peak_memory, resident_memory};
pub(crate) use gpu_meter::GpuMeter;
pub(crate) use lock::Lock;
pub use start::NewRun;
pub(crate) use start::lock;
pub use summary::{Best, Evaluation, Parameters, RunOutcome, Seconds, Summary};
