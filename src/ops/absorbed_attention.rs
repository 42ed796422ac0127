//! Cross-attention of one target without keys or values.
//!
//! A score is `q . (W_K^T e) = (W_K q) . e`, and the weighted sum of `W_V^T e` is `W_V^T` of the weighted sum. So the
//! matrices are multiplied by one vector an example and head, not by each of its states: for `s` states and `k` values
//! a head, `2 (k + s)` multiplications instead of `2 k s` for every head and value of `d_model`, which is fewer for any
//! real shape. Made of tensor operations, views of both matrices by head are copied for every product with them,
//! forward and backward. On the CPU, heads are read in place.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::adapted::{AdaptedWeight, HostFactors, LowRankFactors};
use super::attention::{
    absorbed_scores, absorbed_values, attention_weights, dropped, merge_heads, of_example,
    split_heads,
};
use super::autograd::{Input, Operation, apply, constant};
use super::host::{Contiguous, HostTensor};
use crate::device::is_host;
use crate::kernel::{
    Matrix, MatrixMut, Threads, add, multiply, multiply_by_rows_into, multiply_elements,
    multiply_into, softmax_gradients, softmax_rows, zeros,
};

/// The inputs of cross-attention of one target.
pub struct AbsorbedAttention {
    /// `[batch, heads * d_kv]`
    pub query: Tensor<2>,
    /// `W_K`, `[d_model, heads * d_kv]`
    pub key: AdaptedWeight,
    /// `W_V`, `[d_model, heads * d_kv]`
    pub value: AdaptedWeight,
    /// `[batch * source, d_model]`
    pub states: Tensor<2>,
    /// `[batch, 1, 1, source]`, added to the scores; a constant.
    pub mask: Option<Tensor<4>>,
    /// `[batch, heads, 1, source]`, factors of the attention weights; a constant.
    pub dropout: Option<Tensor<4>>,
}

/// Weighted values of every head, `[batch, heads * d_kv]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn absorbed_attention(inputs: AbsorbedAttention, heads: usize) -> Tensor<2> {
    let ([batch, inner], [rows, d_model]) = (inputs.query.dims(), inputs.states.dims());
    assert!(inner.is_multiple_of(heads) && rows.is_multiple_of(batch), "sizes of cross-attention");
    let shapes = [&inputs.key, &inputs.value].map(|matrix| matrix.weight.dims());
    assert_eq!(shapes, [[d_model, inner]; 2], "shapes of W_K and W_V");
    let source = rows / batch;
    let mask = inputs.mask.as_ref().map_or([batch, 1, 1, source], Tensor::dims);
    assert_eq!(mask, [batch, 1, 1, source], "shape of a mask");
    let dropout = inputs.dropout.as_ref().map_or([batch, heads, 1, source], Tensor::dims);
    assert_eq!(dropout, [batch, heads, 1, source], "shape of a dropout mask");
    if is_host(&inputs.states.device()) { inputs.on_host(heads) } else { inputs.by_burn(heads) }
}

impl AbsorbedAttention {
    fn by_burn(self, heads: usize) -> Tensor<2> {
        let [batch, _] = self.query.dims();
        let [rows, d_model] = self.states.dims();
        let states = self.states.reshape([batch, rows / batch, d_model]); // [batch, source, d_model]
        let query = split_heads(self.query, batch, heads); // [batch, 1, heads, d_kv]
        let scores = absorbed_scores(query, self.key.merged(), states.clone()); // [batch, heads, 1, source]
        let pattern = attention_weights(scores, self.mask, self.dropout); // [batch, heads, 1, source]
        merge_heads(absorbed_values(pattern, self.value.merged(), states))
    }

    fn on_host(self, heads: usize) -> Tensor<2> {
        let (mask, dropout) = (self.mask.map(constant), self.dropout.map(constant));
        let (key, key_factors, key_scale) = inputs_of(self.key);
        let (value, value_factors, value_scale) = inputs_of(self.value);
        let [key_a, key_b] = key_factors;
        let [value_a, value_b] = value_factors;
        let (query, states) = (self.query.into(), self.states.into());
        let inputs = [query, states, key, key_a, key_b, value, value_a, value_b];
        apply::<CrossAttention, 8, 2>(inputs, |inputs, _| {
            let [query, states, key, key_a, key_b, value, value_a, value_b] = inputs;
            let key = Absorbed::new(key, key_scale.map(|scale| (key_a, key_b, scale)));
            let value = Absorbed::new(value, value_scale.map(|scale| (value_a, value_b, scale)));
            let [query, states] = [query, states].map(HostTensor::contiguous);
            Saved::attend(query, states, [key, value], mask, dropout, heads)
        })
    }
}

