//! `metrics.jsonl`: scalars as JSON lines.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::scalars::Scalars;
use crate::files::{FileError, append_to};

/// A file of [`Scalars`].
pub(super) struct MetricsFile {
    file: File,
    path: PathBuf,
}

impl MetricsFile {
    /// Opens the file for appending.
    pub fn open(path: &Path) -> Result<MetricsFile, FileError> {
        Ok(MetricsFile { file: append_to(path)?, path: path.to_path_buf() })
    }

    /// Appends one line with a single write.
    pub fn write(
        &mut self,
        step: u64,
        epoch: f64,
        wall_time: f64,
        values: &[(&str, f64)],
    ) -> Result<(), FileError> {
        let values = values.iter().map(|&(tag, value)| (tag.to_owned(), value)).collect();
        serde_json::to_vec(&Scalars { step, epoch, wall_time, values })
            .map_err(Into::into)
            .and_then(|mut bytes| {
                bytes.push(b'\n');
                self.file.write_all(&bytes)
            })
            .map_err(FileError::new("write", &self.path))
    }

    /// Flushes the file to disk.
    pub fn sync(&self) -> Result<(), FileError> {
        let synced = self.file.sync_all();
        synced.map_err(FileError::new("write", &self.path))
    }
}
