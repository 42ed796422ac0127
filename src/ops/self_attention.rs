//! Self-attention of many positions, from its input to the weighted values.
//!
//! Made of tensor operations, queries, keys and values are permuted copies, scores and weights are read and written
//! five times forward and as often backward, and the input's gradient is three products and two sums. On the CPU each
//! example is a task that reads its heads in place, and the products add up the input's gradient.

use burn::tensor::Tensor;

use super::attend::{AttendGradients, Sizes, Terms};
use super::attention::{
    attention_scores, attention_weights, merge_heads, split_heads, weighted_values,
};
use super::autograd::{Input, Operation, apply, constant};
use super::host::{Contiguous, HostTensor};
use super::linear::{WeightLayout, linear};
use crate::device::{Precision, is_host};
use crate::kernel::{Matrix, MatrixMut, Threads, add, multiply, multiply_into, zeros};

/// The inputs of self-attention.
pub struct SelfAttention {
    /// `[batch * length, d_model]`
    pub x: Tensor<2>,
    /// `W_Q`, `W_K` and `W_V`, `[d_model, heads * d_kv]`
    pub matrices: [Tensor<2>; 3],
    /// Position bias, `[1, heads, length, length]`
    pub bias: Tensor<4>,
    /// `[batch, 1, 1, length]`, added to the scores; a constant.
    pub mask: Option<Tensor<4>>,
    /// `[batch, heads, length, length]`, factors of the attention weights; a constant.
    pub dropout: Option<Tensor<4>>,
    /// The type of a GPU's products with the matrices.
    pub precision: Precision,
}

/// Weighted values of every head, `[batch * length, heads * d_kv]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn self_attention(inputs: SelfAttention) -> Tensor<2> {
    let ([rows, d_model], [_, heads, length, _]) = (inputs.x.dims(), inputs.bias.dims());
    let [_, inner] = inputs.matrices[0].dims();
    assert!(inner.is_multiple_of(heads) && rows.is_multiple_of(length), "sizes of self-attention");
    let shapes = inputs.matrices.each_ref().map(Tensor::dims);
    assert_eq!(shapes, [[d_model, inner]; 3], "shapes of W_Q, W_K and W_V");
    let batch = rows / length;
    let mask = inputs.mask.as_ref().map_or([batch, 1, 1, length], Tensor::dims);
    assert_eq!(mask, [batch, 1, 1, length], "shape of a mask");
    let dropout = inputs.dropout.as_ref().map_or([batch, heads, length, length], Tensor::dims);
    assert_eq!(dropout, [batch, heads, length, length], "shape of a dropout mask");
    if is_host(&inputs.x.device()) { inputs.on_host() } else { inputs.by_burn() }
}

impl SelfAttention {
    fn by_burn(self) -> Tensor<2> {
        let [rows, _] = self.x.dims();
        let [_, heads, length, _] = self.bias.dims();
        let [query, key, value] = self.matrices.map(|matrix| {
            let projected = linear(self.x.clone(), matrix, WeightLayout::InOut, self.precision);
            split_heads(projected, rows / length, heads) // [batch, length, heads, d_kv]
        });
        let bias = match self.mask {
            Some(mask) => self.bias + mask,
            None => self.bias,
        }; // [batch or 1, heads, length, length]
        let scores = attention_scores(query, key); // [batch, heads, length, length]
        let pattern = attention_weights(scores, Some(bias), self.dropout);
        merge_heads(weighted_values(pattern, value))
    }

    fn on_host(self) -> Tensor<2> {
        let [_, heads, length, _] = self.bias.dims();
        let (mask, dropout) = (self.mask.map(constant), self.dropout.map(constant));
        let [query, key, value] = self.matrices;
        let inputs: [Input; 5] =
            [self.x.into(), query.into(), key.into(), value.into(), self.bias.into()];
        apply::<Attend, 5, 2>(inputs, |inputs, _| {
            let [x, query, key, value, bias] = inputs.map(HostTensor::contiguous);
            let ([rows, _], [_, inner]) = (x.shape(), query.shape());
            let sizes = Sizes {
                batch: rows / length,
                heads,
                target: length,
                source: length,
                inner,
                per_head: inner / heads,
            };
            let matrices = [query, key, value];
            let projected = matrices.each_ref().map(|matrix| multiply(x.matrix(), matrix.matrix()));
            let terms = Terms { bias: Some(&bias), mask: mask.as_ref(), dropout: dropout.as_ref() };
            let (mixed, pattern) = sizes.attend(projected.each_ref().map(Vec::as_slice), terms);
            let saved = Saved { x, matrices, projected, pattern, dropout, sizes };
            (HostTensor::new(mixed, [rows, inner]), saved)
        })
    }
}

