//! The smallest parts of a T5: linear map, embedding, RMSNorm, MLP.
//!
//! Activations are carried as rows, `[batch * position, width]`: a rank-3 linear makes its weight gradient
//! per example and sums it afterwards (Burn 0.22.1), which costs 3.7 times the time of the flat one.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};

use super::config::{FeedForward, T5Config};
use super::lora::LoraFactors;
use super::pass::{LayerContext, Pass};
use super::tap::Hook;
use crate::device::Precision;
use crate::ops::{WeightLayout, gated_gelu, linear, relu, rms_norm};

/// A linear map without bias, as everywhere in T5.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[in, out]`: the transpose of what checkpoints hold, so that gradients come out contiguous.
    pub weight: Param<Tensor<2>>,
    /// Low-rank factors that are trained in its place, if it is adapted.
    pub lora: Option<LoraFactors>,
}

impl Linear {
    pub(super) fn new(input: usize, output: usize, device: &Device) -> Self {
        Self { weight: empty([input, output], device), lora: None }
    }

    /// `[rows, in] -> [rows, out]`; `precision` is that of a product on a GPU.
    pub fn forward(&self, x: Tensor<2>, precision: Precision) -> Tensor<2> {
        self.adapted().multiply(x, precision)
    }
}

/// A table of rows looked up by token, and the output matrix of tied models.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[tokens, d_model]`
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    pub(super) fn new(rows: usize, d_model: usize, device: &Device) -> Self {
        Self { weight: empty([rows, d_model], device) }
    }

    /// `[n] -> [n, d_model]`
    pub fn forward(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let [n] = ids.dims();
        let rows = burn::tensor::module::embedding(self.weight.val(), ids.reshape([1, n]));
        let [_, _, d_model] = rows.dims();
        rows.reshape([n, d_model])
    }

    /// Scores every row: `[rows, d_model] -> [rows, tokens]`
    pub fn logits(&self, x: Tensor<2>, precision: Precision) -> Tensor<2> {
        linear(x, self.weight.val(), WeightLayout::OutIn, precision)
    }

    /// Scores some rows: `[rows, d_model] -> [rows, tokens.len()]`
    pub fn logits_of(&self, x: Tensor<2>, tokens: Range<usize>, precision: Precision) -> Tensor<2> {
        linear(x, self.weight.val().slice(tokens), WeightLayout::OutIn, precision)
    }
}

/// T5's layer norm, `x / rms(x) * weight`, row by row.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[d_model]`
    pub weight: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
}

impl RmsNorm {
    pub(super) fn new(config: &T5Config, device: &Device) -> Self {
        // A view of one zero, as in `empty`.
        let weight = Tensor::<1>::zeros([1], device).expand([config.d_model]);
        let weight = Param::from_tensor(weight);
        Self { weight, epsilon: config.layer_norm_epsilon }
    }

    /// `[rows, d_model] -> [rows, d_model]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        rms_norm(x, self.weight.val(), self.epsilon)
    }

    /// Each of the `parts` of `whole` under the norm of `whole`: where the parts add up to `whole`, these add up to its
    /// norm. `[rows, parts, d_model]`, `[rows, d_model] -> [rows, parts, d_model]`
    pub fn apply_to_parts(&self, parts: Tensor<3>, whole: Tensor<2>) -> Tensor<3> {
        let mean_square = whole.square().mean_dim(1); // [rows, 1]
        let scale = (mean_square + self.epsilon).sqrt().recip().unsqueeze_dim(1); // [rows, 1, 1]
        parts * scale * self.weight.val().unsqueeze() // [rows, parts, d_model]
    }
}

/// The MLP of one layer with the RMSNorm that feeds it.
#[derive(Module, Debug)]
pub struct Mlp {
    /// The RMSNorm that feeds it.
    pub norm: RmsNorm,
    /// `W_gate` of gated models (`wi_0`).
    pub gate: Option<Linear>,
    /// `W_in` (`wi`; `wi_1` of gated models).
    pub input: Linear,
    /// `W_out` (`wo`).
    pub output: Linear,
}

impl Mlp {
    pub(super) fn new(config: &T5Config, device: &Device) -> Self {
        let input = || Linear::new(config.d_model, config.d_ff, device);
        Self {
            norm: RmsNorm::new(config, device),
            gate: (config.feed_forward == FeedForward::GatedGelu).then(input),
            input: input(),
            output: Linear::new(config.d_ff, config.d_model, device),
        }
    }

    /// Calls `each` with every matrix and the name of its field.
    pub(super) fn matrices_mut<'a>(&'a mut self, mut each: impl FnMut(&str, &'a mut Linear)) {
        if let Some(gate) = &mut self.gate {
            each("gate", gate);
        }
        each("input", &mut self.input);
        each("output", &mut self.output);
    }

    /// The output that is added to the residual stream: `[rows, d_model] -> [rows, d_model]`
    pub(super) fn forward(&self, x: Tensor<2>, at: LayerContext, pass: &mut Pass) -> Tensor<2> {
        let precision = pass.precision;
        let x = pass.stream(at, Hook::MlpIn, self.norm.forward(x));
        let hidden = match &self.gate {
            None => relu(pass.stream(at, Hook::MlpPre, self.input.forward(x, precision))),
            Some(gate) => {
                let gate = pass.stream(at, Hook::MlpPre, gate.forward(x.clone(), precision));
                let linear = pass.stream(at, Hook::MlpPreLinear, self.input.forward(x, precision));
                gated_gelu(gate, linear)
            }
        }; // [rows, d_ff]
        let hidden = pass.dropout(hidden);
        let hidden = pass.stream(at, Hook::MlpPost, hidden);
        let out = pass.dropout(self.output.forward(hidden, precision)); // [rows, d_model]
        pass.stream(at, Hook::MlpOut, out)
    }
}

/// A parameter of zeros that initialisation or a checkpoint fills before use: a view of one zero, so that a model
/// that is only looked at, or being filled, has no memory of its own size beside the real one.
pub(super) fn empty(shape: [usize; 2], device: &Device) -> Param<Tensor<2>> {
    if shape.contains(&0) {
        // A model without docids; Burn expands to no size of 0.
        return Param::from_tensor(Tensor::<2>::zeros(shape, device));
    }
    Param::from_tensor(Tensor::<2>::zeros([1, 1], device).expand(shape))
}
