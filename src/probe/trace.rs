//! What one pass of the decoder did: every activation that a probe looks at, read through a tap.

use burn::tensor::Tensor;

use crate::component::{ByComponent, Component};
use crate::t5::{Attention, EncoderStates, Hook, Pass, Site, Stack, T5, Tap};

/// The activations of one pass with the start token, without intervention.
pub(super) struct Trace {
    /// The start token's embedding, `[batch, d_model]`.
    pub start: Tensor<2>,
    pub layers: Vec<LayerTrace>,
    /// The decoder's output after its final RMSNorm, `[batch, d_model]`.
    pub output: Tensor<2>,
}

/// The activations of one decoder layer. Residual streams and outputs are `[batch, d_model]`.
#[derive(Clone)]
pub(super) struct LayerTrace {
    pub residual_pre: Tensor<2>,
    /// After self-attention: what cross-attention reads.
    pub residual_mid: Tensor<2>,
    /// After cross-attention: what the MLP reads.
    pub residual_mid_cross: Tensor<2>,
    pub residual_post: Tensor<2>,
    /// Components' outputs as they are added to the residual stream.
    pub outputs: ByComponent<Tensor<2>>,
    /// Before the activation of the MLP (the gate's, in gated models): `[batch, d_ff]`.
    pub mlp_pre: Tensor<2>,
    /// Cross-attention's scores, masked: `[batch, heads, source]`.
    pub scores: Tensor<3>,
    /// Attentions' weighted values before the output matrix, `[batch, heads, d_kv]`; an MLP has none, its tensor is
    /// empty.
    pub mixed: ByComponent<Tensor<3>>,
}

impl Trace {
    /// Runs the decoder of `t5` on `states` and keeps what it did.
    pub fn record(t5: &T5, states: &EncoderStates) -> Self {
        let nothing = Tensor::zeros([1, 1], &states.rows.device());
        let empty = LayerTrace::filled_with(nothing.clone());
        let layers = vec![empty; t5.config().num_decoder_layers];
        let mut recorder = Trace { start: nothing.clone(), layers, output: nothing };
        recorder.output = t5.decode_start(states, &mut Pass::evaluate(&mut recorder));
        recorder
    }

    /// A component's output, `[batch, d_model]`.
    pub fn output_of(&self, layer: usize, component: Component) -> &Tensor<2> {
        &self.layers[layer].outputs[component]
    }
}

impl LayerTrace {
    fn filled_with(nothing: Tensor<2>) -> Self {
        let heads = nothing.clone().unsqueeze::<3>();
        Self {
            residual_pre: nothing.clone(),
            residual_mid: nothing.clone(),
            residual_mid_cross: nothing.clone(),
            residual_post: nothing.clone(),
            outputs: ByComponent::new(|_| nothing.clone()),
            mlp_pre: nothing,
            scores: heads.clone(),
            mixed: ByComponent::new(|_| heads.clone()),
        }
    }

    /// Where a stream hook is kept.
    fn stream(&mut self, hook: Hook) -> Option<&mut Tensor<2>> {
        Some(match hook {
            Hook::ResidualPre => &mut self.residual_pre,
            Hook::ResidualMid => &mut self.residual_mid,
            Hook::ResidualMidCross => &mut self.residual_mid_cross,
            Hook::ResidualPost => &mut self.residual_post,
            Hook::AttentionOut => &mut self.outputs[Component::SelfAttention],
            Hook::CrossAttentionOut => &mut self.outputs[Component::CrossAttention],
            Hook::MlpOut => &mut self.outputs[Component::Mlp],
            Hook::MlpPre => &mut self.mlp_pre,
            _ => return None,
        })
    }
}

impl Tap for Trace {
    fn wants(&self, site: Site) -> bool {
        let kept = match site.hook {
            Hook::Embed
            | Hook::ResidualPre
            | Hook::ResidualMid
            | Hook::ResidualMidCross
            | Hook::ResidualPost
            | Hook::MlpPre
            | Hook::Scores(Attention::CrossAttention)
            | Hook::WeightedValues(_) => true,
            hook => output_hooks().contains(&hook),
        };
        kept && site.stack == Stack::Decoder
    }

    fn stream(&mut self, site: Site, value: Tensor<3>) -> Tensor<3> {
        let rows = value.clone().squeeze_dim::<2>(1); // [batch, width]
        if site.hook == Hook::Embed {
            self.start = rows;
        } else if let Some(place) = self.layers[site.layer].stream(site.hook) {
            *place = rows;
        }
        value
    }

    fn heads(&mut self, site: Site, value: Tensor<4>) -> Tensor<4> {
        let layer = &mut self.layers[site.layer];
        match site.hook {
            // [batch, heads, 1, source] -> [batch, heads, source]
            Hook::Scores(_) => layer.scores = value.clone().squeeze_dim(2),
            // [batch, 1, heads, d_kv] -> [batch, heads, d_kv]
            Hook::WeightedValues(attention) => {
                layer.mixed[component_of(attention)] = value.clone().squeeze_dim(1);
            }
            _ => {}
        }
        value
    }
}

/// The component that an attention is.
fn component_of(attention: Attention) -> Component {
    match attention {
        Attention::SelfAttention => Component::SelfAttention,
        Attention::CrossAttention => Component::CrossAttention,
    }
}

/// The hook at which a component's output goes by.
pub(super) fn output_hook(component: Component) -> Hook {
    match component {
        Component::SelfAttention => Hook::AttentionOut,
        Component::CrossAttention => Hook::CrossAttentionOut,
        Component::Mlp => Hook::MlpOut,
    }
}

fn output_hooks() -> [Hook; 3] {
    Component::ALL.map(output_hook)
}
