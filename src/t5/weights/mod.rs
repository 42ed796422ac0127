//! Weights in and out: Hugging Face safetensors (one file or shards; f32, f16, bf16) and T5's own initialisation.

mod check;
mod digest;
mod fill;
mod header;
mod initial;
mod names;
mod origin;
mod read;
mod source;
mod tensor_file;
mod write;

use std::ops::Range;
use std::path::PathBuf;

use burn::tensor::Device;
use rayon::prelude::*;
use thiserror::Error;

pub use check::problems;
pub(crate) use check::{check, check_memory, warn_of_unread};
pub(crate) use digest::weights_digest;
pub use fill::{Parameter, first_not_finite, first_not_finite_where, parameters};
pub(super) use fill::{fill_some, parameters_where, with_placeholders};
pub use origin::Origin;
pub use read::StoredTensors;
pub(crate) use read::{INDEX, SINGLE, shards};
pub use tensor_file::StoredType;
pub(crate) use tensor_file::{Put, TensorEntry, write_tensors};
pub use write::{OtherRows, write};

use super::layers::Embedding;
use super::{FeedForward, GenirModel, T5, T5Config};
use crate::device::ComputeDevice;
pub(crate) use names::stored;

/// Errors of reading and writing weights.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// Neither of the files that hold weights is there.
    #[error(
        "{directory}: no weights: expected model.safetensors or model.safetensors.index.json \
         (other formats, such as pytorch_model.bin, must be converted with transformers' save_pretrained)"
    )]
    NoWeights {
        /// The checkpoint directory.
        directory: PathBuf,
    },
    /// Docid rows of another process were not received.
    #[error("{0}")]
    Processes(String),
    /// A file cannot be read.
    #[error("{file}: cannot be read: {source}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{file}: damaged: {reason}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A repository was cloned without the content of its large files.
    #[error(
        "{file}: a Git LFS pointer, not the file itself; `git lfs pull` in its repository fetches the file"
    )]
    LfsPointer {
        /// The file.
        file: PathBuf,
    },
    /// An index names files that are not there.
    #[error("{index}: names files that are not beside it: {}", missing.join(", "))]
    NoShards {
        /// The index.
        index: PathBuf,
        /// The files.
        missing: Vec<String>,
    },
    /// A tensor that the model needs is not there.
    #[error(
        "{directory}: the tensor `{tensor}` is missing{}",
        if expected.is_empty() { String::new() } else { format!(", expected {expected:?}") }
    )]
    Missing {
        /// The checkpoint directory.
        directory: PathBuf,
        /// The tensor.
        tensor: String,
        /// The dimensions that it would have; empty where they are not known.
        expected: Vec<usize>,
    },
    /// A tensor of one of the stacks that the model has no place for: it would be lost.
    #[error(
        "{file}: the tensor `{tensor}` ({found:?}) is not expected: config.json describes a model without it"
    )]
    Unexpected {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        found: Vec<usize>,
    },
    /// Two files hold a tensor of one name: which of them is right cannot be told.
    #[error("the tensor `{tensor}` is in two files: {} and {}", files[0].display(), files[1].display())]
    Twice {
        /// The tensor.
        tensor: String,
        /// The files.
        files: [PathBuf; 2],
    },
    /// A tensor has values that are NaN or infinite: a model with them gives nothing else.
    #[error(
        "{file}: the tensor `{tensor}` has {count} value{} of {of} that {} not finite (NaN or infinite); {tensors} \
         tensor{} of the checkpoint {} such values; use an earlier checkpoint",
        if *count == 1 { "" } else { "s" },
        if *count == 1 { "is" } else { "are" },
        if *tensors == 1 { "" } else { "s" },
        if *tensors == 1 { "has" } else { "have" },
    )]
    NotFinite {
        /// The file.
        file: PathBuf,
        /// The first such tensor that is read.
        tensor: String,
        /// Number of such values in it.
        count: usize,
        /// Number of values that were read of it.
        of: usize,
        /// Number of such tensors.
        tensors: usize,
    },
    /// The model does not fit into memory.
    #[error(
        "{directory}: the weights take {needed} MiB in memory, and the process can have {available} MiB: the machine's \
         memory and swap space, or the limit of its control group"
    )]
    Memory {
        /// The checkpoint directory.
        directory: PathBuf,
        /// MiB of its parameters as f32.
        needed: u64,
        /// MiB that the process can have.
        available: u64,
    },
    /// Several problems, each with its tensor.
    #[error("{} problems with the weights:\n  {}", .0.len(), lines(.0))]
    Several(Vec<WeightsError>),
    /// There are further problems of the same kind.
    #[error("{directory}: the same goes for {count} more tensor{}", if *count == 1 { "" } else { "s" })]
    More {
        /// The checkpoint directory.
        directory: PathBuf,
        /// Number of further tensors.
        count: usize,
    },
    /// A tensor does not fit the configuration.
    #[error("{file}: the tensor `{tensor}` is {found:?}, expected {expected:?} (see config.json)")]
    Shape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        found: Vec<usize>,
        /// The shape in the configuration; for an embedding, at least so many rows.
        expected: Vec<usize>,
    },
    /// A tensor's type is not a float that T5 weights come in.
    #[error("{file}: the tensor `{tensor}` is {found}, expected F32, F16 or BF16")]
    Type {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
    },
    /// The base model is not the one that an adapter was trained on.
    #[error(
        "{directory}: its adapter and the base model do not give its weights (`{tensor}`): the base model has changed \
         since the run started; restore it to continue the run"
    )]
    OtherBase {
        /// The checkpoint directory.
        directory: PathBuf,
        /// The first matrix that differs.
        tensor: String,
    },
    /// The weights cannot be written.
    #[error("{file}: cannot be written: {reason}")]
    Write {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
}

