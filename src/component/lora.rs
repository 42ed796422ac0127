//! LoRA as an operator on selectors: `lora(decoder.cross_attention[II,III], rank=8, alpha=16)`.
//!
//! It adapts the matrices of attention and MLPs that the selector names: each stays frozen, and two factors of the rank
//! are trained beside it.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::controls::Control;
use super::place::{ParameterPlace, Weight, factor_names};
use super::selector::{Selector, SelectorError, trainable_set};
use super::stages::Stages;
use crate::nearest::nearest;

/// The name of the operator.
const OPERATOR: &str = "lora";

/// The low-rank update of a matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LowRank {
    /// Columns of `A` and rows of `B`.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
}

impl LowRank {
    /// The factor of the update, `alpha / rank`.
    pub fn scale(self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// Errors of the operator `lora`.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum LoraError {
    /// The operator has another name.
    #[error("selector `{selector}`: there is no operator `{name}`{}", suggestion(name))]
    Operator {
        /// The selector.
        selector: String,
        /// The operator's name.
        name: String,
    },
    /// A bracket is missing.
    #[error(
        "selector `{selector}` has no closing bracket; expected lora(SELECTOR, rank=8, alpha=16)"
    )]
    NotClosed {
        /// The selector.
        selector: String,
    },
    /// The operator is preceded by `-` or `!`, or is on an exclusion.
    #[error(
        "selector `{selector}`: LoRA cannot exclude; name the layers to adapt in the operator, such as \
         lora(decoder.mlp[0-3], rank=8, alpha=16)"
    )]
    Excludes {
        /// The selector.
        selector: String,
    },
    /// An argument is not of the form `name=value`, unknown or given twice.
    #[error("selector `{selector}`: {problem}; expected lora(SELECTOR, rank=8, alpha=16)")]
    Argument {
        /// The selector.
        selector: String,
        /// The problem.
        problem: String,
    },
    /// The rank is 0 or no whole number.
    #[error("selector `{selector}`: rank={value}: expected a whole number from 1")]
    Rank {
        /// The selector.
        selector: String,
        /// The value.
        value: String,
    },
    /// The numerator of the scale is not a positive number.
    #[error("selector `{selector}`: alpha={value}: expected a finite number above 0")]
    Alpha {
        /// The selector.
        selector: String,
        /// The value.
        value: String,
    },
    /// The selector names no matrix of attention or of an MLP.
    #[error(
        "selector `{selector}`: LoRA adapts the matrices of attention and MLPs, and `{inner}` names none: norms, \
         embeddings, docid rows, the head and position biases are trained in full, as `{inner}` alone says it"
    )]
    NoMatrix {
        /// The selector.
        selector: String,
        /// The selector in the operator.
        inner: String,
    },
    /// The rank is larger than a matrix.
    #[error(
        "selector `{selector}`: rank={rank} is larger than `{parameter}`, {} x {}; the largest rank of a matrix is its \
         smaller side", .shape[0], .shape[1]
    )]
    TooLarge {
        /// The selector.
        selector: String,
        /// The rank.
        rank: usize,
        /// The first matrix that is too small.
        parameter: String,
        /// Its dimensions.
        shape: [usize; 2],
    },
    /// A matrix is both adapted and trained in full, or adapted twice.
    #[error(
        "selector `{selector}` overlaps with {other}: `{parameter}` would be {}; exclude it from one of them",
        if *.adapted { "adapted twice" } else { "adapted and trained in full" }
    )]
    Overlap {
        /// The selector.
        selector: String,
        /// The other, in words.
        other: String,
        /// The first matrix that both name.
        parameter: String,
        /// True if the other adapts it too.
        adapted: bool,
    },
}

fn suggestion(name: &str) -> String {
    match nearest(name, [OPERATOR]) {
        Some(_) => "; did you mean `lora`?".to_owned(),
        None => "; the only one is lora(SELECTOR, rank=8, alpha=16)".to_owned(),
    }
}

/// The trained parameters of a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Trainable {
    /// Dotted names of all trained parameters, the factors of adapted matrices among them.
    pub trained: BTreeSet<String>,
    /// The adapted matrices by dotted name. They are frozen.
    pub lora: BTreeMap<String, LowRank>,
}

impl Trainable {
    /// Resolves `selectors`, with and without the operator `lora`, for a model with these `parameters`, given by dotted
    /// name and dimensions.
    ///
    /// Selectors without the operator act on each other as in [`trainable_set`], whatever stands between them.
    ///
    /// # Errors
    /// Those of [`trainable_set`], and those of [`LoraError`].
    pub fn of(
        selectors: &[String],
        stages: Option<&Stages>,
        parameters: &[(String, Vec<usize>)],
    ) -> Result<Self, SelectorError> {
        let sizes = || {
            let size = |shape: &Vec<usize>| shape.iter().product::<usize>();
            parameters.iter().map(move |(name, shape)| (name.as_str(), size(shape)))
        };
        let (operators, full): (Vec<String>, Vec<String>) =
            selectors.iter().cloned().partition(|text| is_operator(text));
        let trained = match full.is_empty() && !operators.is_empty() {
            true => BTreeSet::new(),
            false => trainable_set(&full, stages, sizes())?,
        };
        let mut found = Self { trained, lora: BTreeMap::new() };
        let mut adapted_by: BTreeMap<String, String> = BTreeMap::new();
        for text in &operators {
            let Operator { inner, low_rank } = Operator::parse(text)?;
            let selector = || text.trim().to_owned();
            let named = trainable_set(std::slice::from_ref(&inner), stages, sizes())?;
            let mut matrices = parameters
                .iter()
                .filter(|(name, _)| named.contains(name) && is_matrix(name))
                .peekable();
            if matrices.peek().is_none() {
                return Err(LoraError::NoMatrix { selector: selector(), inner }.into());
            }
            for (name, shape) in matrices {
                if let &[input, output] = shape.as_slice()
                    && low_rank.rank > input.min(output)
                {
                    let (parameter, shape) = (name.clone(), [input, output]);
                    let (selector, rank) = (selector(), low_rank.rank);
                    return Err(LoraError::TooLarge { selector, rank, parameter, shape }.into());
                }
                let other = match adapted_by.get(name) {
                    Some(other) => Some((format!("`{other}`"), true)),
                    None if found.trained.contains(name) => {
                        Some((format!("`{}`", full.join("`, `")), false))
                    }
                    None => None,
                };
                if let Some((other, adapted)) = other {
                    let (selector, parameter) = (selector(), name.clone());
                    return Err(LoraError::Overlap { selector, other, parameter, adapted }.into());
                }
                adapted_by.insert(name.clone(), selector());
                found.lora.insert(name.clone(), low_rank);
            }
        }
        found.trained.extend(found.lora.keys().flat_map(|name| factor_names(name)));
        Ok(found)
    }

