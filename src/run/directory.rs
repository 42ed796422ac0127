//! The directory of a run: what lies where, and that an existing run is not lost by accident.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Environment;
use crate::files::{FileError, can_create_in, write_whole};

const RECIPE: &str = "recipe.toml";
const METRICS: &str = "metrics.jsonl";
const TENSORBOARD: &str = "tensorboard";
pub(crate) const CHECKPOINTS: &str = "checkpoints";
const RETRIEVAL: &str = "retrieval";
const PROBES: &str = "probes";
const LOG: &str = "log.txt";
/// The mark of a run: what makes a directory one that may be replaced when that is asked for.
const ENVIRONMENT: &str = "environment.json";

/// What to do where a run already is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// Leave it alone and give an error.
    Refuse,
    /// Delete what a run writes and start anew.
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
        "{} already holds a run ({contents}); choose another directory, \
         or give --overwrite to delete that run", path.display()
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
         choose another directory", path.display()
    )]
    Foreign {
        /// The directory asked for.
        path: PathBuf,
        /// What is in it.
        contents: String,
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
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// Makes the directory, with `recipe.toml` and `environment.json` in it from the start.
    ///
    /// What is promised: a directory that is not empty is left untouched, unless it holds a run
    /// (an `environment.json` that a run wrote) *and* `overwrite` is `Replace`. Even then only
    /// what a run writes by the layout above is deleted; other files in it stay, and symbolic
    /// links are removed, not followed. `environment.json` goes last, so a replacement that was
    /// interrupted can be asked for again.
    pub fn create(
        path: &Path,
        overwrite: Overwrite,
        recipe: &str,
        environment: &Environment,
    ) -> Result<RunDirectory, RunError> {
        let run = RunDirectory { path: path.to_path_buf() };
        fs::create_dir_all(path).map_err(FileError::new("create", path))?;
        let contents = contents(path)?;
        if !contents.is_empty() {
            let contents = summary(&contents);
            let path = path.to_path_buf();
            match (run.environment(), overwrite) {
                (Err(_), _) => return Err(RunError::Foreign { path, contents }),
                (Ok(_), Overwrite::Refuse) => return Err(RunError::Exists { path, contents }),
                (Ok(_), Overwrite::Replace) => run.delete()?,
            }
        }

        write_whole(&run.environment_path(), |file| {
            serde_json::to_writer_pretty(&mut *file, environment)?;
            file.write_all(b"\n")
        })?;
        write_whole(&run.recipe(), |file| file.write_all(recipe.as_bytes()))?;
        for directory in [run.tensorboard(), run.checkpoints(), run.retrieval()] {
            fs::create_dir_all(&directory).map_err(FileError::new("create", &directory))?;
        }
        Ok(run)
    }

    /// That a run can be started in `path`, which need not be there yet; nothing is written.
    ///
    /// # Errors
    /// What would stop [`RunDirectory::create`], as far as it can be known: a run that is there and may not be
    /// replaced, files that are no run's, a file in the way, a directory that cannot be written to.
    pub fn can_start(path: &Path, overwrite: Overwrite) -> Result<(), RunError> {
        can_create_in(path).map_err(FileError::new("create", path))?;
        if !path.exists() {
            return Ok(());
        }
        let run = RunDirectory { path: path.to_path_buf() };
        let contents = contents(path)?;
        if contents.is_empty() {
            return Ok(());
        }
        let (path, contents) = (path.to_path_buf(), summary(&contents));
        match overwrite {
            _ if run.environment().is_err() => Err(RunError::Foreign { path, contents }),
            Overwrite::Refuse => Err(RunError::Exists { path, contents }),
            Overwrite::Replace => Ok(()),
        }
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
                return Err(self.not_a_run(format!("{ENVIRONMENT} is missing")));
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

    fn environment_path(&self) -> PathBuf {
        self.path.join(ENVIRONMENT)
    }

    fn not_a_run(&self, reason: String) -> RunError {
        RunError::NotARun { path: self.path.clone(), reason }
    }

    fn delete(&self) -> Result<(), FileError> {
        let layout =
            [CHECKPOINTS, TENSORBOARD, RETRIEVAL, PROBES, METRICS, LOG, RECIPE, ENVIRONMENT];
        for name in layout {
            let path = self.path.join(name);
            let deleted = match fs::symlink_metadata(&path) {
                Ok(entry) if entry.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            };
            deleted.map_err(FileError::new("delete", &path))?;
        }
        Ok(())
    }
}

/// The names in a directory, sorted; directories end with a slash.
fn contents(path: &Path) -> Result<Vec<String>, FileError> {
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
fn summary(names: &[String]) -> String {
    let shown = names.len().min(7);
    let mut text = names[..shown].join(", ");
    if shown < names.len() {
        text += &format!(" and {} more", names.len() - shown);
    }
    text
}
