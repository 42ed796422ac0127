//! Products with weights on a GPU: in bf16, for which it has units of its own, between f32 activations and parameters.

use burn::tensor::{FloatDType, Tensor};

use super::product::Stored;
use crate::device::Precision;

/// `[rows, in] -> [rows, out]`, f32 in and out.
///
/// In bf16 both factors are rounded to bf16 (8 bits of mantissa) and their products summed in f32 by the GPU. The gradients
/// go the same way back: autodiff casts them to f32 where the forward pass cast to bf16. bf16 has f32's range, so the
/// loss needs no scaling.
pub(super) fn product(
    x: Tensor<2>,
    weight: Tensor<2>,
    stored: Stored,
    precision: Precision,
) -> Tensor<2> {
    match precision {
        Precision::F32 => plain(x, weight, stored),
        Precision::Bf16 => rounded(x, weight, stored),
    }
}

fn rounded(x: Tensor<2>, weight: Tensor<2>, stored: Stored) -> Tensor<2> {
    let bf16 = |tensor: Tensor<2>| tensor.cast(FloatDType::BF16);
    plain(bf16(x), bf16(weight), stored).cast(FloatDType::F32)
}

fn plain(x: Tensor<2>, weight: Tensor<2>, stored: Stored) -> Tensor<2> {
    match stored {
        Stored::InOut => x.matmul(weight),
        Stored::OutIn => x.matmul(weight.transpose()),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;

    /// Values that bf16 does not hold exactly; all positive, so that nothing cancels and rounding stays in proportion.
    fn values(rows: usize, columns: usize, device: &Device) -> Tensor<2> {
        let count = rows * columns;
        let values: Vec<f32> = (0..count).map(|at| 1.5 + (at as f32 * 0.7).sin()).collect();
        Tensor::from_data(TensorData::new(values, [rows, columns]), device)
    }

    /// Largest difference as a share of the largest value.
    fn apart(one: Tensor<2>, other: Tensor<2>) -> f32 {
        let largest: f32 = other.clone().abs().max().into_scalar();
        let difference: f32 = (one - other).abs().max().into_scalar();
        difference / largest
    }

    #[test]
    fn a_rounded_product_and_its_gradients_are_f32_and_near_the_plain_ones() {
        let device = Device::flex().autodiff();
        for stored in [Stored::InOut, Stored::OutIn] {
            let shape = if stored == Stored::InOut { [96, 24] } else { [24, 96] };
            let factors = || {
                let x = values(16, 96, &device).require_grad();
                (x, values(shape[0], shape[1], &device).require_grad())
            };
            let upstream = values(16, 24, &device);
            let compute = |product: fn(Tensor<2>, Tensor<2>, Stored) -> Tensor<2>| {
                let (x, weight) = factors();
                let output = product(x.clone(), weight.clone(), stored);
                let gradients = (output.clone() * upstream.clone()).sum().backward();
                let of = |tensor: &Tensor<2>| tensor.grad(&gradients).unwrap();
                [output.inner(), of(&x), of(&weight)]
            };
            for (rounded, plain) in compute(rounded).into_iter().zip(compute(plain)) {
                assert_eq!(rounded.dtype(), DType::F32);
                let apart = apart(rounded, plain);
                // Each factor is off by 2^-9 of itself at most.
                assert!(apart > 0.0 && apart < 1.0 / 128.0, "{stored:?}: {apart}");
            }
        }
    }
}
