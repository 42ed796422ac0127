//! The run directory and its layout. See [`super::start`] for how a run is started in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Environment;
use crate::files::{FileError, read_small_to_string};

const RECIPE: &str = "recipe.toml";
const METRICS: &str = "metrics.jsonl";
const TENSORBOARD: &str = "tensorboard";
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// The state before an update whose loss or gradient norm was not finite.
const FAILED_STEP: &str = "failed-step";
const RETRIEVAL: &str = "retrieval";
const PROBES: &str = "probes";
const LOG: &str = "log.txt";
const SUMMARY: &str = "summary.json";
/// Identifies a directory as a run directory, which may be replaced on request.
const ENVIRONMENT: &str = "environment.json";
/// All files and directories that a run writes, which `--overwrite` replaces. Everything else in the directory belongs
/// to the user.
pub(super) const LAYOUT: [&str; 10] = [
    CHECKPOINTS,
    FAILED_STEP,
    TENSORBOARD,
    RETRIEVAL,
    PROBES,
    METRICS,
    LOG,
    SUMMARY,
    RECIPE,
    ENVIRONMENT,
];
/// The logs of a run that should replace the existing one, but ended without a checkpoint. They remain until the user
/// removes them.
pub(super) const FAILED: &str = "failed-run";
/// The symbolic link in [`CHECKPOINTS`] to the newest one; it exists once the first checkpoint is complete.
pub(crate) const LATEST: &str = "latest";

pub(super) const MOVING: &str = ".genir-moving";
pub(super) const OLD: &str = ".genir-old";
pub(super) const GONE: &str = ".genir-gone";
/// Renamed to [`FAILED`] when it is complete.
pub(super) const FAILING: &str = ".genir-failed";
/// The states of a start: see [`super::start`].
const STATES: [&str; 4] = [MOVING, OLD, GONE, FAILING];

/// The action if the directory already has a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// Return an error.
    Refuse,
    /// Replace it with the new run.
    Replace,
    /// Replace it if it has no checkpoint, and else return an error.
    WithoutCheckpoint,
}

/// Errors of creating or opening a run directory.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file system operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory has a run, which may not be overwritten.
    #[error(
        "{} already holds a run ({contents}); choose another run.directory, or give --overwrite to replace that run, or \
         --resume latest to train it longer", path.display()
    )]
    Exists {
        /// The run directory.
        path: PathBuf,
        /// Its contents.
        contents: String,
    },
    /// The directory is not empty and not a run directory: it is never deleted.
    #[error(
        "{} is not empty and not a run directory of genir (it contains {contents}, but no {ENVIRONMENT} of a run); \
         choose another run.directory", path.display()
    )]
    Foreign {
        /// The run directory.
        path: PathBuf,
        /// Its contents.
        contents: String,
    },
    /// Another process is training in the directory.
    #[error(
        "{} is in use by {owner}; wait until it ends, stop it, or choose another run.directory",
        path.display()
    )]
    InUse {
        /// The run directory.
        path: PathBuf,
        /// The process, its host and its start time, as text.
        owner: String,
    },
    /// Replacing the old run would remove inputs of the new run.
    #[error(
        "{} holds a run that --overwrite would replace, including inputs of the new run: {}; \
             copy them elsewhere, or choose another run.directory",
        path.display(), inputs.join(", ")
    )]
    Inputs {
        /// The run directory.
        path: PathBuf,
        /// The recipe keys of the inputs, with their paths.
        inputs: Vec<String>,
    },
    /// An interrupted start cannot be undone, as a new file has the name of an old one.
    #[error(
        "an interrupted start moved {} to {}, and both exist now: remove or rename one of them", path.display(), aside.display()
    )]
    BothExist {
        /// The original path.
        path: PathBuf,
        /// The path that it was moved to.
        aside: PathBuf,
    },
    /// The directory is not a run directory.
    #[error("{} is not a run directory: {reason}", path.display())]
    NotARun {
        /// The run directory.
        path: PathBuf,
        /// The missing or invalid file.
        reason: String,
    },
}

