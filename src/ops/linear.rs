//! Matrix products with weights.
//!
//! Burn's Flex 0.22.1 clears the memory of each product's output, copies the output to aligned memory, and only then
//! computes: on one thread, 3.5% of a full step. It also makes the gradient of a transposed weight as the
//! transpose of a product, which must be copied. Here an output is written once, in its place, and each
//! gradient in the layout of its weight. The inner loops are the same (the crate `gemm`).

use burn::tensor::{FloatDType, Tensor};

use super::autograd::{Operation, apply};
use super::host::HostTensor;
use crate::device::{Precision, is_host};
use crate::kernel::{multiply, multiply_by_rows};

/// The layout of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[in, out]`, as [`crate::t5::Linear`] has it.
    InOut,
    /// `[out, in]`, as `torch.nn.Linear` and [`crate::t5::Embedding`] have it.
    OutIn,
}

/// `x` times a weight: `[rows, in] -> [rows, out]`, f32 in and out.
///
/// A GPU computes it in `precision`. In bf16 both factors are rounded to bf16 (8 bits of mantissa) and their products
/// summed in f32 by the GPU's matrix units. The gradients go the same way back: autodiff casts them to f32 where the
/// forward pass cast to bf16. bf16 has f32's range, so the loss needs no scaling.
pub fn linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    layout: WeightLayout,
    precision: Precision,
) -> Tensor<2> {
    if is_host(&x.device()) {
        return apply::<Linear, 2, 2>([x.into(), weight.into()], |[x, weight], needed| {
            let output = forward(&x, &weight, layout);
            let [for_x, for_weight] = needed;
            // Each gradient needs the other factor.
            let saved = (for_weight.then_some(x), for_x.then_some(weight), layout);
            (output, saved)
        });
    }
    match precision {
        Precision::F32 => by_burn(x, weight, layout),
        Precision::Bf16 => in_bf16(x, weight, layout),
    }
}

fn forward(x: &HostTensor, weight: &HostTensor, layout: WeightLayout) -> HostTensor {
    let ([rows, _], [from, to]) = (x.shape(), weight.shape());
    let (weight, out) = match layout {
        WeightLayout::InOut => (weight.matrix(), to),
        WeightLayout::OutIn => (weight.matrix().transposed(), from),
    };
    HostTensor::new(multiply(x.matrix(), weight), [rows, out])
}

struct Linear;

impl Operation<2> for Linear {
    /// The input, if the weight needs a gradient; the weight, if the input does; and the weight's layout.
    type Saved = (Option<HostTensor>, Option<HostTensor>, WeightLayout);

    fn backward(
        (x, weight, layout): Self::Saved,
        gradient: HostTensor,
        _needed: [bool; 2],
    ) -> [Option<HostTensor>; 2] {
        let [rows, out] = gradient.shape();
        let to_x = weight.map(|weight| {
            let (product, input) = match layout {
                WeightLayout::InOut => {
                    (multiply_by_rows(gradient.matrix(), weight.matrix()), weight.shape::<2>()[0])
                }
                WeightLayout::OutIn => {
                    (multiply(gradient.matrix(), weight.matrix()), weight.shape::<2>()[1])
                }
            };
            HostTensor::new(product, [rows, input])
        });
        let to_weight = x.map(|x| {
            let [_, input] = x.shape();
            match layout {
                WeightLayout::InOut => {
                    let product = multiply(x.matrix().transposed(), gradient.matrix());
                    HostTensor::new(product, [input, out])
                }
                WeightLayout::OutIn => {
                    let product = multiply(gradient.matrix().transposed(), x.matrix());
                    HostTensor::new(product, [out, input])
                }
            }
        });
        [to_x, to_weight]
    }
}

fn in_bf16(x: Tensor<2>, weight: Tensor<2>, layout: WeightLayout) -> Tensor<2> {
    let bf16 = |tensor: Tensor<2>| tensor.cast(FloatDType::BF16);
    by_burn(bf16(x), bf16(weight), layout).cast(FloatDType::F32)
}

fn by_burn(x: Tensor<2>, weight: Tensor<2>, layout: WeightLayout) -> Tensor<2> {
    match layout {
        WeightLayout::InOut => x.matmul(weight),
        WeightLayout::OutIn => x.matmul(weight.transpose()),
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
    fn a_product_in_bf16_and_its_gradients_are_f32_and_near_those_in_f32() {
        let device = Device::flex().autodiff();
        for layout in [WeightLayout::InOut, WeightLayout::OutIn] {
            let shape = if layout == WeightLayout::InOut { [96, 24] } else { [24, 96] };
            let factors = || {
                let x = values(16, 96, &device).require_grad();
                (x, values(shape[0], shape[1], &device).require_grad())
            };
            let upstream = values(16, 24, &device);
            let compute = |product: fn(Tensor<2>, Tensor<2>, WeightLayout) -> Tensor<2>| {
                let (x, weight) = factors();
                let output = product(x.clone(), weight.clone(), layout);
                let gradients = (output.clone() * upstream.clone()).sum().backward();
                let of = |tensor: &Tensor<2>| tensor.grad(&gradients).unwrap();
                [output.inner(), of(&x), of(&weight)]
            };
            for (rounded, plain) in compute(in_bf16).into_iter().zip(compute(by_burn)) {
                assert_eq!(rounded.dtype(), DType::F32);
                let apart = apart(rounded, plain);
                // Each factor is off by 2^-8 of itself at most.
                assert!(apart > 0.0 && apart < 1.0 / 128.0, "{layout:?}: {apart}");
            }
        }
    }
}
