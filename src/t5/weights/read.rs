//! Reads the tensors of a Hugging Face checkpoint: one safetensors file, or shards with an index.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;

use super::source::{Bytes, Source};
use super::{WeightsError, header};
use crate::files::{is_lfs_pointer, open_regular, read_regular_to_string};

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a checkpoint directory, read from disk when asked for. Each is mapped while it is read and no longer:
/// pages of a file that stay mapped count as memory of the process.
#[derive(Debug)]
pub struct StoredTensors {
    directory: PathBuf,
    files: Vec<(PathBuf, Source)>,
    tensors: HashMap<String, StoredTensor>,
    /// Embedding rows of the last words.
    moved_rows: Vec<u32>,
}

/// Names under which the word embedding is stored where `shared.weight` is not: files that keep one name of what is
/// tied need not keep that one (safetensors' `save_model` keeps the first in the alphabet).
const EMBEDDINGS: [&str; 3] =
    ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
/// A tensor of the decoder's first layer in some old checkpoints that no T5 uses; transformers ignores it too.
const UNUSED: &str = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";

#[derive(Debug)]
struct StoredTensor {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl StoredTensors {
    /// Opens `model.safetensors`, or every shard that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// [`WeightsError::NoWeights`] if the directory has neither file; [`WeightsError::NoShards`] with all shards that
    /// are missing; [`WeightsError::LfsPointer`]; [`WeightsError::Damaged`] for an invalid header;
    /// [`WeightsError::Read`] for a file that cannot be read.
    pub fn open(directory: &Path) -> Result<Self, WeightsError> {
        let single = directory.join(SINGLE);
        let index = directory.join(INDEX);
        let is_there = |path: &Path| path.symlink_metadata().is_ok();
        let names = if is_there(&single) {
            vec![SINGLE.to_owned()]
        } else if is_there(&index) {
            let mut names = shards(&index)?;
            names.retain(|name| !is_there(&directory.join(name)));
            if !names.is_empty() {
                return Err(WeightsError::NoShards { index, missing: names });
            }
            shards(&index)?
        } else {
            return Err(WeightsError::NoWeights { directory: directory.to_owned() });
        };
        let files = names.into_iter().map(|name| directory.join(name));
        Self::of_files(directory, files)
    }

    /// Opens one file.
    pub(crate) fn open_file(path: &Path) -> Result<Self, WeightsError> {
        Self::of_files(path.parent().unwrap_or(path), [path.to_owned()])
    }

    /// Opens weights that are compiled into the program as `name`.
    pub(crate) fn bundled(name: &str, bytes: &'static [u8]) -> Result<Self, WeightsError> {
        let mut opened = Self::of_files(Path::new(name), [])?;
        opened.add(Path::new(name).join(SINGLE), Source::Bundled(bytes))?;
        Ok(opened)
    }

    fn of_files(
        directory: &Path,
        files: impl IntoIterator<Item = PathBuf>,
    ) -> Result<Self, WeightsError> {
        let mut opened = Self {
            directory: directory.to_owned(),
            files: Vec::new(),
            tensors: HashMap::new(),
            moved_rows: Vec::new(),
        };
        for path in files {
            let file = open_regular(&path)
                .map_err(|source| WeightsError::Read { file: path.clone(), source })?;
            opened.add(path, Source::File(file))?;
        }
        Ok(opened)
    }

    fn add(&mut self, path: PathBuf, file: Source) -> Result<(), WeightsError> {
        let (tensors, start) = header::read(&file, &path)?;
        for (name, info) in tensors {
            let (from, to) = info.data_offsets;
            let tensor = StoredTensor {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape,
                bytes: start + from..start + to,
            };
            if let Some(earlier) = self.tensors.insert(name.clone(), tensor) {
                let files = [self.files[earlier.file].0.clone(), path];
                return Err(WeightsError::Twice { tensor: name, files });
            }
        }
        self.files.push((path, file));
        Ok(())
    }

    /// The same with the last words in these rows of the embedding; all others are in the rows of their ids.
    pub fn with_moved_rows(self, moved_rows: Vec<u32>) -> Self {
        Self { moved_rows, ..self }
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns whether the output matrix has a tensor of its own name.
    pub fn has_head(&self) -> bool {
        self.tensors.contains_key("lm_head.weight")
    }

    /// The whole tensor `name` as f32, which must have `shape`.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        self.check(name, shape)?;
        let (name, tensor) = self.tensor(name, shape)?;
        self.decode(name, tensor, tensor.bytes.clone())
    }

