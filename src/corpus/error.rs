//! Why a corpus cannot be used, said with its file, place, value and what would be right.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Layout;
use super::findings::Finding;

/// Where in a file something was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLocation {
    /// The file as it was opened.
    pub file: Arc<Path>,
    /// Position in the file's top-level JSON array, from 0.
    pub element: Option<usize>,
    /// Line, from 1. In a JSON array: the line where the element begins, or where the parser stopped.
    pub line: Option<usize>,
    /// Column, from 1, where the JSON parser stopped.
    pub column: Option<usize>,
}

impl FileLocation {
    /// A file as a whole.
    pub(super) fn file(file: &Path) -> Self {
        Self { file: file.into(), element: None, line: None, column: None }
    }

    /// A line of the same file.
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

/// One reason why a corpus could not be loaded, or documents could not be left out.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// The file system or the gzip stream failed.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// The file or directory.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// None of the files of a layout is there.
    #[error("found no corpus at {path} (layout: {layout}); looked for {}", looked_for.join(", "))]
    NothingFound {
        /// The path that was given.
        path: String,
        /// The layout that was asked for.
        layout: Layout,
        /// The files that would have been read; each may also end in `.gz`.
        looked_for: Vec<String>,
    },
    /// Some files of a layout are there, and one that it cannot do without is not.
    #[error("{path} has no {missing}, which the layout {layout} needs; it has {}", found.join(", "))]
    MissingFile {
        /// The path that was given.
        path: String,
        /// The layout that was asked for, or that the files which are there belong to.
        layout: Layout,
        /// The file, or the files of which one is needed; each may also end in `.gz`.
        missing: String,
        /// Files of the layout that are there.
        found: Vec<String>,
    },
    /// More than one reading is possible.
    #[error("{path} can be read in more than one way: {}; {right}", candidates.join(", "))]
    Ambiguous {
        /// The path that was given.
        path: String,
        /// The files or layouts between which nothing decides.
        candidates: Vec<String>,
        /// What decides.
        right: String,
    },
    /// A bundled corpus of another name.
    #[error("there is no bundled corpus `{name}`; the one that exists is `bundled:atlas`")]
    UnknownBundled {
        /// The name after `bundled:`.
        name: String,
    },
    /// A name that is no split's.
    #[error("unknown split `{found}`; right would be train, validation (val, valid, dev) or test")]
    UnknownSplit {
        /// The name found.
        found: String,
    },
    /// Bytes that are not UTF-8.
    #[error("{}, line {line}: not UTF-8; convert the file to UTF-8", file.display())]
    NotUtf8 {
        /// The file.
        file: PathBuf,
        /// Line of the first wrong byte, from 1.
        line: usize,
    },
    /// A repository was cloned without the content of its large files.
    #[error(
        "{} is a Git LFS pointer, not the file itself; `git lfs pull` in its repository fetches the file",
        file.display()
    )]
    LfsPointer {
        /// The file.
        file: PathBuf,
    },
    /// Data that cannot be used as they are.
    #[error("{0}")]
    Found(Finding),
    /// A corpus of no documents.
    #[error("{} has no documents", file.display())]
    NoDocuments {
        /// The file that should have them.
        file: PathBuf,
    },
    /// Documents to leave out that the corpus does not have.
    #[error("{count} of the ids to leave out belong to no document, the first: {}", first.join(", "))]
    UnknownLeftOut {
        /// How many.
        count: usize,
        /// The first five.
        first: Vec<String>,
    },
    /// Nothing would be left to train on.
    #[error("cannot leave out {count} of {documents} documents: at least one must stay")]
    TooManyLeftOut {
        /// How many were to be left out.
        count: usize,
        /// How many there are.
        documents: usize,
    },
}

/// Everything that is wrong with a corpus.
#[derive(Debug)]
pub struct CorpusErrors(pub Vec<CorpusError>);

impl CorpusErrors {
    /// Whether [`OnProblem::Skip`](super::OnProblem::Skip) would let a run go on, or at least further.
    pub fn are_skippable(&self) -> bool {
        self.0.iter().any(
            |error| matches!(error, CorpusError::Found(finding) if finding.kind.is_skippable()),
        )
    }
}

impl fmt::Display for CorpusErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0.as_slice() {
            return write!(f, "{only}");
        }
        write!(f, "{} problems with the corpus:", self.0.len())?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for CorpusErrors {}
