//! Matrix products with weights: on the CPU an operation of our own, elsewhere [`on_gpu`].
//!
//! Burn's Flex 0.22.1 clears the memory of every product's output, copies it to aligned memory, and only then
//! computes: on one thread, 3.5% of a full step. It also makes the gradient of a transposed weight as the
//! transpose of a product, which must be copied. Here an output is written once, where it stays, and each
//! gradient in the order of its weight. The inner loops are the same (the crate `gemm`).

use burn::tensor::{Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::NoCheckpointing;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind, binary};
use burn_flex::{Flex, FlexTensor};

use super::on_gpu;
use crate::device::is_host;

/// How a weight is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// `[in, out]`, as [`super::Linear`] has it.
    InOut,
    /// `[out, in]`, a row for each output, as [`super::Embedding`] has it.
    OutIn,
}

/// `[rows, in] -> [rows, out]`
pub(super) fn product(x: Tensor<2>, weight: Tensor<2>, stored: Stored) -> Tensor<2> {
    if !is_host(&x.device()) {
        return on_gpu::product(x, weight, stored);
    }
    const ON_FLEX: &str = "its device is Flex, and no checkpointing strategy is ever asked for";
    if !x.is_autodiff() && !weight.is_autodiff() {
        let of = |tensor: Tensor<2>| {
            tensor.try_into_primitive::<Flex>().unwrap_or_else(|_| unreachable!("{ON_FLEX}"))
        };
        return Tensor::from_primitive::<Flex>(forward(&of(x), &of(weight), stored));
    }
    // What is not on the graph enters it as a constant.
    let of = |tensor: Tensor<2>| {
        let tensor = if tensor.is_autodiff() { tensor } else { tensor.autodiff() };
        tensor.try_into_primitive::<Autodiff<Flex>>().unwrap_or_else(|_| unreachable!("{ON_FLEX}"))
    };
    let (x, weight) = (of(x), of(weight));
    // Each gradient needs the other factor.
    let for_weight = weight.is_tracked().then(|| x.primitive().clone());
    let for_x = x.is_tracked().then(|| weight.primitive().clone());
    let output = forward(x.primitive(), weight.primitive(), stored);
    let prepared = Product.prepare::<NoCheckpointing>([x.node(), weight.node()]);
    Tensor::from_primitive::<Autodiff<Flex>>(match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish((for_weight, for_x, stored), output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    })
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
                    Stored::InOut => multiply(gradient, weight.transposed()), // [rows, in]
                    Stored::OutIn => multiply(gradient, weight),              // [rows, in]
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

/// A matrix in memory, with the distances of its neighbours.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    /// From the first value to the last one at least.
    values: &'a [f32],
    rows: usize,
    columns: usize,
    to_next_row: isize,
    to_next_column: isize,
}

impl<'a> Matrix<'a> {
    fn of(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        let (shape, strides) = (layout.shape(), layout.strides());
        let matrix = Self {
            values: &tensor.storage::<f32>()[layout.start_offset()..],
            rows: shape[0],
            columns: shape[1],
            to_next_row: strides[0],
            to_next_column: strides[1],
        };
        matrix.check();
        matrix
    }

    fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            to_next_row: self.to_next_column,
            to_next_column: self.to_next_row,
            ..self
        }
    }

    /// Panics unless every value lies in the slice: what [`multiply`] relies on.
    fn check(&self) {
        if self.rows == 0 || self.columns == 0 {
            return;
        }
        let far = |count: usize, step: isize| (count as isize - 1) * step;
        let last = far(self.rows, self.to_next_row) + far(self.columns, self.to_next_column);
        let forward = self.to_next_row >= 0 && self.to_next_column >= 0;
        assert!(
            forward && (last as usize) < self.values.len(),
            "a matrix reaches out of its memory"
        );
    }
}

/// `[m, k] x [k, n] -> [m, n]`, contiguous.
fn multiply(left: Matrix, right: Matrix) -> FlexTensor {
    let (m, k, n) = (left.rows, left.columns, right.columns);
    assert_eq!(k, right.rows, "inner sizes of a product");
    let mut output: Vec<f32> = Vec::with_capacity(m * n);
    // SAFETY: both factors lie in their slices (`Matrix::check`), their inner sizes are equal, and the output
    // has room for m * n values, all of which gemm writes (`read_dst` is false: it reads none of them).
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            output.as_mut_ptr(),
            1,
            n as isize,
            false,
            left.values.as_ptr(),
            left.to_next_column,
            left.to_next_row,
            right.values.as_ptr(),
            right.to_next_column,
            right.to_next_row,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
        output.set_len(m * n);
    }
    FlexTensor::from_data(TensorData::new(output, [m, n]))
}
