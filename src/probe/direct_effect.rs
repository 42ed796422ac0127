//! P2b, direct effect: how far one type of component leads by itself.

use serde::{Deserialize, Serialize};

use super::RankShift;
use crate::component::Component;

/// Ranks under logits from the outputs of one type of component, summed over all layers. The outputs are those of
/// an unpatched pass; the start embedding is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DirectEffect {
    /// For MLPs and for cross-attention.
    pub effects: Vec<EffectOfType>,
}

/// The ranks that one type of component leads to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EffectOfType {
    pub component: Component,
    #[serde(flatten)]
    pub ranks: RankShift,
}
