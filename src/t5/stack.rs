//! Encoder and decoder: layers of attention and MLP over a residual stream.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::attention::{AttentionBlock, Bias, RelativeBias};
use super::config::T5Config;
use super::layers::{Mlp, RmsNorm};
use super::pass::{LayerContext, Pass};
use super::tap::Hook;
use crate::component::Stack;
use crate::device::pad_to_multiple_of;

/// Added to the scores of positions that must not be attended: with it in f32 their weight is exactly 0.
const MASKED: f32 = -1e9;

/// A padded batch of token sequences on a device.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// `[batch * length]`, row after row.
    pub ids: Tensor<1, Int>,
    /// Sequences.
    pub batch: usize,
    /// Positions of each, padding included.
    pub length: usize,
    /// `[batch, 1, 1, length]`: 0 at tokens, a large negative number at padding; none without padding.
    pub mask: Option<Tensor<4>>,
}

impl Tokens {
    /// Pads `texts` on the right to one length and moves them to `device`.
    pub fn padded(texts: &[&[u32]], pad_id: u32, device: &Device) -> Self {
        let lengths: Vec<u32> = texts.iter().map(|tokens| tokens.len() as u32).collect();
        let length = padded_length(&lengths, device);
        let mut ids = Vec::with_capacity(texts.len() * length);
        for (row, tokens) in texts.iter().enumerate() {
            ids.extend(tokens.iter().map(|&id| id as i32));
            ids.resize((row + 1) * length, pad_id as i32);
        }
        Self::new(&ids, &lengths, device)
    }

    /// Moves `ids` (`[batch * length]`, padded on the right) to `device`; `lengths` counts each row's tokens.
    pub fn new(ids: &[i32], lengths: &[u32], device: &Device) -> Self {
        let batch = lengths.len();
        let length = ids.len() / batch.max(1);
        let mask = padding_mask(lengths, length, device);
        let ids = Tensor::from_data(TensorData::new(ids.to_vec(), [ids.len()]), device);
        Self { ids, batch, length, mask }
    }
}

/// The length that a batch of texts of these lengths is padded to on `device`.
pub fn padded_length(lengths: &[u32], device: &Device) -> usize {
    let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
    longest.next_multiple_of(pad_to_multiple_of(device))
}

/// The additive attention mask of `length` positions, `[batch, 1, 1, length]`, which masks the padding after each row's
/// `lengths`; none if nothing is masked.
pub fn padding_mask(lengths: &[u32], length: usize, device: &Device) -> Option<Tensor<4>> {
    let padded = lengths.iter().any(|&tokens| (tokens as usize) < length);
    padded.then(|| {
        let values: Vec<f32> = lengths
            .iter()
            .flat_map(|&tokens| {
                (0..length).map(move |at| if at < tokens as usize { 0.0 } else { MASKED })
            })
            .collect();
        Tensor::from_data(TensorData::new(values, [lengths.len(), 1, 1, length]), device)
    })
}

/// The encoder's output for a batch, the input of cross-attention.
#[derive(Debug, Clone)]
pub struct EncoderStates {
    /// `[batch * length, d_model]`, after the final RMSNorm.
    pub rows: Tensor<2>,
    /// Examples.
    pub batch: usize,
    /// `[batch, 1, 1, length]` as in [`Tokens`].
    pub mask: Option<Tensor<4>>,
}

/// One encoder layer.
#[derive(Module, Debug)]
pub struct EncoderLayer {
    /// Self-attention.
    pub self_attention: AttentionBlock,
    /// MLP.
    pub mlp: Mlp,
}

/// The encoder.
#[derive(Module, Debug)]
pub struct Encoder {
    /// Bias of all layers' self-attention.
    pub relative_bias: RelativeBias,
    /// Layers, first to last.
    pub layers: Vec<EncoderLayer>,
    /// RMSNorm of the output.
    pub final_norm: RmsNorm,
}

impl Encoder {
    pub(super) fn new(config: &T5Config, device: &Device) -> Self {
        let layer = |_| EncoderLayer {
            self_attention: AttentionBlock::new(config, device),
            mlp: Mlp::new(config, device),
        };
        Self {
            relative_bias: RelativeBias::new(config, true, device),
            layers: (0..config.num_layers).map(layer).collect(),
            final_norm: RmsNorm::new(config, device),
        }
    }

    /// From embeddings `[batch * length, d_model]` to states of the same shape.
    pub(super) fn forward(
        &self,
        embeddings: Tensor<2>,
        batch: usize,
        mask: Option<Tensor<4>>,
        pass: &mut Pass,
    ) -> EncoderStates {
        let length = embeddings.dims()[0] / batch;
        let start = LayerContext { stack: Stack::Encoder, layer: 0, batch };
        let bias = Bias { position: self.relative_bias.forward(length), mask: mask.clone() };
        let embeddings = pass.stream(start, Hook::Embed, embeddings);
        let mut x = pass.dropout(embeddings); // [batch * length, d_model]
        for (layer, block) in self.layers.iter().enumerate() {
            let at = LayerContext { layer, ..start };
            x = pass.stream(at, Hook::ResidualPre, x);
            x = x.clone()
                + pass.output_of(at, Hook::AttentionOut, x, |x, pass| {
                    block.self_attention.self_attention(x, || bias.clone(), at, pass)
                });
            x = pass.stream(at, Hook::ResidualMid, x);
            x = x.clone()
                + pass.output_of(at, Hook::MlpOut, x, |x, pass| block.mlp.forward(x, at, pass));
            x = pass.stream(at, Hook::ResidualPost, x);
        }
        let rows = pass.dropout(self.final_norm.forward(x));
        EncoderStates { rows: pass.stream(start, Hook::Final, rows), batch, mask }
    }
}