/// The weight as an input, its factors `A` and `B`, and their scale if it has factors.
fn inputs_of(matrix: AdaptedWeight) -> (Input, [Input; 2], Option<f64>) {
    let weight = matrix.weight.into();
    match matrix.factors {
        None => (weight, [Input::absent(), Input::absent()], None),
        Some(LowRankFactors { a, b, scale }) => (weight, [a.into(), b.into()], Some(scale)),
    }
}

/// `W_K` or `W_V`, `[d_model, heads * d_kv]`, with its low-rank factors.
#[derive(Debug, Clone)]
struct Absorbed {
    weight: Contiguous,
    factors: Option<HostFactors>,
}

impl Absorbed {
    fn new(weight: HostTensor, factors: Option<(HostTensor, HostTensor, f64)>) -> Self {
        let factors = factors.map(|(a, b, scale)| HostFactors::new(a, b, scale));
        Self { weight: weight.contiguous(), factors }
    }
}

struct CrossAttention;

/// Vectors of examples and heads are stored by head, `[heads, batch, ...]`, for products with the matrices, and by
/// example, `[batch, heads, ...]`, for products with the states.
#[derive(Debug, Clone)]
struct Saved {
    query: Contiguous,
    key: Absorbed,
    value: Absorbed,
    states: Contiguous,
    dropout: Option<Contiguous>,
    sizes: Sizes,
    /// Queries in the space of the states, `W_K q`: `[heads, batch, d_model]`
    queries: Vec<f32>,
    /// Attention weights before dropout, `[batch, heads, source]`
    pattern: Vec<f32>,
    /// Weighted sums of the states, `[batch, heads, d_model]`
    weighted: Vec<f32>,
}

impl Operation<8> for CrossAttention {
    type Saved = Saved;

    fn backward(saved: Saved, gradient: HostTensor, needed: [bool; 8]) -> [Option<HostTensor>; 8] {
        let sizes = saved.sizes;
        let gradient = gradient.contiguous();
        let gradient = gradient.values();
        let [for_query, for_states, for_key, for_key_a, for_key_b, value @ ..] = needed;
        let key = [for_key, for_key_a, for_key_b];
        let [to_value, to_value_a, to_value_b] =
            sizes.matrix_gradients(&saved.value, &saved.weighted, gradient, value);
        if !(for_query || for_states || key.contains(&true)) {
            return [None, None, None, None, None, to_value, to_value_a, to_value_b];
        }
        let to_weighted = sizes.back_through(gradient, &saved.value);
        let (to_queries, to_states) = saved.through_states(&to_weighted, for_states);
        let [to_key, to_key_a, to_key_b] =
            sizes.matrix_gradients(&saved.key, &to_queries, saved.query.values(), key);
        let to_query = for_query.then(|| sizes.through(&to_queries, &saved.key));
        let to_states = for_states
            .then(|| HostTensor::new(to_states, [sizes.batch * sizes.source, sizes.width]));
        [to_query, to_states, to_key, to_key_a, to_key_b, to_value, to_value_a, to_value_b]
    }
}

#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    heads: usize,
    width: usize,
    inner: usize,
    per_head: usize,
    source: usize,
}

