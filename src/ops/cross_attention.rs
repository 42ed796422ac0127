//! Cross-attention of many targets, from queries, keys and values to weighted values.
//!
//! One target has a shorter way, which needs no keys and values: `absorbed_attention`. With `t` targets that way would
//! multiply `t` vectors of `d_model` with each state and head; here keys and values are computed once for all of them.

use burn::tensor::Tensor;

use super::attend::{AttendGradients, Sizes, Terms};
use super::attention::{
    attention_scores, attention_weights, merge_heads, split_heads, weighted_values,
};
use super::autograd::{Operation, apply, constant};
use super::host::{Contiguous, HostTensor};
use crate::device::is_host;

/// The inputs of cross-attention of many targets.
pub struct CrossAttention {
    /// `[batch * target, heads * d_kv]`
    pub query: Tensor<2>,
    /// `[batch * source, heads * d_kv]`
    pub key: Tensor<2>,
    /// `[batch * source, heads * d_kv]`
    pub value: Tensor<2>,
    /// `[batch, 1, 1, source]`, added to the scores; a constant.
    pub mask: Option<Tensor<4>>,
    /// `[batch, heads, target, source]`, factors of the attention weights; a constant.
    pub dropout: Option<Tensor<4>>,
}

/// Weighted values of every head, `[batch * target, heads * d_kv]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn cross_attention(inputs: CrossAttention, batch: usize, heads: usize) -> Tensor<2> {
    let ([targets, inner], [sources, _]) = (inputs.query.dims(), inputs.key.dims());
    let fits = inner.is_multiple_of(heads)
        && targets.is_multiple_of(batch)
        && sources.is_multiple_of(batch);
    assert!(fits, "sizes of cross-attention");
    let shapes = [inputs.key.dims(), inputs.value.dims()];
    assert_eq!(shapes, [[sources, inner]; 2], "shapes of keys and values");
    let (target, source) = (targets / batch, sources / batch);
    let mask = inputs.mask.as_ref().map_or([batch, 1, 1, source], Tensor::dims);
    assert_eq!(mask, [batch, 1, 1, source], "shape of a mask");
    let dropout = inputs.dropout.as_ref().map_or([batch, heads, target, source], Tensor::dims);
    assert_eq!(dropout, [batch, heads, target, source], "shape of a dropout mask");
    if is_host(&inputs.query.device()) {
        let per_head = inner / heads;
        inputs.on_host(Sizes { batch, heads, target, source, inner, per_head })
    } else {
        inputs.by_burn(batch, heads)
    }
}

impl CrossAttention {
    fn by_burn(self, batch: usize, heads: usize) -> Tensor<2> {
        let [query, key, value] =
            [self.query, self.key, self.value].map(|rows| split_heads(rows, batch, heads));
        let scores = attention_scores(query, key); // [batch, heads, target, source]
        let pattern = attention_weights(scores, self.mask, self.dropout);
        merge_heads(weighted_values(pattern, value))
    }

    fn on_host(self, sizes: Sizes) -> Tensor<2> {
        let (mask, dropout) = (self.mask.map(constant), self.dropout.map(constant));
        let inputs = [self.query, self.key, self.value].map(Into::into);
        apply::<Attend, 3, 2>(inputs, |inputs, _| {
            let inputs = inputs.map(HostTensor::contiguous);
            let rows = inputs.each_ref().map(Contiguous::values);
            let terms = Terms { bias: None, mask: mask.as_ref(), dropout: dropout.as_ref() };
            let (mixed, pattern) = sizes.attend(rows, terms);
            let mixed = HostTensor::new(mixed, [sizes.batch * sizes.target, sizes.inner]);
            (mixed, Saved { inputs, pattern, dropout, sizes })
        })
    }
}

struct Attend;

#[derive(Debug, Clone)]
struct Saved {
    /// Queries, keys and values.
    inputs: [Contiguous; 3],
    /// Attention weights before dropout, `[batch, heads, target, source]`
    pattern: Vec<f32>,
    dropout: Option<Contiguous>,
    sizes: Sizes,
}

impl Operation<3> for Attend {
    type Saved = Saved;

    fn backward(saved: Saved, gradient: HostTensor, _needed: [bool; 3]) -> [Option<HostTensor>; 3] {
        let Saved { inputs, pattern, dropout, sizes } = saved;
        let gradient = gradient.contiguous();
        let rows = inputs.each_ref().map(Contiguous::values);
        let AttendGradients { query, key, value, .. } =
            sizes.attend_backward(rows, &pattern, dropout.as_ref(), gradient.values(), false);
        let (targets, sources) = (sizes.batch * sizes.target, sizes.batch * sizes.source);
        [(query, targets), (key, sources), (value, sources)]
            .map(|(rows, count)| Some(HostTensor::new(rows, [count, sizes.inner])))
    }
}

#[cfg(test)]
mod tests {
    use super::super::agreement::{assert_agree, values};
    use super::*;

    #[test]
    fn the_host_and_the_device_version_agree_with_mask_and_dropout_and_without() {
        let (batch, heads, target, source, d_kv) = (3, 2, 4, 5, 3);
        let sizes = Sizes { batch, heads, target, source, inner: heads * d_kv, per_head: d_kv };
        let mask = values([batch, 1, 1, source], 1) * 3.0;
        let dropout = values([batch, heads, target, source], 2).abs();
        for (mask, dropout) in [(None, None), (Some(mask), Some(dropout))] {
            let inputs = |[query, key, value]: [Tensor<2>; 3]| {
                // A constant is on the graph where the inputs are.
                let constant = |tensor: &Tensor<4>| match query.is_autodiff() {
                    true => Tensor::from_inner(tensor.clone()),
                    false => tensor.clone(),
                };
                CrossAttention {
                    mask: mask.as_ref().map(constant),
                    dropout: dropout.as_ref().map(constant),
                    query,
                    key,
                    value,
                }
            };
            let query = values([batch * target, heads * d_kv], 3);
            let [key, value] = [4, 5].map(|seed| values([batch * source, heads * d_kv], seed));
            assert_agree(
                [query, key, value],
                |given| inputs(given).on_host(sizes),
                |given| inputs(given).by_burn(batch, heads),
            );
        }
    }
}
