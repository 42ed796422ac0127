//! How it is learnt: `[optimizer]`, `[schedule]` and `[train]`.

use serde::{Serialize, Serializer};

use super::ranges::{NOT_NEGATIVE, POSITIVE, SHARE, not_negative, positive, share};
use super::reader::Section;
use crate::choice::choice;
use crate::task::Epochs;

choice! {
    /// The word of an optimizer.
    OptimizerName {
        AdamW = "adamw",
        Adafactor = "adafactor",
    }
}

/// An optimizer with its own settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "name")]
pub enum Optimizer {
    /// As PyTorch's, weight decay decoupled.
    #[serde(rename = "adamw")]
    AdamW {
        /// Exponential decay rates of the first and second moment.
        betas: [f64; 2],
        /// Added to the denominator.
        eps: f64,
        /// Decoupled weight decay.
        weight_decay: f64,
    },
    /// As `transformers`', at the given learning rate: `relative_step` is always off, as its
    /// documentation recommends for T5.
    #[serde(rename = "adafactor")]
    Adafactor {
        /// Added to the squared gradient; least scale of a parameter for `scale_parameter`.
        eps: [f64; 2],
        /// Largest root mean square of an update.
        clip_threshold: f64,
        /// Exponent of the decay of the second moment over steps.
        decay_rate: f64,
        /// Weight decay.
        weight_decay: f64,
        /// Whether the learning rate is multiplied by the parameter's root mean square.
        scale_parameter: bool,
    },
}

/// `[optimizer]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OptimizerSection {
    /// The optimizer and its settings.
    #[serde(flatten)]
    pub optimizer: Optimizer,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Largest norm of all gradients together; `None`: not clipped, written as 0.
    #[serde(serialize_with = "zero_for_none")]
    pub clip_norm: Option<f64>,
}

/// TOML has no null: without this, "off" would be read again as the default.
pub(super) fn zero_for_none<S: Serializer>(
    value: &Option<f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(value.unwrap_or(0.0))
}

impl OptimizerSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let name = section.choice("name").or(OptimizerName::AdamW);
        let learning_rate = section.number("learning_rate", POSITIVE, positive).required();
        // Adafactor clips each update itself; `transformers` advises against a second clipping.
        let default_clip_norm = match name {
            OptimizerName::AdamW => 1.0,
            OptimizerName::Adafactor => 0.0,
        };
        let clip_norm = section.number_or_off("clip_norm").or(default_clip_norm);
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

/// The defaults are PyTorch's.
fn read_adamw(section: &mut Section<'_, '_>) -> Optimizer {
    Optimizer::AdamW {
        betas: section.pair("betas", "two numbers from 0 to less than 1", share).or([0.9, 0.999]),
        eps: section.number("eps", POSITIVE, positive).or(1e-8),
        weight_decay: section.number("weight_decay", NOT_NEGATIVE, not_negative).or(0.01),
    }
}

/// The defaults are those of `transformers`, but for `scale_parameter`, which it advises to turn off
/// where the learning rate is given.
fn read_adafactor(section: &mut Section<'_, '_>) -> Optimizer {
    Optimizer::Adafactor {
        eps: section.pair("eps", "two numbers above 0", positive).or([1e-30, 1e-3]),
        clip_threshold: section.number("clip_threshold", POSITIVE, positive).or(1.0),
        decay_rate: section.number("decay_rate", "a number below 0", |rate| rate < 0.0).or(-0.8),
        weight_decay: section.number("weight_decay", NOT_NEGATIVE, not_negative).or(0.0),
        scale_parameter: section.flag("scale_parameter").or(false),
    }
}

choice! {
    /// How the learning rate goes on after the warm-up.
    ScheduleName {
        /// The peak learning rate throughout.
        Constant = "constant",
        /// In a straight line to 0 at the last step.
        Linear = "linear",
        /// By the inverse square root of the step.
        InverseSqrt = "inverse_sqrt",
        /// Half a cosine to 0 at the last step.
        Cosine = "cosine",
    }
}

/// `[schedule]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScheduleSection {
    /// The schedule.
    pub name: ScheduleName,
    /// Steps in which the learning rate rises in a straight line from 0.
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

/// A stretch of training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum Span {
    /// In steps of the optimizer.
    #[serde(rename = "steps")]
    Steps(u64),
    /// In passes over the examples, as the mixture counts them; 0.5 is half a pass.
    #[serde(rename = "epochs")]
    Epochs(f64),
}

impl Span {
    /// The span in steps, at least one; a fraction of an epoch is rounded to the nearest step.
    pub fn steps(self, of: &Epochs) -> u64 {
        match self {
            Span::Steps(steps) => steps,
            Span::Epochs(epochs) => of.updates_in(epochs),
        }
    }

    /// The span that the keys `steps` or `epochs` give; both of them are a problem.
    pub(super) fn read(
        section: &mut Section<'_, '_>,
        steps: &'static str,
        epochs: &'static str,
    ) -> Option<Self> {
        let by_steps = section.integer(steps, 1).optional().map(Span::Steps);
        let by_epochs = section.number(epochs, POSITIVE, positive).optional();
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

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainSection {
    /// How long: `steps` or `epochs`.
    #[serde(flatten)]
    pub length: Span,
    /// Examples in a batch; fewer in the last batch of an epoch.
    pub batch_size: usize,
    /// Batches whose gradients make one step; fewer in the last step of an epoch. Every example of a step weighs the
    /// same, whichever batch it is in.
    pub accumulate: usize,
    /// Share of the target that is spread evenly over the whole output vocabulary.
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
            label_smoothing: section.number("label_smoothing", SHARE, share).or(0.0),
        }
    }
}