/// The directory of one run, with this layout:
///
/// ```text
/// recipe.toml        the resolved recipe: every key with its value
/// environment.json   versions, machine, git revision, command line, start time
/// metrics.jsonl      one JSON object per line: step, epoch, wall_time, scalars by tag
/// tensorboard/       the same scalars as TensorBoard events, and for probes: curves of layers and stages,
///                    histograms, images
/// checkpoints/       one directory per checkpoint
/// failed-step/       the state before an update whose loss or gradients were not finite, and report.json
/// retrieval/         TREC runs and qrels, correct queries
/// probes/            <probe>.jsonl: one result per line
/// log.txt            the log
/// summary.json       the outcome and the cost of the run; written when it ends
/// failed-run/        the logs of a run that should replace this one (`--overwrite`) and ended without a checkpoint
/// .genir-old/        the replaced run, until the new run has a checkpoint
/// .genir.lock        the process that trains, while it does
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// The run directory at `path`, unchecked.
    pub(super) fn at(path: &Path) -> RunDirectory {
        RunDirectory { path: path.to_path_buf() }
    }

    /// Opens the directory of an existing run.
    ///
    /// # Errors
    /// [`RunError::NotARun`] if `environment.json` or `recipe.toml` is missing, or the former was not written by genir;
    /// [`RunError::File`] if the former cannot be read.
    pub fn open(path: &Path) -> Result<RunDirectory, RunError> {
        let run = RunDirectory { path: path.to_path_buf() };
        run.environment()?;
        if !run.recipe().is_file() {
            return Err(run.not_a_run(format!("{RECIPE} is missing")));
        }
        Ok(run)
    }

    /// Reads the environment that the run was started in.
    ///
    /// # Errors
    /// [`RunError::NotARun`] if `environment.json` is missing or was not written by genir, [`RunError::File`] if it
    /// cannot be read.
    pub fn environment(&self) -> Result<Environment, RunError> {
        let path = self.environment_path();
        let text = match read_small_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let interrupted = match is_interrupted(&self.path) {
                    true => {
                        "; a start was interrupted there: `genir train` with this run.directory repairs it"
                    }
                    false => "",
                };
                return Err(self.not_a_run(format!("{ENVIRONMENT} is missing{interrupted}")));
            }
            read => read.map_err(FileError::new("read", &path))?,
        };
        serde_json::from_str(&text).map_err(|error| {
            self.not_a_run(format!("{ENVIRONMENT} was not written by genir ({error})"))
        })
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the resolved recipe.
    pub fn recipe(&self) -> PathBuf {
        self.path.join(RECIPE)
    }

    /// Returns the path of the scalars, one JSON object per line.
    pub fn metrics(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    /// Returns the directory of TensorBoard events.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join(TENSORBOARD)
    }

    /// Returns the directory of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// Returns the directory of the state before an update that failed, which is created when one does.
    pub fn failed_step(&self) -> PathBuf {
        self.path.join(FAILED_STEP)
    }

    /// Returns the directory of run files, qrels and correct queries.
    pub fn retrieval(&self) -> PathBuf {
        self.path.join(RETRIEVAL)
    }

    /// Returns the directory of probe results, which is created with the first result.
    pub fn probes(&self) -> PathBuf {
        self.path.join(PROBES)
    }

    /// Returns the path of the log.
    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Returns the path of the summary, which is written when the run ends.
    pub fn summary(&self) -> PathBuf {
        self.path.join(SUMMARY)
    }

    /// Returns whether `path` is a file that a run writes directly in its directory or in `tensorboard/`.
    pub(crate) fn is_own_file(&self, path: &Path) -> bool {
        let files =
            [self.recipe(), self.environment_path(), self.metrics(), self.log(), self.summary()];
        files.iter().any(|own| own == path) || path.starts_with(self.tensorboard())
    }

    pub(super) fn environment_path(&self) -> PathBuf {
        self.path.join(ENVIRONMENT)
    }

    fn not_a_run(&self, reason: String) -> RunError {
        RunError::NotARun { path: self.path.clone(), reason }
    }
}

/// Returns the names in a directory, sorted; those of directories end with a slash.
pub(super) fn contents(path: &Path) -> Result<Vec<String>, FileError> {
    let read = || {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
            names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
        }
        names.sort();
        Ok(names)
    };
    read().map_err(FileError::new("list", path))
}

/// Joins the first few names and the number of the others.
pub(super) fn summary(names: &[String]) -> String {
    let shown = names.len().min(7);
    let mut text = names[..shown].join(", ");
    if shown < names.len() {
        text += &format!(" and {} more", names.len() - shown);
    }
    text
}

/// Returns whether `path` exists; a dangling symbolic link exists too.
pub(super) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Returns whether a start has been interrupted or is in progress in this directory.
pub(super) fn is_interrupted(path: &Path) -> bool {
    STATES.iter().any(|name| exists(&path.join(name)))
}
