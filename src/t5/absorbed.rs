//! Cross-attention of one target without keys or values, on the CPU as one operation.
//!
//! A score is `q . (W_K^T e) = (W_K q) . e`, and the weighted sum of `W_V^T e` is `W_V^T` of the weighted sum. So
//! the matrices meet one vector an example and head, and not each of its states: for `s` states and `k` values a
//! head, `2 (k + s)` multiplications instead of `2 k s` for every head and value of `d_model`, which is fewer at
//! any shape that there is. Made of tensor operations, views of both matrices by head are copied for every product
//! with them, forward and backward. Here heads are read where they lie.

use burn::tensor::{Tensor, TensorData};
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::self_attention::dropped;
use crate::kernel::{
    Input, Matrix, MatrixMut, Threads, add, floats, multiply_by_rows_into, multiply_into, recorded,
    softmax_gradients, softmax_rows, times, to_tensor, zeros,
};

/// What is attended with.
pub(super) struct Absorbed {
    /// `[batch, heads * d_kv]`
    pub query: Tensor<2>,
    /// `W_K`, `[d_model, heads * d_kv]`
    pub key: Tensor<2>,
    /// `W_V`, `[d_model, heads * d_kv]`
    pub value: Tensor<2>,
    /// `[batch * source, d_model]`
    pub states: Tensor<2>,
    /// `[batch, 1, 1, source]`, added to the scores; a constant.
    pub mask: Option<Tensor<4>>,
    /// `[batch, heads, 1, source]`, factors of the attention weights; a constant.
    pub dropout: Option<Tensor<4>>,
}

impl Absorbed {
    /// Weighted values of every head, `[batch, heads * d_kv]`, on the device Flex.
    pub fn mix(self, heads: usize) -> Tensor<2> {
        let constant = |tensor: Tensor<4>| Input::of(tensor).value.to_contiguous();
        let mask = self.mask.map(constant);
        let dropout = self.dropout.map(constant);
        let inputs = [self.query, self.key, self.value, self.states];
        let on_graph = inputs.iter().any(Tensor::is_autodiff);
        let inputs = inputs.map(Input::of);
        let values = inputs.each_ref().map(|input| input.value.to_contiguous());
        let (mixed, kept) = Kept::attend(values, mask, dropout, heads);
        if !on_graph {
            return to_tensor(mixed);
        }
        recorded(CrossAttention, inputs.map(|input| input.node), kept, mixed)
    }
}