impl Sizes {
    /// The values of one head in rows `[rows, heads * d_kv]`.
    fn head(self, values: &[f32], head: usize) -> Matrix<'_> {
        let rows = values.len() / self.inner;
        Matrix::strided_rows(&values[head * self.per_head..], rows, self.per_head, self.inner)
    }

    /// One head of `[batch, heads, d_model]`: `[batch, d_model]`.
    fn head_of_examples(self, values: &[f32], head: usize) -> Matrix<'_> {
        let stride = self.heads * self.width;
        Matrix::strided_rows(&values[head * self.width..], self.batch, self.width, stride)
    }

    /// One example of `[heads, batch, d_model]`: `[heads, d_model]`.
    fn example_of_heads(self, values: &[f32], example: usize) -> Matrix<'_> {
        let stride = self.batch * self.width;
        Matrix::strided_rows(&values[example * self.width..], self.heads, self.width, stride)
    }

    /// One example of `[batch * source, d_model]`.
    fn states(self, states: &[f32], example: usize) -> Matrix<'_> {
        let size = self.source * self.width;
        Matrix::rows(&states[example * size..][..size], self.width)
    }

    /// Vectors of `d_model` times `matrix` by head, `[batch, heads, d_model] -> [batch, heads * d_kv]`.
    fn through(self, vectors: &[f32], matrix: &Absorbed) -> HostTensor {
        let weight = matrix.weight.values();
        let size = self.batch * self.per_head;
        let mut by_head = vec![0.0; self.heads * size];
        by_head.par_chunks_mut(size).enumerate().for_each(|(head, to)| {
            let vectors = self.head_of_examples(vectors, head);
            let mut add = |left: Matrix, right: &[f32], add: bool| {
                let to = MatrixMut::rows(to, self.per_head);
                multiply_into(to, left, self.head(right, head), add, Threads::One);
            };
            add(vectors, weight, false);
            if let Some(factors) = &matrix.factors {
                let mut narrow = vec![0.0; self.batch * factors.rank()];
                let to = MatrixMut::rows(&mut narrow, factors.rank());
                multiply_into(to, vectors, factors.a.matrix(), false, Threads::One);
                add(Matrix::rows(&narrow, factors.rank()), factors.b.values(), true);
            }
        });
        let mut rows = vec![0.0; self.batch * self.inner];
        for (at, to) in rows.chunks_exact_mut(self.per_head).enumerate() {
            let (example, head) = (at / self.heads, at % self.heads);
            let from = head * size + example * self.per_head;
            to.copy_from_slice(&by_head[from..][..self.per_head]);
        }
        HostTensor::new(rows, [self.batch, self.inner])
    }

    /// Rows `[batch, heads * d_kv]` times the transpose of `matrix` by head: `[heads, batch, d_model]`.
    fn back_through(self, rows: &[f32], matrix: &Absorbed) -> Vec<f32> {
        let size = self.batch * self.width;
        let mut by_head = zeros(self.heads * size);
        by_head.par_chunks_mut(size).enumerate().for_each(|(head, to)| {
            let rows = self.head(rows, head);
            let weight = self.head(matrix.weight.values(), head);
            multiply_by_rows_into(to, rows, weight, Threads::One);
            if let Some(factors) = &matrix.factors {
                let mut narrow = vec![0.0; self.batch * factors.rank()];
                let b = self.head(factors.b.values(), head).transposed();
                let by_rank = MatrixMut::rows(&mut narrow, factors.rank());
                multiply_into(by_rank, rows, b, false, Threads::One);
                let (narrow, a) = (Matrix::rows(&narrow, factors.rank()), factors.a.matrix());
                let to = MatrixMut::rows(to, self.width);
                multiply_into(to, narrow, a.transposed(), true, Threads::One);
            }
        });
        by_head
    }

    /// Gradients of a matrix and of its factors `A` and `B`, as far as they are needed, from the vectors
    /// `[batch, heads, d_model]` that it maps to rows `[batch, heads * d_kv]`, and the gradient of the rows.
    fn matrix_gradients(
        self,
        matrix: &Absorbed,
        vectors: &[f32],
        rows: &[f32],
        [for_weight, for_a, for_b]: [bool; 3],
    ) -> [Option<HostTensor>; 3] {
        let to_weight = for_weight.then(|| self.matrix_gradient(vectors, rows));
        let Some(factors) = matrix.factors.as_ref().filter(|_| for_a || for_b) else {
            return [to_weight, None, None];
        };
        let (rank, by_head) = (factors.rank(), self.batch * self.heads);
        let vectors = Matrix::rows(vectors, self.width); // [batch * heads, d_model]
        let to_a = for_a.then(|| {
            let mut narrow = vec![0.0; by_head * rank]; // [batch, heads, rank]
            for head in 0..self.heads {
                let b = self.head(factors.b.values(), head).transposed();
                let to = &mut narrow[head * rank..];
                let to = MatrixMut::strided_rows(to, self.batch, rank, self.heads * rank);
                multiply_into(to, self.head(rows, head), b, false, Threads::One);
            }
            factors.gradient_of_a(multiply(vectors.transposed(), Matrix::rows(&narrow, rank)))
        });
        let to_b = for_b.then(|| {
            let narrow = multiply(vectors, factors.a.matrix()); // [batch, heads, rank]
            let mut gradient = vec![0.0; rank * self.inner];
            for head in 0..self.heads {
                let narrow = &narrow[head * rank..];
                let narrow = Matrix::strided_rows(narrow, self.batch, rank, self.heads * rank);
                let to = &mut gradient[head * self.per_head..];
                let to = MatrixMut::strided_rows(to, rank, self.per_head, self.inner);
                let rows = self.head(rows, head);
                multiply_into(to, narrow.transposed(), rows, false, Threads::One);
            }
            HostTensor::new(gradient, [rank, self.inner])
        });
        [to_weight, to_a, to_b]
    }

    /// Gradient of the matrix that maps vectors `[batch, heads, d_model]` to rows `[batch, heads * d_kv]`, from that of
    /// the rows: `[d_model, heads * d_kv]`.
    fn matrix_gradient(self, vectors: &[f32], rows: &[f32]) -> HostTensor {
        /// Rows of the matrix that a task computes.
        const ROWS: usize = 64;
        let mut gradient = zeros(self.width * self.inner);
        gradient.par_chunks_mut(ROWS * self.inner).enumerate().for_each(|(task, to)| {
            let count = to.len() / self.inner;
            for head in 0..self.heads {
                let first = head * self.width + task * ROWS;
                let stride = self.heads * self.width;
                let vectors = Matrix::strided_rows(&vectors[first..], self.batch, count, stride);
                let to = &mut to[head * self.per_head..];
                let to = MatrixMut::strided_rows(to, count, self.per_head, self.inner);
                let rows = self.head(rows, head);
                multiply_into(to, vectors.transposed(), rows, false, Threads::One);
            }
        });
        HostTensor::new(gradient, [self.width, self.inner])
    }
}

