//! The activations of one forward pass of the decoder that probes need, recorded by a tap.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

use crate::component::{ByComponent, Component};
use crate::t5::{Attention, EncoderStates, Hook, Pass, Site, Stack, T5, Tap};

/// The activations of one forward pass with the start token, without intervention.
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
    /// After self-attention: the input of cross-attention's RMSNorm.
    pub residual_mid: Tensor<2>,
    /// After cross-attention: the input of the MLP's RMSNorm.
    pub residual_mid_cross: Tensor<2>,
    pub residual_post: Tensor<2>,
    /// Components' outputs as they are added to the residual stream.
    pub outputs: ByComponent<Tensor<2>>,
    /// Pre-activations of the MLP (of its gate, in gated models): `[batch, d_ff]`.
    pub mlp_pre: Tensor<2>,
    /// Cross-attention's scores, masked: `[batch, heads, source]`.
    pub scores: Tensor<3>,
    /// Weighted values of attentions before the output matrix, `[batch, heads, d_kv]`; empty for an MLP.
    pub weighted: ByComponent<Tensor<3>>,
}

impl Trace {
    /// Runs the decoder of `t5` on `states` and records its activations.
    pub fn record(t5: &T5, states: &EncoderStates) -> Self {
        let placeholder = Tensor::zeros([1, 1], &states.rows.device());
        let empty = LayerTrace::filled_with(placeholder.clone());
        let layers = vec![empty; t5.config().num_decoder_layers];
        let mut recorder = Trace { start: placeholder.clone(), layers, output: placeholder };
        recorder.output = t5.decode_start(states, &mut Pass::evaluate(&mut recorder));
        recorder
    }

    /// The summands of the residual stream after the last layer, each `[batch, d_model]`: the start token's embedding and
    /// the outputs of each layer's components, in the order in which they are added.
    pub fn summands(&self) -> Vec<Tensor<2>> {
        let outputs = self.layers.iter().flat_map(|layer| layer.outputs.clone());
        [self.start.clone()].into_iter().chain(outputs).collect()
    }

    /// A component's output, `[batch, d_model]`.
    pub fn output_of(&self, layer: usize, component: Component) -> &Tensor<2> {
        &self.layers[layer].outputs[component]
    }
}

impl LayerTrace {
    /// Cross-attention's weights, `[batch, heads, source]`: they sum to 1.
    pub fn cross_attention_weights(&self) -> Tensor<3> {
        softmax(self.scores.clone(), 2)
    }

    fn filled_with(placeholder: Tensor<2>) -> Self {
        let heads = placeholder.clone().unsqueeze::<3>();
        Self {
            residual_pre: placeholder.clone(),
            residual_mid: placeholder.clone(),
            residual_mid_cross: placeholder.clone(),
            residual_post: placeholder.clone(),
            outputs: ByComponent::new(|_| placeholder.clone()),
            mlp_pre: placeholder,
            scores: heads.clone(),
            weighted: ByComponent::new(|_| heads.clone()),
        }
    }

    /// The field of a stream hook; none if the hook is not recorded.
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
        let recorded = match site.hook {
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
        recorded && site.stack == Stack::Decoder
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
                layer.weighted[component_of(attention)] = value.clone().squeeze_dim(1);
            }
            _ => {}
        }
        value
    }
}

/// The component of an attention.
fn component_of(attention: Attention) -> Component {
    match attention {
        Attention::SelfAttention => Component::SelfAttention,
        Attention::CrossAttention => Component::CrossAttention,
    }
}

/// The hook of a component's output.
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
