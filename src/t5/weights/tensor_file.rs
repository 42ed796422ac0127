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

    /// Converts values of f32 in little endian.
    fn encode(self, bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Float32 => bytes,
            Self::Bfloat16 => {
                let values =
                    bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value));
                values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect()
            }
        }
    }
}

/// A tensor of f32 that is converted to bytes only when it is written.
pub struct TensorEntry<'a> {
    /// Name in the file.
    pub name: String,
    /// Dimensions in the file.
    pub shape: Vec<usize>,
    /// Returns the values, row after row, in little endian.
    pub bytes: Box<dyn Fn() -> Result<Vec<u8>, WeightsError> + 'a>,
}

impl<'a> TensorEntry<'a> {
    /// A tensor in memory, as blocks of rows of equal width (each off the autodiff graph).
    pub fn held(name: String, shape: Vec<usize>, parts: Vec<Tensor<2>>) -> Self {
        let size = shape.iter().product::<usize>() * size_of::<f32>();
        let bytes = move || {
            let mut bytes = Vec::with_capacity(size);
            for part in &parts {
                // In blocks of rows: a tensor that the model holds too is copied to be read.
                let [rows, columns] = part.dims();
                let block = (BLOCK / columns.max(1)).max(1);
                for first in (0..rows).step_by(block) {
                    let values = part.clone().slice(first..rows.min(first + block));
                    bytes.extend_from_slice(values.into_data().as_bytes());
                }
            }
            Ok(bytes)
        };
        Self { name, shape, bytes: Box::new(bytes) }
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
    for entry in &entries {
        put(&stored.encode((entry.bytes)()?))?;
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
