//! The frozen prefix of the model, and its output.

use std::fmt;

use burn::tensor::Tensor;

use crate::component::{ParameterPlace, Stack};
use crate::t5::{EncoderStates, NoTap, Pass, T5, Tokens};

/// The part of a model that comes before every trained parameter: the word embedding, the encoder, and the
/// decoder layers before the first one that is trained.
///
/// It is a fixed function of the text: it runs without dropout, as frozen modules in evaluation mode do, and off
/// the autodiff graph. Dropout acts in what comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrozenPrefix {
    layer: usize,
    depth: usize,
}

/// Output of the frozen prefix for a batch, the input of the rest of the model.
#[derive(Debug, Clone)]
pub struct PrefixOutput {
    /// The decoder layer to go on with; the number of layers where none is trained.
    pub layer: usize,
    /// The decoder's residual stream before it, `[batch, d_model]`.
    pub residual: Tensor<2>,
    /// The encoder states that cross-attention reads.
    pub states: EncoderStates,
}

impl FrozenPrefix {
    /// The frozen prefix of a model with `depth` decoder layers in which the parameters of these dotted names are
    /// trained; none where a parameter of the encoder or the word embedding is.
    pub fn of<'a>(trained: impl IntoIterator<Item = &'a str>, depth: usize) -> Option<Self> {
        let mut layer = depth;
        for name in trained {
            // A parameter that no place is known for may be read by anything.
            match ParameterPlace::of(name)? {
                ParameterPlace::SharedEmbedding => return None,
                place if place.stack() == Some(Stack::Encoder) => return None,
                ParameterPlace::Layer { layer: own, .. } => layer = layer.min(own),
                // T5 keeps it in the first layer.
                ParameterPlace::RelativeBias(_) => layer = 0,
                ParameterPlace::FinalNorm(_) | ParameterPlace::Docids | ParameterPlace::Head => {}
            }
        }
        Some(Self { layer, depth })
    }

    /// The encoder alone, with the embedding of the decoder's start token.
    pub fn encoder(depth: usize) -> Self {
        Self { layer: 0, depth }
    }

    /// The decoder layer that the rest of the model begins with; the number of layers where none is trained.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Returns whether the prefix computes with the parameter of this dotted name when the decoder has one position.
    pub(super) fn computes_with(&self, name: &str) -> bool {
        ParameterPlace::of(name).is_some_and(|place| {
            place == ParameterPlace::SharedEmbedding || place.comes_before(self.layer)
        })
    }

    /// Computes the prefix of `t5`, whose weights and `tokens` are on one device without autodiff.
    pub fn compute(&self, t5: &T5, tokens: &Tokens) -> PrefixOutput {
        let mut tap = NoTap;
        let mut pass = Pass::evaluate(&mut tap);
        let states = t5.encode(tokens, &mut pass);
        let residual = t5.residual_before(self.layer, &states, &mut pass);
        PrefixOutput { layer: self.layer, residual, states }
    }
}

impl fmt::Display for FrozenPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            0 => f.write_str("encoder"),
            1 => f.write_str("encoder and decoder layer 0"),
            all if all == self.depth => f.write_str("encoder and all decoder layers"),
            some => write!(f, "encoder and decoder layers 0-{}", some - 1),
        }
    }
}

impl PrefixOutput {
    /// The decoder's output, `[batch, d_model]`: what comes after the prefix.
    pub fn output(self, t5: &T5, pass: &mut Pass) -> Tensor<2> {
        t5.decode_from(self.layer, self.residual, &self.states, pass)
    }

    /// The same as constants on the autodiff graph.
    pub fn on_graph(self) -> Self {
        let EncoderStates { rows, batch, mask } = self.states;
        Self {
            layer: self.layer,
            residual: Tensor::from_inner(self.residual),
            states: EncoderStates {
                rows: Tensor::from_inner(rows),
                batch,
                mask: mask.map(Tensor::from_inner),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_ends_before_the_lowest_trained_parameter() {
        let layer = |trained: &[&str]| {
            FrozenPrefix::of(trained.iter().copied(), 4).map(|frozen| frozen.layer())
        };
        let third = "t5.decoder.layers.3.mlp.input.weight";
        let first = "t5.decoder.layers.1.cross_attention.query.weight";
        assert_eq!(layer(&[third, first, "docids.weight"]), Some(1));
        assert_eq!(layer(&[third]), Some(3));
        assert_eq!(layer(&["docids.weight"]), Some(4));
        assert_eq!(layer(&["t5.decoder.final_norm.weight", "t5.lm_head.weight"]), Some(4));
        assert_eq!(layer(&["t5.decoder.relative_bias.weight"]), Some(0));
        for of_the_encoder in [
            "t5.shared.weight",
            "t5.encoder.relative_bias.weight",
            "t5.encoder.final_norm.weight",
            "t5.encoder.layers.0.mlp.norm.weight",
            "a.parameter.to.come",
        ] {
            assert_eq!(layer(&[third, of_the_encoder]), None, "{of_the_encoder}");
        }
    }

    #[test]
    fn a_prefix_says_what_it_is() {
        let said = |layer| FrozenPrefix { layer, depth: 3 }.to_string();
        assert_eq!(said(0), "encoder");
        assert_eq!(said(1), "encoder and decoder layer 0");
        assert_eq!(said(2), "encoder and decoder layers 0-1");
        assert_eq!(said(3), "encoder and all decoder layers");
    }
}
