//! A weight with the low-rank factors that LoRA adds to it: `W + s A B`.
//!
//! A product with it is `x W + s (x A) B`: of the factors' size beside that with `W`, and no gradient of `W`'s size is
//! made. Where an operation needs the matrix itself, [`AdaptedWeight::merged`] gives the sum, whose gradient is projected
//! onto the factors. `benches/README.md` compares both.

use burn::tensor::Tensor;

use super::autograd::{Operation, apply};
use super::host::{Contiguous, HostTensor};
use super::linear::{WeightLayout, linear};
use crate::device::{Precision, is_host};
use crate::kernel::{MatrixMut, Threads, multiply, multiply_into};

/// The factors of a weight `[in, out]`.
#[derive(Debug, Clone)]
pub struct LowRankFactors {
    /// `[in, rank]`, the transpose of PEFT's `lora_A`.
    pub a: Tensor<2>,
    /// `[rank, out]`, the transpose of PEFT's `lora_B`.
    pub b: Tensor<2>,
    /// The factor of their product: `alpha / rank`.
    pub scale: f64,
}

/// A weight `[in, out]`, and its low-rank factors if it has some.
#[derive(Debug, Clone)]
pub struct AdaptedWeight {
    /// `[in, out]`
    pub weight: Tensor<2>,
    /// The factors.
    pub factors: Option<LowRankFactors>,
}

impl From<Tensor<2>> for AdaptedWeight {
    fn from(weight: Tensor<2>) -> Self {
        Self { weight, factors: None }
    }
}

impl AdaptedWeight {
    /// `x W + s (x A) B`: `[rows, in] -> [rows, out]`; `precision` is that of a product on a GPU.
    pub fn multiply(self, x: Tensor<2>, precision: Precision) -> Tensor<2> {
        let product = |x, weight| linear(x, weight, WeightLayout::InOut, precision);
        let Some(LowRankFactors { a, b, scale }) = self.factors else {
            return product(x, self.weight);
        };
        let narrow = product(x.clone(), a) * scale; // [rows, rank]
        product(x, self.weight) + product(narrow, b)
    }

    /// `W + s A B`, `[in, out]`, on the autodiff graph.
    pub fn merged(self) -> Tensor<2> {
        let Some(LowRankFactors { a, b, scale }) = self.factors else { return self.weight };
        if !is_host(&self.weight.device()) {
            return self.weight + a.matmul(b) * scale;
        }
        apply::<Merge, 3, 2>([self.weight.into(), a.into(), b.into()], |[weight, a, b], _| {
            let factors = HostFactors::new(a, b, scale);
            let [_, out] = weight.shape();
            let mut sum = weight.contiguous();
            let to = MatrixMut::rows(sum.values_mut(), out);
            multiply_into(to, factors.a.matrix(), factors.b.matrix(), true, Threads::All);
            (sum.into_host(), factors)
        })
    }
}

/// The factors of a weight in the CPU's memory.
#[derive(Debug, Clone)]
pub(super) struct HostFactors {
    /// `s A`, `[in, rank]`
    pub a: Contiguous,
    /// `B`, `[rank, out]`
    pub b: Contiguous,
    /// `s`
    pub scale: f32,
}

impl HostFactors {
    /// From `A` and `B`.
    pub fn new(a: HostTensor, b: HostTensor, scale: f64) -> Self {
        let scale = scale as f32;
        let shape: [usize; 2] = a.shape();
        let scaled = a.contiguous().values().iter().map(|value| value * scale).collect();
        Self { a: HostTensor::new(scaled, shape).contiguous(), b: b.contiguous(), scale }
    }

    /// The rank.
    pub fn rank(&self) -> usize {
        let [_, rank] = self.a.shape();
        rank
    }

    /// The gradient of `A` from that of `s A`, `[in, rank]`.
    pub fn gradient_of_a(&self, mut of_scaled: Vec<f32>) -> HostTensor {
        of_scaled.iter_mut().for_each(|value| *value *= self.scale);
        HostTensor::new(of_scaled, self.a.shape::<2>())
    }
}

struct Merge;

impl Operation<3> for Merge {
    type Saved = HostFactors;

    fn backward(
        factors: HostFactors,
        gradient: HostTensor,
        [for_weight, for_a, for_b]: [bool; 3],
    ) -> [Option<HostTensor>; 3] {
        let to_a = for_a.then(|| {
            factors.gradient_of_a(multiply(gradient.matrix(), factors.b.matrix().transposed()))
        });
        let to_b = for_b.then(|| {
            let product = multiply(factors.a.matrix().transposed(), gradient.matrix());
            HostTensor::new(product, factors.b.shape::<2>())
        });
        [for_weight.then_some(gradient), to_a, to_b]
    }
}

#[cfg(test)]
mod tests {
    use super::super::agreement::{assert_agree, values};
    use super::*;

    fn plain([weight, a, b]: [Tensor<2>; 3]) -> Tensor<2> {
        weight + a.matmul(b) * 1.5
    }

    fn adapted([weight, a, b]: [Tensor<2>; 3]) -> AdaptedWeight {
        AdaptedWeight { weight, factors: Some(LowRankFactors { a, b, scale: 1.5 }) }
    }

    #[test]
    fn a_merged_weight_has_the_values_and_gradients_of_the_sum() {
        let inputs = [values([7, 5], 1), values([7, 2], 2), values([2, 5], 3)];
        assert_agree(inputs, |given| adapted(given).merged(), plain);
    }

    #[test]
    fn a_product_with_factors_is_that_with_the_merged_weight() {
        let inputs = [values([4, 7], 4), values([7, 5], 1), values([7, 2], 2), values([2, 5], 3)];
        assert_agree(
            inputs,
            |[x, weight, a, b]| adapted([weight, a, b]).multiply(x, Precision::F32),
            |[x, weight, a, b]| x.matmul(plain([weight, a, b])),
        );
    }
}