    /// The factors of all adapted matrices of a model with these `parameters`, by dotted name and dimensions.
    pub fn factors(&self, parameters: &[(String, Vec<usize>)]) -> Vec<(String, Vec<usize>)> {
        let factors = parameters.iter().filter_map(|(name, shape)| {
            let rank = self.lora.get(name)?.rank;
            let [a, b] = factor_names(name);
            match *shape.as_slice() {
                [input, output] => Some([(a, vec![input, rank]), (b, vec![rank, output])]),
                _ => None,
            }
        });
        factors.flatten().collect()
    }
}

/// Checks one text of a trainable set for what can be seen without a model.
///
/// # Errors
/// It is neither a selector nor the operator `lora` on one.
pub fn check_trainable(text: &str) -> Result<(), SelectorError> {
    match is_operator(text) {
        true => Operator::parse(text).map(drop),
        false => text.parse::<Selector>().map(drop),
    }
}

/// Returns whether a text of a trainable set is an operator on a selector. A control has arguments in brackets, too.
fn is_operator(text: &str) -> bool {
    let name = text.split('(').next().unwrap_or_default();
    text.contains('(')
        && Control::random(name.trim().trim_start_matches(['-', '!']).trim()).is_none()
}

fn is_matrix(name: &str) -> bool {
    match ParameterPlace::of(name) {
        Some(ParameterPlace::Layer { weight, .. }) => weight != Weight::Norm,
        _ => false,
    }
}

/// One use of the operator, read from its text.
struct Operator {
    /// The selector of what is adapted.
    inner: String,
    low_rank: LowRank,
}

impl Operator {
    fn parse(text: &str) -> Result<Self, SelectorError> {
        let text = text.trim();
        let selector = || text.to_owned();
        let (name, rest) = text.split_once('(').unwrap_or((text, ""));
        let excludes = name.trim_start().starts_with(['-', '!']);
        let name = name.trim_start_matches(['-', '!']).trim();
        if name != OPERATOR {
            return Err(LoraError::Operator { selector: selector(), name: name.to_owned() }.into());
        }
        let Some(arguments) = rest.trim_end().strip_suffix(')') else {
            return Err(LoraError::NotClosed { selector: selector() }.into());
        };
        let mut arguments = split(arguments).into_iter();
        let inner = arguments.next().unwrap_or_default().to_owned();
        if excludes || inner.starts_with(['-', '!']) {
            return Err(LoraError::Excludes { selector: selector() }.into());
        }
        let wrong = |problem: String| LoraError::Argument { selector: selector(), problem };
        if inner.is_empty() || (inner.contains('=') && !inner.contains(['[', '('])) {
            return Err(wrong("no selector of what to adapt".to_owned()).into());
        }
        // Its own errors come before those of the arguments.
        let _: Selector = inner.parse()?;
        let (mut rank, mut alpha) = (None, None);
        for argument in arguments {
            let Some((key, value)) = argument.split_once('=') else {
                return Err(wrong(format!("`{argument}` is not of the form name=value")).into());
            };
            let (key, value) = (key.trim(), value.trim());
            let twice = match key {
                "rank" => {
                    let read = value.parse().ok().filter(|&rank: &usize| rank > 0);
                    let value = || value.to_owned();
                    let wrong = || LoraError::Rank { selector: selector(), value: value() };
                    rank.replace(read.ok_or_else(wrong)?).is_some()
                }
                "alpha" => {
                    let read = value.parse().ok();
                    let read = read.filter(|alpha: &f64| alpha.is_finite() && *alpha > 0.0);
                    let value = || value.to_owned();
                    let wrong = || LoraError::Alpha { selector: selector(), value: value() };
                    alpha.replace(read.ok_or_else(wrong)?).is_some()
                }
                _ => {
                    let near = nearest(key, ["rank", "alpha"]);
                    let near = near.map(|near| format!(", did you mean `{near}`?"));
                    let near = near.unwrap_or_default();
                    return Err(wrong(format!("unknown argument `{key}`{near}")).into());
                }
            };
            if twice {
                return Err(wrong(format!("`{key}` is given twice")).into());
            }
        }
        let missing = |key: &str| wrong(format!("no `{key}`"));
        let rank = rank.ok_or_else(|| missing("rank"))?;
        let alpha = alpha.ok_or_else(|| missing("alpha"))?;
        Ok(Self { inner, low_rank: LowRank { rank, alpha } })
    }
}

/// The arguments of an operator: what commas outside of brackets separate, without spaces around it.
fn split(arguments: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let parts = arguments.split(|character: char| {
        match character {
            '[' | '(' => depth += 1,
            ']' | ')' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    });
    parts.map(str::trim).collect()
}
