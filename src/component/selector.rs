//! Selectors: a recipe's words for parts of the model, and the parameters that they name together.
//!
//! The grammar is on the page of the module [`super`].

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use thiserror::Error;

use super::controls::{Control, Sized};
use super::lora::LoraError;
use super::place::{Component, ParameterPlace, Stack, Weight};
use super::stages::{Stage, Stages, StagesError, layers_text, parse_layers};
use crate::nearest::nearest;

/// One selector, read from its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    text: String,
    /// True if it excludes parameters from those that the selectors before it include.
    pub excludes: bool,
    /// The parameters that it matches.
    pub target: Target,
}

/// The target of a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every parameter, word embedding, docid rows and head included.
    Full,
    /// Cross-attention of stages II and III, MLPs of stage III.
    Restricted,
    /// Every RMSNorm of both stacks.
    Norms,
    /// As many parameters as `restricted`, of other components. Which they are depends on the whole model, so that
    /// [`Selector::matches`] knows none of them; [`trainable_set`] does.
    Control(Control),
    /// All of one stack; without word embedding, docid rows and head, which are not the stack's own.
    Whole(Stack),
    /// One parameter outside the layers.
    Single(ParameterPlace),
    /// Parts of the layers of one stack.
    Layered {
        /// The stack.
        stack: Stack,
        /// `None`: all components.
        component: Option<Component>,
        /// `None`: all layers.
        layers: Option<Vec<LayerSet>>,
    },
}

/// Layers as a selector names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerSet {
    /// A stage of the decoder.
    Stage(Stage),
    /// Layers by number, the end exclusive.
    Range(Range<usize>),
}

