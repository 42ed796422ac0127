//! The weight of each part of an update's batches.

use super::super::plan::Plan;
use crate::task::{BatchPart, PartExamples};

/// The share of an update's gradients that each of its parts has. Every example has the same weight among the others of
/// its update, whichever batch it is in; among the labels of denoising, which are several an example, every label has.
pub(super) struct Shares {
    /// Examples of the update.
    examples: f64,
    /// Examples of denoising, and their labels.
    texts: f64,
    labels: f64,
    /// Of each part: its examples, and its labels where it is one of denoising.
    parts: Vec<(f64, Option<f64>)>,
}

impl Shares {
    pub fn of(parts: &[BatchPart], plan: &Plan) -> Self {
        let denoising = &plan.recipe.task.options().denoising;
        let labels = |&(example, _): &(u32, u64)| {
            denoising.counts(plan.examples.tokens(example as usize).len()).target() as f64
        };
        let parts: Vec<(f64, Option<f64>)> = parts
            .iter()
            .map(|part| match &part.examples {
                PartExamples::Docids(examples) => (examples.len() as f64, None),
                PartExamples::Denoising(examples) => {
                    (examples.len() as f64, Some(examples.iter().map(labels).sum()))
                }
            })
            .collect();
        let of_texts = || parts.iter().filter(|(_, labels)| labels.is_some());
        Self {
            examples: parts.iter().map(|(examples, _)| examples).sum(),
            texts: of_texts().map(|(examples, _)| examples).sum(),
            labels: of_texts().filter_map(|(_, labels)| *labels).sum(),
            parts,
        }
    }

    pub fn of_part(&self, at: usize) -> f64 {
        match self.parts[at] {
            (examples, None) => examples / self.examples,
            (_, Some(labels)) => labels / self.labels * (self.texts / self.examples),
        }
    }
}
