//! Patches: the parts of the decoder whose outputs are replaced, and by what, read from text.

use std::collections::BTreeSet;
use std::fmt;

use super::{ProbeError, Replacement};
use crate::choice::Choice;
use crate::component::{Component, Selector, SelectorError, Stack, Stage, Stages};
use crate::t5::T5Config;

/// A part of the decoder whose output is replaced: some components of some layers, or heads of some attentions.
#[derive(Debug, Clone)]
pub(super) struct PatchedPart {
    /// The selector's text.
    pub selector: String,
    /// Layers and components, in the order in which they run.
    pub places: Vec<(usize, Component)>,
    /// Distinct heads; none for complete outputs.
    pub heads: Option<Vec<usize>>,
}

impl PatchedPart {
    /// Parses a selector of decoder components, optionally with `.heads[0,2]` after an attention.
    pub fn parse(
        text: &str,
        stages: Option<&Stages>,
        config: &T5Config,
    ) -> Result<Self, ProbeError> {
        let refuse =
            |reason: String| Err(ProbeError::NotPatchable { selector: text.to_owned(), reason });
        let (word, heads) = match text.split_once(".heads[") {
            None => (text, None),
            Some((word, rest)) => match parse_heads(rest) {
                Some(heads) => (word, Some(heads)),
                None => return refuse("heads are numbers in brackets".to_owned()),
            },
        };
        let selector: Selector = word.parse()?;
        if selector.excludes {
            return refuse("it excludes components".to_owned());
        }
        let depth = config.num_decoder_layers;
        if stages.is_none() && selector.needs_stages() {
            return Err(SelectorError::NoStages { selector: word.to_owned(), depth }.into());
        }
        if let Some(beyond) = selector.layers_beyond(stages, depth) {
            return refuse(format!("layers {beyond} go beyond the decoder's {depth} layers"));
        }
        let places: Vec<(usize, Component)> = (0..depth)
            .flat_map(|layer| Component::ALL.map(|component| (layer, component)))
            .filter(|&(layer, component)| {
                selector.matches_component(Stack::Decoder, layer, component, stages)
            })
            .collect();
        if places.is_empty() {
            return refuse("it names no component of the decoder".to_owned());
        }
        if let Some(heads) = &heads {
            if places.iter().any(|(_, component)| *component == Component::Mlp) {
                return refuse("an MLP has no heads".to_owned());
            }
            if let Some(head) = heads.iter().find(|&&head| head >= config.num_heads) {
                return refuse(format!("there is no head {head} of {}", config.num_heads));
            }
        }
        Ok(Self { selector: text.to_owned(), places, heads })
    }

    /// One component in all layers of a stage.
    pub fn of_stage(component: Component, stage: Stage, stages: &Stages) -> Self {
        Self {
            selector: format!("decoder.{}[{stage}]", component.name()),
            places: stages.layers(stage).clone().map(|layer| (layer, component)).collect(),
            heads: None,
        }
    }

    /// One component of one layer.
    pub fn of_layer(component: Component, layer: usize) -> Self {
        Self {
            selector: format!("decoder.{}[{layer}]", component.name()),
            places: vec![(layer, component)],
            heads: None,
        }
    }
}

/// Parses `0,2]`.
fn parse_heads(text: &str) -> Option<Vec<usize>> {
    let heads = text.strip_suffix(']')?.split(',').map(|head| head.trim().parse().ok());
    let heads: BTreeSet<usize> = heads.collect::<Option<_>>()?;
    Some(heads.into_iter().collect())
}

/// A part of the decoder with the replacement of its output.
#[derive(Debug, Clone)]
pub(super) struct Patch {
    pub part: PatchedPart,
    pub replacement: Replacement,
}

impl Patch {
    /// Parses `SELECTOR=zero`, `SELECTOR=mean` or `SELECTOR=base`.
    pub fn parse(
        text: &str,
        stages: Option<&Stages>,
        config: &T5Config,
    ) -> Result<Self, ProbeError> {
        let read = text.rsplit_once('=');
        let read = read.and_then(|(part, how)| Some((part, Replacement::from_name(how.trim())?)));
        let Some((part, replacement)) = read else {
            return Err(ProbeError::InvalidPatch { patch: text.to_owned() });
        };
        Ok(Self { part: PatchedPart::parse(part.trim(), stages, config)?, replacement })
    }
}

impl fmt::Display for Patch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.part.selector, self.replacement)
    }
}
