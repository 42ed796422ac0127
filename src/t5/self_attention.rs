//! Self-attention of many positions on the CPU as one operation, from its input to the weighted values.
//!
//! Made of tensor operations, queries, keys and values are permuted copies, scores and weights are read and written
//! five times forward and as often backward, and the input's gradient is three products and two sums. Here each
//! example is a task that reads its heads where they lie, and the input's gradient is summed by the products.

use burn::tensor::{Tensor, TensorData};
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use crate::kernel::{
    Input, Matrix, MatrixMut, Threads, add, floats, multiply, multiply_into, recorded,
    softmax_gradients, softmax_rows, times, to_tensor, zeros,
};

/// What is attended with.
pub(super) struct SelfAttention {
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
}

impl SelfAttention {
    /// Weighted values of every head, `[batch * length, heads * d_kv]`, on the device Flex.
    pub fn mix(self, heads: usize) -> Tensor<2> {
        let constant = |tensor: Tensor<4>| Input::of(tensor).value.to_contiguous();
        let (mask, dropout) = (self.mask.map(constant), self.dropout.map(constant));
        let [query, key, value] = self.matrices;
        let on_graph = [&self.x, &query, &key, &value].into_iter().any(Tensor::is_autodiff)
            || self.bias.is_autodiff();
        let [x, query, key, value] = [self.x, query, key, value].map(Input::of);
        let inputs = [x, query, key, value, Input::of(self.bias)];
        let [x, query, key, value, bias] =
            inputs.each_ref().map(|input| input.value.to_contiguous());
        let [rows, inner] = [x.layout().shape()[0], query.layout().shape()[1]];
        let length = bias.layout().shape()[3];
        let sizes = Sizes { batch: rows / length, heads, length, inner, per_head: inner / heads };
        let projected =
            [&query, &key, &value].map(|matrix| multiply(Matrix::of(&x), Matrix::of(matrix)));
        let (mixed, pattern) = sizes.attend(&projected, &bias, mask.as_ref(), dropout.as_ref());
        let mixed = FlexTensor::from_data(TensorData::new(mixed, [rows, inner]));
        if !on_graph {
            return to_tensor(mixed);
        }
        let kept = Kept { x, matrices: [query, key, value], projected, pattern, dropout, sizes };
        recorded(Attend, inputs.map(|input| input.node), kept, mixed)
    }
}

#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    heads: usize,
    length: usize,
    inner: usize,
    per_head: usize,
}

impl Sizes {
    /// Values of an example in rows `[batch * length, heads * d_kv]`.
    fn example(self) -> usize {
        self.length * self.inner
    }

    /// Scores of an example, `[heads, length, length]`.
    fn scores(self) -> usize {
        self.heads * self.length * self.length
    }

    /// One head of rows of an example: `[length, d_kv]`.
    fn head(self, rows: &[f32], head: usize) -> Matrix<'_> {
        Matrix::rows_apart(&rows[head * self.per_head..], self.length, self.per_head, self.inner)
    }

    /// The same, to write to.
    fn head_mut(self, rows: &mut [f32], head: usize) -> MatrixMut<'_> {
        let rows = &mut rows[head * self.per_head..];
        MatrixMut::rows_apart(rows, self.length, self.per_head, self.inner)
    }

    /// Weighted values `[batch * length, heads * d_kv]`, and the weights before dropout,
    /// `[batch, heads, length, length]`.
    fn attend(
        self,
        projected: &[FlexTensor; 3],
        bias: &FlexTensor,
        mask: Option<&FlexTensor>,
        dropout: Option<&FlexTensor>,
    ) -> (Vec<f32>, Vec<f32>) {
        let mut mixed = zeros(self.batch * self.example());
        let mut pattern = zeros(self.batch * self.scores());
        let [query, key, value] = projected.each_ref().map(floats);
        mixed
            .par_chunks_mut(self.example())
            .zip(pattern.par_chunks_mut(self.scores()))
            .enumerate()
            .for_each(|(example, (mixed, pattern))| {
                let of = |rows| part(rows, example, self.example());
                let (query, key, value) = (of(query), of(key), of(value));
                let size = self.length * self.length;
                pattern.copy_from_slice(floats(bias));
                for (head, pattern) in pattern.chunks_exact_mut(size).enumerate() {
                    // T5 folds 1 / sqrt(d_kv) into W_Q's initialisation: the scores are not scaled.
                    let to = MatrixMut::rows(pattern, self.length);
                    let key = self.head(key, head).transposed();
                    multiply_into(to, self.head(query, head), key, true, Threads::One);
                }
                if let Some(mask) = mask {
                    let mask = part(floats(mask), example, self.length);
                    pattern.chunks_exact_mut(self.length).for_each(|scores| add(scores, mask));
                }
                softmax_rows(pattern, self.length);
                let dropped = dropped(pattern, dropout, example);
                let dropped = dropped.as_deref().unwrap_or(pattern);
                for (head, dropped) in dropped.chunks_exact(size).enumerate() {
                    let dropped = Matrix::rows(dropped, self.length);
                    let value = self.head(value, head);
                    multiply_into(self.head_mut(mixed, head), dropped, value, false, Threads::One);
                }
            });
        (mixed, pattern)
    }
}

/// An example's attention weights after dropout; none without dropout.
pub(super) fn dropped(
    pattern: &[f32],
    dropout: Option<&FlexTensor>,
    example: usize,
) -> Option<Vec<f32>> {
    dropout.map(|dropout| {
        let mut dropped = pattern.to_vec();
        times(&mut dropped, part(floats(dropout), example, pattern.len()));
        dropped
    })
}

