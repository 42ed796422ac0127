//! Optimization: `[optimizer]`, `[schedule]` and `[train]`.

use serde::{Serialize, Serializer};

use super::ranges::{FRACTION, NOT_NEGATIVE, POSITIVE, fraction, not_negative, positive};
use super::reader::Section;
use crate::choice::choice;
use crate::task::Epochs;

choice! {
    /// The name of an optimizer.
    OptimizerName {
        AdamW = "adamw",
        Adafactor = "adafactor",
    }
}

/// An optimizer with its settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "name")]
pub enum OptimizerSettings {
    /// AdamW as in PyTorch, with decoupled weight decay.
    #[serde(rename = "adamw")]
    AdamW {
        /// Exponential decay rates of the first and second moments.
        betas: [f64; 2],
        /// Added to the denominator.
        eps: f64,
        /// Decoupled weight decay.
        weight_decay: f64,
    },
    /// Adafactor as in `transformers`, with a given learning rate: `relative_step` is always off, as its documentation
    /// recommends for T5.
    #[serde(rename = "adafactor")]
    Adafactor {
        /// The constant added to the squared gradient, and the minimum scale of a parameter for `scale_parameter`.
        eps: [f64; 2],
        /// Maximum root mean square of an update.
        clip_threshold: f64,
        /// Exponent of the decay rate of the second moment over steps.
        decay_rate: f64,
        /// Weight decay.
        weight_decay: f64,
        /// True if the learning rate is multiplied by the parameter's root mean square.
        scale_parameter: bool,
    },
}

/// `[optimizer]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OptimizerSection {
    /// The optimizer and its settings.
    #[serde(flatten)]
    pub optimizer: OptimizerSettings,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Maximum global norm of the gradients; `None`: no clipping, serialised as 0.
    #[serde(serialize_with = "zero_for_none")]
    pub clip_norm: Option<f64>,
}

/// Serialises `None` as 0. TOML has no null, so that "off" would be parsed as the default.
pub(super) fn zero_for_none<S: Serializer>(
    value: &Option<f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(value.unwrap_or(0.0))
}

impl OptimizerSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let name = section.choice("name").or(OptimizerName::AdamW);
        let learning_rate = section.float("learning_rate", POSITIVE, positive).required();
        // Adafactor clips each update itself; `transformers` advises against additional clipping.
        let default_clip_norm = match name {
            OptimizerName::AdamW => 1.0,
            OptimizerName::Adafactor => 0.0,
        };
        let clip_norm = section.float_or_off("clip_norm").or(default_clip_norm);
        let optimizer = match name {
            OptimizerName::AdamW => {
                let optimizer = read_adamw(section);
                let message = "a key of adafactor, but the optimizer is adamw";
                section.refuse_keys_of(read_adafactor, message);
                optimizer
            }
            OptimizerName::Adafactor => {
                let optimizer = read_adafactor(section);
                let message = "a key of adamw, but the optimizer is adafactor";
                section.refuse_keys_of(read_adamw, message);
                optimizer
            }
        };
        Self { optimizer, learning_rate, clip_norm: Some(clip_norm).filter(|norm| *norm > 0.0) }
    }
}

/// Reads the settings of AdamW. The defaults are those of PyTorch.
fn read_adamw(section: &mut Section<'_, '_>) -> OptimizerSettings {
    OptimizerSettings::AdamW {
        betas: section
            .pair("betas", "two numbers from 0 to less than 1", fraction)
            .or([0.9, 0.999]),
        eps: section.float("eps", POSITIVE, positive).or(1e-8),
        weight_decay: section.float("weight_decay", NOT_NEGATIVE, not_negative).or(0.01),
    }
}

/// Reads the settings of Adafactor. The defaults are those of `transformers`, except for `scale_parameter`, which it
/// advises to turn off with a given learning rate.
fn read_adafactor(section: &mut Section<'_, '_>) -> OptimizerSettings {
    OptimizerSettings::Adafactor {
        eps: section.pair("eps", "two numbers above 0", positive).or([1e-30, 1e-3]),
        clip_threshold: section.float("clip_threshold", POSITIVE, positive).or(1.0),
        decay_rate: section.float("decay_rate", "a number below 0", |rate| rate < 0.0).or(-0.8),
        weight_decay: section.float("weight_decay", NOT_NEGATIVE, not_negative).or(0.0),
        scale_parameter: section.boolean("scale_parameter").or(false),
    }
}

