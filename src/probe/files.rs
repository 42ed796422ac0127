//! Results of probes on disk: JSON lines under a run, or an array as `genir probe --format json` prints it.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

use super::{Line, Probe, Record, RecordError, Skipped};
use crate::files::{FileError, append_to, create_directory, read_regular_to_string};

/// Errors of reading stored results.
#[derive(Debug, Error)]
pub enum StoredError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its content is not a result.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The file that holds the history of `probe` in a run's directory of results.
fn history(directory: &Path, probe: Probe) -> PathBuf {
    directory.join(format!("{probe}.jsonl"))
}

/// Stored results of probes; each history is in the order in which it was written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stored {
    /// Results.
    pub records: Vec<Record>,
    /// Probes that were due and not measured.
    pub skipped: Vec<Skipped>,
}

impl Stored {
    fn add(&mut self, line: Line) {
        match line {
            Line::Measured(record) => self.records.push(*record),
            Line::Skipped(skipped) => self.skipped.push(skipped),
        }
    }
}

/// Adds `record` to the history of its probe in `directory`, which is made where it is missing. The line is handed
/// to the system in one piece.
pub fn append(directory: &Path, record: &Record) -> Result<(), FileError> {
    append_line(directory, record.result.probe(), record)
}

/// Adds to the history of a probe in `directory` that it was due and not measured, as [`append`] does.
pub fn append_skipped(directory: &Path, skipped: &Skipped) -> Result<(), FileError> {
    append_line(directory, skipped.probe, skipped)
}

fn append_line(directory: &Path, probe: Probe, line: &impl Serialize) -> Result<(), FileError> {
    create_directory(directory)?;
    let path = history(directory, probe);
    let mut file = append_to(&path)?;
    let mut write = || {
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        file.write_all(&line)
    };
    write().map_err(FileError::new("write", &path))
}

/// All that is stored in `directory`, by probe, each history as it was measured.
pub fn read_histories(directory: &Path) -> Result<Stored, StoredError> {
    let paths = Probe::ALL.iter().map(|&probe| history(directory, probe));
    let mut all = Stored::default();
    for path in paths.filter(|path| path.exists()) {
        let stored = read_all(&path)?;
        all.records.extend(stored.records);
        all.skipped.extend(stored.skipped);
    }
    Ok(all)
}

/// The results in one file, as [`read_all`] reads it; lines of probes that were skipped are passed over.
pub fn read(path: &Path) -> Result<Vec<Record>, StoredError> {
    Ok(read_all(path)?.records)
}

/// All that is stored in one file: an array, or one a line. A last line that was not written to its end, as a run
/// leaves it that is killed or whose disk is full, is passed over with a warning.
pub fn read_all(path: &Path) -> Result<Stored, StoredError> {
    let text = read_regular_to_string(path).map_err(FileError::new("read", path))?;
    let mut stored = Stored::default();
    if text.trim_start().starts_with('[') {
        let values: Vec<serde_json::Value> = serde_json::from_str(&text).map_err(|error| {
            RecordError::Wrong { place: path.display().to_string(), found: error.to_string() }
        })?;
        for (index, value) in values.iter().enumerate() {
            let place = || format!("{}, result {}", path.display(), index + 1);
            stored.add(Line::parse(&value.to_string(), place)?);
        }
        return Ok(stored);
    }
    let place = |index: usize| format!("{}, line {}", path.display(), index + 1);
    let (whole, rest) = text.rsplit_once('\n').map_or(("", text.as_str()), |parts| parts);
    let lines = whole.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    for (index, line) in lines {
        stored.add(Line::parse(line, || place(index))?);
    }
    if !rest.trim().is_empty() {
        match Line::parse(rest, || place(whole.lines().count())) {
            Ok(line) => stored.add(line),
            // A file of its own, not a history that was cut short.
            Err(error) if stored == Stored::default() => return Err(error.into()),
            Err(error) => tracing::warn!("passed over, not written to its end: {error}"),
        }
    }
    Ok(stored)
}
