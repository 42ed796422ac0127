//! Where in the model a parameter lives, read from its dotted name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the two stacks, or what both share. Parameters may lie outside the stacks, sites of the
/// forward pass may not: [`crate::t5::Stack`] has no `Shared`, and component does not import the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stack {
    Encoder,
    Decoder,
    /// The word embedding, the docid rows and the head.
    Shared,
}

impl fmt::Display for Stack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Stack::Encoder => "encoder",
            Stack::Decoder => "decoder",
            Stack::Shared => "shared",
        })
    }
}

/// What a layer is made of; each with the RMSNorm that feeds it. Serde uses [`Component::name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    SelfAttention,
    /// Of decoder layers only.
    CrossAttention,
    Mlp,
}

impl Component {
    /// All components, in the order in which a decoder layer runs them.
    pub const ALL: [Component; 3] =
        [Component::SelfAttention, Component::CrossAttention, Component::Mlp];

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

/// The part of a stack that a parameter belongs to; layers count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    SelfAttention(usize),
    CrossAttention(usize),
    Mlp(usize),
    FinalNorm,
    RelativeBias,
    /// The word embedding.
    Words,
    /// The docid rows.
    Docids,
    /// The head of an untied model.
    Head,
}

/// Where a parameter lives: `t5.decoder.layers.3.mlp.norm.weight` is part of the MLP of decoder
/// layer 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ParameterPlace {
    pub stack: Stack,
    pub part: Part,
}

impl ParameterPlace {
    /// The place that the dotted `name` tells, `None` when no parameter of the model has that form.
    pub fn of(name: &str) -> Option<Self> {
        let words: Vec<&str> = name.split('.').collect();
        let (stack, part) = match words.as_slice() {
            ["docids", "weight"] => (Stack::Shared, Part::Docids),
            ["t5", "shared", "weight"] => (Stack::Shared, Part::Words),
            ["t5", "lm_head", "weight"] => (Stack::Shared, Part::Head),
            ["t5", stack, "final_norm", "weight"] => (side(stack)?, Part::FinalNorm),
            ["t5", stack, "relative_bias", "weight"] => (side(stack)?, Part::RelativeBias),
            ["t5", stack, "layers", layer, component, _, "weight"] => {
                let stack = side(stack)?;
                let layer = layer.parse().ok()?;
                let part = match Component::named(component)? {
                    Component::SelfAttention => Part::SelfAttention(layer),
                    Component::CrossAttention if stack == Stack::Encoder => return None,
                    Component::CrossAttention => Part::CrossAttention(layer),
                    Component::Mlp => Part::Mlp(layer),
                };
                (stack, part)
            }
            _ => return None,
        };
        Some(Self { stack, part })
    }

    /// The component and layer, when the parameter is part of a layer.
    pub fn component(&self) -> Option<(Component, usize)> {
        match self.part {
            Part::SelfAttention(layer) => Some((Component::SelfAttention, layer)),
            Part::CrossAttention(layer) => Some((Component::CrossAttention, layer)),
            Part::Mlp(layer) => Some((Component::Mlp, layer)),
            _ => None,
        }
    }
}

fn side(name: &str) -> Option<Stack> {
    match name {
        "encoder" => Some(Stack::Encoder),
        "decoder" => Some(Stack::Decoder),
        _ => None,
    }
}