fn lines(problems: &[WeightsError]) -> String {
    problems.iter().map(WeightsError::to_string).collect::<Vec<_>>().join("\n  ")
}

/// A T5 with T5's own initialisation.
pub fn initialise(config: &T5Config, seed: u64, device: impl Into<ComputeDevice>) -> T5 {
    let model = T5::zeros(config, config.tie_word_embeddings, device);
    let filled = fill::fill(model, |name, shape| {
        Ok::<_, std::convert::Infallible>(initial::initial(config, seed, name, shape))
    });
    match filled {
        Ok(model) => model,
        Err(never) => match never {},
    }
}

/// Reads the T5 of a checkpoint directory, with the first `words` rows of its embedding.
///
/// The file determines whether the head is untied: it is if `lm_head.weight` differs from `shared.weight`.
///
/// # Errors
/// [`WeightsError`] for a tensor that is missing, has another shape than `config` says or another type than F32, F16 or
/// BF16, or cannot be read.
pub fn load(
    tensors: &StoredTensors,
    config: &T5Config,
    words: usize,
    device: impl Into<ComputeDevice>,
) -> Result<T5, WeightsError> {
    let config = config.with_words(words);
    let gated = config.feed_forward == FeedForward::GatedGelu;
    let tied = is_tied(tensors)?;
    fill::fill(T5::zeros(&config, tied, device), |name, shape| {
        parameter_of(tensors, gated, name, shape)
    })
}

/// Values of the parameter `name` (dotted, ours) of a checkpoint, row-major as we have it.
fn parameter_of(
    tensors: &StoredTensors,
    gated: bool,
    name: &str,
    shape: &[usize],
) -> Result<Vec<f32>, WeightsError> {
    let place = stored(name, gated)
        .unwrap_or_else(|| unreachable!("every parameter of a T5 has a place, {name} too"));
    match (place.name.as_str(), shape) {
        // Embeddings may have more rows than there are text tokens: docids, or padding.
        (table @ ("shared.weight" | "lm_head.weight"), &[rows, width]) => {
            tensors.words(table, rows, width)
        }
        (matrix, &[input, output]) if place.transposed => {
            Ok(transposed(&tensors.values(matrix, &[output, input])?, output, input))
        }
        (other, shape) => tensors.values(other, shape),
    }
}

/// Reads the docid rows of a checkpoint: `rows` of the output matrix, in this order.
///
/// # Errors
/// [`WeightsError::Read`] if the file cannot be read; [`WeightsError::Missing`], [`WeightsError::Shape`] or
/// [`WeightsError::Type`] if the matrix is missing, too small, or not of floats.
pub fn load_docids(
    tensors: &StoredTensors,
    config: &T5Config,
    rows: &[u32],
    device: &Device,
) -> Result<Embedding, WeightsError> {
    let table = if is_tied(tensors)? { "shared.weight" } else { "lm_head.weight" };
    fill::fill(Embedding::new(rows.len(), config.d_model, device), |_, _| {
        tensors.gathered(table, rows, config.d_model)
    })
}

/// Docid rows from given values, `[count, d_model]` row after row.
pub fn docids_from(values: Vec<f32>, d_model: usize, device: &Device) -> Embedding {
    let empty = Embedding::new(values.len() / d_model, d_model, device);
    let mut values = Some(values);
    match fill::fill(empty, |_, _| {
        Ok::<_, std::convert::Infallible>(values.take().unwrap_or_default())
    }) {
        Ok(embedding) => embedding,
        Err(never) => match never {},
    }
}

/// Docid rows as T5 initialises embeddings, the `rows` of all: `[rows, d_model]`, row after row.
pub fn random_rows(config: &T5Config, rows: Range<usize>, seed: u64) -> Vec<f32> {
    let values = rows.start * config.d_model..rows.end * config.d_model;
    initial::initial_some(config, seed, "docids.weight", values)
}

