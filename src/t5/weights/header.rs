//! Reads the header of a safetensors file. Only the header is read, never the file mapped as a whole: weights may be
//! larger than what a process may map.

use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};

use super::WeightsError;
use super::source::Source;
use crate::files::is_lfs_pointer;

/// Bytes of the largest header: the limit of the format's own reader.
const LARGEST: u64 = 100_000_000;

/// Returns the tensors of a file, and where their values begin.
pub(super) fn read(
    file: &Source,
    path: &Path,
) -> Result<(Vec<(String, TensorInfo)>, usize), WeightsError> {
    let failed = |source| WeightsError::Read { file: path.to_owned(), source };
    let damaged = |reason: String| WeightsError::Damaged { file: path.to_owned(), reason };
    let length = file.len().map_err(failed)?;
    let mut beginning = vec![0; length.min(64) as usize];
    file.read_at(&mut beginning, 0).map_err(failed)?;
    if is_lfs_pointer(&beginning) {
        return Err(WeightsError::LfsPointer { file: path.to_owned() });
    }
    let Some((size, _)) = beginning.split_first_chunk() else {
        return Err(damaged(format!(
            "it has {length} bytes, expected the length of its header in 8 bytes"
        )));
    };
    let (size, rest) = (u64::from_le_bytes(*size), length - 8);
    if size > rest.min(LARGEST) {
        return Err(damaged(format!(
            "its header is to have {size} bytes, and {rest} bytes of the file are left (at most {LARGEST} are read)"
        )));
    }
    let mut header = vec![0; size as usize];
    file.read_at(&mut header, 8).map_err(failed)?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| damaged(format!("its header: {error}")))?;
    let mut tensors: Vec<(String, TensorInfo)> =
        metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
    tensors.sort_by_key(|(name, info)| (info.data_offsets, name.clone()));
    // Offsets without gaps and overlaps, and sizes that are those of the shapes.
    let checked =
        Metadata::new(None, tensors.clone()).map_err(|error| damaged(error.to_string()))?;
    let (found, expected) = (rest - size, checked.data_len() as u64);
    if found != expected {
        return Err(damaged(format!("it has {found} bytes of values, expected {expected}")));
    }
    Ok((tensors, 8 + size as usize))
}
