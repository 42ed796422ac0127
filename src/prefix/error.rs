//! Errors of stored prefixes.

use std::path::PathBuf;

use thiserror::Error;

use super::Element;
use crate::files::FileError;
use crate::processes::ProcessesError;

/// Errors of reading or writing a file of stored prefixes. None of them ends a run: the prefix is recomputed.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The system refuses.
    #[error(transparent)]
    File(#[from] FileError),
    /// Other processes cannot compute their share.
    #[error(transparent)]
    Processes(#[from] ProcessesError),
    /// The file is no such file.
    #[error("{}: it begins with {found:?}, expected {expected:?}", file.display())]
    Magic {
        /// The file.
        file: PathBuf,
        /// Its first bytes, as text.
        found: String,
        /// The bytes in every such file.
        expected: String,
    },
    /// It was cut, or something was added.
    #[error("{}: {found} bytes long, expected {expected}", file.display())]
    Length {
        /// The file.
        file: PathBuf,
        /// Its length.
        found: u64,
        /// The length that its contents have.
        expected: u64,
    },
    /// A field of its header is not what its name promises.
    #[error("{}: its {field} is {found}, expected {expected}", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// The field.
        field: &'static str,
        /// The value found.
        found: String,
        /// The value expected.
        expected: String,
    },
    /// Its contents are not those that were written.
    #[error("{}: the checksum of {part} is wrong: damaged", file.display())]
    Checksum {
        /// The file.
        file: PathBuf,
        /// Where: `bytes 64 to 4159`.
        part: String,
    },
    /// A value does not fit the type.
    #[error(
        "the value {value:e} cannot be stored as {element}; cache.type = \"bf16\" or \"f32\" can hold it"
    )]
    Overflow {
        /// The value.
        value: f32,
        /// The type.
        element: Element,
    },
}
