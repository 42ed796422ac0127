//! P3, stage patching (Tab. 3): which queries are lost when a component's output is replaced in a stage.

use serde::{Deserialize, Serialize};

use super::RankShift;
use crate::choice::choice;
use crate::component::{Component, Stage};

choice! {
    /// What stands in for an activation.
    Replacement {
        /// Nothing.
        Zero = "zero",
        /// Its mean over the correct queries.
        Mean = "mean",
        /// Its value in the base model on the same input.
        Base = "base",
    }
}

/// Ranks with each component replaced in each stage, and with what else was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagePatching {
    /// The paper's table first: by replacement, component and stage.
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
    pub replacement: Replacement,
    #[serde(flatten)]
    pub ranks: RankShift,
}