choice! {
    /// The schedule of the learning rate after the warmup.
    ScheduleName {
        /// The peak learning rate.
        Constant = "constant",
        /// Linear decay to 0 at the last step.
        Linear = "linear",
        /// Decay with the inverse square root of the step.
        InverseSqrt = "inverse_sqrt",
        /// Cosine decay to 0 at the last step.
        Cosine = "cosine",
    }
}

/// `[schedule]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScheduleSection {
    /// The schedule.
    pub name: ScheduleName,
    /// Number of steps of linear warmup from 0.
    pub warmup_steps: u64,
}

impl ScheduleSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            name: section.choice("name").or(ScheduleName::Constant),
            warmup_steps: section.integer("warmup_steps", 0).or(0),
        }
    }
}

/// A length of training, in steps or epochs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum Span {
    /// Optimizer steps.
    #[serde(rename = "steps")]
    Steps(u64),
    /// Epochs of the mixture; may be fractional.
    #[serde(rename = "epochs")]
    Epochs(f64),
}

impl Span {
    /// Returns the number of steps, at least one; a fraction of an epoch is rounded to the nearest step.
    pub fn steps(self, of: &Epochs) -> u64 {
        match self {
            Span::Steps(steps) => steps,
            Span::Epochs(epochs) => of.updates_in(epochs),
        }
    }

    /// Reads the key `steps` or `epochs`; giving both is a problem.
    pub(super) fn read(
        section: &mut Section<'_, '_>,
        steps: &'static str,
        epochs: &'static str,
    ) -> Option<Self> {
        let by_steps = section.integer(steps, 1).optional().map(Span::Steps);
        let by_epochs = section.float(epochs, POSITIVE, positive).optional();
        if by_steps.is_some() && by_epochs.is_some() {
            let message = format!(
                "expected either `{steps}` or `{epochs}`, found both; remove one \
                 (`~section.key` on the command line does)"
            );
            section.problem(epochs, message);
        }
        by_steps.or(by_epochs.map(Span::Epochs))
    }
}

choice! {
    /// Type of the gradients of a batch and of their sums, by PyTorch's names.
    GradientDtype {
        /// 32 bits, as they are computed.
        Float32 = "float32",
        /// The upper 16 bits of a float32, rounded to nearest, ties to even.
        Bfloat16 = "bfloat16",
    }
}

impl GradientDtype {
    /// Size of a value in bytes, where several processes exchange it.
    pub fn size(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Bfloat16 => 2,
        }
    }
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainSection {
    /// Length of training, `steps` or `epochs`.
    #[serde(flatten)]
    pub length: Span,
    /// Number of examples in a batch; the last batch of an epoch may have fewer.
    pub batch_size: usize,
    /// Number of batches whose gradients are accumulated for a step; the last step of an epoch may have fewer. All
    /// examples of a step have the same weight, regardless of their batch.
    pub accumulate: usize,
    /// To this type are rounded the gradients of each batch, and each sum of them. Several processes exchange them in it.
    pub gradient_dtype: GradientDtype,
    /// Fraction of the target probability that is distributed uniformly over the output vocabulary.
    pub label_smoothing: f64,
}

impl TrainSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let length = Span::read(section, "steps", "epochs");
        if length.is_none() && !section.has("steps") && !section.has("epochs") {
            section.problem("steps", "missing: expected `steps` or `epochs`".to_owned());
        }
        Self {
            length: length.unwrap_or(Span::Steps(1)),
            batch_size: section.integer("batch_size", 1).required(),
            accumulate: section.integer("accumulate", 1).or(1),
            gradient_dtype: section.choice("gradient_dtype").or(GradientDtype::Float32),
            label_smoothing: section.float("label_smoothing", FRACTION, fraction).or(0.0),
        }
    }
}