/// Errors of selectors.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SelectorError {
    /// The selector is none that is known.
    #[error("selector `{selector}` is not known{}", suggestion(.nearest))]
    Unknown {
        /// The selector.
        selector: String,
        /// The most similar one.
        nearest: Option<String>,
    },
    /// Layers are chosen from what has none.
    #[error("selector `{selector}`: {word} has no layers to choose from")]
    NoLayers {
        /// The selector.
        selector: String,
        /// The part that has no layers.
        word: String,
    },
    /// A bracket is missing.
    #[error("selector `{selector}` has no closing bracket")]
    NotClosed {
        /// The selector.
        selector: String,
    },
    /// The text in brackets does not name layers.
    #[error("selector `{selector}`: {source}, or in the decoder a stage: I, II or III")]
    Layers {
        /// The selector.
        selector: String,
        /// Why.
        #[source]
        source: StagesError,
    },
    /// A stage of the encoder is named.
    #[error("selector `{selector}`: stages are the decoder's, the encoder has none")]
    EncoderStage {
        /// The selector.
        selector: String,
    },
    /// A stage of a decoder that is too shallow for three is named.
    #[error(
        "selector `{selector}` needs the decoder's three stages, and a decoder of {depth} layer(s) has none; name \
         the layers instead, such as `decoder.cross_attention[{}]`", .depth.saturating_sub(1)
    )]
    NoStages {
        /// The selector.
        selector: String,
        /// The decoder's number of layers.
        depth: usize,
    },
    /// A random control has no seed.
    #[error("selector `{selector}` needs a seed, a whole number: `random-matched(seed=1)`")]
    NoSeed {
        /// The selector.
        selector: String,
    },
    /// A control cannot have as many parameters as `restricted`.
    #[error(
        "selector `{selector}`: no choice of whole matrices has as many parameters as `restricted` ({wanted}, within 1%): \
         the closest has {closest}, {misses}; name components instead, such as `decoder.mlp[I]`"
    )]
    NotMatched {
        /// The selector.
        selector: String,
        /// Number of parameters of `restricted`.
        wanted: String,
        /// The closest number found.
        closest: String,
        /// By how much it misses.
        misses: String,
    },
    /// No parameter is selected.
    #[error("selector `{selector}` matches nothing: {reason}")]
    MatchesNothing {
        /// The selector.
        selector: String,
        /// Why.
        reason: String,
    },
    /// An exclusion comes before any inclusion.
    #[error(
        "selector `{selector}` excludes from nothing: start with what to train, such as `full`"
    )]
    TakesNothingAway {
        /// The selector.
        selector: String,
    },
    /// No selector is left that includes something.
    #[error("nothing is selected to be trained")]
    NothingSelected,
    /// A parameter of the model has an unknown name.
    #[error("parameter `{name}` is not known to selectors")]
    UnknownParameter {
        /// Its name.
        name: String,
    },
    /// The stages do not fit the decoder.
    #[error(transparent)]
    Stages(#[from] StagesError),
    /// The operator `lora` cannot be applied.
    #[error(transparent)]
    Lora(#[from] LoraError),
}

fn suggestion(nearest: &Option<String>) -> String {
    match nearest {
        Some(word) => format!("; did you mean `{word}`?"),
        None => format!("; known are {}", words().join(", ")),
    }
}

/// The selectors that take no layers.
const FIXED: [(&str, Target); 15] = [
    ("full", Target::Full),
    ("restricted", Target::Restricted),
    ("matched", Target::Control(Control::Matched)),
    ("norms", Target::Norms),
    ("encoder", Target::Whole(Stack::Encoder)),
    ("decoder", Target::Whole(Stack::Decoder)),
    ("encoder.*", Target::Whole(Stack::Encoder)),
    ("decoder.*", Target::Whole(Stack::Decoder)),
    ("docids", Target::Single(ParameterPlace::Docids)),
    ("words", Target::Single(ParameterPlace::SharedEmbedding)),
    ("head", Target::Single(ParameterPlace::Head)),
    ("encoder.final_norm", Target::Single(ParameterPlace::FinalNorm(Stack::Encoder))),
    ("decoder.final_norm", Target::Single(ParameterPlace::FinalNorm(Stack::Decoder))),
    ("encoder.relative_bias", Target::Single(ParameterPlace::RelativeBias(Stack::Encoder))),
    ("decoder.relative_bias", Target::Single(ParameterPlace::RelativeBias(Stack::Decoder))),
];

/// The selectors that may name layers: word, stack and component (`None`: all).
fn layered() -> impl Iterator<Item = (String, Stack, Option<Component>)> {
    [Stack::Encoder, Stack::Decoder].into_iter().flat_map(|stack| {
        let components = Component::ALL
            .into_iter()
            .filter(move |component| {
                stack == Stack::Decoder || *component != Component::CrossAttention
            })
            .map(Some);
        components.chain([None]).map(move |component| {
            let word = component.map_or("layers", Component::name);
            (format!("{stack}.{word}"), stack, component)
        })
    })
}

/// Every word a selector can be, without layers.
fn words() -> Vec<String> {
    let fixed = FIXED.iter().map(|(word, _)| (*word).to_owned());
    let random = ["random-matched(seed=1)".to_owned()];
    fixed.chain(random).chain(layered().map(|(word, ..)| word)).collect()
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let text = text.trim();
        let selector = text.to_owned();
        let named = text.strip_prefix(['-', '!']);
        let (word, layers) = match named.unwrap_or(text).split_once('[') {
            None => (named.unwrap_or(text), None),
            Some((word, rest)) => match rest.strip_suffix(']') {
                Some(layers) => (word, Some(layers)),
                None => return Err(SelectorError::NotClosed { selector }),
            },
        };
        let word = word.trim();
        let fixed = FIXED.iter().find(|(known, _)| *known == word);
        let fixed = match (fixed, Control::random(word)) {
            (Some((_, target)), _) => Some(target.clone()),
            (None, Some(Some(random))) => Some(Target::Control(random)),
            (None, Some(None)) => return Err(SelectorError::NoSeed { selector }),
            (None, None) => None,
        };
        let target = if let Some(target) = fixed {
            if layers.is_some() {
                let word = word.to_owned();
                return Err(SelectorError::NoLayers { selector, word });
            }
            target
        } else if let Some((_, stack, component)) = layered().find(|(known, ..)| known == word) {
            let layers = layers
                .map(|layers| {
                    let sets = layers.split(',');
                    sets.map(|layers| layer_set(layers, stack, text)).collect()
                })
                .transpose()?;
            Target::Layered { stack, component, layers }
        } else {
            let words = words();
            let nearest = nearest(word, words.iter().map(String::as_str)).map(str::to_owned);
            return Err(SelectorError::Unknown { selector, nearest });
        };
        Ok(Self { text: selector, excludes: named.is_some(), target })
    }
}