/// One decoder layer.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Self-attention.
    pub self_attention: AttentionBlock,
    /// Cross-attention.
    pub cross_attention: AttentionBlock,
    /// MLP.
    pub mlp: Mlp,
}

/// The decoder, for any target length; one token takes a short path (see `AttentionBlock::self_attention`).
#[derive(Module, Debug)]
pub struct Decoder {
    /// Bias of all layers' self-attention.
    pub relative_bias: RelativeBias,
    /// Layers, first to last.
    pub layers: Vec<DecoderLayer>,
    /// RMSNorm of the output.
    pub final_norm: RmsNorm,
}

impl Decoder {
    pub(super) fn new(config: &T5Config, device: &Device) -> Self {
        let layer = |_| DecoderLayer {
            self_attention: AttentionBlock::new(config, device),
            cross_attention: AttentionBlock::new(config, device),
            mlp: Mlp::new(config, device),
        };
        Self {
            relative_bias: RelativeBias::new(config, false, device),
            layers: (0..config.num_decoder_layers).map(layer).collect(),
            final_norm: RmsNorm::new(config, device),
        }
    }

    /// From embeddings `[batch * target, d_model]` to the decoder's output of the same shape, after its
    /// final RMSNorm. `mask`, `[batch, 1, 1, target]`, hides padding among the targets.
    pub(super) fn forward(
        &self,
        embeddings: Tensor<2>,
        mask: Option<Tensor<4>>,
        states: &EncoderStates,
        pass: &mut Pass,
    ) -> Tensor<2> {
        let start = LayerContext { stack: Stack::Decoder, layer: 0, batch: states.batch };
        let embeddings = pass.stream(start, Hook::Embed, embeddings);
        let x = pass.dropout(embeddings); // [batch * target, d_model]
        self.forward_from(0, x, mask, states, pass)
    }

    /// From the residual stream before layer `first`, `[batch * target, d_model]`, to the decoder's output.
    pub(super) fn forward_from(
        &self,
        first: usize,
        x: Tensor<2>,
        mask: Option<Tensor<4>>,
        states: &EncoderStates,
        pass: &mut Pass,
    ) -> Tensor<2> {
        let x = self.through(first..self.layers.len(), x, mask, states, pass);
        let x = pass.dropout(self.final_norm.forward(x));
        let end = LayerContext { stack: Stack::Decoder, layer: 0, batch: states.batch };
        pass.stream(end, Hook::Final, x)
    }

    /// The residual stream `[batch * target, d_model]` from before the first of `layers` to after the last.
    pub(super) fn through(
        &self,
        layers: Range<usize>,
        mut x: Tensor<2>,
        mask: Option<Tensor<4>>,
        states: &EncoderStates,
        pass: &mut Pass,
    ) -> Tensor<2> {
        let batch = states.batch;
        let target = x.dims()[0] / batch;
        // Computed once, and only if a layer computes self-attention scores.
        let mut bias = None;
        for layer in layers {
            let block = &self.layers[layer];
            let at = LayerContext { stack: Stack::Decoder, layer, batch };
            x = pass.stream(at, Hook::ResidualPre, x);
            let bias = || bias.get_or_insert_with(|| self.causal_bias(target, &mask)).clone();
            x = x.clone()
                + pass.output_of(at, Hook::AttentionOut, x, |x, pass| {
                    block.self_attention.self_attention(x, bias, at, pass)
                });
            x = pass.stream(at, Hook::ResidualMid, x);
            x = x.clone()
                + pass.output_of(at, Hook::CrossAttentionOut, x, |x, pass| {
                    let (rows, hidden) = (states.rows.clone(), states.mask.clone());
                    block.cross_attention.cross_attention(x, rows, hidden, at, pass)
                });
            x = pass.stream(at, Hook::ResidualMidCross, x);
            x = x.clone()
                + pass.output_of(at, Hook::MlpOut, x, |x, pass| block.mlp.forward(x, at, pass));
            x = pass.stream(at, Hook::ResidualPost, x);
        }
        x
    }

    /// Position bias with the causal mask, and the padding mask.
    fn causal_bias(&self, target: usize, mask: &Option<Tensor<4>>) -> Bias {
        let bias = self.relative_bias.forward(target); // [1, heads, target, target]
        let hidden: Vec<f32> = (0..target)
            .flat_map(|at| (0..target).map(move |seen| if seen <= at { 0.0 } else { MASKED }))
            .collect();
        let hidden = TensorData::new(hidden, [1, 1, target, target]);
        let position = bias.clone() + Tensor::from_data(hidden, &bias.device());
        Bias { position, mask: mask.clone() }
    }
}
