//! Controls: trainable sets with about as many parameters as `restricted`, made of other components.
//!
//! `matched` takes what the paper finds unimportant, `random-matched(seed=N)` what a seed draws. Both are of the decoder
//! alone, so that the frozen prefix holds the encoder, as it does for `restricted`.

use std::collections::BTreeSet;

use super::place::{Component, ParameterPlace, Stack, Weight};
use super::selector::{Selector, SelectorError, Target};
use super::stages::{Stage, Stages};
use super::trainable::grouped;
use crate::random;

/// A trainable set that is matched to `restricted` in its number of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// In this order, the last layer first: MLPs of Stage I, self-attention, MLPs of Stage II, cross-attention of Stage I.
    ///
    /// Of self-attention only values and outputs (with the norm): queries and keys of the decoder's one token get no
    /// gradient, so that training them would match numbers but not what can be learnt.
    Matched,
    /// Whole components of the decoder in a random order.
    RandomMatched {
        /// The seed of the order.
        seed: u64,
    },
}

/// A control's number of parameters may differ from that of `restricted` by this share of it.
pub const TOLERANCE: f64 = 0.01;

/// The name before the seed.
const RANDOM: &str = "random-matched";

/// Orders that are tried until one has the number of parameters.
const DRAWS: u64 = 1000;

/// A parameter of the model: its name, its place and its size.
pub(super) type Sized<'a> = (&'a str, ParameterPlace, usize);

/// The parameters of a component of a layer.
struct Part<'a> {
    layer: usize,
    component: Component,
    parameters: Vec<(&'a str, Weight, usize)>,
}

impl Part<'_> {
    fn size(&self) -> usize {
        self.parameters.iter().map(|(.., size)| size).sum()
    }
}

impl Control {
    /// Reads `random-matched(seed=N)`; `None` for a word that does not begin so, and `Some(None)` without a seed.
    pub(super) fn random(word: &str) -> Option<Option<Self>> {
        let rest = word.strip_prefix(RANDOM)?.trim();
        let seed = rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        let seed = seed.and_then(|rest| rest.trim().strip_prefix("seed"));
        let seed = seed.and_then(|rest| rest.trim_start().strip_prefix('='));
        let seed = seed.and_then(|rest| rest.trim().parse().ok());
        Some(seed.map(|seed| Self::RandomMatched { seed }))
    }

    /// Returns the names of the control's parameters in a model with these `parameters`.
    ///
    /// # Errors
    /// No set of whole matrices (of whole components, for a random one) has about as many parameters as `restricted`.
    pub(super) fn parameters(
        self,
        text: &str,
        parameters: &[Sized],
        stages: &Stages,
    ) -> Result<BTreeSet<String>, SelectorError> {
        let restricted = Selector::of(Target::Restricted);
        let matched = |place: ParameterPlace| restricted.matches(place, Some(stages));
        let wanted: BTreeSet<&str> = parameters
            .iter()
            .filter(|(_, place, _)| matched(*place))
            .map(|(name, ..)| *name)
            .collect();
        let size_of = |names: &BTreeSet<&str>| -> usize {
            parameters.iter().filter(|(name, ..)| names.contains(name)).map(|(.., size)| size).sum()
        };
        let target = size_of(&wanted);
        let parts = decoder_parts(parameters);
        let found = match self {
            Self::Matched => {
                let parts = unimportant(parts, stages);
                fill(target, &parts.iter().collect::<Vec<_>>(), true)
            }
            Self::RandomMatched { seed } => {
                let distance = |names: &BTreeSet<&str>| size_of(names).abs_diff(target);
                let mut closest = BTreeSet::new();
                for draw in 0..DRAWS {
                    let mut order: Vec<&Part> = parts.iter().collect();
                    random::shuffle(&mut order, seed, draw, RANDOM);
                    let drawn = fill(target, &order, false);
                    // The set that is to be controlled for is no control.
                    if drawn == wanted {
                        continue;
                    }
                    if closest.is_empty() || distance(&drawn) < distance(&closest) {
                        closest = drawn;
                    }
                    if distance(&closest) <= slack(target) {
                        break;
                    }
                }
                closest
            }
        };
        let size = size_of(&found);
        if found.is_empty() || size.abs_diff(target) > slack(target) {
            return Err(SelectorError::NotMatched {
                selector: text.to_owned(),
                wanted: grouped(target),
                closest: grouped(size),
                misses: misses(size, target),
            });
        }
        Ok(found.into_iter().map(str::to_owned).collect())
    }
}

/// By how many parameters a control may miss `target`.
fn slack(target: usize) -> usize {
    (target as f64 * TOLERANCE) as usize
}

/// `12.5% fewer`
fn misses(size: usize, target: usize) -> String {
    let percent = 100.0 * size.abs_diff(target) as f64 / target.max(1) as f64;
    format!("{percent:.1}% {}", if size < target { "fewer" } else { "more" })
}

/// Takes parts in their order, while they do not exceed `target` by more than the tolerance; of a part that is too large,
/// the matrices that fit, if `matrices`. Ends when `target` is reached within the tolerance.
fn fill<'a>(target: usize, parts: &[&Part<'a>], matrices: bool) -> BTreeSet<&'a str> {
    let slack = slack(target);
    let (mut taken, mut size) = (BTreeSet::new(), 0);
    for part in parts {
        if target.abs_diff(size) <= slack {
            break;
        }
        if size + part.size() <= target + slack {
            size += part.size();
            taken.extend(part.parameters.iter().map(|(name, ..)| *name));
        } else if matrices {
            for (name, weight, own) in &part.parameters {
                if *weight != Weight::Norm && size + own <= target + slack {
                    size += own;
                    taken.insert(*name);
                }
            }
        }
    }
    taken
}

/// The components of the decoder, in the order of layers.
fn decoder_parts<'a>(parameters: &[Sized<'a>]) -> Vec<Part<'a>> {
    let mut parts: Vec<Part> = Vec::new();
    for &(name, place, size) in parameters {
        let ParameterPlace::Layer { stack: Stack::Decoder, layer, component, weight } = place
        else {
            continue;
        };
        let found =
            parts.iter_mut().find(|part| (part.layer, part.component) == (layer, component));
        match found {
            Some(part) => part.parameters.push((name, weight, size)),
            None => parts.push(Part { layer, component, parameters: vec![(name, weight, size)] }),
        }
    }
    parts
}

/// The parts of which [`Control::Matched`] is made, in its order.
fn unimportant<'a>(mut parts: Vec<Part<'a>>, stages: &Stages) -> Vec<Part<'a>> {
    let kind = |part: &Part| match (part.component, stages.of(part.layer)) {
        (Component::Mlp, Stage::First) => Some(0),
        (Component::SelfAttention, _) => Some(1),
        (Component::Mlp, Stage::Second) => Some(2),
        (Component::CrossAttention, Stage::First) => Some(3),
        _ => None,
    };
    parts.retain(|part| kind(part).is_some());
    parts.sort_by_key(|part| (kind(part), std::cmp::Reverse(part.layer)));
    for part in parts.iter_mut().filter(|part| part.component == Component::SelfAttention) {
        part.parameters.retain(|(_, weight, _)| !matches!(weight, Weight::Query | Weight::Key));
    }
    parts
}