impl Saved {
    fn attend(
        query: Contiguous,
        states: Contiguous,
        [key, value]: [Absorbed; 2],
        mask: Option<Contiguous>,
        dropout: Option<Contiguous>,
        heads: usize,
    ) -> (HostTensor, Self) {
        let ([batch, inner], [rows, width]) = (query.shape(), states.shape());
        let (per_head, source) = (inner / heads, rows / batch);
        let sizes = Sizes { batch, heads, width, inner, per_head, source };
        let queries = sizes.back_through(query.values(), &key);
        let mut pattern = vec![0.0; batch * heads * source];
        let mut weighted = zeros(batch * heads * width);
        pattern
            .par_chunks_mut(heads * source)
            .zip(weighted.par_chunks_mut(heads * width))
            .enumerate()
            .for_each(|(example, (pattern, weighted))| {
                let states = sizes.states(states.values(), example);
                let queries = sizes.example_of_heads(&queries, example);
                let to = MatrixMut::rows(pattern, source);
                multiply_into(to, queries, states.transposed(), false, Threads::One);
                if let Some(mask) = &mask {
                    let mask = of_example(mask.values(), example, source);
                    pattern.chunks_exact_mut(source).for_each(|scores| add(scores, mask));
                }
                softmax_rows(pattern, source);
                let dropped = dropped(pattern, dropout.as_ref(), example);
                let dropped = Matrix::rows(dropped.as_deref().unwrap_or(pattern), source);
                let to = MatrixMut::rows(weighted, width);
                multiply_into(to, dropped, states, false, Threads::One);
            });
        let mixed = sizes.through(&weighted, &value);
        (mixed, Self { query, key, value, states, dropout, sizes, queries, pattern, weighted })
    }