/// Values of one example among those of all.
fn part(values: &[f32], example: usize, size: usize) -> &[f32] {
    &values[example * size..][..size]
}

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct Kept {
    x: FlexTensor,
    matrices: [FlexTensor; 3],
    /// Queries, keys and values, `[batch * length, heads * d_kv]`
    projected: [FlexTensor; 3],
    /// Attention weights before dropout, `[batch, heads, length, length]`
    pattern: Vec<f32>,
    dropout: Option<FlexTensor>,
    sizes: Sizes,
}

impl Kept {
    /// Gradients of queries, keys and values from that of the weighted values, and the position bias's from each
    /// example, if wanted.
    fn through_heads(&self, gradient: &[f32], for_bias: bool) -> ([Vec<f32>; 3], Vec<Vec<f32>>) {
        let sizes = self.sizes;
        let all = || zeros(sizes.batch * sizes.example());
        let (mut to_query, mut to_key, mut to_value) = (all(), all(), all());
        let [query, key, value] = self.projected.each_ref().map(floats);
        let to_bias = to_query
            .par_chunks_mut(sizes.example())
            .zip(to_key.par_chunks_mut(sizes.example()))
            .zip(to_value.par_chunks_mut(sizes.example()))
            .enumerate()
            .map(|(example, ((to_query, to_key), to_value))| {
                let of = |rows| part(rows, example, sizes.example());
                let (gradient, query, key, value) = (of(gradient), of(query), of(key), of(value));
                let pattern = part(&self.pattern, example, sizes.scores());
                let dropped = dropped(pattern, self.dropout.as_ref(), example);
                let dropped = dropped.as_deref().unwrap_or(pattern);
                let mut to_scores = vec![0.0; sizes.scores()];
                let size = sizes.length * sizes.length;
                let weights = dropped.chunks_exact(size).zip(to_scores.chunks_exact_mut(size));
                for (head, (dropped, to_scores)) in weights.enumerate() {
                    let dropped = Matrix::rows(dropped, sizes.length).transposed();
                    let gradient = sizes.head(gradient, head);
                    let to = sizes.head_mut(to_value, head);
                    multiply_into(to, dropped, gradient, false, Threads::One);
                    let to = MatrixMut::rows(to_scores, sizes.length);
                    let value = sizes.head(value, head).transposed();
                    multiply_into(to, gradient, value, false, Threads::One);
                }
                if let Some(dropout) = &self.dropout {
                    times(&mut to_scores, part(floats(dropout), example, sizes.scores()));
                }
                softmax_gradients(&mut to_scores, pattern, sizes.length);
                for (head, to_scores) in to_scores.chunks_exact(size).enumerate() {
                    let to_scores = Matrix::rows(to_scores, sizes.length);
                    let (query, key) = (sizes.head(query, head), sizes.head(key, head));
                    let to = sizes.head_mut(to_query, head);
                    multiply_into(to, to_scores, key, false, Threads::One);
                    let to = sizes.head_mut(to_key, head);
                    multiply_into(to, to_scores.transposed(), query, false, Threads::One);
                }
                if for_bias { to_scores } else { Vec::new() }
            })
            .collect();
        ([to_query, to_key, to_value], to_bias)
    }

    /// Gradient of the input from those of queries, keys and values.
    fn input_gradient(&self, projected: &[Vec<f32>; 3]) -> FlexTensor {
        let shape = [self.x.layout().shape()[0], self.x.layout().shape()[1]];
        let mut gradient = zeros(shape[0] * shape[1]);
        for (at, (of_rows, matrix)) in projected.iter().zip(&self.matrices).enumerate() {
            let matrix = Matrix::of(matrix).transposed();
            let of_rows = Matrix::rows(of_rows, self.sizes.inner);
            let to = MatrixMut::rows(&mut gradient, shape[1]);
            multiply_into(to, of_rows, matrix, at > 0, Threads::All);
        }
        FlexTensor::from_data(TensorData::new(gradient, shape))
    }
}

/// Self-attention's place in the autodiff graph.
#[derive(Debug)]
struct Attend;

impl Backward<Flex, 5> for Attend {
    type State = Kept;

    fn backward(
        self,
        ops: Ops<Self::State, 5>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let kept = ops.state;
        let sizes = kept.sizes;
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let [for_x, for_query, for_key, for_value, for_bias] = ops.parents;
        let (projected, to_bias) = kept.through_heads(floats(&gradient), for_bias.is_some());
        for (node, of_rows) in [for_query, for_key, for_value].into_iter().zip(&projected) {
            if let Some(node) = node {
                let of_rows = Matrix::rows(of_rows, sizes.inner);
                let found = multiply(Matrix::of(&kept.x).transposed(), of_rows);
                gradients.register::<Flex>(node.id, found);
            }
        }
        if let Some(node) = for_bias {
            // Summed in the order of the examples: the result does not depend on the number of threads.
            let mut sum = vec![0.0; sizes.scores()];
            to_bias.iter().for_each(|scores| add(&mut sum, scores));
            let shape = [1, sizes.heads, sizes.length, sizes.length];
            gradients.register::<Flex>(node.id, FlexTensor::from_data(TensorData::new(sum, shape)));
        }
        if let Some(node) = for_x {
            gradients.register::<Flex>(node.id, kept.input_gradient(&projected));
        }
    }
}
