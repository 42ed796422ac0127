//! Errors of comparing runs.

use std::path::PathBuf;

use thiserror::Error;

use crate::corpus::Split;
use crate::files::FileError;
use crate::probe::files::StoredError;
use crate::retrieval::run_files::RunFileError;
use crate::run::RunError;

/// Errors of comparing runs.
#[derive(Debug, Error)]
pub enum CompareError {
    /// A run has no rankings of the split.
    #[error(
        "{}: the run has no rankings of the {split} queries; `genir eval {} --split {split} --run FILE --qrels QRELS` \
         ranks them with its best checkpoint, and `genir compare FILE ... --qrels QRELS` compares such files",
        run.display(), run.display()
    )]
    NoRankings {
        /// The run directory.
        run: PathBuf,
        /// The split.
        split: Split,
    },
    /// There are no judgements.
    #[error("none of the inputs is a run directory: give the judgements with --qrels FILE")]
    NoQrels,
    /// The judgements have no query with a relevant document.
    #[error("{}: no query has a relevant document", file.display())]
    NoQueries {
        /// The run directory or the qrels file.
        file: PathBuf,
    },
    /// Runs have other queries or judgements.
    #[error(
        "{} and {} cannot be compared: {found}; evaluate both on the same queries", first.display(), second.display()
    )]
    OtherQueries {
        /// The first run.
        first: PathBuf,
        /// The second run.
        second: PathBuf,
        /// The difference.
        found: String,
    },
    /// Runs rank other documents.
    #[error("{} and {} cannot be compared: {found}", first.display(), second.display())]
    OtherDocuments {
        /// The first run.
        first: PathBuf,
        /// The second run.
        second: PathBuf,
        /// The difference.
        found: String,
    },
    /// Runs were evaluated in another way.
    #[error(
        "{} and {} cannot be compared: {}", first.display(), second.display(), keys.join("; ")
    )]
    OtherEvaluation {
        /// The first run.
        first: PathBuf,
        /// The second run.
        second: PathBuf,
        /// The keys with both values.
        keys: Vec<String>,
    },
    /// A TREC run ranks none of the queries.
    #[error("{}: it ranks none of the {queries} judged queries", file.display())]
    NoQueryRanked {
        /// The file.
        file: PathBuf,
        /// Number of judged queries.
        queries: usize,
    },
    /// A TREC run has a document twice for a query.
    #[error("{}: query `{query}` has the document `{document}` twice", file.display())]
    DocumentTwice {
        /// The file.
        file: PathBuf,
        /// The query.
        query: String,
        /// The document.
        document: String,
    },
    /// Two runs of one arm have the same seed.
    #[error(
        "{} and {} are runs of the same recipe with the same seed: compare runs that differ, or give one of them",
        first.display(), second.display()
    )]
    SameRun {
        /// The first run.
        first: PathBuf,
        /// The second run.
        second: PathBuf,
    },
    /// Fewer than two arms.
    #[error("there is nothing to compare: all runs differ in their seed only")]
    OneArm,
    /// A run directory cannot be read.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A TREC file cannot be read.
    #[error(transparent)]
    RunFile(#[from] RunFileError),
    /// Stored results of probes cannot be read.
    #[error(transparent)]
    Probes(#[from] StoredError),
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}
