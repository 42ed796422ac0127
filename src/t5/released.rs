//! The weights that a T5 has released, and their origin.

use std::sync::Arc;

use super::weights::Origin;
use crate::component::ParameterPlace;

/// Released weights of a T5: those of its encoder and of the decoder layers before one of them.
#[derive(Debug, Clone)]
pub struct ReleasedWeights {
    /// The first decoder layer that still has its weights.
    pub(super) layer: usize,
    pub(super) origin: Arc<Origin>,
}

impl ReleasedWeights {
    /// True if the parameter with this dotted name is released.
    pub fn includes(&self, name: &str) -> bool {
        comes_before(self.layer, name)
    }

    /// The files or the seed from which they can be restored.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// True for parameters of the encoder and of the decoder layers before `layer`.
pub(super) fn comes_before(layer: usize, name: &str) -> bool {
    ParameterPlace::of(name).is_some_and(|place| place.comes_before(layer))
}
