//! `metrics.jsonl`: scalars as JSON lines.

use super::scalars::Scalars;

/// A line of [`Scalars`] with its line break.
pub(super) fn line(
    step: u64,
    epoch: f64,
    wall_time: f64,
    values: &[(&str, f64)],
) -> serde_json::Result<Vec<u8>> {
    let values = values.iter().map(|&(tag, value)| (tag.to_owned(), value)).collect();
    let mut bytes = serde_json::to_vec(&Scalars { step, epoch, wall_time, values })?;
    bytes.push(b'\n');
    Ok(bytes)
}
