//! LoRA: low-rank factors beside the matrices of a model, which are trained in place of the matrices.
//!
//! The factors of the matrix `t5.decoder.layers.3.mlp.output.weight` are the parameters
//! `t5.decoder.layers.3.mlp.output.lora.a` and `...lora.b`. All that computes with the model computes with them; what
//! reads matrices takes [`GenirModel::merged`].

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use rand::RngExt;

use super::layers::{Linear, empty};
use super::weights::fill_some;
use super::{GenirModel, T5};
use crate::component::{Component, LowRank, Stack, factor_names};
use crate::ops::{AdaptedWeight, LowRankFactors};
use crate::random;

/// The low-rank factors of a matrix, whose product times `alpha / rank` is added to it.
#[derive(Module, Debug)]
pub struct LoraFactors {
    /// `[in, rank]`, the transpose of PEFT's `lora_A`.
    pub a: Param<Tensor<2>>,
    /// `[rank, out]`, the transpose of PEFT's `lora_B`.
    pub b: Param<Tensor<2>>,
    #[module(skip)]
    scale: f64,
}

impl LoraFactors {
    fn zeros(of: &Linear, low_rank: LowRank, device: &Device) -> Self {
        let [input, output] = of.weight.dims();
        let LowRank { rank, .. } = low_rank;
        Self {
            a: empty([input, rank], device),
            b: empty([rank, output], device),
            scale: low_rank.scale(),
        }
    }
}

impl Linear {
    /// The weight with its factors.
    pub(super) fn adapted(&self) -> AdaptedWeight {
        let factors = self.lora.as_ref().map(|lora| LowRankFactors {
            a: lora.a.val(),
            b: lora.b.val(),
            scale: lora.scale,
        });
        AdaptedWeight { weight: self.weight.val(), factors }
    }

    /// Adds the factors to the weight, off the autodiff graph, and drops them.
    fn merge(&mut self) {
        if self.lora.is_none() {
            return;
        }
        let on_graph = self.weight.val().is_autodiff();
        let AdaptedWeight { weight, factors } = self.adapted();
        let factors = factors.map(|LowRankFactors { a, b, scale }| LowRankFactors {
            a: a.inner(),
            b: b.inner(),
            scale,
        });
        let merged = AdaptedWeight { weight: weight.inner(), factors }.merged(); // [in, out]
        let merged = if on_graph { Tensor::from_inner(merged) } else { merged };
        self.weight = Param::from_tensor(merged).set_require_grad(false);
        self.lora = None;
    }
}

impl T5 {
    /// The matrices of attention and MLPs by dotted name, such as `decoder.layers.3.mlp.output.weight`.
    fn matrices_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let mut found = Vec::new();
        let mut add = |stack: Stack, layer: usize, component: Component, name: &str, matrix| {
            let component = component.name();
            found.push((format!("{stack}.layers.{layer}.{component}.{name}.weight"), matrix));
        };
        for (layer, block) in self.encoder.layers.iter_mut().enumerate() {
            let mut add = |component, name: &str, matrix| {
                add(Stack::Encoder, layer, component, name, matrix);
            };
            block.self_attention.matrices_mut(|name, matrix| {
                add(Component::SelfAttention, name, matrix);
            });
            block.mlp.matrices_mut(|name, matrix| add(Component::Mlp, name, matrix));
        }
        for (layer, block) in self.decoder.layers.iter_mut().enumerate() {
            let mut add = |component, name: &str, matrix| {
                add(Stack::Decoder, layer, component, name, matrix);
            };
            block.self_attention.matrices_mut(|name, matrix| {
                add(Component::SelfAttention, name, matrix);
            });
            block.cross_attention.matrices_mut(|name, matrix| {
                add(Component::CrossAttention, name, matrix);
            });
            block.mlp.matrices_mut(|name, matrix| add(Component::Mlp, name, matrix));
        }
        found
    }
}

impl GenirModel {
    /// The model with low-rank factors beside the matrices that `lora` names (dotted, such as
    /// `t5.decoder.layers.3.mlp.output.weight`), each filled with `values(name, shape)`, row after row.
    ///
    /// # Errors
    /// The first error of `values`.
    pub fn with_lora<E>(
        mut self,
        lora: &BTreeMap<String, LowRank>,
        values: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let device = self.docids.weight.device();
        for (name, matrix) in self.t5.matrices_mut() {
            if let Some(&low_rank) = lora.get(&format!("t5.{name}")) {
                matrix.lora = Some(LoraFactors::zeros(matrix, low_rank, &device));
            }
        }
        let factors: Vec<String> = lora.keys().flat_map(|name| factor_names(name)).collect();
        fill_some(self, |name| factors.iter().any(|factor| factor == name), values)
    }

    /// The first adapted matrix (dotted, without `t5.`) whose sum with its factors' product is not that matrix of
    /// `merged`, to rounding.
    pub(crate) fn first_unlike(&self, merged: &Self) -> Option<String> {
        let (mut own, mut other) = (self.t5.clone(), merged.t5.clone());
        let pairs = own.matrices_mut().into_iter().zip(other.matrices_mut());
        let mut adapted = pairs.filter(|((_, matrix), _)| matrix.lora.is_some());
        adapted.find_map(|((name, matrix), (_, expected))| {
            matrix.merge();
            let expected = expected.weight.val().inner();
            let largest: f32 = expected.clone().abs().max().into_scalar();
            let difference = matrix.weight.val().inner() - expected;
            let difference: f32 = difference.abs().max().into_scalar();
            (difference.is_nan() || difference > 1e-5 * largest).then_some(name)
        })
    }

    /// The model with each matrix replaced by the sum of it and its factors' product; frozen there. Other tensors are
    /// shared.
    #[must_use]
    pub fn merged(&self) -> Self {
        let mut merged = self.clone();
        merged.t5.matrices_mut().into_iter().for_each(|(_, matrix)| matrix.merge());
        merged
    }
}

/// Initial values of a factor, as PEFT draws them: `A` uniformly within `1 / sqrt(in)` (Kaiming's with `a = sqrt(5)`),
/// `B` zero. They depend on `seed` and the factor's `name` alone.
pub fn initial_factor(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let count = shape.iter().product();
    if !name.ends_with(".a") {
        return vec![0.0; count];
    }
    let bound = (shape[0].max(1) as f32).powf(-0.5);
    let mut generator = random::generator(seed, 0, name);
    (0..count).map(|_| generator.random_range(-bound..=bound)).collect()
}
