//! Results of probes on disk: JSON lines under a run, or an array as `genir probe --format json` prints it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Probe, Record, RecordError};
use crate::files::{FileError, append_to, create_directory};

/// Why stored results cannot be read.
#[derive(Debug, Error)]
pub enum StoredError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is in it is no result.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The file that holds the history of `probe` in a run's directory of results.
fn history(directory: &Path, probe: Probe) -> PathBuf {
    directory.join(format!("{probe}.jsonl"))
}

/// Adds `record` to the history of its probe in `directory`, which is made where it is missing. The line is handed
/// to the system in one piece.
pub fn append(directory: &Path, record: &Record) -> Result<(), FileError> {
    create_directory(directory)?;
    let path = history(directory, record.result.probe());
    let mut file = append_to(&path)?;
    let mut write = || {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        file.write_all(&line)
    };
    write().map_err(FileError::new("write", &path))
}

/// All results in `directory`, by probe, each history as it was measured.
pub fn read_histories(directory: &Path) -> Result<Vec<Record>, StoredError> {
    let paths = Probe::ALL.iter().map(|&probe| history(directory, probe));
    let mut records = Vec::new();
    for path in paths.filter(|path| path.exists()) {
        records.extend(read(&path)?);
    }
    Ok(records)
}

/// The results in one file: an array, or one a line. A last line that was not written to its end, as a run leaves it
/// that is killed or whose disk is full, is passed over with a warning.
pub fn read(path: &Path) -> Result<Vec<Record>, StoredError> {
    let text = fs::read_to_string(path).map_err(FileError::new("read", path))?;
    if text.trim_start().starts_with('[') {
        let values: Vec<serde_json::Value> = serde_json::from_str(&text).map_err(|error| {
            RecordError::Wrong { place: path.display().to_string(), found: error.to_string() }
        })?;
        let place = |index: usize| format!("{}, result {}", path.display(), index + 1);
        let parsed = values
            .iter()
            .enumerate()
            .map(|(index, value)| Ok(Record::parse(&value.to_string(), || place(index))?));
        return parsed.collect();
    }
    let place = |index: usize| format!("{}, line {}", path.display(), index + 1);
    let (whole, rest) = text.rsplit_once('\n').map_or(("", text.as_str()), |parts| parts);
    let lines = whole.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut records: Vec<Record> = lines
        .map(|(index, line)| Record::parse(line, || place(index)))
        .collect::<Result<_, _>>()?;
    if !rest.trim().is_empty() {
        match Record::parse(rest, || place(whole.lines().count())) {
            Ok(record) => records.push(record),
            // A file of its own, not a history that was cut short.
            Err(error) if records.is_empty() => return Err(error.into()),
            Err(error) => tracing::warn!("passed over, not written to its end: {error}"),
        }
    }
    Ok(records)
}