    /// Checks that the tensor `name` exists, has floats and `shape`, as the file's header says.
    pub(super) fn check(&self, name: &str, shape: &[usize]) -> Result<(), WeightsError> {
        let (name, tensor) = self.tensor(name, shape)?;
        self.check_type(name, tensor)?;
        match tensor.shape == shape {
            true => Ok(()),
            false => Err(self.wrong_shape(name, tensor, shape)),
        }
    }

    /// The same of an embedding, which may have more rows than its `words`, and has those of `docids` too.
    pub(super) fn check_embedding(
        &self,
        name: &str,
        words: usize,
        columns: usize,
        docids: &[u32],
    ) -> Result<(), WeightsError> {
        let plain = words.saturating_sub(self.moved_rows.len());
        let others = self.moved_rows.iter().chain(docids).map(|&row| row as usize + 1).max();
        let rows = plain.max(others.unwrap_or(0));
        let (name, tensor) = self.tensor(name, &[rows, columns])?;
        self.check_type(name, tensor)?;
        match tensor.shape[..] {
            [stored, width] if width == columns && rows <= stored => Ok(()),
            _ => Err(self.wrong_shape(name, tensor, &[rows, columns])),
        }
    }

    /// The tensors of the two stacks that are none of `expected`, each with its file and dimensions.
    pub(super) fn unexpected(&self, expected: &HashSet<String>) -> Vec<WeightsError> {
        // Buffers of integers, such as positions, hold nothing that was trained.
        let is_trained = |tensor: &StoredTensor| is_float(tensor.dtype);
        let is_of_a_stack =
            |name: &str| name.starts_with("encoder.") || name.starts_with("decoder.");
        let is_known =
            |name: &str| expected.contains(name) || EMBEDDINGS.contains(&name) || name == UNUSED;
        let unexpected = |(name, tensor): (&String, &StoredTensor)| WeightsError::Unexpected {
            file: self.files[tensor.file].0.clone(),
            tensor: name.clone(),
            found: tensor.shape.clone(),
        };
        let mut tensors: Vec<_> = self
            .tensors
            .iter()
            .filter(|(name, tensor)| is_of_a_stack(name) && is_trained(tensor) && !is_known(name))
            .collect();
        tensors.sort_by_key(|(name, _)| name.as_str());
        tensors.into_iter().map(unexpected).collect()
    }

    fn wrong_shape(&self, name: &str, tensor: &StoredTensor, expected: &[usize]) -> WeightsError {
        WeightsError::Shape {
            file: self.files[tensor.file].0.clone(),
            tensor: name.to_owned(),
            found: tensor.shape.clone(),
            expected: expected.to_vec(),
        }
    }

    fn check_type(&self, name: &str, tensor: &StoredTensor) -> Result<(), WeightsError> {
        match tensor.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(()),
            found => Err(WeightsError::Type {
                file: self.files[tensor.file].0.clone(),
                tensor: name.to_owned(),
                found: format!("{found:?}"),
            }),
        }
    }

    /// The rows of the first `count` words of the embedding `name`, which must have `columns` columns.
    pub(crate) fn words(
        &self,
        name: &str,
        count: usize,
        columns: usize,
    ) -> Result<Vec<f32>, WeightsError> {
        let plain = count.saturating_sub(self.moved_rows.len());
        let mut values = self.rows(name, 0..plain, columns)?;
        values.extend(self.gathered(name, &self.moved_rows[..count - plain], columns)?);
        Ok(values)
    }

    /// The given rows of the matrix `name`, in their order; those that follow one another are read at once.
    pub(crate) fn gathered(
        &self,
        name: &str,
        rows: &[u32],
        columns: usize,
    ) -> Result<Vec<f32>, WeightsError> {
        let mut values = Vec::with_capacity(rows.len() * columns);
        for run in rows.chunk_by(|&row, &next| row.checked_add(1) == Some(next)) {
            let first = run[0] as usize;
            values.extend(self.rows(name, first..first + run.len(), columns)?);
        }
        Ok(values)
    }

    /// Rows `rows` of the matrix `name`, which must have `columns` columns and that many rows.
    pub(crate) fn rows(
        &self,
        name: &str,
        rows: Range<usize>,
        columns: usize,
    ) -> Result<Vec<f32>, WeightsError> {
        let expected = [rows.end, columns];
        let (name, tensor) = self.tensor(name, &expected)?;
        match tensor.shape[..] {
            [stored, width] if width == columns && rows.end <= stored => {
                let row = tensor.bytes.len() / stored.max(1);
                let start = tensor.bytes.start;
                self.decode(name, tensor, start + rows.start * row..start + rows.end * row)
            }
            _ => Err(self.wrong_shape(name, tensor, &expected)),
        }
    }

