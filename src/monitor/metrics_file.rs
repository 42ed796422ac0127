//! `metrics.jsonl`: scalars as JSON lines.

use serde::ser::{Serialize, SerializeMap, Serializer};

/// A line `{"step": 10, "epoch": 0.5, "wall_time": 1767225599.25, "loss/train": 2.5}` with its line break.
///
/// JSON has no numbers that are not finite: they are written as the strings `"NaN"`, `"inf"` and `"-inf"`, which
/// Python's `float` and Rust's `parse` accept.
pub(super) fn line(
    step: u64,
    epoch: f64,
    wall_time: f64,
    values: &[(&str, f64)],
) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(&Line { step, epoch, wall_time, values })?;
    bytes.push(b'\n');
    Ok(bytes)
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
