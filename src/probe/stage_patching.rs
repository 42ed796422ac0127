//! P3, stage patching (Tab. 3): which queries are lost when a component's output is replaced in a stage.

use serde::{Deserialize, Serialize};

use super::context::{ProbeAccumulator, ProbeContext, ProbedBatch};
use super::overlap::Applied;
use super::patch::{Patch, PatchedPart};
use super::{ProbeResult, RankShift};
use crate::choice::choice;
use crate::component::{Component, Stage};

choice! {
    /// What stands in for an activation.
    Replacement {
        /// Nothing.
        Zero = "zero",
        /// Its mean over the measured queries: the correct ones, unless asked otherwise.
        Mean = "mean",
        /// Its value in the base model on the same input.
        Base = "base",
    }
}

/// Ranks with each component replaced in each stage, and with what else was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagePatching {
    /// The paper's table first, by replacement, component and stage, where the decoder has stages; then what else was asked for, by selector and
    /// replacement.
    pub cells: Vec<PatchedCell>,
}

/// The ranks after one intervention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PatchedCell {
    /// The selector of what is replaced: `decoder.mlp[II]`.
    pub selector: String,
    /// Of the paper's cells only.
    pub component: Option<Component>,
    /// Of the paper's cells only.
    pub stage: Option<Stage>,
    /// What replaces the output.
    pub replacement: Replacement,
    /// Ranks of the relevant docid.
    #[serde(flatten)]
    pub ranks: RankShift,
}

/// The probe while it measures: ranks after each intervention.
pub(super) struct Accumulator {
    cells: Vec<Cell>,
}

struct Cell {
    /// The paper's, or none for what was asked for beside it.
    place: Option<(Component, Stage)>,
    patch: Patch,
    applied: Applied,
    ranks: Vec<u32>,
}

impl Accumulator {
    /// Prepares the paper's cells where the decoder has stages, and each of `parts`, with every replacement that can be had.
    pub fn new(context: &ProbeContext, parts: Vec<PatchedPart>) -> Self {
        let replacements = || {
            let all = Replacement::ALL.iter().copied();
            all.filter(|how| *how != Replacement::Base || context.base.is_some())
        };
        let mut cells = Vec::new();
        let mut add = |place, part: PatchedPart, replacement| {
            let patch = Patch { part, replacement };
            let applied = Applied::new(std::slice::from_ref(&patch), context.model.t5.config());
            cells.push(Cell { place, patch, applied, ranks: Vec::new() });
        };
        if let Some(stages) = &context.options.stages {
            for replacement in replacements() {
                for component in Component::ALL {
                    for stage in Stage::ALL {
                        let part = PatchedPart::of_stage(component, stage, stages);
                        add(Some((component, stage)), part, replacement);
                    }
                }
            }
        }
        for part in parts {
            replacements().for_each(|replacement| add(None, part.clone(), replacement));
        }
        Self { cells }
    }
}

impl ProbeAccumulator for Accumulator {
    fn add_batch(&mut self, context: &ProbeContext, batch: &ProbedBatch) {
        let outputs = self.cells.iter().map(|cell| context.patched_output(batch, &cell.applied));
        let ranks = context.lens().output_ranks(outputs.collect(), &batch.targets);
        self.cells.iter_mut().zip(ranks).for_each(|(cell, ranks)| cell.ranks.extend(ranks));
    }

    fn finish(self: Box<Self>, context: &ProbeContext) -> ProbeResult {
        let cell = |cell: Cell| PatchedCell {
            component: cell.place.map(|(component, _)| component),
            stage: cell.place.map(|(_, stage)| stage),
            selector: cell.patch.part.selector,
            replacement: cell.patch.replacement,
            ranks: RankShift::of(cell.ranks, context.options.per_query),
        };
        let cells = self.cells.into_iter().map(cell).collect();
        ProbeResult::StagePatching(StagePatching { cells })
    }
}
