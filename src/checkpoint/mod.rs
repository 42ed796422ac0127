//! Directories with models: bases to start from.

mod base;
mod download;
mod hub;

pub use base::{BaseError, Wanted, locate};
pub use hub::{HubProblem, HubSettings};
