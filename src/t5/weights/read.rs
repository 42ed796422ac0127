//! Reads the tensors of a Hugging Face checkpoint: one safetensors file, or shards with an index.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::{Mmap, MmapOptions};
use safetensors::{Dtype, SafeTensors};

use super::WeightsError;
use crate::files::is_lfs_pointer;

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a checkpoint directory, read from disk when asked for. Each is mapped while it is read and no longer:
/// pages of a file that stay mapped count as memory of the process.
#[derive(Debug)]
pub struct StoredTensors {
    directory: PathBuf,
    files: Vec<(PathBuf, File)>,
    tensors: HashMap<String, StoredTensor>,
}

#[derive(Debug)]
struct StoredTensor {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl StoredTensors {
    /// Opens `model.safetensors`, or every shard that `model.safetensors.index.json` names.
    pub fn open(directory: &Path) -> Result<Self, WeightsError> {
        let single = directory.join(SINGLE);
        let index = directory.join(INDEX);
        let names = if single.is_file() {
            vec![SINGLE.to_owned()]
        } else if index.is_file() {
            shards(&index)?
        } else {
            return Err(WeightsError::NoWeights { directory: directory.to_owned() });
        };
        let mut opened =
            Self { directory: directory.to_owned(), files: Vec::new(), tensors: HashMap::new() };
        for name in names {
            opened.add(directory.join(name))?;
        }
        Ok(opened)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), WeightsError> {
        let file = File::open(&path)
            .map_err(|source| WeightsError::Read { file: path.clone(), source })?;
        let length = file.metadata().map(|metadata| metadata.len() as usize);
        let map = length.and_then(|length| map(&file, 0..length));
        let map = map.map_err(|source| WeightsError::Read { file: path.clone(), source })?;
        let damaged = |error: safetensors::SafeTensorError| WeightsError::Damaged {
            file: path.clone(),
            reason: error.to_string(),
        };
        if is_lfs_pointer(&map) {
            return Err(WeightsError::LfsPointer { file: path });
        }
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(damaged)?;
        let start = header + size_of::<u64>();
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let tensor = StoredTensor {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes: start + from..start + to,
            };
            self.tensors.insert(name, tensor);
        }
        drop(map);
        self.files.push((path, file));
        Ok(())
    }

    /// Whether there is a tensor called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The whole tensor `name` as f32, which must have `shape`.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let tensor = self.tensor(name)?;
        if tensor.shape != shape {
            return Err(WeightsError::Shape {
                file: self.files[tensor.file].0.clone(),
                tensor: name.to_owned(),
                found: tensor.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        self.decode(name, tensor, tensor.bytes.clone())
    }

    /// Rows `rows` of the matrix `name`, which must have `columns` columns and that many rows.
    pub fn rows(
        &self,
        name: &str,
        rows: Range<usize>,
        columns: usize,
    ) -> Result<Vec<f32>, WeightsError> {
        let tensor = self.tensor(name)?;
        match tensor.shape[..] {
            [stored, width] if width == columns && rows.end <= stored => {
                let row = tensor.bytes.len() / stored.max(1);
                let start = tensor.bytes.start;
                self.decode(name, tensor, start + rows.start * row..start + rows.end * row)
            }
            _ => Err(WeightsError::Shape {
                file: self.files[tensor.file].0.clone(),
                tensor: name.to_owned(),
                found: tensor.shape.clone(),
                expected: vec![rows.end, columns],
            }),
        }
    }

    /// Whether two tensors hold the same bytes.
    pub fn same(&self, one: &str, other: &str) -> Result<bool, WeightsError> {
        let (one, other) = (self.tensor(one)?, self.tensor(other)?);
        Ok(one.dtype == other.dtype
            && self.map(one, one.bytes.clone())?[..] == self.map(other, other.bytes.clone())?[..])
    }

    /// Some bytes of the file of `tensor`.
    fn map(&self, tensor: &StoredTensor, bytes: Range<usize>) -> Result<Mmap, WeightsError> {
        let (path, file) = &self.files[tensor.file];
        map(file, bytes).map_err(|source| WeightsError::Read { file: path.clone(), source })
    }

    fn tensor(&self, name: &str) -> Result<&StoredTensor, WeightsError> {
        self.tensors.get(name).ok_or_else(|| WeightsError::Missing {
            directory: self.directory.clone(),
            tensor: name.to_owned(),
        })
    }

    fn decode(
        &self,
        name: &str,
        tensor: &StoredTensor,
        bytes: Range<usize>,
    ) -> Result<Vec<f32>, WeightsError> {
        let bytes = self.map(tensor, bytes)?;
        let halves = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
        Ok(match tensor.dtype {
            Dtype::F32 => bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            Dtype::F16 => halves().map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
            Dtype::BF16 => halves().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
            found => {
                return Err(WeightsError::Type {
                    file: self.files[tensor.file].0.clone(),
                    tensor: name.to_owned(),
                    found: format!("{found:?}"),
                });
            }
        })
    }
}

/// Maps some bytes of a file.
fn map(file: &File, bytes: Range<usize>) -> std::io::Result<Mmap> {
    let mut options = MmapOptions::new();
    options.offset(bytes.start as u64).len(bytes.len());
    // SAFETY: the map is read-only and private. As for every reader of safetensors files, a file cut short by
    // another process while it is mapped ends this one; checkpoints are written whole and renamed into place,
    // never changed afterwards.
    unsafe { options.map(file) }
}

/// The files that an index names, each once.
pub(crate) fn shards(index: &Path) -> Result<Vec<String>, WeightsError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(index)
        .map_err(|source| WeightsError::Read { file: index.to_owned(), source })?;
    let parsed: Index = serde_json::from_str(&text).map_err(|error| WeightsError::Damaged {
        file: index.to_owned(),
        reason: error.to_string(),
    })?;
    let mut files: Vec<String> = parsed.weight_map.into_values().collect();
    files.sort();
    files.dedup();
    // An index comes from outside: it may name files beside it and nothing else.
    let is_name = |file: &String| Path::new(file).file_name() == Some(OsStr::new(file));
    match files.iter().find(|file| !is_name(file)) {
        Some(file) => Err(WeightsError::Damaged {
            file: index.to_owned(),
            reason: format!("the shard `{file}` is not a file name"),
        }),
        None => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_lfs_pointer_is_called_one() {
        let directory = tempfile::tempdir().unwrap();
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        std::fs::write(directory.path().join(SINGLE), pointer).unwrap();
        let error = StoredTensors::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("model.safetensors: a Git LFS pointer"), "{error}");
        assert!(error.contains("`git lfs pull`"), "{error}");
    }
}
