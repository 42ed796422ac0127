//! Errors of a corpus, with the location and the value found, and what was expected.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Layout;
#[cfg(doc)]
use super::ReadLimits;
use super::findings::Finding;
use super::location::FileLocation;

/// An error of loading a corpus or of leaving documents out.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// The file system or the gzip stream failed.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// The file or directory.
        file: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// No file of the layout exists.
    #[error("found no corpus at {path} (layout: {layout}); expected {}", looked_for.join(", "))]
    NothingFound {
        /// The path of the corpus.
        path: String,
        /// The requested layout.
        layout: Layout,
        /// The expected files; each may also end in `.gz`.
        looked_for: Vec<String>,
    },
    /// Some files of a layout exist, but a required one is missing.
    #[error("{path} has no {missing}, which the layout {layout} needs; it has {}", found.join(", "))]
    MissingFile {
        /// The path of the corpus.
        path: String,
        /// The requested layout, or the layout of the existing files.
        layout: Layout,
        /// The missing file, or files of which one is required; each may also end in `.gz`.
        missing: String,
        /// The existing files of the layout.
        found: Vec<String>,
    },
    /// The corpus is ambiguous.
    #[error("{path} can be read in more than one way: {}; {solution}", candidates.join(", "))]
    Ambiguous {
        /// The path of the corpus.
        path: String,
        /// The possible files or layouts.
        candidates: Vec<String>,
        /// The advice for choosing one, as the end of the message.
        solution: String,
    },
    /// There is no bundled corpus with this name.
    #[error("there is no bundled corpus `{name}`; known: `bundled:atlas`, `bundled:almanac`")]
    UnknownBundled {
        /// The name after `bundled:`.
        name: String,
    },
    /// The file is not valid UTF-8.
    #[error("{}, line {line}: not UTF-8; convert the file to UTF-8", file.display())]
    NotUtf8 {
        /// The file.
        file: PathBuf,
        /// Line of the first invalid byte, from 1.
        line: usize,
    },
    /// A line of a file, or an element of its array, is longer than [`ReadLimits::record`].
    #[error(
        "{location}: longer than {} MiB; the rest of the file was not read; if it should be read, raise \
         corpus.max_record (MiB)",
        limit >> 20
    )]
    TooLong {
        /// The line or element.
        location: FileLocation,
        /// The limit in bytes.
        limit: u64,
    },
    /// A gzip file unpacks to more than [`ReadLimits::unpacked`].
    #[error(
        "{} unpacks to more than {} MiB; if it is meant to, set corpus.max_unpacked (MiB) to its size",
        file.display(), limit >> 20
    )]
    Unpacked {
        /// The file.
        file: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// The texts do not fit into memory.
    #[error(
        "the texts of the corpus take more than {} MiB of memory, and the process can have {} MiB: the machine's memory and \
         swap space, or the limit of its control group",
        held >> 20, available >> 20
    )]
    Memory {
        /// Bytes of the texts that were read.
        held: u64,
        /// Bytes that the process can have.
        available: u64,
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
    /// The data have problems.
    #[error("{0}")]
    Found(Finding),
    /// The corpus has no documents.
    #[error("{} has no documents", file.display())]
    NoDocuments {
        /// The file of documents.
        file: PathBuf,
    },
    /// The corpus does not have the documents to leave out.
    #[error("{count} of the ids to leave out belong to no document, the first: {}", first.join(", "))]
    UnknownLeftOut {
        /// Number of unknown ids.
        count: usize,
        /// The first five of them.
        first: Vec<String>,
    },
    /// No document would be left to train on.
    #[error("cannot leave out {count} of {documents} documents: at least one must remain")]
    TooManyLeftOut {
        /// Number of documents to leave out.
        count: usize,
        /// Number of documents in the corpus.
        documents: usize,
    },
}

/// All errors of a corpus.
#[derive(Debug)]
pub struct CorpusErrors(pub Vec<CorpusError>);

impl CorpusErrors {
    /// Returns whether [`OnProblem::Skip`](super::OnProblem::Skip) would resolve any of the errors.
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
