//! Watches the loss for spikes, and trained parameters for values that are not finite.

use std::collections::{BTreeSet, VecDeque};

use burn::module::Module;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::exact::Exact;
use crate::recipe::{OnSpike, SpikeWatch};
use crate::t5::weights::first_not_finite_where;
use crate::train::TrainError;
use crate::train::callback::{Cadence, Callback, TrainerState, Verdict};

/// Compares the loss of every update with the mean of those before it.
pub struct WatchLoss {
    settings: SpikeWatch,
    /// The losses of the window, oldest first.
    losses: VecDeque<f64>,
    /// Consecutive spikes so far.
    spikes: u64,
}

impl WatchLoss {
    /// The watch as the recipe asks for it.
    pub fn new(settings: SpikeWatch) -> Self {
        Self { settings, losses: VecDeque::new(), spikes: 0 }
    }

    /// Adds the loss of an update. Returns the mean of the window before it when the last of `patience` consecutive
    /// spikes is reached. Until the window is full, no loss is a spike.
    fn add(&mut self, loss: f64) -> Option<f64> {
        let SpikeWatch { factor, window, patience, .. } = self.settings;
        let mut mean = None;
        if self.losses.len() == window {
            // Summed anew: a running sum would depend on where the run was interrupted.
            mean = Some(self.losses.iter().sum::<f64>() / window as f64);
            self.losses.pop_front();
        }
        self.losses.push_back(loss);
        let spike = mean.filter(|mean| loss > factor * mean);
        self.spikes = if spike.is_some() { self.spikes + 1 } else { 0 };
        spike.filter(|_| self.spikes == patience)
    }
}

impl Callback for WatchLoss {
    fn cadence(&self) -> Cadence {
        Cadence { every: Some(1), at_start: false, at_end: false }
    }

    fn reads_no_other_texts(&self) -> bool {
        true
    }

    fn call(&mut self, state: &mut TrainerState) -> Result<Verdict, TrainError> {
        let Some(mean) = self.add(state.loss) else { return Ok(Verdict::Continue) };
        let SpikeWatch { factor, window, patience, on_spike } = self.settings;
        let consecutive = match patience {
            1 => String::new(),
            _ => format!(", {patience} updates in a row"),
        };
        let found = format!(
            "loss spike: the loss {:.4} is more than {factor} times the mean of the {window} updates before, \
             {mean:.4}{consecutive}",
            state.loss
        );
        match on_spike {
            OnSpike::Stop => Ok(Verdict::Stop(found)),
            OnSpike::Warn => {
                tracing::warn!("step {}: {found}", state.step);
                Ok(Verdict::Continue)
            }
        }
    }

    fn name(&self) -> String {
        "watch_loss".to_owned()
    }

    fn state(&self) -> Option<Value> {
        let losses: Vec<Exact> = self.losses.iter().copied().map(Exact).collect();
        Some(json!({ "losses": losses, "spikes": self.spikes }))
    }

    fn restore(&mut self, state: Value) -> serde_json::Result<()> {
        #[derive(Deserialize)]
        struct State {
            losses: VecDeque<Exact>,
            spikes: u64,
        }
        let State { losses, spikes } = serde_json::from_value(state)?;
        // The window of the recipe may be smaller now.
        let older = losses.len().saturating_sub(self.settings.window);
        self.losses = losses.into_iter().skip(older).map(|loss| loss.0).collect();
        self.spikes = spikes;
        Ok(())
    }
}

/// Checks that all trained parameters are finite.
pub struct WatchParameters<'a> {
    every: u64,
    trained: &'a BTreeSet<String>,
}

impl<'a> WatchParameters<'a> {
    /// Checks the parameters with these names at every `every`th step.
    pub fn new(every: u64, trained: &'a BTreeSet<String>) -> Self {
        Self { every, trained }
    }
}

impl Callback for WatchParameters<'_> {
    fn cadence(&self) -> Cadence {
        Cadence { every: Some(self.every), at_start: false, at_end: false }
    }

    fn reads_no_other_texts(&self) -> bool {
        true
    }

    fn call(&mut self, state: &mut TrainerState) -> Result<Verdict, TrainError> {
        let model = state.model.valid();
        match first_not_finite_where(&model, |name| self.trained.contains(name)) {
            None => Ok(Verdict::Continue),
            Some((tensor, count)) => Err(TrainError::ParameterNotFinite {
                tensor,
                count,
                step: state.step,
                learning_rate: state.learning_rate,
                gradient_norm: state.gradient_norm,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(window: usize, patience: u64) -> WatchLoss {
        WatchLoss::new(SpikeWatch { factor: 2.0, window, patience, on_spike: OnSpike::Warn })
    }

    #[test]
    fn a_spike_is_more_than_the_factor_times_the_mean_of_a_full_window() {
        let mut watch = watch(2, 1);
        let found: Vec<_> =
            [1.0, 9.0, 1.0, 10.0, 11.0, 22.0].into_iter().map(|loss| watch.add(loss)).collect();
        // The windows: none, none, (1, 9), (9, 1), (1, 10), (10, 11). Exactly twice the mean is no spike.
        assert_eq!(found, [None, None, None, None, None, Some(10.5)]);
    }

    #[test]
    fn patience_counts_consecutive_spikes() {
        let mut watch = watch(4, 2);
        let losses = [1.0, 1.0, 1.0, 1.0, 9.0, 1.0, 20.0, 30.0, 1.0];
        let found: Vec<bool> = losses.into_iter().map(|loss| watch.add(loss).is_some()).collect();
        assert_eq!(found.iter().position(|&found| found), Some(7));
        assert_eq!(found.iter().filter(|&&found| found).count(), 1);
    }
}