    /// Returns whether two tensors hold the same bytes.
    pub(crate) fn same(&self, one: &str, other: &str) -> Result<bool, WeightsError> {
        let ((_, one), (_, other)) = (self.tensor(one, &[])?, self.tensor(other, &[])?);
        Ok(one.dtype == other.dtype
            && self.map(one, one.bytes.clone())?[..] == self.map(other, other.bytes.clone())?[..])
    }

    /// Some bytes of the file of `tensor`.
    fn map(&self, tensor: &StoredTensor, bytes: Range<usize>) -> Result<Bytes, WeightsError> {
        let (path, file) = &self.files[tensor.file];
        file.bytes(bytes).map_err(|source| WeightsError::Read { file: path.clone(), source })
    }

    /// The tensor `name`, with the name that it has in the files.
    fn find(&self, name: &str) -> Option<(&str, &StoredTensor)> {
        let at = |name: &str| self.tensors.get_key_value(name);
        let found = at(name).or_else(|| match name == EMBEDDINGS[0] {
            true => EMBEDDINGS.into_iter().find_map(at),
            false => None,
        });
        found.map(|(name, tensor)| (name.as_str(), tensor))
    }

    fn tensor(
        &self,
        name: &str,
        expected: &[usize],
    ) -> Result<(&str, &StoredTensor), WeightsError> {
        self.find(name).ok_or_else(|| WeightsError::Missing {
            directory: self.directory.clone(),
            tensor: name.to_owned(),
            expected: expected.to_vec(),
        })
    }

    fn decode(
        &self,
        name: &str,
        tensor: &StoredTensor,
        bytes: Range<usize>,
    ) -> Result<Vec<f32>, WeightsError> {
        self.check_type(name, tensor)?;
        let values = values_of(tensor.dtype, &self.map(tensor, bytes)?);
        match not_finite(&values) {
            0 => Ok(values),
            count => Err(WeightsError::NotFinite {
                file: self.files[tensor.file].0.clone(),
                tensor: name.to_owned(),
                count,
                of: values.len(),
                tensors: self.tensors_not_finite(),
            }),
        }
    }

    /// Number of tensors with values that are not finite.
    fn tensors_not_finite(&self) -> usize {
        let is_not = |tensor: &&StoredTensor| {
            self.check_type("", tensor).is_ok()
                && self
                    .map(tensor, tensor.bytes.clone())
                    .is_ok_and(|bytes| not_finite(&values_of(tensor.dtype, &bytes)) > 0)
        };
        self.tensors.values().filter(is_not).count()
    }

    /// Rows of the matrix `name`, as the file's header says; `None` if it is not there or no matrix.
    pub(super) fn stored_rows(&self, name: &str) -> Option<usize> {
        match self.find(name)?.1.shape[..] {
            [rows, _] => Some(rows),
            _ => None,
        }
    }

    /// The tensors of floats outside of the two stacks that are none of `expected`, sorted.
    pub(super) fn ignored(&self, expected: &HashSet<String>) -> Vec<&str> {
        let is_stack = |name: &str| name.starts_with("encoder.") || name.starts_with("decoder.");
        let ignored = self.tensors.iter().filter(|(name, tensor)| {
            !is_stack(name) && is_float(tensor.dtype) && !expected.contains(*name)
        });
        let mut names: Vec<&str> = ignored.map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }
}

fn is_float(dtype: Dtype) -> bool {
    use Dtype::{BOOL, I8, I16, I32, I64, U8, U16, U32, U64};
    !matches!(dtype, BOOL | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
}

/// The values of a tensor of a type that weights come in.
fn values_of(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let halves = || bytes.as_chunks().0.iter();
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word)).collect(),
        Dtype::F16 => halves().map(|&pair| f16::from_le_bytes(pair).to_f32()).collect(),
        _ => halves().map(|&pair| bf16::from_le_bytes(pair).to_f32()).collect(),
    }
}

/// Number of values that are NaN or infinite.
fn not_finite(values: &[f32]) -> usize {
    values.iter().filter(|value| !value.is_finite()).count()
}

/// The files that an index names, each once.
pub(crate) fn shards(index: &Path) -> Result<Vec<String>, WeightsError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let text = read_regular_to_string(index)
        .map_err(|source| WeightsError::Read { file: index.to_owned(), source })?;
    if is_lfs_pointer(text.as_bytes()) {
        return Err(WeightsError::LfsPointer { file: index.to_owned() });
    }
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