fn layer_set(text: &str, stack: Stack, selector: &str) -> Result<LayerSet, SelectorError> {
    let selector = || selector.to_owned();
    let named = Stage::ALL.into_iter().find(|stage| stage.name() == text.trim());
    match named {
        Some(_) if stack == Stack::Encoder => {
            Err(SelectorError::EncoderStage { selector: selector() })
        }
        Some(stage) => Ok(LayerSet::Stage(stage)),
        None => parse_layers(text)
            .map(LayerSet::Range)
            .map_err(|source| SelectorError::Layers { selector: selector(), source }),
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl LayerSet {
    /// The layers; none for a stage of a decoder without stages.
    fn range<'a>(&'a self, stages: Option<&'a Stages>) -> Option<&'a Range<usize>> {
        match self {
            LayerSet::Stage(stage) => stages.map(|stages| stages.layers(*stage)),
            LayerSet::Range(range) => Some(range),
        }
    }
}

impl Selector {
    /// A selector of a target, without a text.
    pub(super) fn of(target: Target) -> Self {
        Self { text: String::new(), excludes: false, target }
    }

    /// Returns whether the selector names the parameter at `place`, to train or to exclude it. Without `stages`, a
    /// selector that [needs](Selector::needs_stages) them names nothing.
    pub fn matches(&self, place: ParameterPlace, stages: Option<&Stages>) -> bool {
        match (&self.target, place) {
            (Target::Norms, ParameterPlace::Layer { weight, .. }) => weight == Weight::Norm,
            (Target::Norms, place) => matches!(place, ParameterPlace::FinalNorm(_)),
            (_, ParameterPlace::Layer { stack, layer, component, .. }) => {
                self.matches_component(stack, layer, component, stages)
            }
            (Target::Full, _) => true,
            (Target::Whole(stack), place) => place.stack() == Some(*stack),
            (Target::Single(wanted), place) => place == *wanted,
            (Target::Restricted | Target::Control(_) | Target::Layered { .. }, _) => false,
        }
    }

    /// The same of all parameters of a component of a layer.
    pub fn matches_component(
        &self,
        stack: Stack,
        layer: usize,
        component: Component,
        stages: Option<&Stages>,
    ) -> bool {
        match &self.target {
            Target::Full => true,
            Target::Whole(wanted) => stack == *wanted,
            Target::Single(_) | Target::Norms | Target::Control(_) => false,
            Target::Restricted => stages.is_some_and(|stages| match (stack, component) {
                (Stack::Decoder, Component::CrossAttention) => {
                    stages.second.contains(&layer) || stages.third.contains(&layer)
                }
                (Stack::Decoder, Component::Mlp) => stages.third.contains(&layer),
                _ => false,
            }),
            Target::Layered { stack: wanted_stack, component: wanted, layers } => {
                let within = |set: &LayerSet| {
                    set.range(stages).is_some_and(|layers| layers.contains(&layer))
                };
                stack == *wanted_stack
                    && wanted.is_none_or(|wanted| wanted == component)
                    && layers.as_ref().is_none_or(|layers| layers.iter().any(within))
            }
        }
    }

    /// Returns whether it can be resolved only if the decoder has three stages.
    pub fn needs_stages(&self) -> bool {
        match &self.target {
            Target::Restricted | Target::Control(_) => true,
            Target::Layered { layers: Some(layers), .. } => {
                layers.iter().any(|layers| matches!(layers, LayerSet::Stage(_)))
            }
            _ => false,
        }
    }

    /// The layers of the selector that the stack does not have. They tell of a recipe made for another
    /// model, even when other layers match.
    fn beyond(&self, stages: Option<&Stages>, places: &Places) -> Option<SelectorError> {
        let Target::Layered { stack, .. } = &self.target else {
            return None;
        };
        let depth = depth(places, *stack);
        let beyond = self.layers_beyond(stages, depth)?;
        Some(SelectorError::MatchesNothing {
            selector: self.text.clone(),
            reason: format!("layers {beyond} go beyond the {stack}'s {depth} layers"),
        })
    }

    /// The first layers that the selector names beyond `depth`, as people count them.
    pub fn layers_beyond(&self, stages: Option<&Stages>, depth: usize) -> Option<String> {
        let Target::Layered { layers: Some(layers), .. } = &self.target else {
            return None;
        };
        let mut ranges = layers.iter().filter_map(|set| set.range(stages));
        ranges.find(|range| range.end > depth).map(layers_text)
    }

    fn matches_nothing(&self) -> SelectorError {
        let reason = match self.target {
            Target::Single(ParameterPlace::Head) => {
                "the model has no head of its own, it is tied to the word embedding"
            }
            _ => "the model has no such parameter",
        };
        SelectorError::MatchesNothing { selector: self.text.clone(), reason: reason.to_owned() }
    }
}

type Places<'a> = [Sized<'a>];

/// The number of layers of a stack, from the parameters that there are.
fn depth(places: &Places, stack: Stack) -> usize {
    let after = |place: &ParameterPlace| match *place {
        ParameterPlace::Layer { stack: of, layer, .. } if of == stack => Some(layer + 1),
        _ => None,
    };
    places.iter().filter_map(|(_, place, _)| after(place)).max().unwrap_or(0)
}

/// Returns the parameters, of a model with these parameters (names and sizes), that `selectors` name together. They are read from the first
/// to the last: each adds or removes what it matches. A decoder of one or two layers has no `stages`.
///
/// # Errors
/// A selector that is not understood, matches nothing, removes nothing, or names a stage of a decoder without stages;
/// stages that do not fit the decoder; a control that cannot be matched; a parameter of unknown form; no parameter selected at all.
pub fn trainable_set<'a>(
    selectors: &[String],
    stages: Option<&Stages>,
    parameters: impl IntoIterator<Item = (&'a str, usize)>,
) -> Result<BTreeSet<String>, SelectorError> {
    let places = parameters
        .into_iter()
        .map(|(name, size)| match ParameterPlace::of(name) {
            Some(place) => Ok((name, place, size)),
            None => Err(SelectorError::UnknownParameter { name: name.to_owned() }),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let depth = depth(&places, Stack::Decoder);
    if let Some(stages) = stages {
        stages.check_depth(depth)?;
    }

    let mut selected = BTreeSet::new();
    for text in selectors {
        let selector: Selector = text.parse()?;
        if stages.is_none() && selector.needs_stages() {
            return Err(SelectorError::NoStages { selector: selector.text, depth });
        }
        if let Some(error) = selector.beyond(stages, &places) {
            return Err(error);
        }
        let matched: BTreeSet<String> = match (&selector.target, stages) {
            (Target::Control(control), Some(stages)) => {
                control.parameters(&selector.text, &places, stages)?
            }
            _ => places
                .iter()
                .filter(|(_, place, _)| selector.matches(*place, stages))
                .map(|(name, ..)| (*name).to_owned())
                .collect(),
        };
        if matched.is_empty() {
            return Err(selector.matches_nothing());
        }
        if !selector.excludes {
            selected.extend(matched);
        } else if selected.is_disjoint(&matched) {
            return Err(SelectorError::TakesNothingAway { selector: selector.text });
        } else {
            selected.retain(|name| !matched.contains(name));
        }
    }
    if selected.is_empty() {
        return Err(SelectorError::NothingSelected);
    }
    Ok(selected)
}