struct Attend;

#[derive(Debug, Clone)]
struct Saved {
    /// `[batch * length, d_model]`
    x: Contiguous,
    /// `W_Q`, `W_K` and `W_V`, `[d_model, heads * d_kv]`
    matrices: [Contiguous; 3],
    /// Queries, keys and values, `[batch * length, heads * d_kv]`
    projected: [Vec<f32>; 3],
    /// Attention weights before dropout, `[batch, heads, length, length]`
    pattern: Vec<f32>,
    dropout: Option<Contiguous>,
    sizes: Sizes,
}

impl Operation<5> for Attend {
    type Saved = Saved;

    fn backward(saved: Saved, gradient: HostTensor, needed: [bool; 5]) -> [Option<HostTensor>; 5] {
        let sizes = saved.sizes;
        let [for_x, for_query, for_key, for_value, for_bias] = needed;
        let gradient = gradient.contiguous();
        let AttendGradients { query: to_query, key: to_key, value: to_value, bias: to_bias } =
            sizes.attend_backward(
                saved.projected.each_ref().map(Vec::as_slice),
                &saved.pattern,
                saved.dropout.as_ref(),
                gradient.values(),
                for_bias,
            );
        let projected = [to_query, to_key, to_value];
        let [_, d_model] = saved.x.shape();
        let [query, key, value] = [for_query, for_key, for_value];
        let of_matrix = |needed: bool, gradient: &[f32]| {
            needed.then(|| {
                let gradient = Matrix::rows(gradient, sizes.inner);
                let product = multiply(saved.x.matrix().transposed(), gradient);
                HostTensor::new(product, [d_model, sizes.inner])
            })
        };
        let query = of_matrix(query, &projected[0]);
        let key = of_matrix(key, &projected[1]);
        let value = of_matrix(value, &projected[2]);
        let bias = for_bias.then(|| {
            // Summed in the order of the examples: the result does not depend on the number of threads.
            let mut sum = vec![0.0; sizes.scores()];
            to_bias.iter().for_each(|scores| add(&mut sum, scores));
            HostTensor::new(sum, [1, sizes.heads, sizes.target, sizes.source])
        });
        let x = for_x.then(|| saved.input_gradient(&projected));
        [x, query, key, value, bias]
    }
}

impl Saved {
    /// Gradient of the input from those of queries, keys and values.
    fn input_gradient(&self, projected: &[Vec<f32>; 3]) -> HostTensor {
        let [rows, d_model] = self.x.shape();
        let mut gradient = zeros(rows * d_model);
        for (at, (of_rows, matrix)) in projected.iter().zip(&self.matrices).enumerate() {
            let matrix = matrix.matrix().transposed();
            let of_rows = Matrix::rows(of_rows, self.sizes.inner);
            let to = MatrixMut::rows(&mut gradient, d_model);
            multiply_into(to, of_rows, matrix, at > 0, Threads::All);
        }
        HostTensor::new(gradient, [rows, d_model])
    }
}

#[cfg(test)]
mod tests {
    use super::super::agreement::{assert_agree, values};
    use super::*;

    #[test]
    fn the_host_and_the_device_version_agree_with_mask_and_dropout_and_without() {
        let (batch, heads, length, d_kv, d_model) = (3, 2, 5, 4, 6);
        let mask = values([batch, 1, 1, length], 1) * 3.0;
        let dropout = values([batch, heads, length, length], 2).abs();
        for (mask, dropout) in [(None, None), (Some(mask), Some(dropout))] {
            let matrix = |seed| values([d_model, heads * d_kv], seed);
            let bias = values([heads * length, length], 3);
            let x = values([batch * length, d_model], 4);
            let inputs = |[x, query, key, value, bias]: [Tensor<2>; 5]| {
                // A constant is on the graph where the inputs are.
                let constant = |tensor: &Tensor<4>| match x.is_autodiff() {
                    true => Tensor::from_inner(tensor.clone()),
                    false => tensor.clone(),
                };
                SelfAttention {
                    mask: mask.as_ref().map(constant),
                    dropout: dropout.as_ref().map(constant),
                    x,
                    matrices: [query, key, value],
                    bias: bias.reshape([1, heads, length, length]),
                    precision: Precision::F32,
                }
            };
            assert_agree(
                [x, matrix(5), matrix(6), matrix(7), bias],
                |given| inputs(given).on_host(),
                |given| inputs(given).by_burn(),
            );
        }
    }
}
