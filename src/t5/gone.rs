//! A T5 that has let go of the weights that nothing computes with any more: those before its first trained layer, once
//! all that they make is stored.

use std::sync::Arc;

use super::T5;
use super::weights::{Origin, WeightsError, fill_some, hollow, parameters_where};
use crate::component::ParameterPlace;

/// What a T5 has let go of: its encoder, and its decoder's layers before one.
#[derive(Debug, Clone)]
pub struct Gone {
    layer: usize,
    origin: Arc<Origin>,
}

impl Gone {
    /// Whether the parameter with this dotted name is among it.
    pub fn includes(&self, name: &str) -> bool {
        comes_before(self.layer, name)
    }

    /// Where it can be had again.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl T5 {
    /// Lets go of the encoder's weights and those of the decoder's layers before `layer`, if `origin` gives the very
    /// same again; otherwise keeps them. What is left goes on from stored states and residuals
    /// ([`T5::decode_from`]), and is written as the whole. With the bytes that are free now.
    ///
    /// # Errors
    /// `origin` cannot be read.
    pub fn let_go(self, layer: usize, origin: &Arc<Origin>) -> Result<(Self, usize), WeightsError> {
        let mut bytes = 0;
        for parameter in parameters_where(&self, |name| comes_before(layer, name)) {
            let values = parameter.values.into_data();
            let held: &[f32] = values.as_slice().unwrap_or_default();
            let again = origin.values(&parameter.name, &parameter.shape)?;
            let same = |(one, other): (&f32, &f32)| one.to_bits() == other.to_bits();
            if held.len() != again.len() || !held.iter().zip(&again).all(same) {
                return Ok((self, 0));
            }
            bytes += size_of_val(held);
        }
        let mut rest = hollow(self, |name| comes_before(layer, name));
        rest.gone = Some(Gone { layer, origin: origin.clone() });
        Ok((rest, bytes))
    }

    /// With all of its weights again.
    ///
    /// # Errors
    /// Where they came from cannot be read.
    pub fn whole(mut self) -> Result<Self, WeightsError> {
        match self.gone.take() {
            None => Ok(self),
            Some(gone) => fill_some(
                self,
                |name| gone.includes(name),
                |name, shape| gone.origin.values(name, shape),
            ),
        }
    }

    /// What it has let go of; none where it is whole.
    pub fn gone(&self) -> Option<&Gone> {
        self.gone.as_ref()
    }

    /// Stops a computation that needs the encoder where that is let go of. No text brings a run here: weights are let
    /// go of only where everything that is read is stored.
    pub(super) fn expect_encoder(&self) {
        assert!(
            self.gone.is_none(),
            "unreachable: a text is encoded after the encoder was let go of"
        );
    }

    /// The same for the decoder's layers from `first` on.
    pub(super) fn expect_layers(&self, first: usize) {
        let kept = self.gone.as_ref().map_or(0, |gone| gone.layer);
        assert!(
            first >= kept,
            "unreachable: decoder layer {first} is computed after it was let go of"
        );
    }
}

fn comes_before(layer: usize, name: &str) -> bool {
    ParameterPlace::of(name).is_some_and(|place| place.comes_before(layer))
}
