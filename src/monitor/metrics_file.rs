//! `metrics.jsonl`: scalars as JSON lines.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::files::{FileError, append_to};

/// A file with lines `{"step": 10, "epoch": 0.5, "wall_time": 1767225599.25, "loss/train": 2.5}`.
///
/// JSON has no numbers that are not finite: they are written as the strings `"NaN"`, `"inf"` and `"-inf"`, which
/// Python's `float` and Rust's `parse` accept.
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
        let line = Line { step, epoch, wall_time, values };
        serde_json::to_vec(&line)
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

struct Line<'a> {
    step: u64,
    epoch: f64,
    wall_time: f64,
    values: &'a [(&'a str, f64)],
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3 + self.values.len()))?;
        map.serialize_entry("step", &self.step)?;
        map.serialize_entry("epoch", &Number(self.epoch))?;
        map.serialize_entry("wall_time", &Number(self.wall_time))?;
        for &(tag, value) in self.values {
            map.serialize_entry(tag, &Number(value))?;
        }
        map.end()
    }
}

struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            serializer.serialize_f64(self.0)
        } else {
            serializer.collect_str(&self.0)
        }
    }
}
