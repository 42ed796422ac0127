//! Releases the weights before the first trained layer, which are no longer needed once their outputs are stored.

use std::sync::Arc;

use super::T5;
use super::released::{ReleasedWeights, comes_before};
use super::weights::{Origin, WeightsError, fill_some, parameters_where, with_placeholders};

impl T5 {
    /// Releases the weights of the encoder and of the decoder layers before `layer`, and returns the bytes that are
    /// freed. Nothing is released (0 bytes) unless `origin` reproduces these weights bit for bit.
    ///
    /// The model can then only continue from stored encoder states and residual streams ([`T5::decode_from`]).
    /// Checkpoints of it are complete: released weights are read from their origin.
    ///
    /// # Errors
    /// `origin` cannot be read.
    pub fn release_before(
        self,
        layer: usize,
        origin: &Arc<Origin>,
    ) -> Result<(Self, usize), WeightsError> {
        let mut bytes = 0;
        for parameter in parameters_where(&self, |name| comes_before(layer, name)) {
            let values = parameter.values.into_data();
            let held: &[f32] = values.as_slice().unwrap_or_default();
            let original = origin.values(&parameter.name, &parameter.shape)?;
            let same = |(one, other): (&f32, &f32)| one.to_bits() == other.to_bits();
            if held.len() != original.len() || !held.iter().zip(&original).all(same) {
                return Ok((self, 0));
            }
            bytes += size_of_val(held);
        }
        let mut rest = with_placeholders(self, |name| comes_before(layer, name));
        rest.released = Some(ReleasedWeights { layer, origin: origin.clone() });
        Ok((rest, bytes))
    }

    /// The same T5 with all released weights restored from their origin.
    ///
    /// # Errors
    /// The origin cannot be read.
    pub fn restored(mut self) -> Result<Self, WeightsError> {
        match self.released.take() {
            None => Ok(self),
            Some(released) => fill_some(
                self,
                |name| released.includes(name),
                |name, shape| released.origin.values(name, shape),
            ),
        }
    }

    /// The weights that are released; none if the model has all of its weights.
    pub fn released(&self) -> Option<&ReleasedWeights> {
        self.released.as_ref()
    }

    /// Panics if the encoder's weights are released. No input leads here: weights are released only if the outputs
    /// for all texts of the run are stored.
    pub(super) fn expect_encoder(&self) {
        assert!(
            self.released.is_none(),
            "unreachable: a text is encoded after the encoder was released"
        );
    }

    /// Panics if a decoder layer from `first` on is released; see [`Self::expect_encoder`].
    pub(super) fn expect_layers(&self, first: usize) {
        let available = self.released.as_ref().map_or(0, |released| released.layer);
        assert!(
            first >= available,
            "unreachable: decoder layer {first} is computed after it was released"
        );
    }
}
