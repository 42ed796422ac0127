//! Locations in the files of a corpus.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A location in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLocation {
    /// The path of the file.
    pub file: Arc<Path>,
    /// Index in the top-level JSON array, from 0.
    pub element: Option<usize>,
    /// Line, from 1. In a JSON array, it is the first line of the element, or the line at which the parser stopped.
    pub line: Option<usize>,
    /// Column at which the JSON parser stopped, from 1.
    pub column: Option<usize>,
}

impl FileLocation {
    /// Returns the location of a whole file.
    pub(super) fn file(file: &Path) -> Self {
        Self { file: file.into(), element: None, line: None, column: None }
    }

    /// Returns the location of a line in the same file.
    pub(super) fn line(&self, line: usize) -> Self {
        Self { file: Arc::clone(&self.file), element: None, line: Some(line), column: None }
    }
}

impl fmt::Display for FileLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(element) = self.element {
            write!(f, ", element [{element}]")?;
        }
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        Ok(())
    }
}
