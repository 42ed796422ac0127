//! Taps: named places in the forward pass where an activation can be read or replaced.
//!
//! Names follow TransformerLens: `decoder.7.hook_cross_attn_out`, `encoder.0.attn.hook_pattern`. A tap
//! says which sites it wants; nothing is reshaped, copied or computed for the others.

use std::fmt;

use burn::tensor::Tensor;

use crate::component::Stack;

/// The activation that is read or replaced at a site.
///
/// Each variant has its name in TransformerLens: head hooks with `attn.` or `cross_attn.` before it. *Stream* hooks
/// pass `[batch, position, width]` (width is `d_model`, or `d_ff` inside the MLP), *head* hooks pass rank 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// `hook_resid_pre`, stream: a layer's input.
    ResidualPre,
    /// `hook_resid_mid`, stream: after self-attention.
    ResidualMid,
    /// Stream: after cross-attention (decoder only).
    ResidualMidCross,
    /// `hook_resid_post`, stream: a layer's output.
    ResidualPost,
    /// `hook_attn_out`, stream: self-attention's output, as it is added to the residual stream.
    AttentionOut,
    /// `hook_cross_attn_out`, stream: cross-attention's output, as it is added to the residual stream.
    CrossAttentionOut,
    /// `hook_mlp_out`, stream: the MLP's output, as it is added to the residual stream.
    MlpOut,
    /// `mlp.hook_pre`, stream of width d_ff: before the activation (the gate's, in gated models).
    MlpPre,
    /// `mlp.hook_pre_linear`, stream of width d_ff: the linear half of a gated MLP.
    MlpPreLinear,
    /// `mlp.hook_post`, stream of width d_ff: what the MLP's output matrix reads.
    MlpPost,
    /// `ln1.hook_normalized`, stream: what self-attention reads, after its RMSNorm.
    AttentionIn,
    /// `ln2.hook_normalized` of the decoder, stream: what cross-attention's queries read, after its RMSNorm.
    CrossAttentionIn,
    /// `ln3.hook_normalized` of the decoder and `ln2.hook_normalized` of the encoder, stream: what the MLP reads, after
    /// its RMSNorm.
    MlpIn,
    /// `hook_q`, heads, `[batch, target, head, d_kv]`: queries.
    Query(Attention),
    /// `hook_k`, heads, `[batch, source, head, d_kv]`: keys.
    Key(Attention),
    /// `hook_v`, heads, `[batch, source, head, d_kv]`: values.
    Value(Attention),
    /// `hook_attn_scores`, heads, `[batch, head, target, source]`: scores with bias and mask, before the softmax.
    Scores(Attention),
    /// `hook_pattern`, heads, `[batch, head, target, source]`: attention weights, after dropout.
    Pattern(Attention),
    /// `hook_z`, heads, `[batch, target, head, d_kv]`: weighted values, before the output matrix.
    WeightedValues(Attention),
    /// Stream: token embeddings (no layer).
    Embed,
    /// Stream: the stack's output, after its final RMSNorm (no layer).
    Final,
}

/// Self-attention or cross-attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attention {
    /// Within a stack.
    SelfAttention,
    /// From the decoder to the encoder's states.
    CrossAttention,
}

/// One place in the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// Encoder or decoder.
    pub stack: Stack,
    /// Layer, from 0; not shown for [`Hook::Embed`] and [`Hook::Final`], where it is 0.
    pub layer: usize,
    /// The activation.
    pub hook: Hook,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stack, layer, hook } = self;
        let name = |attention: &Attention, hook: &str| match attention {
            Attention::SelfAttention => format!("attn.{hook}"),
            Attention::CrossAttention => format!("cross_attn.{hook}"),
        };
        let hook = match hook {
            Hook::Embed => return write!(f, "{stack}.hook_embed"),
            Hook::Final => return write!(f, "{stack}_final_ln.hook_normalized"),
            Hook::ResidualPre => "hook_resid_pre".into(),
            Hook::ResidualMid => "hook_resid_mid".into(),
            Hook::ResidualMidCross => "hook_resid_mid_cross".into(),
            Hook::ResidualPost => "hook_resid_post".into(),
            Hook::AttentionOut => "hook_attn_out".into(),
            Hook::CrossAttentionOut => "hook_cross_attn_out".into(),
            Hook::MlpOut => "hook_mlp_out".into(),
            Hook::MlpPre => "mlp.hook_pre".into(),
            Hook::MlpPreLinear => "mlp.hook_pre_linear".into(),
            Hook::MlpPost => "mlp.hook_post".into(),
            Hook::AttentionIn => "ln1.hook_normalized".into(),
            Hook::CrossAttentionIn => "ln2.hook_normalized".into(),
            // The MLP's norm is the last of its layer: the second of two, or the third of three.
            Hook::MlpIn => match stack {
                Stack::Encoder => "ln2.hook_normalized".into(),
                Stack::Decoder => "ln3.hook_normalized".into(),
            },
            Hook::Query(attention) => name(attention, "hook_q"),
            Hook::Key(attention) => name(attention, "hook_k"),
            Hook::Value(attention) => name(attention, "hook_v"),
            Hook::Scores(attention) => name(attention, "hook_attn_scores"),
            Hook::Pattern(attention) => name(attention, "hook_pattern"),
            Hook::WeightedValues(attention) => name(attention, "hook_z"),
        };
        write!(f, "{stack}.{layer}.{hook}")
    }
}

/// Reads or replaces activations while a model runs.
///
/// Some sites inside attention exist only on a longer path: with one target token, queries, keys, scores and
/// pattern of the decoder's self-attention, keys and values of its cross-attention; on the CPU, where attention is one
/// operation, queries, keys, values, scores and pattern of all attention. A tap that wants one of them gets that path
/// there, which is slower and gives the same numbers but for rounding.
///
/// Reading is keeping a clone (tensors are reference-counted); patching is returning another tensor of
/// the same shape.
///
/// # Panics
/// A forward pass panics if a tap returns a tensor of another shape than the one that it was given.
pub trait Tap {
    /// True if this tap is to be called at `site`.
    fn wants(&self, site: Site) -> bool;

    /// Called at every [`Hook::AttentionOut`], [`Hook::CrossAttentionOut`] and [`Hook::MlpOut`], whatever
    /// [`Self::wants`] returns, before the component runs, with the shape `[batch, position, d_model]`. If it returns a
    /// tensor, that is the component's output; the component is not computed, and the tap is not called at its other
    /// sites: the cheapest way to ablate.
    fn replace_output(&mut self, site: Site, shape: [usize; 3]) -> Option<Tensor<3>> {
        let _ = (site, shape);
        None
    }

    /// Called at wanted stream hooks with `[batch, position, width]`; the returned tensor replaces the value.
    fn stream(&mut self, site: Site, value: Tensor<3>) -> Tensor<3> {
        let _ = site;
        value
    }

    /// Called at wanted head hooks (shapes: [`Hook`]); the returned tensor replaces the value.
    fn heads(&mut self, site: Site, value: Tensor<4>) -> Tensor<4> {
        let _ = site;
        value
    }
}

/// The tap that wants nothing.
pub struct NoTap;

impl Tap for NoTap {
    fn wants(&self, _site: Site) -> bool {
        false
    }
}