/// A docid row for each text: the mean of its tokens' rows in the output matrix.
pub fn rows_from_text(t5: &T5, texts: &[Vec<u32>]) -> Vec<f32> {
    let table = t5.lm_head.as_ref().unwrap_or(&t5.shared).weight.val().inner().into_data();
    let table: &[f32] = table.as_slice().unwrap_or_else(|_| unreachable!("parameters are f32"));
    let width = t5.config().d_model;
    texts
        .par_iter()
        .flat_map_iter(|tokens| {
            let mut mean = vec![0.0; width];
            for &token in tokens {
                let row = &table[token as usize * width..][..width];
                mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            let count = tokens.len().max(1) as f32;
            mean.into_iter().map(move |sum| sum / count)
        })
        .collect()
}

/// Scales `rows` (`[documents, d_model]`) by one factor, so that their root mean square is that of the text token rows of
/// the output matrix. Rows of zeros stay.
pub fn scale_to_text_rows(t5: &T5, rows: &mut [f32]) {
    let table = t5.lm_head.as_ref().unwrap_or(&t5.shared).weight.val().inner().into_data();
    let table: &[f32] = table.as_slice().unwrap_or_else(|_| unreachable!("parameters are f32"));
    let mean_square = |values: &[f32]| {
        let squares = values.iter().map(|value| f64::from(*value).powi(2));
        squares.sum::<f64>() / values.len().max(1) as f64
    };
    let (wanted, found) = (mean_square(table), mean_square(rows));
    if found > 0.0 {
        let factor = (wanted / found).sqrt() as f32;
        rows.iter_mut().for_each(|value| *value *= factor);
    }
}

impl GenirModel {
    /// Dotted names and sizes of the parameters that a model of this shape has, in the order of its fields.
    pub fn parameter_sizes(
        config: &T5Config,
        tied: bool,
        documents: usize,
    ) -> Vec<(String, usize)> {
        let shapes = Self::parameter_shapes(config, tied, documents).into_iter();
        shapes.map(|(name, shape)| (name, shape.iter().product())).collect()
    }

    /// Dotted names and dimensions of the parameters that a model of this shape has, in the order of its fields.
    pub fn parameter_shapes(
        config: &T5Config,
        tied: bool,
        documents: usize,
    ) -> Vec<(String, Vec<usize>)> {
        // New parameters are views of one zero: nothing of the model's size is allocated.
        let device = Device::flex();
        let docids = Embedding::new(documents, config.d_model, &device);
        fill::shapes(&GenirModel { t5: T5::zeros(config, tied, &device), docids })
    }
}

/// Returns whether a checkpoint's head is its word embedding.
///
/// # Errors
/// The two tensors cannot be read.
pub fn is_tied(tensors: &StoredTensors) -> Result<bool, WeightsError> {
    if !tensors.has_head() {
        return Ok(true);
    }
    match tensors.same("shared.weight", "lm_head.weight") {
        // Whoever reads it will miss it.
        Err(WeightsError::Missing { .. }) => Ok(false),
        same => same,
    }
}

/// The transpose of `values`, `[rows, columns]` row after row, in blocks that fit the cache.
pub(crate) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const BLOCK: usize = 32;
    let mut out = vec![0.0; values.len()];
    out.par_chunks_mut(BLOCK * rows).enumerate().for_each(|(block, out)| {
        let first = block * BLOCK;
        for start in (0..rows).step_by(BLOCK) {
            for (offset, out) in out.chunks_mut(rows).enumerate() {
                for row in start..rows.min(start + BLOCK) {
                    out[row] = values[row * columns + first + offset];
                }
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_model_of_any_width_is_measured_without_its_memory() {
        let json = r#"{"d_model": 2, "d_kv": 2, "d_ff": 1, "num_heads": 2, "num_layers": 1, "vocab_size": 9}"#;
        let small = T5Config::from_json(Path::new("config.json"), json).unwrap();
        let made = GenirModel {
            t5: T5::zeros(&small, false, &Device::flex()),
            docids: Embedding::new(3, 2, &Device::flex()),
        };
        let expected = fill::shapes(&made).into_iter();
        let expected: Vec<_> =
            expected.map(|(name, shape)| (name, shape.iter().product())).collect();
        assert_eq!(GenirModel::parameter_sizes(&small, false, 3), expected);
        // A norm alone would have 4 TiB.
        let mut wide = small;
        wide.d_model = 1 << 40;
        let sizes = GenirModel::parameter_sizes(&wide, false, 3);
        let norm = sizes.iter().find(|(name, _)| name.ends_with("final_norm.weight"));
        assert_eq!(norm.map(|(_, size)| *size), Some(1 << 40));
    }
}
