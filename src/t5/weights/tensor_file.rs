//! Writes safetensors files, one tensor in memory at a time.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use burn::tensor::Tensor;
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::WeightsError;
use crate::choice::choice;
use crate::files::{AtomicFile, FileError};
use crate::ops::floats;

/// Values that are copied at once to be written.
const BLOCK: usize = 1 << 20;

choice! {
    /// Type of the values in a file of weights, by PyTorch's names.
    #[derive(Default)]
    StoredType {
        /// 32 bits, as they are computed.
        #[default]
        Float32 = "float32",
        /// The upper 16 bits of a float32, rounded to the nearest, of equal ones to the even.
        Bfloat16 = "bfloat16",
    }
}

impl StoredType {
    /// Size of a value in bytes.
    fn size(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Bfloat16 => 2,
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::F32,
            Self::Bfloat16 => Dtype::BF16,
        }
    }

    /// Replaces `bytes` by these values in little endian.
    fn encode(self, values: &[f32], bytes: &mut Vec<u8>) {
        bytes.clear();
        match self {
            Self::Float32 => {
                values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
            }
            Self::Bfloat16 => values
                .iter()
                .for_each(|&value| bytes.extend_from_slice(&bf16::from_f32(value).to_le_bytes())),
        }
    }
}

/// Takes the values of a tensor, block after block.
pub type Put<'a> = dyn FnMut(&[f32]) -> Result<(), WeightsError> + 'a;

/// Gives the values of a tensor, or of some of its rows, to a [`Put`].
pub type GiveValues<'a> = dyn Fn(&mut Put) -> Result<(), WeightsError> + 'a;

/// A tensor of f32 that is copied only when it is written.
pub struct TensorEntry<'a> {
    /// Name in the file.
    pub name: String,
    /// Dimensions in the file.
    pub shape: Vec<usize>,
    /// Gives the values, row after row.
    pub values: Box<GiveValues<'a>>,
}

impl<'a> TensorEntry<'a> {
    /// A tensor in memory, as blocks of rows of equal width (each off the autodiff graph).
    pub fn held(name: String, shape: Vec<usize>, parts: Vec<Tensor<2>>) -> Self {
        let values = move |put: &mut Put| {
            for part in &parts {
                // In blocks of rows: a tensor that the model holds too is copied to be read.
                let [rows, columns] = part.dims();
                let block = (BLOCK / columns.max(1)).max(1);
                for first in (0..rows).step_by(block) {
                    let values = part.clone().slice(first..rows.min(first + block));
                    put(floats(&values.into_data()))?;
                }
            }
            Ok(())
        };
        Self { name, shape, values: Box::new(values) }
    }

    /// The same tensor with further rows behind its own.
    pub fn followed_by(self, more: &'a GiveValues<'a>) -> Self {
        let own = self.values;
        let values = move |put: &mut Put| {
            own(put)?;
            more(put)
        };
        Self { values: Box::new(values), ..self }
    }
}

/// Writes the file `path` atomically, with the tensors in the order of their names and their values as `stored`.
/// `metadata` stands in the file's header, with the `format` that transformers asks for.
///
/// # Errors
/// The file cannot be written, or the values of a tensor are unavailable.
pub fn write_tensors(
    path: &Path,
    mut entries: Vec<TensorEntry>,
    stored: StoredType,
    metadata: &[(&str, String)],
) -> Result<(), WeightsError> {
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    let failed = |error: FileError| WeightsError::Write {
        file: error.path,
        reason: error.source.to_string(),
    };
    let mut file = AtomicFile::create(path).map_err(failed)?;
    let mut put = |bytes: &[u8]| {
        file.write_all(bytes).map_err(|error| failed(FileError::new("write", path)(error)))
    };
    put(&header(path, &entries, stored, metadata)?)?;
    let mut bytes = Vec::new();
    for entry in &entries {
        (entry.values)(&mut |values| {
            stored.encode(values, &mut bytes);
            put(&bytes)
        })?;
    }
    file.commit().map_err(failed)
}

/// The bytes before the tensors: the length of the JSON that names and locates them, then this JSON.
fn header(
    path: &Path,
    entries: &[TensorEntry],
    stored: StoredType,
    metadata: &[(&str, String)],
) -> Result<Vec<u8>, WeightsError> {
    let mut end = 0;
    let tensors = entries.iter().map(|TensorEntry { name, shape, .. }| {
        let start = end;
        end += shape.iter().product::<usize>() * stored.size();
        let (dtype, data_offsets) = (stored.dtype(), (start, end));
        (name.clone(), TensorInfo { dtype, shape: shape.clone(), data_offsets })
    });
    let mut about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    about.extend(metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    let failed = |reason: String| WeightsError::Write { file: path.to_path_buf(), reason };
    let metadata =
        Metadata::new(Some(about), tensors.collect()).map_err(|error| failed(error.to_string()))?;
    // As a value first, whose keys are sorted: the same content gives the same bytes.
    let metadata = serde_json::to_value(&metadata).map_err(|error| failed(error.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|error| failed(error.to_string()))?;
    // The tensors begin at a multiple of their alignment.
    json.resize(json.len().next_multiple_of(size_of::<u64>()), b' ');
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}
