//! `sweep.json`: the runs of a sweep, and how each has ended.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::exists;
use crate::files::{FileError, read_small_to_string, write_atomically};

/// The file's name in the directory of a sweep.
const FILE: &str = "sweep.json";

/// The content of `sweep.json`, which is written again whenever a run starts or ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepRecord {
    /// The version of genir.
    pub genir: String,
    /// The arguments of the command line.
    pub command: Vec<String>,
    /// The queries of the comparison.
    pub split: String,
    /// The names of the arms.
    pub arms: Vec<String>,
    /// The runs, in the order in which they run.
    pub runs: Vec<RunRecord>,
}

/// A run of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The name of its arm.
    pub arm: String,
    /// Its seed; `None` for BM25.
    pub seed: Option<u64>,
    /// The run directory, or the TREC run file of BM25.
    pub directory: PathBuf,
    /// How it ended.
    pub status: RunStatus,
    /// The error of a run that failed.
    pub reason: Option<String>,
    /// Wall time of the run in seconds, of all processes that trained it.
    pub seconds: Option<f64>,
    /// The command that trains it alone.
    pub command: Vec<String>,
}

/// How a run of a sweep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// It has not been started, or a killed sweep has left it unfinished.
    Waiting,
    /// It runs.
    Running,
    /// It ended by itself: after its last update, or where early stopping ended it.
    Finished,
    /// A signal ended it; the same command continues it.
    Interrupted,
    /// An error ended it; the same command tries it again.
    Failed,
}

impl SweepRecord {
    /// Reads `sweep.json` of a sweep.
    ///
    /// # Errors
    /// The file is missing, or was not written by genir.
    pub fn read(directory: &Path) -> Result<Self, FileError> {
        let path = directory.join(FILE);
        let text = read_small_to_string(&path).map_err(FileError::new("read", &path))?;
        serde_json::from_str(&text)
            .map_err(|error| FileError::new("read", &path)(std::io::Error::from(error)))
    }

    /// Writes `sweep.json`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), FileError> {
        write_atomically(&directory.join(FILE), |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        })
    }
}

/// Checks that a directory is one of a sweep, empty or missing, so that nothing else is mixed with its runs.
pub(super) fn check_directory(directory: &Path) -> Result<(), String> {
    let shown = directory.display();
    if !exists(directory) || exists(&directory.join(FILE)) {
        return Ok(());
    }
    let entries = std::fs::read_dir(directory).map_err(|error| format!("{shown}: {error}"))?;
    let mut names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    match names.find(|name| !name.starts_with('.')) {
        None => Ok(()),
        Some(name) => Err(format!(
            "{shown} is not empty and not the directory of a sweep (it contains {name}, but no {FILE}); choose another \
             --directory"
        )),
    }
}
