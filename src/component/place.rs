//! The place of a parameter in the model, parsed from its dotted name. No other code splits parameter names.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Encoder or decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stack {
    /// The encoder.
    Encoder,
    /// The decoder.
    Decoder,
}

impl Stack {
    /// The stack's word in parameter names, Hugging Face's too, and in selectors.
    pub fn name(self) -> &'static str {
        match self {
            Stack::Encoder => "encoder",
            Stack::Decoder => "decoder",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Stack::Encoder, Stack::Decoder].into_iter().find(|stack| stack.name() == name)
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A component of a layer, with the RMSNorm that feeds it. Serde uses [`Component::name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// Self-attention.
    SelfAttention,
    /// Of decoder layers only.
    CrossAttention,
    /// The MLP.
    Mlp,
}

impl Component {
    /// All components, in the order in which a decoder layer runs them.
    pub const ALL: [Component; 3] =
        [Component::SelfAttention, Component::CrossAttention, Component::Mlp];

    /// The components that are attentions.
    pub const ATTENTIONS: [Component; 2] = [Component::SelfAttention, Component::CrossAttention];

    /// The component's word in parameter names and selectors.
    pub fn name(self) -> &'static str {
        match self {
            Component::SelfAttention => "self_attention",
            Component::CrossAttention => "cross_attention",
            Component::Mlp => "mlp",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|component| component.name() == name)
    }
}

/// A weight of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Weight {
    /// The RMSNorm before the component.
    Norm,
    /// An attention's queries.
    Query,
    /// An attention's keys.
    Key,
    /// An attention's values.
    Value,
    /// The activated half of a gated MLP.
    Gate,
    /// The MLP's input; the linear half of a gated one.
    Input,
    /// The component's output.
    Output,
}

impl Weight {
    fn named(name: &str, component: Component) -> Option<Self> {
        match (name, component) {
            ("norm", _) => Some(Weight::Norm),
            ("output", _) => Some(Weight::Output),
            ("gate", Component::Mlp) => Some(Weight::Gate),
            ("input", Component::Mlp) => Some(Weight::Input),
            (_, Component::Mlp) => None,
            ("query", _) => Some(Weight::Query),
            ("key", _) => Some(Weight::Key),
            ("value", _) => Some(Weight::Value),
            _ => None,
        }
    }
}

/// The names of the low-rank factors of the matrix with this dotted name: `...query.weight` has `...query.lora.a` and
/// `...query.lora.b`.
pub fn factor_names(matrix: &str) -> [String; 2] {
    let of = matrix.strip_suffix(".weight").unwrap_or(matrix);
    ["a", "b"].map(|factor| format!("{of}.lora.{factor}"))
}

/// The place of a parameter: `t5.decoder.layers.3.mlp.norm.weight` is a weight of the MLP of decoder layer 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParameterPlace {
    /// The token embedding, Hugging Face's `shared`.
    SharedEmbedding,
    /// The docid rows.
    Docids,
    /// The head of an untied model.
    Head,
    /// The RMSNorm at the end of a stack.
    FinalNorm(Stack),
    /// A stack's relative position bias.
    RelativeBias(Stack),
    /// A weight of a layer.
    Layer {
        /// The stack that the layer is of.
        stack: Stack,
        /// The layer, from 0.
        layer: usize,
        /// The component within the layer.
        component: Component,
        /// The weight within the component.
        weight: Weight,
    },
}

impl ParameterPlace {
    /// Parses the dotted `name`; a T5's parameters may be named with or without `t5.` before them.
    /// `None` when no parameter of the model has that form.
    pub fn of(name: &str) -> Option<Self> {
        if name == "docids.weight" {
            return Some(Self::Docids);
        }
        let words: Vec<&str> = name.strip_prefix("t5.").unwrap_or(name).split('.').collect();
        Some(match words.as_slice() {
            ["shared", "weight"] => Self::SharedEmbedding,
            ["lm_head", "weight"] => Self::Head,
            [stack, "final_norm", "weight"] => Self::FinalNorm(Stack::named(stack)?),
            [stack, "relative_bias", "weight"] => Self::RelativeBias(Stack::named(stack)?),
            // The factors of a matrix have its place.
            [stack, "layers", layer, component, weight, "weight"]
            | [stack, "layers", layer, component, weight, "lora", "a" | "b"] => {
                let stack = Stack::named(stack)?;
                let component = Component::named(component)?;
                if (stack, component) == (Stack::Encoder, Component::CrossAttention) {
                    return None;
                }
                let weight = Weight::named(weight, component)?;
                if weight == Weight::Norm && !name.ends_with(".weight") {
                    return None;
                }
                Self::Layer { stack, layer: layer.parse().ok()?, component, weight }
            }
            _ => return None,
        })
    }

    /// The stack; `None` for what both stacks share.
    pub fn stack(&self) -> Option<Stack> {
        match *self {
            Self::FinalNorm(stack) | Self::RelativeBias(stack) | Self::Layer { stack, .. } => {
                Some(stack)
            }
            Self::SharedEmbedding | Self::Docids | Self::Head => None,
        }
    }

    /// True if the parameter belongs to the encoder, or to the decoder's layers before `layer`.
    pub fn comes_before(&self, layer: usize) -> bool {
        match *self {
            Self::Layer { stack: Stack::Decoder, layer: own, .. } => own < layer,
            _ => self.stack() == Some(Stack::Encoder),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_of_a_t5_is_known_with_and_without_its_prefix() {
        let mlp = ParameterPlace::Layer {
            stack: Stack::Decoder,
            layer: 3,
            component: Component::Mlp,
            weight: Weight::Gate,
        };
        for (name, place) in [
            ("decoder.layers.3.mlp.gate.weight", mlp),
            ("shared.weight", ParameterPlace::SharedEmbedding),
            ("encoder.final_norm.weight", ParameterPlace::FinalNorm(Stack::Encoder)),
        ] {
            assert_eq!(ParameterPlace::of(name), Some(place), "{name}");
            assert_eq!(ParameterPlace::of(&format!("t5.{name}")), Some(place), "{name}");
        }
        for factor in factor_names("t5.decoder.layers.3.mlp.gate.weight") {
            assert_eq!(ParameterPlace::of(&factor), Some(mlp), "{factor}");
        }
        assert_eq!(ParameterPlace::of("docids.weight"), Some(ParameterPlace::Docids));
        for unknown in [
            "t5.docids.weight",
            "decoder.layers.3.mlp.query.weight",
            "t5.t5.shared.weight",
            "decoder.layers.3.mlp.norm.lora.a",
            "decoder.layers.3.mlp.gate.lora.c",
        ] {
            assert_eq!(ParameterPlace::of(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn the_encoder_and_the_decoders_first_layers_come_before_a_decoder_layer() {
        let before = |name: &str| ParameterPlace::of(name).map(|place| place.comes_before(2));
        assert_eq!(before("encoder.relative_bias.weight"), Some(true));
        assert_eq!(before("decoder.layers.1.mlp.norm.weight"), Some(true));
        assert_eq!(before("decoder.layers.2.mlp.norm.weight"), Some(false));
        for after in ["decoder.relative_bias.weight", "shared.weight", "docids.weight"] {
            assert_eq!(before(after), Some(false), "{after}");
        }
    }
}
