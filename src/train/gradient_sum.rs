//! Sums the gradients of the batches of an update.

use burn::module::Param;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{FloatDType, Tensor};
use half::bf16;

use super::pairwise_sum::PairwiseSum;
use crate::component::{VisitParameter, visit_parameters};
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
        self.sum.push(gradients, |left, right| rounded(model, added(model, left, right), dtype));
    }

    /// Returns the sum; no gradients of no batches.
    pub fn total(self, model: &GenirModel) -> GradientsParams {
        let add = |left, right| rounded(model, added(model, left, right), self.dtype);
        self.sum.total(add).unwrap_or_default()
    }
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
                let gradient = gradient.cast(FloatDType::BF16).cast(FloatDType::F32);
                self.0.register(parameter.id, gradient);
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

/// Rounds values as [`GradientSum`] does those of tensors.
pub(super) fn round_all(values: &mut [f32], dtype: GradientDtype) {
    match dtype {
        GradientDtype::Float32 => {}
        GradientDtype::Bfloat16 => {
            values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
        }
    }
}
