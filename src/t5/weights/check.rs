//! Checks a checkpoint's tensors against those of a model by the headers of its files: no value is read.

use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};

use super::fill::shapes;
use burn::tensor::Device;

use super::names::stored;
use super::{StoredTensors, WeightsError};
use crate::t5::{FeedForward, T5, T5Config};

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