/// What the backward pass needs. Vectors of examples and heads are stored by head, `[heads, batch, ...]`, where
/// the matrices meet them, and by example, `[batch, heads, ...]`, where the states do.
#[derive(Debug, Clone)]
struct Kept {
    query: FlexTensor,
    key: FlexTensor,
    value: FlexTensor,
    states: FlexTensor,
    dropout: Option<FlexTensor>,
    sizes: Sizes,
    /// What each head asks of a state, `W_K q`: `[heads, batch, d_model]`
    asked: Vec<f32>,
    /// Attention weights before dropout, `[batch, heads, source]`
    pattern: Vec<f32>,
    /// Weighted sums of the states, `[batch, heads, d_model]`
    weighted: Vec<f32>,
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
        Matrix::rows_apart(&values[head * self.per_head..], rows, self.per_head, self.inner)
    }

    /// One head of `[batch, heads, d_model]`: `[batch, d_model]`.
    fn head_of_examples(self, values: &[f32], head: usize) -> Matrix<'_> {
        let apart = self.heads * self.width;
        Matrix::rows_apart(&values[head * self.width..], self.batch, self.width, apart)
    }

    /// One example of `[heads, batch, d_model]`: `[heads, d_model]`.
    fn example_of_heads(self, values: &[f32], example: usize) -> Matrix<'_> {
        let apart = self.batch * self.width;
        Matrix::rows_apart(&values[example * self.width..], self.heads, self.width, apart)
    }

    /// One example of `[batch * source, d_model]`.
    fn states(self, states: &[f32], example: usize) -> Matrix<'_> {
        let size = self.source * self.width;
        Matrix::rows(&states[example * size..][..size], self.width)
    }

    /// Vectors of `d_model` times `matrix` by head, `[batch, heads, d_model] -> [batch, heads * d_kv]`.
    fn through(self, vectors: &[f32], matrix: &[f32]) -> FlexTensor {
        let size = self.batch * self.per_head;
        let mut by_head = vec![0.0; self.heads * size];
        by_head.par_chunks_mut(size).enumerate().for_each(|(head, to)| {
            let vectors = self.head_of_examples(vectors, head);
            let to = MatrixMut::rows(to, self.per_head);
            multiply_into(to, vectors, self.head(matrix, head), false, Threads::One);
        });
        let mut rows = vec![0.0; self.batch * self.inner];
        for (at, to) in rows.chunks_exact_mut(self.per_head).enumerate() {
            let (example, head) = (at / self.heads, at % self.heads);
            let from = head * size + example * self.per_head;
            to.copy_from_slice(&by_head[from..][..self.per_head]);
        }
        FlexTensor::from_data(TensorData::new(rows, [self.batch, self.inner]))
    }

    /// Rows `[batch, heads * d_kv]` times the transpose of `matrix` by head: `[heads, batch, d_model]`.
    fn back_through(self, rows: &[f32], matrix: &[f32]) -> Vec<f32> {
        let size = self.batch * self.width;
        let mut by_head = zeros(self.heads * size);
        by_head.par_chunks_mut(size).enumerate().for_each(|(head, to)| {
            let (rows, matrix) = (self.head(rows, head), self.head(matrix, head));
            multiply_by_rows_into(to, rows, matrix, Threads::One);
        });
        by_head
    }

    /// Gradient of a matrix that vectors `[batch, heads, d_model]` went through to `rows`.
    fn matrix_gradient(self, vectors: &[f32], rows: &[f32]) -> FlexTensor {
        /// Rows of the matrix that a task makes.
        const ROWS: usize = 64;
        let mut gradient = zeros(self.width * self.inner);
        gradient.par_chunks_mut(ROWS * self.inner).enumerate().for_each(|(task, to)| {
            let count = to.len() / self.inner;
            for head in 0..self.heads {
                let first = head * self.width + task * ROWS;
                let apart = self.heads * self.width;
                let vectors = Matrix::rows_apart(&vectors[first..], self.batch, count, apart);
                let to = &mut to[head * self.per_head..];
                let to = MatrixMut::rows_apart(to, count, self.per_head, self.inner);
                let rows = self.head(rows, head);
                multiply_into(to, vectors.transposed(), rows, false, Threads::One);
            }
        });
        FlexTensor::from_data(TensorData::new(gradient, [self.width, self.inner]))
    }
}

impl Kept {
    fn attend(
        [query, key, value, states]: [FlexTensor; 4],
        mask: Option<FlexTensor>,
        dropout: Option<FlexTensor>,
        heads: usize,
    ) -> (FlexTensor, Self) {
        let [batch, inner] = [query.layout().shape()[0], query.layout().shape()[1]];
        let [rows, width] = [states.layout().shape()[0], states.layout().shape()[1]];
        let (per_head, source) = (inner / heads, rows / batch);
        let sizes = Sizes { batch, heads, width, inner, per_head, source };
        let asked = sizes.back_through(floats(&query), floats(&key));
        let mut pattern = vec![0.0; batch * heads * source];
        let mut weighted = zeros(batch * heads * width);
        pattern
            .par_chunks_mut(heads * source)
            .zip(weighted.par_chunks_mut(heads * width))
            .enumerate()
            .for_each(|(example, (pattern, weighted))| {
                let states = sizes.states(floats(&states), example);
                let asked = sizes.example_of_heads(&asked, example);
                let to = MatrixMut::rows(pattern, source);
                multiply_into(to, asked, states.transposed(), false, Threads::One);
                if let Some(mask) = &mask {
                    let mask = &floats(mask)[example * source..][..source];
                    pattern.chunks_exact_mut(source).for_each(|scores| add(scores, mask));
                }
                softmax_rows(pattern, source);
                let dropped = dropped(pattern, dropout.as_ref(), example);
                let dropped = Matrix::rows(dropped.as_deref().unwrap_or(pattern), source);
                let to = MatrixMut::rows(weighted, width);
                multiply_into(to, dropped, states, false, Threads::One);
            });
        let mixed = sizes.through(&weighted, floats(&value));
        (mixed, Self { query, key, value, states, dropout, sizes, asked, pattern, weighted })
    }

