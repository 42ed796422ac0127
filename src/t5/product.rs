//! Matrix products with weights: on the CPU an operation of our own, elsewhere [`on_gpu`].
//!
//! Burn's Flex 0.22.1 clears the memory of every product's output, copies it to aligned memory, and only then
//! computes: on one thread, 3.5% of a full step. It also makes the gradient of a transposed weight as the
//! transpose of a product, which must be copied. Here an output is written once, where it stays, and each
//! gradient in the order of its weight. The inner loops are the same (the crate `gemm`).

use burn::tensor::Tensor;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, binary};
use burn_flex::{Flex, FlexTensor};

use super::on_gpu;
use crate::device::{Precision, is_host};
use crate::kernel::{Input, Matrix, multiply, multiply_by_rows, plain, recorded, to_tensor};

/// How a weight is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// `[in, out]`, as [`super::Linear`] has it.
    InOut,
    /// `[out, in]`, a row for each output, as [`super::Embedding`] has it.
    OutIn,
}

/// `[rows, in] -> [rows, out]`; `precision` is a GPU's.
pub(super) fn product(
    x: Tensor<2>,
    weight: Tensor<2>,
    stored: Stored,
    precision: Precision,
) -> Tensor<2> {
    if !is_host(&x.device()) {
        return on_gpu::product(x, weight, stored, precision);
    }
    if !x.is_autodiff() && !weight.is_autodiff() {
        return to_tensor(forward(&plain(x), &plain(weight), stored));
    }
    let (x, weight) = (Input::of(x), Input::of(weight));
    let output = forward(&x.value, &weight.value, stored);
    // Each gradient needs the other factor.
    let for_weight = weight.tracked.then_some(x.value);
    let for_x = x.tracked.then_some(weight.value);
    recorded(Product, [x.node, weight.node], (for_weight, for_x, stored), output)
}

/// The product's place in the autodiff graph.
#[derive(Debug)]
struct Product;

impl Backward<Flex, 2> for Product {
    /// The input, for the weight's gradient; the weight, for the input's; and how it is stored.
    type State = (Option<FlexTensor>, Option<FlexTensor>, Stored);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        const KEPT: &str = "kept in the forward pass for whoever is tracked";
        let (x, weight, stored) = ops.state;
        binary::<Flex, _, _>(
            ops.parents,
            ops.node,
            gradients,
            |gradient| {
                let weight = weight.unwrap_or_else(|| unreachable!("{KEPT}"));
                let (gradient, weight) = (Matrix::of(&gradient), Matrix::of(&weight));
                match stored {
                    Stored::InOut => multiply_by_rows(gradient, weight), // [rows, in]
                    Stored::OutIn => multiply(gradient, weight),         // [rows, in]
                }
            },
            |gradient| {
                let x = x.unwrap_or_else(|| unreachable!("{KEPT}"));
                let (gradient, x) = (Matrix::of(&gradient), Matrix::of(&x));
                match stored {
                    Stored::InOut => multiply(x.transposed(), gradient), // [in, out]
                    Stored::OutIn => multiply(gradient.transposed(), x), // [out, in]
                }
            },
        );
    }
}

fn forward(x: &FlexTensor, weight: &FlexTensor, stored: Stored) -> FlexTensor {
    let weight = Matrix::of(weight);
    let weight = if stored == Stored::OutIn { weight.transposed() } else { weight };
    multiply(Matrix::of(x), weight)
}
