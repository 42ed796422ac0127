//! P3 (Tab. 3): ranks after zero ablation, mean ablation or base-model patching of one component in one stage.

use serde::{Deserialize, Serialize};

use super::context::{ProbeAccumulator, ProbeContext, ProbedBatch};
use super::overlap::Applied;
use super::patch::{Patch, PatchedPart};
use super::{ProbeResult, RankShift};
use crate::choice::choice;
use crate::component::{Component, Stage};
use crate::processes::ProcessesError;

choice! {
    /// The replacement of an activation.
    Replacement {
        /// Zero ablation.
        Zero = "zero",
        /// Mean ablation: the mean over the measured queries (see [`super::Over`]).
        Mean = "mean",
        /// Base-model patching: the activation of the base model for the same input.
        Base = "base",
    }
}

/// Ranks after patching each component in each stage, and after the user-defined patches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagePatching {
    /// The paper's table, by replacement, component and stage (if the decoder has stages); then the user-defined
    /// patches, by selector and replacement.
    pub cells: Vec<PatchedCell>,
}

/// Ranks after one intervention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PatchedCell {
    /// The selector of the replaced outputs, such as `decoder.mlp[II]`.
    pub selector: String,
    /// The component; none for user-defined patches.
    pub component: Option<Component>,
    /// The stage; none for user-defined patches.
    pub stage: Option<Stage>,
    /// The replacement of the output.
    pub replacement: Replacement,
    /// Ranks of the relevant docid.
    #[serde(flatten)]
    pub ranks: RankShift,
}

/// Ranks after each intervention, collected over batches.
pub(super) struct Accumulator {
    cells: Vec<Cell>,
}

struct Cell {
    /// Component and stage in the paper's table; none for user-defined patches.
    place: Option<(Component, Stage)>,
    patch: Patch,
    applied: Applied,
    ranks: Vec<u32>,
}

impl Accumulator {
    /// Prepares the paper's cells (if the decoder has stages) and each of `parts`, with every replacement; base-model
    /// patching only if there is a base model.
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
    /// Ranks by cell.
    type OfBatch = Vec<Vec<u32>>;

    fn measure(&self, context: &ProbeContext, batch: &ProbedBatch) -> Vec<Vec<u32>> {
        let outputs = self.cells.iter().map(|cell| context.patched_output(batch, &cell.applied));
        context.lens().output_ranks(outputs.collect(), &batch.targets)
    }

    fn add(&mut self, found: Vec<Vec<u32>>) {
        self.cells.iter_mut().zip(found).for_each(|(cell, ranks)| cell.ranks.extend(ranks));
    }

    fn finish(self: Box<Self>, context: &ProbeContext) -> Result<ProbeResult, ProcessesError> {
        let cell = |cell: Cell| PatchedCell {
            component: cell.place.map(|(component, _)| component),
            stage: cell.place.map(|(_, stage)| stage),
            selector: cell.patch.part.selector,
            replacement: cell.patch.replacement,
            ranks: RankShift::of(cell.ranks, context.options.per_query),
        };
        let cells = self.cells.into_iter().map(cell).collect();
        Ok(ProbeResult::StagePatching(StagePatching { cells }))
    }
}
