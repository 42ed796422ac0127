//! One small stored prefix, in bytes: what the fuzz target `prefix_file` edits and opens.

use std::ops::Range;
use std::path::Path;

use super::file::Contents;
use super::{CacheError, Element};
use crate::files::FileError;

/// The bytes of the rows in [`file`].
pub const ROWS: Range<usize> = 128..208;

/// Two texts of 2 and 3 rows of 4 values.
const CONTENTS: Contents<'static> =
    Contents { key: [7; 32], element: Element::F32, starts: &[0, 2, 5], width: 4 };

/// Returns the file as it is written.
pub fn file() -> Vec<u8> {
    let mut file = Vec::new();
    let failed = |error| CacheError::File(FileError::new("write", Path::new("memory"))(error));
    let rows: Vec<u8> = (0..ROWS.len() as u8).collect();
    match CONTENTS.write(&mut file, |take| take(&rows).map_err(failed), failed) {
        Ok(()) => file,
        Err(error) => unreachable!("a vector can be written to: {error}"),
    }
}

/// Opens a file as a run does that needs this prefix, and returns the bytes of its rows.
pub fn open(path: &Path) -> Result<Vec<u8>, CacheError> {
    Ok(CONTENTS.open(path)?.into_memory())
}