    /// From the gradient of the weighted sums, `[heads, batch, d_model]`: that of [`Self::queries`],
    /// `[batch, heads, d_model]`, and that of the states, if it is needed.
    fn through_states(&self, to_weighted: &[f32], for_states: bool) -> (Vec<f32>, Vec<f32>) {
        let Sizes { batch, heads, width, source, .. } = self.sizes;
        let mut to_queries = zeros(batch * heads * width);
        let mut to_states = zeros(if for_states { batch * source * width } else { 0 });
        let attend = |example: usize, to_queries: &mut [f32], to_states: Option<&mut [f32]>| {
            let states = self.sizes.states(self.states.values(), example);
            let to_weighted = self.sizes.example_of_heads(to_weighted, example);
            let pattern = of_example(&self.pattern, example, heads * source);
            let dropped = dropped(pattern, self.dropout.as_ref(), example);
            let mut to_scores = vec![0.0; heads * source];
            let to = MatrixMut::rows(&mut to_scores, source);
            multiply_into(to, to_weighted, states.transposed(), false, Threads::One);
            if let Some(dropout) = &self.dropout {
                let dropout = of_example(dropout.values(), example, heads * source);
                multiply_elements(&mut to_scores, dropout);
            }
            softmax_gradients(&mut to_scores, pattern, source);
            let scores = Matrix::rows(&to_scores, source);
            multiply_into(MatrixMut::rows(to_queries, width), scores, states, false, Threads::One);
            if let Some(to) = to_states {
                let queries = self.sizes.example_of_heads(&self.queries, example);
                let scores = scores.transposed();
                multiply_into(MatrixMut::rows(to, width), scores, queries, false, Threads::One);
                let dropped = Matrix::rows(dropped.as_deref().unwrap_or(pattern), source);
                let (to, dropped) = (MatrixMut::rows(to, width), dropped.transposed());
                multiply_into(to, dropped, to_weighted, true, Threads::One);
            }
        };
        let examples = to_queries.par_chunks_mut(heads * width).enumerate();
        if for_states {
            examples.zip(to_states.par_chunks_mut(source * width)).for_each(
                |((example, to_queries), to_states)| attend(example, to_queries, Some(to_states)),
            );
        } else {
            examples.for_each(|(example, to_queries)| attend(example, to_queries, None));
        }
        (to_queries, to_states)
    }
}

#[cfg(test)]
mod tests {
    use super::super::agreement::{assert_agree, values};
    use super::*;

    #[test]
    fn the_host_and_the_device_version_agree_with_mask_and_dropout_and_without() {
        let (batch, heads, source, d_kv, d_model) = (3, 2, 5, 4, 6);
        let mask = values([batch, 1, 1, source], 1) * 3.0;
        let dropout = values([batch, heads, 1, source], 2).abs();
        for (mask, dropout) in [(None, None), (Some(mask), Some(dropout))] {
            let matrix = |seed| values([d_model, heads * d_kv], seed);
            let query = values([batch, heads * d_kv], 3);
            let states = values([batch * source, d_model], 4);
            let inputs = |[query, key, value, states]: [Tensor<2>; 4]| {
                // A constant is on the graph where the inputs are.
                let constant = |tensor: &Tensor<4>| match states.is_autodiff() {
                    true => Tensor::from_inner(tensor.clone()),
                    false => tensor.clone(),
                };
                AbsorbedAttention {
                    mask: mask.as_ref().map(constant),
                    dropout: dropout.as_ref().map(constant),
                    query,
                    key: key.into(),
                    value: value.into(),
                    states,
                }
            };
            assert_agree(
                [query, matrix(5), matrix(6), states],
                |given| inputs(given).on_host(heads),
                |given| inputs(given).by_burn(heads),
            );
        }
    }
    #[test]
    fn adapted_keys_and_values_agree_with_merged_ones() {
        let (batch, heads, source, d_kv, d_model, rank) = (3, 2, 5, 4, 6, 2);
        let matrix = |seed| values([d_model, heads * d_kv], seed);
        let a = |seed| values([d_model, rank], seed);
        let b = |seed| values([rank, heads * d_kv], seed);
        let query = values([batch, heads * d_kv], 3);
        let states = values([batch * source, d_model], 4);
        let inputs = |given: [Tensor<2>; 8]| {
            let [query, states, key, key_a, key_b, value, value_a, value_b] = given;
            let adapted = |weight, a, b| AdaptedWeight {
                weight,
                factors: Some(LowRankFactors { a, b, scale: 0.5 }),
            };
            AbsorbedAttention {
                mask: None,
                dropout: None,
                query,
                key: adapted(key, key_a, key_b),
                value: adapted(value, value_a, value_b),
                states,
            }
        };
        assert_agree(
            [query, states, matrix(5), a(6), b(7), matrix(8), a(9), b(10)],
            |given| inputs(given).on_host(heads),
            |given| inputs(given).by_burn(heads),
        );
    }
}
