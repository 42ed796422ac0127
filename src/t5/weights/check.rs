//! Checks a checkpoint's tensors against those of a model by the headers of its files: no value is read.

use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};
use std::path::Path;

use super::fill::shapes;
use burn::tensor::Device;

use super::names::stored;
use super::{StoredTensors, WeightsError};
use crate::device::{ComputeDevice, is_host};
use crate::run::available_to_process;
use crate::t5::{FeedForward, GenirModel, T5, T5Config};

const SHARED: &str = "shared.weight";

/// Tensors of one kind of problem that are named; a wrong size in `config.json` makes a problem of every layer.
const NAMED: usize = 5;

/// All that is wrong with the tensors of a checkpoint for a T5 of this configuration: those that are missing, of
/// another shape or type, and those of a stack that the configuration has no place for. `docids` are rows of its
/// output matrix that will be read too.
pub fn problems(
    tensors: &StoredTensors,
    config: &T5Config,
    tied: bool,
    docids: &[u32],
) -> Vec<WeightsError> {
    let gated = config.feed_forward == FeedForward::GatedGelu;
    let mut found = Vec::new();
    let mut expected = HashSet::new();
    // New parameters are views of one zero: nothing of the model's size is allocated.
    for (name, mut shape) in shapes(&T5::zeros(config, tied, &Device::flex())) {
        let Some(place) = stored(&name, gated) else { continue };
        let checked = match (place.name.as_str(), &shape[..]) {
            (table @ ("shared.weight" | "lm_head.weight"), &[words, width]) => {
                // Docids are rows of the output matrix.
                let is_output = tied || table == "lm_head.weight";
                tensors.check_embedding(table, words, width, if is_output { docids } else { &[] })
            }
            (other, _) => {
                if place.transposed {
                    shape.reverse();
                }
                tensors.check(other, &shape)
            }
        };
        found.extend(checked.err());
        expected.insert(place.name);
    }
    found.extend(tensors.unexpected(&expected));
    summarised(found, tensors)
}

/// As [`problems`], as one error.
pub(crate) fn check(
    tensors: &StoredTensors,
    config: &T5Config,
    tied: bool,
    docids: &[u32],
) -> Result<(), WeightsError> {
    let mut found = problems(tensors, config, tied, docids);
    match found.len() {
        0 => Ok(()),
        1 => Err(found.remove(0)),
        _ => Err(WeightsError::Several(found)),
    }
}

/// Checks that a model of this configuration fits into the memory that the process can have, if `device` is the host:
/// that of a GPU is not known here. `directory` is where the model comes from.
pub(crate) fn check_memory(
    directory: &Path,
    config: &T5Config,
    tied: bool,
    documents: usize,
    device: &ComputeDevice,
) -> Result<(), WeightsError> {
    let Some(available) = available_to_process().filter(|_| is_host(&device.device)) else {
        return Ok(());
    };
    // A tensor cannot be without rows.
    let sizes = GenirModel::parameter_sizes(config, tied, documents.max(1)).into_iter();
    let needed = sizes.map(|(_, size)| (size * size_of::<f32>()) as u64).sum::<u64>();
    match needed <= available {
        true => Ok(()),
        false => Err(WeightsError::Memory {
            directory: directory.to_owned(),
            needed: needed >> 20,
            available: available >> 20,
        }),
    }
}

/// Warns of tensors that are not read, and of an embedding with many more rows than the tokenizer has tokens.
pub(crate) fn warn_of_unread(
    tensors: &StoredTensors,
    config: &T5Config,
    tied: bool,
    docids: &[u32],
) {
    /// More rows without a token than embeddings are padded with.
    const SPARE: usize = 1000;
    let directory = tensors.directory().display();
    let gated = config.feed_forward == FeedForward::GatedGelu;
    let parameters = shapes(&T5::zeros(config, tied, &Device::flex()));
    let places = parameters.iter().filter_map(|(name, _)| stored(name, gated));
    let mut expected: HashSet<String> = places.map(|place| place.name).collect();
    // Where the head is tied, both of its names are read.
    expected.insert("lm_head.weight".to_owned());
    let ignored = tensors.ignored(&expected);
    if let Some(first) = ignored.first() {
        let count = ignored.len();
        tracing::warn!("{directory}: {count} tensors of no T5 are not read, such as `{first}`");
    }
    let words = config.vocab_size;
    let used = docids.iter().map(|&row| row as usize + 1).max().unwrap_or(0).max(words);
    if let Some(rows) = tensors.stored_rows(SHARED).filter(|&rows| rows > used + SPARE) {
        tracing::warn!(
            "{directory}: the embedding has {rows} rows and the tokenizer {words} tokens{}: is it the tokenizer of \
             another model?",
            if docids.is_empty() { "" } else { " and docids" }
        );
    }
}

/// The first few problems of each kind, and how many more there are.
fn summarised(found: Vec<WeightsError>, tensors: &StoredTensors) -> Vec<WeightsError> {
    let mut kinds: Vec<(Discriminant<WeightsError>, Vec<WeightsError>)> = Vec::new();
    for problem in found {
        let kind = discriminant(&problem);
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, problems)) => problems.push(problem),
            None => kinds.push((kind, vec![problem])),
        }
    }
    let mut summary = Vec::new();
    for (_, mut problems) in kinds {
        let count = problems.len().saturating_sub(NAMED);
        problems.truncate(NAMED);
        summary.extend(problems);
        if count > 0 {
            let directory = tensors.directory().to_owned();
            summary.push(WeightsError::More { directory, count });
        }
    }
    summary
}
