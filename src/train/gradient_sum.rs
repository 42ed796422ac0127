//! Sums the gradients of the batches of an update.

use burn::module::Param;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{FloatDType, Tensor};
use rayon::prelude::*;

use super::pairwise_sum::PairwiseSum;
use crate::component::{VisitParameter, visit_parameters};
use crate::device::is_host;
use crate::recipe::GradientDtype;
use crate::t5::GenirModel;

/// The sum along a [`PairwiseSum`]'s tree. The gradients of each batch, and each sum, are rounded to `train.gradient_dtype`: if
/// only what several processes exchange were, the weights would depend on their number.
pub(super) struct GradientSum {
    sum: PairwiseSum<GradientsParams>,
    dtype: GradientDtype,
}

impl GradientSum {
    pub fn new(dtype: GradientDtype) -> Self {
        Self { sum: PairwiseSum::default(), dtype }
    }

    /// Adds the gradients of the next batch.
    pub fn push(&mut self, model: &GenirModel, gradients: GradientsParams) {
        let dtype = self.dtype;
        let gradients = rounded(model, gradients, dtype);
        self.sum.push(gradients, rounded_sum(model, dtype));
    }

    /// Returns the sum; no gradients of no batches.
    pub fn total(self, model: &GenirModel) -> GradientsParams {
        self.sum.total(rounded_sum(model, self.dtype)).unwrap_or_default()
    }
}

/// Returns the addition of the gradients of two batches, or of two sums.
fn rounded_sum(
    model: &GenirModel,
    dtype: GradientDtype,
) -> impl Fn(GradientsParams, GradientsParams) -> GradientsParams {
    move |left, right| rounded(model, added(model, left, right), dtype)
}

/// The sum of the gradients of two batches, or of two parts of one, in f32.
pub(super) fn added(
    model: &GenirModel,
    left: GradientsParams,
    right: GradientsParams,
) -> GradientsParams {
    let mut sum = GradientsAccumulator::new();
    sum.accumulate(model, left);
    sum.accumulate(model, right);
    sum.grads()
}

fn rounded(
    model: &GenirModel,
    gradients: GradientsParams,
    dtype: GradientDtype,
) -> GradientsParams {
    /// Rounds one parameter's gradient after the other, so that no second copy of all of them is held.
    struct Round(GradientsParams);
    impl VisitParameter for Round {
        fn visit<const D: usize>(&mut self, _: &str, parameter: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.remove::<D>(parameter.id) {
                self.0.register(parameter.id, in_bfloat16(gradient));
            }
        }
    }
    match dtype {
        GradientDtype::Float32 => gradients,
        GradientDtype::Bfloat16 => {
            let mut round = Round(gradients);
            visit_parameters(model, &mut round);
            round.0
        }
    }
}

/// Rounds one gradient to `dtype`.
pub(super) fn rounded_tensor<const D: usize>(
    gradient: Tensor<D>,
    dtype: GradientDtype,
) -> Tensor<D> {
    match dtype {
        GradientDtype::Float32 => gradient,
        GradientDtype::Bfloat16 => in_bfloat16(gradient),
    }
}

fn in_bfloat16<const D: usize>(gradient: Tensor<D>) -> Tensor<D> {
    let device = gradient.device();
    if !is_host(&device) {
        return gradient.cast(FloatDType::BF16).cast(FloatDType::F32);
    }
    // On the host two casts would write and read all values twice.
    let mut data = gradient.into_data();
    let values = data.as_mut_slice().unwrap_or_else(|_| unreachable!("gradients are f32"));
    round_all(values, GradientDtype::Bfloat16);
    Tensor::from_data(data, &device)
}

/// Rounds values as [`GradientSum`] does those of tensors.
pub(super) fn round_all(values: &mut [f32], dtype: GradientDtype) {
    match dtype {
        GradientDtype::Float32 => {}
        GradientDtype::Bfloat16 => {
            let round = |values: &mut [f32]| {
                values.iter_mut().for_each(|value| *value = rounded_value(*value));
            };
            values.par_chunks_mut(1 << 16).for_each(round);
        }
    }
}

/// The value rounded to bfloat16, to nearest, ties to even, as `half` does it: without a branch, so that the
/// compiler uses vectors.
fn rounded_value(value: f32) -> f32 {
    const UPPER: u32 = 0xffff_0000;
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & UPPER;
    // Rounding could make an infinity of a NaN.
    let quiet = (bits | 1 << 22) & UPPER;
    f32::from_bits(if value.is_nan() { quiet } else { nearest })
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use rand::{Rng, SeedableRng, rngs::Xoshiro256PlusPlus};

    use super::*;

    #[test]
    fn values_are_rounded_to_those_of_half() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let special = [0.0, -0.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        let ties = [0x3f80_8000, 0x3f81_8000, 0x7f7f_8000, 0x0000_8000, 0x7f80_0001, 0xffff_ffff];
        let values = special.into_iter().chain(ties.map(f32::from_bits));
        let random = std::iter::repeat_with(|| f32::from_bits(random.next_u32())).take(100_000);
        let values: Vec<f32> = values.chain(random).collect();
        let mut found = values.clone();
        round_all(&mut found, GradientDtype::Bfloat16);
        for (value, found) in values.into_iter().zip(found) {
            let expected = bf16::from_f32(value).to_f32();
            assert_eq!(found.to_bits(), expected.to_bits(), "{value:e}");
        }
    }
}
