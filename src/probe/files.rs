//! Results of probes on disk: JSON lines under a run, or an array as `genir probe --format json` prints it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

use super::{HistoryLine, Probe, Record, RecordError, Skipped};
use crate::files::{FileError, create_directory, read_regular_to_string, write_atomically};

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
    fn add(&mut self, line: HistoryLine) {
        match line {
            HistoryLine::Measured(record) => self.records.push(*record),
            HistoryLine::Skipped(skipped) => self.skipped.push(skipped),
        }
    }
}

/// The file in `directory` with the history of the record's probe, and the record as a line of it.
///
/// # Errors
/// The record cannot be written as JSON.
pub fn line(directory: &Path, record: &Record) -> Result<(PathBuf, Vec<u8>), FileError> {
    line_of(directory, record.result.probe(), record)
}

/// As [`line()`], for a probe that was due and not measured.
///
/// # Errors
/// Those of [`line()`].
pub fn skipped_line(directory: &Path, skipped: &Skipped) -> Result<(PathBuf, Vec<u8>), FileError> {
    line_of(directory, skipped.probe, skipped)
}

fn line_of(
    directory: &Path,
    probe: Probe,
    content: &impl Serialize,
) -> Result<(PathBuf, Vec<u8>), FileError> {
    let path = history(directory, probe);
    match serde_json::to_vec(content) {
        Ok(mut line) => {
            line.push(b'\n');
            Ok((path, line))
        }
        Err(error) => Err(FileError::new("write", &path)(error.into())),
    }
}

/// Adds results to the histories in `directory`, after those that are there. Each file is replaced as a whole.
///
/// # Errors
/// A file cannot be read or written.
pub fn add(directory: &Path, records: &[Record]) -> Result<(), FileError> {
    create_directory(directory)?;
    for record in records {
        let (path, line) = line(directory, record)?;
        let mut bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(FileError::new("read", &path))?,
        };
        if bytes.trim_ascii_start().starts_with(b"[") {
            let found = "it holds an array; a history has one result per line";
            return Err(FileError::new("add to", &path)(io::Error::other(found)));
        }
        // A run that was killed may have left a last line without its end, which readers pass over.
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        bytes.truncate(whole);
        bytes.extend_from_slice(&line);
        write_atomically(&path, |file| file.write_all(&bytes))?;
    }
    Ok(())
}

/// All that is stored in `directory`, by probe, each history as it was measured.
///
/// # Errors
/// As for [`read_all`]. Missing files are no error.
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
///
/// # Errors
/// As for [`read_all`].
pub fn read(path: &Path) -> Result<Vec<Record>, StoredError> {
    Ok(read_all(path)?.records)
}

/// All that is stored in one file: an array, or one a line. A last line that was not written to its end, as a run
/// leaves it that is killed or whose disk is full, is passed over with a warning.
///
/// # Errors
/// [`StoredError::File`] if the file is missing, not a regular file or not UTF-8; [`StoredError::Record`] for a line or
/// an element that is no result of this version of genir, with its number.
pub fn read_all(path: &Path) -> Result<Stored, StoredError> {
    let text = read_regular_to_string(path).map_err(FileError::new("read", path))?;
    let mut stored = Stored::default();
    if text.trim_start().starts_with('[') {
        let values: Vec<serde_json::Value> = serde_json::from_str(&text).map_err(|error| {
            RecordError::Wrong { place: path.display().to_string(), found: error.to_string() }
        })?;
        for (index, value) in values.iter().enumerate() {
            let place = || format!("{}, result {}", path.display(), index + 1);
            stored.add(HistoryLine::parse(&value.to_string(), place)?);
        }
        return Ok(stored);
    }
    let place = |index: usize| format!("{}, line {}", path.display(), index + 1);
    let (whole, rest) = text.rsplit_once('\n').map_or(("", text.as_str()), |parts| parts);
    let lines = whole.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    for (index, line) in lines {
        stored.add(HistoryLine::parse(line, || place(index))?);
    }
    if !rest.trim().is_empty() {
        match HistoryLine::parse(rest, || place(whole.lines().count())) {
            Ok(line) => stored.add(line),
            // A file of its own, not a history that was cut short.
            Err(error) if stored == Stored::default() => return Err(error.into()),
            Err(error) => tracing::warn!("passed over, not written to its end: {error}"),
        }
    }
    Ok(stored)
}
