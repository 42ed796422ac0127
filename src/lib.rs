//! Fine-tuning of generative information retrieval models.

#![warn(missing_docs)]
// These macros panic if the reader has closed the pipe. Subcommands print through `cli::output`, all other code through
// `monitor::Console`.
#![deny(clippy::print_stdout, clippy::print_stderr)]
// `clippy.toml` lists the functions that create files: only `files` may call them. Tests are exempt.
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod allocator;
pub mod checkpoint;
mod choice;
pub mod cli;
pub mod component;
pub mod corpus;
pub mod device;
pub mod docid;
pub mod files;
mod kernel;
pub mod monitor;
pub mod nearest;
pub mod ops;
pub mod prefix;
pub mod probe;
pub mod random;
pub mod recipe;
pub mod report;
pub mod retrieval;
mod retriever;
pub mod run;
pub mod t5;
pub mod task;
pub mod train;
