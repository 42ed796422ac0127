//! What is watched while a model trains: `[watch]`.

use serde::Serialize;

use super::reader::Section;
use crate::choice::choice;

choice! {
    /// The action after a spike of the loss.
    OnSpike {
        /// A warning.
        Warn = "warn",
        /// The end of the training, after a checkpoint.
        Stop = "stop",
    }
}

/// `[watch]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WatchSection {
    /// Interval in steps between checks that all trained parameters are finite; `None`: checked at each save only.
    pub parameters_every_steps: Option<u64>,
    /// The watch for spikes of the loss; `None`: off.
    #[serde(flatten)]
    pub spike: Option<SpikeWatch>,
}

/// The watch for spikes of the loss: the keys of `[watch]` that need `spike_factor`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SpikeWatch {
    /// A loss is a spike if it is more than this many times the mean of the window.
    #[serde(rename = "spike_factor")]
    pub factor: f64,
    /// Number of updates before the current one whose mean loss is compared.
    #[serde(rename = "spike_window")]
    pub window: usize,
    /// Number of consecutive spikes after which the watch acts.
    #[serde(rename = "spike_patience")]
    pub patience: u64,
    /// What it does then.
    pub on_spike: OnSpike,
}

/// Checkpoints contain the losses of the window.
const MAX_WINDOW: usize = 10_000;

impl WatchSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let parameters_every_steps = section.integer("parameters_every_steps", 1).optional();
        let above_one = |factor: f64| factor > 1.0;
        let factor = section.float("spike_factor", "a number above 1", above_one).optional();
        let window = section.integer("spike_window", 1).or(100);
        if window > MAX_WINDOW {
            let message = format!("expected an integer from 1 to {MAX_WINDOW}");
            section.problem("spike_window", message);
        }
        let patience = section.integer("spike_patience", 1).or(1);
        let on_spike = section.choice("on_spike").or(OnSpike::Warn);
        if !section.has("spike_factor") {
            for key in ["spike_window", "spike_patience", "on_spike"] {
                if section.has(key) {
                    let message =
                        "has no effect without watch.spike_factor, which turns the watch on";
                    section.conflict(key, &["spike_factor"], message.to_owned());
                }
            }
        }
        let spike = factor.map(|factor| SpikeWatch { factor, window, patience, on_spike });
        Self { parameters_every_steps, spike }
    }
}
