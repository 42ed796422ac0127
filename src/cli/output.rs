//! What verbs print, on standard output.
//!
//! `println!` panics where whoever reads has gone (`genir check RECIPE | head -3`). Here that is an error, which ends
//! the verb: in silence, as [`super::main`] does, for nothing went wrong.

use std::fmt::Display;
use std::io::{self, Write};

/// What the system says of an output that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub(super) struct OutputError(#[from] io::Error);

impl OutputError {
    /// Whether the reader has gone, rather than that something is wrong.
    pub fn is_unread(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Prints text as it is.
pub(super) fn print(text: impl Display) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Prints text and ends the line.
pub(super) fn line(text: impl Display) -> Result<(), OutputError> {
    print(format_args!("{text}\n"))
}
