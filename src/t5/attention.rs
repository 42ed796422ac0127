//! Multi-head attention as T5 has it (no scaling of the scores, no bias in its matrices), and the relative
//! position bias.

use burn::module::{Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::absorbed::Absorbed;
use super::config::T5Config;
use super::layers::{Linear, empty};
use super::pass::{LayerContext, Pass};
use super::rms_norm::RmsNorm;
use super::self_attention::SelfAttention;
use super::tap::{Attention, Hook};
use crate::device::is_host;

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

    /// Self-attention: `[batch * length, d_model] -> [batch * length, d_model]`.
    ///
    /// `bias` is called only where scores are computed. One position attends to itself alone whatever the scores are, so then
    /// they, queries and keys are skipped, unless a tap wants to see them.
    pub(super) fn over_itself(
        &self,
        x: Tensor<2>,
        bias: impl FnOnce() -> Bias,
        at: LayerContext,
        pass: &mut Pass,
    ) -> Tensor<2> {
        const SELF: Attention = Attention::SelfAttention;
        let x = pass.stream(at, Hook::AttentionIn, self.norm.forward(x));
        let one_token = x.dims()[0] == at.batch;
        let scores_wanted =
            [Hook::Query(SELF), Hook::Key(SELF), Hook::Scores(SELF), Hook::Pattern(SELF)]
                .into_iter()
                .any(|hook| pass.wants(at.site(hook)));
        let mixed = if one_token && !scores_wanted {
            self.only_value(x, at, pass)
        } else if is_host(&x.device()) && !scores_wanted && !pass.wants(at.site(Hook::Value(SELF)))
        {
            self.fused(x, bias(), at, pass)
        } else {
            self.mix(x.clone(), x, Some(bias().sum()), SELF, at, pass)
        };
        let out = pass.dropout(self.output.forward(mixed, pass.precision)); // [batch * length, d_model]
        pass.stream(at, Hook::AttentionOut, out)
    }

    /// Cross-attention: `[batch * target, d_model]`, states `[batch * source, d_model]` -> `[batch * target, d_model]`.
    ///
    /// `mask`: `[batch, 1, 1, source]`, added to the scores; none when no position is padding.
    pub(super) fn over_states(
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
        let projections_wanted = [Hook::Key(CROSS), Hook::Value(CROSS)]
            .into_iter()
            .any(|hook| pass.wants(at.site(hook)));
        let mixed = if one_token && !projections_wanted {
            self.absorbed(x, states, mask, at, pass)
        } else {
            self.mix(x, states, mask, CROSS, at, pass)
        };
        let out = pass.dropout(self.output.forward(mixed, pass.precision)); // [batch * target, d_model]
        pass.stream(at, Hook::CrossAttentionOut, out)
    }

    /// Self-attention of many positions as one operation of the CPU's.
    fn fused(&self, x: Tensor<2>, bias: Bias, at: LayerContext, pass: &mut Pass) -> Tensor<2> {
        let [rows, _] = x.dims();
        let length = rows / at.batch;
        let weights = [at.batch, self.heads, length, length];
        let dropout = pass.dropout_factors(weights, &x.device());
        let matrices = [&self.query, &self.key, &self.value].map(|matrix| matrix.weight.val());
        let Bias { position, mask } = bias;
        let mixed = SelfAttention { x, matrices, bias: position, mask, dropout }.mix(self.heads);
        self.show_mixed(mixed, Attention::SelfAttention, at, pass)
    }

    /// Shows weighted values `[batch * target, heads * d_kv]` to the tap.
    fn show_mixed(
        &self,
        mixed: Tensor<2>,
        kind: Attention,
        at: LayerContext,
        pass: &mut Pass,
    ) -> Tensor<2> {
        let dims = mixed.dims();
        pass.heads(at, Hook::Mixed(kind), self.split(mixed, at.batch)).reshape(dims)
    }

    /// One position that attends to itself with weight 1 (0 or `1 / keep` under dropout).
    fn only_value(&self, x: Tensor<2>, at: LayerContext, pass: &mut Pass) -> Tensor<2> {
        let [batch, _] = x.dims();
        let value = self.split(self.value.forward(x, pass.precision), batch); // [batch, 1, heads, d_kv]
        let value = pass.heads(at, Hook::Value(Attention::SelfAttention), value);
        let [_, _, heads, d_kv] = value.dims();
        // Dropping a head's only attention weight drops all of that head: one draw a head.
        let mixed = match pass.dropout_factors([batch, heads, 1, 1], &value.device()) {
            Some(weight) => value * weight.swap_dims(1, 2), // [batch, 1, heads, d_kv]
            None => value,
        };
        let mixed = pass.heads(at, Hook::Mixed(Attention::SelfAttention), mixed);
        mixed.reshape([batch, heads * d_kv])
    }

    /// Weighted values of one target without keys or values: `[batch, heads * d_kv]`.
    ///
    /// A score is `q . (W_K e) = (W_K^T q) . e`, and the weighted sum of `W_V e` is `W_V` of the weighted sum
    /// (cross-attention has no bias and no positions). So the matrices meet one vector an example and head, and
    /// not each of its states.
    fn absorbed(
        &self,
        target: Tensor<2>,
        states: Tensor<2>,
        mask: Option<Tensor<4>>,
        at: LayerContext,
        pass: &mut Pass,
    ) -> Tensor<2> {
        const CROSS: Attention = Attention::CrossAttention;
        let batch = at.batch;
        let [n, d_model] = states.dims();
        let seen = [Hook::Query(CROSS), Hook::Scores(CROSS), Hook::Pattern(CROSS)];
        let seen = seen.into_iter().any(|hook| pass.wants(at.site(hook)));
        if is_host(&states.device()) && !seen {
            let query = self.query.forward(target, pass.precision);
            let weights = [batch, self.heads, 1, n / batch];
            let dropout = pass.dropout_factors(weights, &states.device());
            let (key, value) = (self.key.weight.val(), self.value.weight.val());
            let mixed = Absorbed { query, key, value, states, mask, dropout }.mix(self.heads);
            return self.show_mixed(mixed, CROSS, at, pass);
        }
        let states = states.reshape([batch, n / batch, d_model]); // [batch, source, d_model]
        let query = self.split(self.query.forward(target, pass.precision), batch); // [batch, 1, heads, d_kv]
        let query = pass.heads(at, Hook::Query(CROSS), query);
        let [_, _, heads, d_kv] = query.dims();

        let by_head = |matrix: &Linear| matrix.weight.val().reshape([d_model, heads, d_kv]);
        let query = query.reshape([batch, heads, d_kv]).swap_dims(0, 1); // [heads, batch, d_kv]
        let key = by_head(&self.key).permute([1, 2, 0]); // [heads, d_kv, d_model]
        let asked = query.matmul(key).swap_dims(0, 1); // [batch, heads, d_model]
        let scores = asked.matmul(states.clone().swap_dims(1, 2)); // [batch, heads, source]
        let scores = scores.unsqueeze_dim::<4>(2); // [batch, heads, 1, source]
        let pattern = pattern(scores, mask, CROSS, at, pass); // [batch, heads, 1, source]
        let weighted = pattern.squeeze_dim::<3>(2).matmul(states); // [batch, heads, d_model]
        let value = by_head(&self.value).swap_dims(0, 1); // [heads, d_model, d_kv]
        let mixed = weighted.swap_dims(0, 1).matmul(value).swap_dims(0, 1); // [batch, heads, d_kv]
        let mixed = pass.heads(at, Hook::Mixed(CROSS), mixed.unsqueeze_dim::<4>(1));
        mixed.reshape([batch, heads * d_kv])
    }

    /// Weighted values of every head, `[batch * target, heads * d_kv]`.
    fn mix(
        &self,
        targets: Tensor<2>,
        sources: Tensor<2>,
        bias: Option<Tensor<4>>,
        kind: Attention,
        at: LayerContext,
        pass: &mut Pass,
    ) -> Tensor<2> {
        let batch = at.batch;
        let query = self.split(self.query.forward(targets, pass.precision), batch); // [batch, target, heads, d_kv]
        let key = self.split(self.key.forward(sources.clone(), pass.precision), batch); // [batch, source, heads, d_kv]
        let value = self.split(self.value.forward(sources, pass.precision), batch); // [batch, source, heads, d_kv]
        let query = pass.heads(at, Hook::Query(kind), query);
        let key = pass.heads(at, Hook::Key(kind), key);
        let value = pass.heads(at, Hook::Value(kind), value);
        let [_, target, heads, d_kv] = query.dims();
        // T5 folds 1 / sqrt(d_kv) into W_Q's initialisation: the scores are not scaled.
        let scores = query.swap_dims(1, 2).matmul(key.permute([0, 2, 3, 1])); // [batch, heads, target, source]
        let pattern = pattern(scores, bias, kind, at, pass); // [batch, heads, target, source]
        let mixed = pattern.matmul(value.swap_dims(1, 2)).swap_dims(1, 2); // [batch, target, heads, d_kv]
        let mixed = pass.heads(at, Hook::Mixed(kind), mixed);
        mixed.reshape([batch * target, heads * d_kv])
    }

    /// `[batch * position, heads * d_kv] -> [batch, position, heads, d_kv]`
    fn split(&self, rows: Tensor<2>, batch: usize) -> Tensor<4> {
        let [n, inner] = rows.dims();
        rows.reshape([batch, n / batch, self.heads, inner / self.heads])
    }
}

/// What is added to the scores of self-attention.
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
