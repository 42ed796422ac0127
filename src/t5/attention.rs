//! Multi-head attention as T5 has it (no scaling of the scores, no bias in its matrices), and the relative
//! position bias.

use burn::module::{Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::config::T5Config;
use super::layers::{Linear, RmsNorm, empty};
use super::pass::{LayerContext, Pass};
use super::tap::{Attention, Hook};
use crate::ops::{
    AbsorbedAttention, CrossAttention, SelfAttention, absorbed_attention, absorbed_scores,
    absorbed_values, attention_scores, cross_attention, merge_heads, self_attention, split_heads,
    weighted_values,
};

/// Attention of one layer with the RMSNorm that feeds its queries.
#[derive(Module, Debug)]
pub struct AttentionBlock {
    /// The RMSNorm that feeds it.
    pub norm: RmsNorm,
    /// `W_Q`, `[d_model, heads * d_kv]`
    pub query: Linear,
    /// `W_K`, `[d_model, heads * d_kv]`
    pub key: Linear,
    /// `W_V`, `[d_model, heads * d_kv]`
    pub value: Linear,
    /// `W_O`, `[heads * d_kv, d_model]`
    pub output: Linear,
    #[module(skip)]
    heads: usize,
}

impl AttentionBlock {
    pub(super) fn new(config: &T5Config, device: &Device) -> Self {
        let inward = || Linear::new(config.d_model, config.inner(), device);
        Self {
            norm: RmsNorm::new(config, device),
            query: inward(),
            key: inward(),
            value: inward(),
            output: Linear::new(config.inner(), config.d_model, device),
            heads: config.num_heads,
        }
    }

    /// Calls `each` with every matrix and the name of its field.
    pub(super) fn matrices_mut<'a>(&'a mut self, mut each: impl FnMut(&str, &'a mut Linear)) {
        each("query", &mut self.query);
        each("key", &mut self.key);
        each("value", &mut self.value);
        each("output", &mut self.output);
    }

    /// Self-attention: `[batch * length, d_model] -> [batch * length, d_model]`.
    ///
    /// `bias` is called only where scores are computed. One position attends to itself alone whatever the scores are,
    /// so then scores, queries and keys are skipped, unless a tap wants them.
    pub(super) fn self_attention(
        &self,
        x: Tensor<2>,
        bias: impl FnOnce() -> Bias,
        at: LayerContext,
        pass: &mut Pass,
    ) -> Tensor<2> {
        const SELF: Attention = Attention::SelfAttention;
        let x = pass.stream(at, Hook::AttentionIn, self.norm.forward(x));
        let one_token = x.dims()[0] == at.batch;
        let scores_wanted = pass.wants_any(
            at,
            &[Hook::Query(SELF), Hook::Key(SELF), Hook::Scores(SELF), Hook::Pattern(SELF)],
        );
        let mixed = if one_token && !scores_wanted {
            self.only_value(x, at, pass)
        } else if scores_wanted || pass.wants_any(at, &[Hook::Value(SELF)]) {
            self.in_steps(x.clone(), x, Some(bias().sum()), SELF, at, pass)
        } else {
            let [rows, _] = x.dims();
            let length = rows / at.batch;
            let Bias { position, mask } = bias();
            let inputs = SelfAttention {
                matrices: [&self.query, &self.key, &self.value]
                    .map(|matrix| matrix.adapted().merged()),
                bias: position,
                mask,
                dropout: pass.dropout_mask([at.batch, self.heads, length, length], &x.device()),
                precision: pass.precision,
                x,
            };
            self.show_mixed(self_attention(inputs), SELF, at, pass)
        };
        let out = pass.dropout(self.output.forward(mixed, pass.precision)); // [batch * length, d_model]
        pass.stream(at, Hook::AttentionOut, out)
    }

    /// Cross-attention: `[batch * target, d_model]`, states `[batch * source, d_model]` -> `[batch * target, d_model]`.
    ///
    /// `mask`: `[batch, 1, 1, source]`, added to the scores; none when no position is padding.
    pub(super) fn cross_attention(
        &self,
        x: Tensor<2>,
        states: Tensor<2>,
        mask: Option<Tensor<4>>,
        at: LayerContext,
        pass: &mut Pass,
    ) -> Tensor<2> {
        const CROSS: Attention = Attention::CrossAttention;
        let x = pass.stream(at, Hook::CrossAttentionIn, self.norm.forward(x));
        let one_token = x.dims()[0] == at.batch;
        let projections_wanted = pass.wants_any(at, &[Hook::Key(CROSS), Hook::Value(CROSS)]);
        let scores_wanted =
            pass.wants_any(at, &[Hook::Query(CROSS), Hook::Scores(CROSS), Hook::Pattern(CROSS)]);
        let mixed = if projections_wanted || (scores_wanted && !one_token) {
            self.in_steps(x, states, mask, CROSS, at, pass)
        } else if scores_wanted {
            self.absorbed_in_steps(x, states, mask, at, pass)
        } else if !one_token {
            let ([targets, _], [sources, _]) = (x.dims(), states.dims());
            let weights = [at.batch, self.heads, targets / at.batch, sources / at.batch];
            let inputs = CrossAttention {
                query: self.query.forward(x, pass.precision), // [batch * target, heads * d_kv]
                key: self.key.forward(states.clone(), pass.precision), // [batch * source, heads * d_kv]
                dropout: pass.dropout_mask(weights, &states.device()),
                value: self.value.forward(states, pass.precision), // [batch * source, heads * d_kv]
                mask,
            };
            self.show_mixed(cross_attention(inputs, at.batch, self.heads), CROSS, at, pass)
        } else {
            let [rows, _] = states.dims();
            let weights = [at.batch, self.heads, 1, rows / at.batch];
            let inputs = AbsorbedAttention {
                query: self.query.forward(x, pass.precision), // [batch, heads * d_kv]
                key: self.key.adapted(),
                value: self.value.adapted(),
                dropout: pass.dropout_mask(weights, &states.device()),
                states,
                mask,
            };
            self.show_mixed(absorbed_attention(inputs, self.heads), CROSS, at, pass)
        };
        let out = pass.dropout(self.output.forward(mixed, pass.precision)); // [batch * target, d_model]
        pass.stream(at, Hook::CrossAttentionOut, out)
    }

    /// Shows weighted values `[batch * target, heads * d_kv]` to the tap.
    fn show_mixed(
        &self,
        mixed: Tensor<2>,
        kind: Attention,
        at: LayerContext,
        pass: &mut Pass,
    ) -> Tensor<2> {
        merge_heads(pass.heads(
            at,
            Hook::WeightedValues(kind),
            split_heads(mixed, at.batch, self.heads),
        ))
    }

    /// One position that attends to itself with weight 1 (0 or `1 / keep` under dropout).
    fn only_value(&self, x: Tensor<2>, at: LayerContext, pass: &mut Pass) -> Tensor<2> {
        const SELF: Attention = Attention::SelfAttention;
        let value = split_heads(self.value.forward(x, pass.precision), at.batch, self.heads); // [batch, 1, heads, d_kv]
        let value = pass.heads(at, Hook::Value(SELF), value);
        // Dropping a head's only attention weight drops all of that head: one draw a head.
        let mixed = match pass.dropout_mask([at.batch, self.heads, 1, 1], &value.device()) {
            Some(weight) => value * weight.swap_dims(1, 2), // [batch, 1, heads, d_kv]
            None => value,
        };
        merge_heads(pass.heads(at, Hook::WeightedValues(SELF), mixed))
    }

    /// Cross-attention of one target with absorbed matrices, in steps that a tap sees: `[batch, heads * d_kv]`.
    fn absorbed_in_steps(
        &self,
        target: Tensor<2>,
        states: Tensor<2>,
        mask: Option<Tensor<4>>,
        at: LayerContext,
        pass: &mut Pass,
    ) -> Tensor<2> {
        const CROSS: Attention = Attention::CrossAttention;
        let [rows, d_model] = states.dims();
        let states = states.reshape([at.batch, rows / at.batch, d_model]); // [batch, source, d_model]
        let query = split_heads(self.query.forward(target, pass.precision), at.batch, self.heads); // [batch, 1, heads, d_kv]
        let query = pass.heads(at, Hook::Query(CROSS), query);
        let scores = absorbed_scores(query, self.key.adapted().merged(), states.clone()); // [batch, heads, 1, source]
        let pattern = pattern(scores, mask, CROSS, at, pass); // [batch, heads, 1, source]
        let mixed = absorbed_values(pattern, self.value.adapted().merged(), states); // [batch, 1, heads, d_kv]
        merge_heads(pass.heads(at, Hook::WeightedValues(CROSS), mixed))
    }

    /// Attention in steps that a tap sees: `[batch * target, heads * d_kv]`.
    fn in_steps(
        &self,
        targets: Tensor<2>,
        sources: Tensor<2>,
        bias: Option<Tensor<4>>,
        kind: Attention,
        at: LayerContext,
        pass: &mut Pass,
    ) -> Tensor<2> {
        let split = |rows| split_heads(rows, at.batch, self.heads);
        let query = split(self.query.forward(targets, pass.precision)); // [batch, target, heads, d_kv]
        let key = split(self.key.forward(sources.clone(), pass.precision)); // [batch, source, heads, d_kv]
        let value = split(self.value.forward(sources, pass.precision)); // [batch, source, heads, d_kv]
        let query = pass.heads(at, Hook::Query(kind), query);
        let key = pass.heads(at, Hook::Key(kind), key);
        let value = pass.heads(at, Hook::Value(kind), value);
        let scores = attention_scores(query, key); // [batch, heads, target, source]
        let pattern = pattern(scores, bias, kind, at, pass); // [batch, heads, target, source]
        let mixed = weighted_values(pattern, value); // [batch, target, heads, d_kv]
        merge_heads(pass.heads(at, Hook::WeightedValues(kind), mixed))
    }
}

/// The terms that are added to the scores of self-attention.
#[derive(Debug, Clone)]
pub(super) struct Bias {
    /// By position, `[1, heads, length, length]`
    pub position: Tensor<4>,
    /// By padding, `[batch, 1, 1, length]`; none when no position is padding.
    pub mask: Option<Tensor<4>>,
}

impl Bias {
    /// `[batch or 1, heads, length, length]`
    fn sum(self) -> Tensor<4> {
        match self.mask {
            Some(mask) => self.position + mask,
            None => self.position,
        }
    }
}

/// From scores to attention weights: `[batch, heads, target, source]` both. `bias` broadcasts to that shape.
fn pattern(
    scores: Tensor<4>,
    bias: Option<Tensor<4>>,
    kind: Attention,
    at: LayerContext,
    pass: &mut Pass,
) -> Tensor<4> {
    let scores = match bias {
        Some(bias) => scores + bias,
        None => scores,
    };
    let scores = pass.heads(at, Hook::Scores(kind), scores);
    let pattern = pass.dropout(softmax(scores, 3));
    pass.heads(at, Hook::Pattern(kind), pattern)
}

/// One learned bias a head for each bucket of relative distance, shared by all layers of a stack.
#[derive(Module, Debug)]
pub struct RelativeBias {
    /// `[buckets, heads]`
    pub weight: Param<Tensor<2>>,
    #[module(skip)]
    max_distance: usize,
    /// The encoder tells left from right; the decoder sees only what is on the left.
    #[module(skip)]
    bidirectional: bool,
}

impl RelativeBias {
    pub(super) fn new(config: &T5Config, bidirectional: bool, device: &Device) -> Self {
        Self {
            weight: empty([config.relative_attention_num_buckets, config.num_heads], device),
            max_distance: config.relative_attention_max_distance,
            bidirectional,
        }
    }

    /// `[1, heads, length, length]` for targets and sources at the same positions.
    pub(super) fn forward(&self, length: usize) -> Tensor<4> {
        let weight = self.weight.val();
        let [buckets, heads] = weight.dims();
        let positions = length as i64;
        let index: Vec<i64> = (0..positions)
            .flat_map(|target| (0..positions).map(move |source| source - target))
            .map(|distance| bucket(distance, self.bidirectional, buckets, self.max_distance))
            .collect();
        let index = TensorData::new(index, [length * length]);
        let index = Tensor::<1, Int>::from_data(index, &weight.device());
        weight
            .select(0, index) // [length * length, heads]
            .reshape([length, length, heads])
            .permute([2, 0, 1])
            .unsqueeze()
    }
}

/// T5's bucket of `distance` = source position - target position: exact for near ones, then logarithmic
/// up to `max_distance`, where the last bucket begins.
pub fn bucket(distance: i64, bidirectional: bool, buckets: usize, max_distance: usize) -> i64 {
    let (buckets, offset, distance) = if bidirectional {
        let half = buckets as i64 / 2;
        (half, if distance > 0 { half } else { 0 }, distance.abs())
    } else {
        (buckets as i64, 0, (-distance).max(0))
    };
    let exact = buckets / 2;
    if distance < exact {
        return offset + distance;
    }
    // In f32 and in this order, as transformers computes it: the edges of buckets fall on rounding.
    let log =
        (distance as f32 / exact as f32).ln() / (max_distance as f64 / exact as f64).ln() as f32;
    let far = exact + (log * (buckets - exact) as f32) as i64;
    offset + far.min(buckets - 1)
}
