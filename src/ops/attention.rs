//! The steps of attention, on any device: what the one-operation forms compute on the CPU, for GPUs and for taps that
//! read or replace what lies between two steps.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

use super::host::Contiguous;
use crate::kernel::multiply_elements;

/// `[batch * position, heads * d_kv] -> [batch, position, heads, d_kv]`
pub fn split_heads(rows: Tensor<2>, batch: usize, heads: usize) -> Tensor<4> {
    let [n, inner] = rows.dims();
    rows.reshape([batch, n / batch, heads, inner / heads])
}

/// `[batch, position, heads, d_kv] -> [batch * position, heads * d_kv]`
pub fn merge_heads(values: Tensor<4>) -> Tensor<2> {
    let [batch, positions, heads, d_kv] = values.dims();
    values.reshape([batch * positions, heads * d_kv])
}

/// Scores `[batch, heads, target, source]` of queries `[batch, target, heads, d_kv]` and keys
/// `[batch, source, heads, d_kv]`. T5 folds `1 / sqrt(d_kv)` into the initialisation of `W_Q`: they are not scaled.
pub fn attention_scores(query: Tensor<4>, key: Tensor<4>) -> Tensor<4> {
    query.swap_dims(1, 2).matmul(key.permute([0, 2, 3, 1])) // [batch, heads, target, source]
}

/// Attention weights of scores, `[batch, heads, target, source]` both: their softmax over the sources, after `bias`,
/// which is added to the scores, and before `dropout`, which multiplies the weights. Both broadcast to the shape of the
/// scores.
pub(super) fn attention_weights(
    scores: Tensor<4>,
    bias: Option<Tensor<4>>,
    dropout: Option<Tensor<4>>,
) -> Tensor<4> {
    let scores = match bias {
        Some(bias) => scores + bias,
        None => scores,
    };
    let pattern = softmax(scores, 3);
    match dropout {
        Some(dropout) => pattern * dropout,
        None => pattern,
    }
}

/// Values `[batch, source, heads, d_kv]` weighted by attention weights `[batch, heads, target, source]`:
/// `[batch, target, heads, d_kv]`.
pub fn weighted_values(pattern: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    pattern.matmul(value.swap_dims(1, 2)).swap_dims(1, 2) // [batch, target, heads, d_kv]
}

/// Scores `[batch, heads, 1, source]` of one target's queries `[batch, 1, heads, d_kv]` without keys:
/// `q . (W_K^T e) = (W_K q) . e`. `key` is `W_K`, `[d_model, heads * d_kv]`, and `states` `[batch, source, d_model]`.
pub fn absorbed_scores(query: Tensor<4>, key: Tensor<2>, states: Tensor<3>) -> Tensor<4> {
    let [batch, _, heads, d_kv] = query.dims();
    let [d_model, _] = key.dims();
    let query = query.reshape([batch, heads, d_kv]).swap_dims(0, 1); // [heads, batch, d_kv]
    let key = key.reshape([d_model, heads, d_kv]).permute([1, 2, 0]); // [heads, d_kv, d_model]
    let query = query.matmul(key).swap_dims(0, 1); // [batch, heads, d_model]
    query.matmul(states.swap_dims(1, 2)).unsqueeze_dim(2) // [batch, heads, 1, source]
}

/// Weighted values of one target without values: `W_V^T` of the weighted sum of the states, `[batch, 1, heads, d_kv]`.
/// `pattern` is `[batch, heads, 1, source]`, `value` is `W_V`, `[d_model, heads * d_kv]`, and `states`
/// `[batch, source, d_model]`.
pub fn absorbed_values(pattern: Tensor<4>, value: Tensor<2>, states: Tensor<3>) -> Tensor<4> {
    let [_, heads, _, _] = pattern.dims();
    let [d_model, inner] = value.dims();
    let value = value.reshape([d_model, heads, inner / heads]).swap_dims(0, 1); // [heads, d_model, d_kv]
    let weighted = pattern.squeeze_dim::<3>(2).matmul(states); // [batch, heads, d_model]
    let mixed = weighted.swap_dims(0, 1).matmul(value).swap_dims(0, 1); // [batch, heads, d_kv]
    mixed.unsqueeze_dim(1) // [batch, 1, heads, d_kv]
}

/// An example's attention weights after dropout; none without dropout.
pub(super) fn dropped(
    pattern: &[f32],
    dropout: Option<&Contiguous>,
    example: usize,
) -> Option<Vec<f32>> {
    dropout.map(|dropout| {
        let mut dropped = pattern.to_vec();
        multiply_elements(&mut dropped, of_example(dropout.values(), example, pattern.len()));
        dropped
    })
}

/// The values of one example, of `size` values.
pub(super) fn of_example(values: &[f32], example: usize, size: usize) -> &[f32] {
    &values[example * size..][..size]
}
