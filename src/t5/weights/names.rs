//! Our parameters' names and Hugging Face's.

use crate::component::{Component, ParameterPlace, Stack, Weight};

/// Where a parameter of ours stands in a Hugging Face checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Name of the tensor.
    pub name: String,
    /// True if it is stored as `[out, in]`, the transpose of ours.
    pub transposed: bool,
}

/// Hugging Face's tensor for our parameter `name` (dotted); none for names that are not a T5's.
///
/// `gated` says how the MLP's input matrices are called.
pub fn stored(name: &str, gated: bool) -> Option<Stored> {
    let plain = |name: String| Some(Stored { name, transposed: false });
    match ParameterPlace::of(name)? {
        ParameterPlace::SharedEmbedding => plain("shared.weight".to_owned()),
        ParameterPlace::Head => plain("lm_head.weight".to_owned()),
        ParameterPlace::Docids => None,
        ParameterPlace::FinalNorm(stack) => plain(format!("{stack}.final_layer_norm.weight")),
        ParameterPlace::RelativeBias(stack) => {
            plain(format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"))
        }
        ParameterPlace::Layer { stack, layer, component, weight } => {
            let (index, module) = match (stack, component) {
                (_, Component::SelfAttention) => (0, "SelfAttention"),
                (_, Component::CrossAttention) => (1, "EncDecAttention"),
                (Stack::Encoder, Component::Mlp) => (1, "DenseReluDense"),
                (Stack::Decoder, Component::Mlp) => (2, "DenseReluDense"),
            };
            let prefix = format!("{stack}.block.{layer}.layer.{index}");
            let matrix = match weight {
                Weight::Norm => return plain(format!("{prefix}.layer_norm.weight")),
                Weight::Query => "q",
                Weight::Key => "k",
                Weight::Value => "v",
                Weight::Gate => "wi_0",
                Weight::Input if gated => "wi_1",
                Weight::Input => "wi",
                Weight::Output if component == Component::Mlp => "wo",
                Weight::Output => "o",
            };
            Some(Stored { name: format!("{prefix}.{module}.{matrix}.weight"), transposed: true })
        }
    }
}
