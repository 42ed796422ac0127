//! Writes a model as `model.safetensors` with Hugging Face's names.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use burn::tensor::Tensor;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::fill::{parameters_where, shapes};
use super::names::stored;
use super::{Origin, WeightsError, transposed};
use crate::files::{AtomicFile, FileError};
use crate::t5::{FeedForward, GenirModel};

/// Values that are copied at once to be written.
const BLOCK: usize = 1 << 20;

/// Writes `model.safetensors` into `directory`: f32, docid rows behind the word rows in one matrix.
///
/// A tied model has one such matrix. An untied one has two; docids are never an input, so the rows of
/// `lm_head.weight` stand in `shared.weight` too. One tensor is copied at a time; released weights are read
/// from their origin, also one tensor at a time.
///
/// # Errors
/// [`WeightsError::Write`] if the file cannot be written, for example because the disk is full; the error of reading if
/// released weights cannot be read from their origin.
pub fn write(model: &GenirModel, directory: &Path) -> Result<(), WeightsError> {
    let gated = model.t5.config().feed_forward == FeedForward::GatedGelu;
    let docids = model.docids.weight.val().inner();
    let released = model.t5.released();
    let is_released = |name: &str| released.is_some_and(|released| released.includes(name));
    let mut held = parameters_where(&model.t5, |name| !is_released(name)).into_iter();
    let entries = shapes(&model.t5).into_iter().filter_map(|(name, mut shape)| {
        let place = stored(&name, gated)?;
        let values = match released.filter(|released| released.includes(&name)) {
            Some(released) => Values::Released {
                origin: released.origin(),
                name,
                shape: shape.clone(),
                transposed: place.transposed,
            },
            None => {
                let values = held.next()?.values;
                let mut parts = vec![if place.transposed { values.transpose() } else { values }];
                if matches!(place.name.as_str(), "shared.weight" | "lm_head.weight") {
                    shape[0] += docids.dims()[0];
                    parts.push(docids.clone());
                }
                Values::Held(parts)
            }
        };
        if place.transposed {
            shape.reverse();
        }
        Some((place.name, Entry { shape, values }))
    });
    let mut entries: Vec<(String, Entry)> = entries.collect();
    entries.sort_by(|(name, _), (other, _)| name.cmp(other));
    let path = directory.join("model.safetensors");
    let failed = |error: FileError| WeightsError::Write {
        file: error.path,
        reason: error.source.to_string(),
    };
    let mut file = AtomicFile::create(&path).map_err(failed)?;
    let mut put = |bytes: &[u8]| {
        file.write_all(bytes).map_err(|error| failed(FileError::new("write", &path)(error)))
    };
    put(&header(&path, &entries)?)?;
    for (_, entry) in &entries {
        put(&entry.bytes()?)?;
    }
    file.commit().map_err(failed)
}

/// The bytes before the tensors: the length of the JSON that says what and where they are, then this JSON.
fn header(path: &Path, entries: &[(String, Entry)]) -> Result<Vec<u8>, WeightsError> {
    let mut end = 0;
    let tensors = entries.iter().map(|(name, entry)| {
        let start = end;
        end += entry.size();
        let data_offsets = (start, end);
        let shape = entry.shape.clone();
        (name.clone(), TensorInfo { dtype: Dtype::F32, shape, data_offsets })
    });
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let failed = |reason: String| WeightsError::Write { file: path.to_path_buf(), reason };
    let metadata = Metadata::new(Some(format), tensors.collect())
        .map_err(|error| failed(error.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|error| failed(error.to_string()))?;
    // The tensors begin at a multiple of their alignment.
    json.resize(json.len().next_multiple_of(size_of::<u64>()), b' ');
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}

/// A tensor that is turned into bytes only when it is its turn to be written.
struct Entry<'a> {
    shape: Vec<usize>,
    values: Values<'a>,
}

/// Where the values of a tensor are.
enum Values<'a> {
    /// In memory, as row blocks.
    Held(Vec<Tensor<2>>),
    /// Where they came from.
    Released {
        origin: &'a Origin,
        name: String,
        /// Its dimensions as we have it, and whether the file has its transpose.
        shape: Vec<usize>,
        transposed: bool,
    },
}

impl Entry<'_> {
    /// Bytes in the file.
    fn size(&self) -> usize {
        self.shape.iter().product::<usize>() * size_of::<f32>()
    }

    /// The values as they stand in the file, row after row.
    fn bytes(&self) -> Result<Vec<u8>, WeightsError> {
        let mut bytes = Vec::with_capacity(self.size());
        match &self.values {
            Values::Held(parts) => {
                for part in parts {
                    // In blocks of rows: a tensor that the model holds too is copied to be read.
                    let [rows, columns] = part.dims();
                    let block = (BLOCK / columns.max(1)).max(1);
                    for first in (0..rows).step_by(block) {
                        let values = part.clone().slice(first..rows.min(first + block));
                        bytes.extend_from_slice(values.into_data().as_bytes());
                    }
                }
            }
            Values::Released { origin, name, shape, transposed: turn } => {
                let values = origin.values(name, shape)?;
                let turned = turn.then(|| transposed(&values, shape[0], shape[1]));
                let values = turned.unwrap_or(values);
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
        Ok(bytes)
    }
}
