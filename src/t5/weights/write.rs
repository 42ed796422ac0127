//! Writes a model as `model.safetensors` with Hugging Face's names.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use burn::tensor::Tensor;
use safetensors::{Dtype, View};

use super::WeightsError;
use super::fill::parameters;
use super::names::stored;
use crate::t5::{FeedForward, GenirModel};

/// Writes `model.safetensors` into `directory`: f32, docid rows behind the word rows in one matrix.
///
/// A tied model has one such matrix. An untied one has two; docids are never an input, so the rows of
/// `lm_head.weight` stand in `shared.weight` too. One tensor is copied at a time.
pub fn write(model: &GenirModel, directory: &Path) -> Result<(), WeightsError> {
    let gated = model.t5.config().feed_forward == FeedForward::GatedGelu;
    let docids = model.docids.weight.val().inner();
    let entries = parameters(&model.t5).into_iter().filter_map(|parameter| {
        let place = stored(&parameter.name, gated)?;
        let mut parts = vec![match place.transposed {
            true => parameter.values.transpose(),
            false => parameter.values,
        }];
        let mut shape = parameter.shape;
        if place.transposed {
            shape.reverse();
        }
        if matches!(place.name.as_str(), "shared.weight" | "lm_head.weight") {
            shape[0] += docids.dims()[0];
            parts.push(docids.clone());
        }
        Some((place.name, Entry { shape, parts }))
    });
    let path = directory.join("model.safetensors");
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(entries, Some(metadata), &path)
        .map_err(|error| WeightsError::Write { file: path.clone(), reason: error.to_string() })
}

/// A tensor made of row blocks, turned into bytes only when it is its turn to be written.
struct Entry {
    shape: Vec<usize>,
    parts: Vec<Tensor<2>>,
}

impl View for Entry {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
        for part in &self.parts {
            bytes.extend_from_slice(part.to_data().as_bytes());
        }
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * size_of::<f32>()
    }
}
