//! The lines of `metrics.jsonl`.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{FileError, read_regular_to_string};
use crate::json_number;

/// One line of `metrics.jsonl`: scalars after an update, such as
/// `{"step": 10, "epoch": 0.5, "wall_time": 1767225599.25, "loss/train": 2.5}`.
///
/// JSON has no numbers that are not finite: they are written as the strings `"NaN"`, `"inf"` and `"-inf"`, which
/// Python's `float` and Rust's `parse` accept, and are read as numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scalars {
    /// Number of updates before.
    pub step: u64,
    /// Number of epochs before, with their fraction.
    #[serde(with = "json_number")]
    pub epoch: f64,
    /// Seconds since 1970.
    #[serde(with = "json_number")]
    pub wall_time: f64,
    /// The scalars by name: `loss/train`, `validation/hits@1`.
    #[serde(flatten, with = "json_number::map")]
    pub values: BTreeMap<String, f64>,
}

/// Reads a run's `metrics.jsonl` ([`RunDirectory::metrics`](crate::run::RunDirectory::metrics)), in the order of its
/// lines. A last line that is not complete, because a run is writing it or was killed, is skipped.
///
/// # Errors
/// The file is missing, not a regular file or not UTF-8; a line is of another form, with its number.
pub fn read_scalars(path: &Path) -> Result<Vec<Scalars>, FileError> {
    let text = read_regular_to_string(path).map_err(FileError::new("read", path))?;
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| {
            let found = format!("line {}: {error}", index + 1);
            FileError::new("read", path)(io::Error::new(ErrorKind::InvalidData, found))
        })
    };
    lines.map(parse).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written_and_a_broken_one_is_named() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("metrics.jsonl");
        let values = [("loss/train", f64::INFINITY), ("own", -0.25)];
        let values = values.map(|(name, value)| (name.to_owned(), value)).into();
        let scalars = Scalars { step: 3, epoch: 0.5, wall_time: 1.5, values };
        let line = serde_json::to_string(&scalars).unwrap();
        let expected = r#"{"step":3,"epoch":0.5,"wall_time":1.5,"loss/train":"inf","own":-0.25}"#;
        assert_eq!(line, expected);
        fs::write(&path, format!("{line}\n{line}\n{}", &line[..20])).unwrap();
        assert_eq!(read_scalars(&path).unwrap(), [scalars.clone(), scalars]);

        let nan = line.replace("\"inf\"", "\"NaN\"");
        fs::write(&path, format!("{nan}\n")).unwrap();
        assert!(read_scalars(&path).unwrap()[0].values["loss/train"].is_nan());
        for wrong in [line.replace("\"inf\"", "\"high\""), line.replace("step", "stop")] {
            fs::write(&path, format!("{line}\n{wrong}\n")).unwrap();
            let error = read_scalars(&path).unwrap_err().to_string();
            assert!(error.contains("metrics.jsonl: line 2: "), "{error}");
        }
    }
}
