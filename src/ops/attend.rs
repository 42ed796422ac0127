//! Attention of each example and head from queries, keys and values to weighted values, and its gradients: the loops on
//! the CPU that self-attention and cross-attention of many targets share. Each example is a task that reads its heads in
//! place; nothing is permuted or copied.

use rayon::prelude::*;

use super::attention::{dropped, of_example};
use super::host::Contiguous;
use crate::kernel::{
    Matrix, MatrixMut, Threads, add, multiply_elements, multiply_into, softmax_gradients,
    softmax_rows, zeros,
};

/// The sizes of a batch. Queries and weighted values are rows `[batch * target, heads * d_kv]`, keys and values
/// `[batch * source, heads * d_kv]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub batch: usize,
    pub heads: usize,
    pub target: usize,
    pub source: usize,
    pub inner: usize,
    pub per_head: usize,
}

/// What is added to the scores, and what multiplies the attention weights.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    /// By position, `[1, heads, target, source]`
    pub bias: Option<&'a Contiguous>,
    /// By padding, `[batch, 1, 1, source]`
    pub mask: Option<&'a Contiguous>,
    /// `[batch, heads, target, source]`
    pub dropout: Option<&'a Contiguous>,
}

/// Gradients of queries, keys and values, and of the position bias from each example.
pub(super) struct AttendGradients {
    pub query: Vec<f32>,
    pub key: Vec<f32>,
    pub value: Vec<f32>,
    /// `[heads, target, source]` for each example; empty unless it was asked for.
    pub bias: Vec<Vec<f32>>,
}

impl Sizes {
    /// Values of an example among the rows of the targets.
    fn targets(self) -> usize {
        self.target * self.inner
    }

    /// Values of an example among the rows of the sources.
    fn sources(self) -> usize {
        self.source * self.inner
    }

    /// Scores of a head of an example.
    fn scores_of_head(self) -> usize {
        self.target * self.source
    }

    /// Scores of an example, `[heads, target, source]`.
    pub fn scores(self) -> usize {
        self.heads * self.scores_of_head()
    }

    /// One head of an example's rows: `[positions, d_kv]`.
    fn head(self, rows: &[f32], head: usize) -> Matrix<'_> {
        let positions = rows.len() / self.inner;
        Matrix::strided_rows(&rows[head * self.per_head..], positions, self.per_head, self.inner)
    }

    /// The same, to write to.
    fn head_mut(self, rows: &mut [f32], head: usize) -> MatrixMut<'_> {
        let positions = rows.len() / self.inner;
        let rows = &mut rows[head * self.per_head..];
        MatrixMut::strided_rows(rows, positions, self.per_head, self.inner)
    }

    /// Weighted values `[batch * target, heads * d_kv]`, and the weights before dropout,
    /// `[batch, heads, target, source]`.
    pub fn attend(self, [query, key, value]: [&[f32]; 3], terms: Terms) -> (Vec<f32>, Vec<f32>) {
        let mut mixed = zeros(self.batch * self.targets());
        let mut pattern = zeros(self.batch * self.scores());
        mixed
            .par_chunks_mut(self.targets())
            .zip(pattern.par_chunks_mut(self.scores()))
            .enumerate()
            .for_each(|(example, (mixed, pattern))| {
                let query = of_example(query, example, self.targets());
                let of_source = |rows| of_example(rows, example, self.sources());
                let (key, value) = (of_source(key), of_source(value));
                if let Some(bias) = terms.bias {
                    pattern.copy_from_slice(bias.values());
                }
                for (head, scores) in pattern.chunks_exact_mut(self.scores_of_head()).enumerate() {
                    // T5 folds 1 / sqrt(d_kv) into W_Q's initialisation: the scores are not scaled.
                    let to = MatrixMut::rows(scores, self.source);
                    let key = self.head(key, head).transposed();
                    let query = self.head(query, head);
                    multiply_into(to, query, key, terms.bias.is_some(), Threads::One);
                }
                if let Some(mask) = terms.mask {
                    let mask = of_example(mask.values(), example, self.source);
                    pattern.chunks_exact_mut(self.source).for_each(|scores| add(scores, mask));
                }
                softmax_rows(pattern, self.source);
                let dropped = dropped(pattern, terms.dropout, example);
                let dropped = dropped.as_deref().unwrap_or(pattern);
                for (head, dropped) in dropped.chunks_exact(self.scores_of_head()).enumerate() {
                    let dropped = Matrix::rows(dropped, self.source);
                    let value = self.head(value, head);
                    multiply_into(self.head_mut(mixed, head), dropped, value, false, Threads::One);
                }
            });
        (mixed, pattern)
    }

    /// Gradients from that of the weighted values, `[batch * target, heads * d_kv]`. `pattern` are the weights that
    /// [`Self::attend`] has returned.
    pub fn attend_backward(
        self,
        [query, key, value]: [&[f32]; 3],
        pattern: &[f32],
        dropout: Option<&Contiguous>,
        gradient: &[f32],
        for_bias: bool,
    ) -> AttendGradients {
        let mut to_query = zeros(self.batch * self.targets());
        let mut to_key = zeros(self.batch * self.sources());
        let mut to_value = zeros(self.batch * self.sources());
        let bias = to_query
            .par_chunks_mut(self.targets())
            .zip(to_key.par_chunks_mut(self.sources()))
            .zip(to_value.par_chunks_mut(self.sources()))
            .enumerate()
            .map(|(example, ((to_query, to_key), to_value))| {
                let of_target = |rows| of_example(rows, example, self.targets());
                let of_source = |rows| of_example(rows, example, self.sources());
                let (gradient, query) = (of_target(gradient), of_target(query));
                let (key, value) = (of_source(key), of_source(value));
                let pattern = of_example(pattern, example, self.scores());
                let dropped = dropped(pattern, dropout, example);
                let dropped = dropped.as_deref().unwrap_or(pattern);
                let mut to_scores = vec![0.0; self.scores()];
                let size = self.scores_of_head();
                let weights = dropped.chunks_exact(size).zip(to_scores.chunks_exact_mut(size));
                for (head, (dropped, to_scores)) in weights.enumerate() {
                    let dropped = Matrix::rows(dropped, self.source).transposed();
                    let gradient = self.head(gradient, head);
                    let to = self.head_mut(to_value, head);
                    multiply_into(to, dropped, gradient, false, Threads::One);
                    let to = MatrixMut::rows(to_scores, self.source);
                    let value = self.head(value, head).transposed();
                    multiply_into(to, gradient, value, false, Threads::One);
                }
                if let Some(dropout) = dropout {
                    let dropout = of_example(dropout.values(), example, self.scores());
                    multiply_elements(&mut to_scores, dropout);
                }
                softmax_gradients(&mut to_scores, pattern, self.source);
                for (head, to_scores) in to_scores.chunks_exact(size).enumerate() {
                    let to_scores = Matrix::rows(to_scores, self.source);
                    let (query, key) = (self.head(query, head), self.head(key, head));
                    let to = self.head_mut(to_query, head);
                    multiply_into(to, to_scores, key, false, Threads::One);
                    let to = self.head_mut(to_key, head);
                    multiply_into(to, to_scores.transposed(), query, false, Threads::One);
                }
                if for_bias { to_scores } else { Vec::new() }
            })
            .collect();
        AttendGradients { query: to_query, key: to_key, value: to_value, bias }
    }
}
