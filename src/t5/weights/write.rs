//! Writes a model as `model.safetensors` with Hugging Face's names.

use std::path::Path;

use super::fill::{parameters_where, shapes};
use super::names;
use super::tensor_file::{GiveValues, Put, StoredType, TensorEntry, write_tensors};
use super::{SINGLE, WeightsError, transposed};
use crate::t5::{FeedForward, GenirModel};

/// Rows of the docid matrix that other processes have, behind those of the model.
#[derive(Clone, Copy)]
pub struct OtherRows<'a> {
    /// Number of these rows.
    pub count: usize,
    /// Gives them.
    pub values: &'a GiveValues<'a>,
}

/// Writes `model.safetensors` into `directory`, its values as `stored`: docid rows behind the word rows in one matrix, or
/// the T5 alone without `with_docids`. `others` have docid rows that are not in `model`.
///
/// A tied model has one such matrix. An untied one has two; docids are never an input, so the rows of
/// `lm_head.weight` stand in `shared.weight` too. One tensor is copied at a time; released weights are read
/// from their origin, also one tensor at a time.
///
/// # Errors
/// The file cannot be written, or the origin of released weights cannot be read.
pub fn write(
    model: &GenirModel,
    directory: &Path,
    stored: StoredType,
    with_docids: bool,
    others: Option<OtherRows>,
) -> Result<(), WeightsError> {
    let gated = model.t5.config().feed_forward == FeedForward::GatedGelu;
    let docids = model.docids.weight.val().inner();
    let released = model.t5.released();
    let is_released = |name: &str| released.is_some_and(|released| released.includes(name));
    let mut held = parameters_where(&model.t5, |name| !is_released(name)).into_iter();
    let entries = shapes(&model.t5).into_iter().filter_map(|(name, mut shape)| {
        let place = names::stored(&name, gated)?;
        let reversed = |shape: &[usize]| match place.transposed {
            true => shape.iter().rev().copied().collect(),
            false => shape.to_vec(),
        };
        if let Some(released) = released.filter(|released| released.includes(&name)) {
            let (origin, in_file) = (released.origin(), reversed(&shape));
            let values = move |put: &mut Put| {
                let values = origin.values(&name, &shape)?;
                match place.transposed {
                    true => put(&transposed(&values, shape[0], shape[1])),
                    false => put(&values),
                }
            };
            let values = Box::new(values);
            return Some(TensorEntry { name: place.name, shape: in_file, values });
        }
        let values = held.next()?.values;
        let mut parts = vec![if place.transposed { values.transpose() } else { values }];
        let is_table = matches!(place.name.as_str(), "shared.weight" | "lm_head.weight");
        let others = others.filter(|_| is_table && with_docids);
        if is_table && with_docids && docids.dims()[0] > 0 {
            shape[0] += docids.dims()[0];
            parts.push(docids.clone());
        }
        shape[0] += others.map_or(0, |others| others.count);
        let entry = TensorEntry::held(place.name, reversed(&shape), parts);
        Some(match others {
            Some(others) => entry.followed_by(others.values),
            None => entry,
        })
    });
    write_tensors(&directory.join(SINGLE), entries.collect(), stored, &[])
}