    /// From the gradient of each example's weighted sums, `[heads, batch, d_model]`: that of what was asked,
    /// `[batch, heads, d_model]`, and that of the states, if wanted.
    fn through_states(&self, to_weighted: &[f32], for_states: bool) -> (Vec<f32>, Vec<f32>) {
        let Sizes { batch, heads, width, source, .. } = self.sizes;
        let mut to_asked = zeros(batch * heads * width);
        let mut to_states = zeros(if for_states { batch * source * width } else { 0 });
        let attend = |example: usize, to_asked: &mut [f32], to_states: Option<&mut [f32]>| {
            let states = self.sizes.states(floats(&self.states), example);
            let to_weighted = self.sizes.example_of_heads(to_weighted, example);
            let pattern = &self.pattern[example * heads * source..][..heads * source];
            let dropped = dropped(pattern, self.dropout.as_ref(), example);
            let mut to_scores = vec![0.0; heads * source];
            let to = MatrixMut::rows(&mut to_scores, source);
            multiply_into(to, to_weighted, states.transposed(), false, Threads::One);
            if let Some(dropout) = &self.dropout {
                times(&mut to_scores, &floats(dropout)[example * heads * source..]);
            }
            softmax_gradients(&mut to_scores, pattern, source);
            let scores = Matrix::rows(&to_scores, source);
            multiply_into(MatrixMut::rows(to_asked, width), scores, states, false, Threads::One);
            if let Some(to) = to_states {
                let asked = self.sizes.example_of_heads(&self.asked, example);
                let scores = scores.transposed();
                multiply_into(MatrixMut::rows(to, width), scores, asked, false, Threads::One);
                let dropped = Matrix::rows(dropped.as_deref().unwrap_or(pattern), source);
                let (to, dropped) = (MatrixMut::rows(to, width), dropped.transposed());
                multiply_into(to, dropped, to_weighted, true, Threads::One);
            }
        };
        let examples = to_asked.par_chunks_mut(heads * width).enumerate();
        if for_states {
            examples.zip(to_states.par_chunks_mut(source * width)).for_each(
                |((example, to_asked), to_states)| attend(example, to_asked, Some(to_states)),
            );
        } else {
            examples.for_each(|(example, to_asked)| attend(example, to_asked, None));
        }
        (to_asked, to_states)
    }
}

/// Cross-attention's place in the autodiff graph.
#[derive(Debug)]
struct CrossAttention;

impl Backward<Flex, 4> for CrossAttention {
    type State = Kept;

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let kept = ops.state;
        let sizes = kept.sizes;
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let gradient = floats(&gradient);
        let [for_query, for_key, for_value, for_states] = ops.parents;
        if let Some(node) = for_value {
            let found = sizes.matrix_gradient(&kept.weighted, gradient);
            gradients.register::<Flex>(node.id, found);
        }
        if for_query.is_none() && for_key.is_none() && for_states.is_none() {
            return;
        }
        let to_weighted = sizes.back_through(gradient, floats(&kept.value));
        let (to_asked, to_states) = kept.through_states(&to_weighted, for_states.is_some());
        if let Some(node) = for_key {
            let found = sizes.matrix_gradient(&to_asked, floats(&kept.query));
            gradients.register::<Flex>(node.id, found);
        }
        if let Some(node) = for_query {
            gradients.register::<Flex>(node.id, sizes.through(&to_asked, floats(&kept.key)));
        }
        if let Some(node) = for_states {
            let shape = [sizes.batch * sizes.source, sizes.width];
            let found = FlexTensor::from_data(TensorData::new(to_states, shape));
            gradients.register::<Flex>(node.id, found);
        }
    }
}
