//! The directory of a run: what lies where. How one begins is told in [`super::start`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Environment, NewRun, start};
use crate::files::{FileError, can_create_in};

const RECIPE: &str = "recipe.toml";
const METRICS: &str = "metrics.jsonl";
const TENSORBOARD: &str = "tensorboard";
pub(crate) const CHECKPOINTS: &str = "checkpoints";
const RETRIEVAL: &str = "retrieval";
const PROBES: &str = "probes";
const LOG: &str = "log.txt";
const SUMMARY: &str = "summary.json";
/// The mark of a run: what makes a directory one that may be replaced when that is asked for.
const ENVIRONMENT: &str = "environment.json";
/// All that a run writes: what `--overwrite` replaces. Whatever else is in its directory is the user's.
pub(super) const LAYOUT: [&str; 9] =
    [CHECKPOINTS, TENSORBOARD, RETRIEVAL, PROBES, METRICS, LOG, SUMMARY, RECIPE, ENVIRONMENT];
/// What a run has logged that was to replace the one that is there, and ended without a checkpoint. It stays until the
/// user removes it.
pub(super) const FAILED: &str = "failed-run";
/// The link in [`CHECKPOINTS`] to the newest one: there from the first that is complete.
pub(crate) const LATEST: &str = "latest";

/// What to do where a run already is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// Leave it alone and give an error.
    Refuse,
    /// Put a new run in its place.
    Replace,
}

/// Why a run directory could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A run is there and may not be overwritten.
    #[error(
        "{} already holds a run ({contents}); choose another run.directory, \
         or give --overwrite to replace that run", path.display()
    )]
    Exists {
        /// The directory asked for.
        path: PathBuf,
        /// What is in it.
        contents: String,
    },
    /// Something is there that is no run of ours: it is never deleted.
    #[error(
        "{} is not empty and no run of genir (it holds {contents}, and no {ENVIRONMENT} of a run); \
         choose another run.directory", path.display()
    )]
    Foreign {
        /// The directory asked for.
        path: PathBuf,
        /// What is in it.
        contents: String,
    },
    /// Another process trains in the directory.
    #[error(
        "{} is in use by {owner}; wait for its end, stop it, or choose another run.directory",
        path.display()
    )]
    InUse {
        /// The directory asked for.
        path: PathBuf,
        /// Process, machine and time, in words.
        owner: String,
    },
    /// What the new run reads would be removed with the old one.
    #[error(
        "{} holds a run that --overwrite would replace, and with it what the new run reads: {}; \
         copy that elsewhere, or choose another run.directory",
        path.display(), inputs.join(", ")
    )]
    Inputs {
        /// The directory asked for.
        path: PathBuf,
        /// Keys of the recipe with their paths.
        inputs: Vec<String>,
    },
    /// An interrupted start cannot be undone, since something new is in the old one's place.
    #[error(
        "an interrupted start has moved {} to {}, and both are there now: remove or rename the one that is not \
         wanted", path.display(), aside.display()
    )]
    Twice {
        /// Where it was.
        path: PathBuf,
        /// Where it is.
        aside: PathBuf,
    },
    /// A run was expected and is not there.
    #[error("{} holds no run: {reason}", path.display())]
    NotARun {
        /// The directory asked for.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
}

/// The directory of one run. Its layout:
///
/// ```text
/// recipe.toml        the resolved recipe: every key, with the value it had
/// environment.json   versions, machine, git revision, command line, start time
/// metrics.jsonl      one JSON object a line: step, epoch, wall_time, scalars by tag
/// tensorboard/       the same scalars as TensorBoard events, and more of the probes: lines of layers and stages,
///                    histograms, images
/// checkpoints/       one directory a checkpoint
/// retrieval/         TREC runs and qrels, correct queries
/// probes/            <probe>.jsonl: one result a line, of the probes that were measured
/// log.txt            what was logged
/// summary.json       what came of the run and what it cost; written when it is over
/// failed-run/        what a run has logged that was to replace this one (`--overwrite`) and ended without a checkpoint
/// .genir-old/        until a run that replaces another has a checkpoint: that other
/// .genir.lock        while it trains: which process does
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// The directory at `path`, whatever is there.
    pub(super) fn at(path: &Path) -> RunDirectory {
        RunDirectory { path: path.to_path_buf() }
    }

    /// Makes the directory of a new run in one go, for callers with nothing between that can fail: see [`NewRun`].
    pub fn create(
        path: &Path,
        overwrite: Overwrite,
        recipe: &str,
        environment: &Environment,
    ) -> Result<RunDirectory, RunError> {
        let mut new = NewRun::claim(path, overwrite)?;
        new.begin(recipe, environment)?;
        new.keep()?;
        Ok(new.directory().clone())
    }

    /// That a run can be started in `path`, which need not be there yet; nothing is written.
    ///
    /// # Errors
    /// What would stop [`RunDirectory::create`], as far as it can be known: a run that is there and may not be
    /// replaced, files that are no run's, a file in the way, a directory that cannot be written to.
    pub fn can_start(path: &Path, overwrite: Overwrite) -> Result<(), RunError> {
        can_create_in(path).map_err(FileError::new("create", path))?;
        NewRun::check(path, overwrite)
    }

    /// Opens the directory of an existing run.
    pub fn open(path: &Path) -> Result<RunDirectory, RunError> {
        let run = RunDirectory { path: path.to_path_buf() };
        run.environment()?;
        if !run.recipe().is_file() {
            return Err(run.not_a_run(format!("{RECIPE} is missing")));
        }
        Ok(run)
    }

    /// The environment that the run was started in.
    pub fn environment(&self) -> Result<Environment, RunError> {
        let path = self.environment_path();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let interrupted = match start::is_interrupted(&self.path) {
                    true => {
                        "; a start was interrupted there: `genir train` with this run.directory puts it in order"
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

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved recipe.
    pub fn recipe(&self) -> PathBuf {
        self.path.join(RECIPE)
    }

    /// Scalars, one JSON object a line.
    pub fn metrics(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    /// The directory of TensorBoard events.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join(TENSORBOARD)
    }

    /// The directory of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// The directory of run files, qrels and correct queries.
    pub fn retrieval(&self) -> PathBuf {
        self.path.join(RETRIEVAL)
    }

    /// The directory of probe results; made with the first of them.
    pub fn probes(&self) -> PathBuf {
        self.path.join(PROBES)
    }

    /// The log.
    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// What came of the run and what it cost; made when it is over.
    pub fn summary(&self) -> PathBuf {
        self.path.join(SUMMARY)
    }

    /// Whether `path` is a file that the run wrote or will write at the top of its directory, or into `tensorboard/`.
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

/// The names in a directory, sorted; directories end with a slash.
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

/// The first few names, and how many more there are.
pub(super) fn summary(names: &[String]) -> String {
    let shown = names.len().min(7);
    let mut text = names[..shown].join(", ");
    if shown < names.len() {
        text += &format!(" and {} more", names.len() - shown);
    }
    text
}
