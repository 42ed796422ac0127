//! Writes a model as `model.safetensors` with Hugging Face's names.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use burn::tensor::Tensor;
use safetensors::{Dtype, View};

use super::fill::{parameters_where, shapes};
use super::names::stored;
use super::{Origin, WeightsError, transposed};
use crate::t5::{FeedForward, GenirModel};

/// Values that are copied at once to be written.
const BLOCK: usize = 1 << 20;

/// Writes `model.safetensors` into `directory`: f32, docid rows behind the word rows in one matrix.
///
/// A tied model has one such matrix. An untied one has two; docids are never an input, so the rows of
/// `lm_head.weight` stand in `shared.weight` too. One tensor is copied at a time; what the T5 has let go of is read
/// from where it came from, one tensor at a time too.
pub fn write(model: &GenirModel, directory: &Path) -> Result<(), WeightsError> {
    let gated = model.t5.config().feed_forward == FeedForward::GatedGelu;
    let docids = model.docids.weight.val().inner();
    let gone = model.t5.gone();
    let is_gone = |name: &str| gone.is_some_and(|gone| gone.includes(name));
    let mut held = parameters_where(&model.t5, |name| !is_gone(name)).into_iter();
    let failed = RefCell::new(None);
    let entries = shapes(&model.t5).into_iter().filter_map(|(name, mut shape)| {
        let place = stored(&name, gated)?;
        let values = match gone.filter(|gone| gone.includes(&name)) {
            Some(gone) => Values::Gone {
                origin: gone.origin(),
                name,
                shape: shape.clone(),
                transposed: place.transposed,
                failed: &failed,
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
    let path = directory.join("model.safetensors");
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let written = safetensors::serialize_to_file(entries, Some(metadata), &path);
    match failed.take() {
        Some(error) => Err(error),
        None => written
            .map_err(|error| WeightsError::Write { file: path.clone(), reason: error.to_string() }),
    }
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
    Gone {
        origin: &'a Origin,
        name: String,
        /// Its dimensions as we have it, and whether the file has its transpose.
        shape: Vec<usize>,
        transposed: bool,
        /// What went wrong: a view's bytes cannot be an error.
        failed: &'a RefCell<Option<WeightsError>>,
    },
}

impl View for Entry<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
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
            Values::Gone { origin, name, shape, transposed: turn, failed } => {
                match origin.values(name, shape) {
                    Ok(values) => {
                        let turned = turn.then(|| transposed(&values, shape[0], shape[1]));
                        let values = turned.unwrap_or(values);
                        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                    }
                    Err(error) => {
                        failed.borrow_mut().get_or_insert(error);
                        bytes.resize(self.data_len(), 0);
                    }
                }
            }
        }
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * size_of::<f32>()
    }
}
