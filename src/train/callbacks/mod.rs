//! The callbacks of a run: logging, evaluation, early stopping, checkpoints, probes.

mod evaluate;
mod log;
mod probes;
mod stop;
mod summary;
mod watch;

pub use evaluate::Evaluate;
pub use log::Log;
pub use probes::Probes;
pub(super) use probes::{ProbeSets, Probed};
pub use stop::EarlyStop;
pub use summary::WriteSummary;
pub use watch::{WatchLoss, WatchParameters};

use std::collections::BTreeMap;

use serde_json::Value;

use super::TrainError;
use super::callback::Callback;
use super::checkpoints::Checkpoints;
use super::plan::Plan;
use crate::retrieval::names::is_loss;
use crate::run::RunDirectory;

/// The callbacks of a run in the order in which they are called, and its checkpoints between them.
pub struct Callbacks<'a> {
    /// What measures and what decides, called before a checkpoint is written.
    pub(super) before: Vec<Box<dyn Callback + 'a>>,
    pub(super) checkpoints: Checkpoints<'a>,
    /// What comes after it. A run that continues from the checkpoint calls them for its step.
    pub(super) after: Vec<Box<dyn Callback + 'a>>,
}

impl<'a> Callbacks<'a> {
    /// The name of the state of the checkpoints among those of callbacks.
    pub(super) const CHECKPOINTS: &'static str = "checkpoints";

    /// The callbacks that a plan asks for: what measures comes before what decides, and a run that is stopped early
    /// still saves its last checkpoint. `more` come after the evaluation. Probes come last: they know then whether the
    /// run ends here, and a probe that fails costs no checkpoint. The summary counts what all of them cost.
    ///
    /// # Errors
    /// A text cannot be encoded.
    pub fn standard(
        plan: &'a Plan,
        run: &'a RunDirectory,
        more: Vec<Box<dyn Callback + 'a>>,
    ) -> Result<Self, TrainError> {
        let log = Log::new(plan.recipe.log.every_steps);
        let mut before: Vec<Box<dyn Callback + 'a>> = Vec::new();
        // First: the trainer has measured the loss, and an evaluation with parameters that are not finite is in vain.
        if let Some(watch) = &plan.recipe.watch {
            if let Some(every) = watch.parameters_every_steps {
                before.push(Box::new(WatchParameters::new(every, &plan.trained)));
            }
            if let Some(settings) = watch.spike {
                before.push(Box::new(WatchLoss::new(settings)));
            }
        }
        before.push(Box::new(log));
        before.push(Box::new(Evaluate::new(plan, run)));
        before.extend(more);
        if let Some(stop) = &plan.recipe.stop {
            before.push(Box::new(EarlyStop::new(stop)));
        }
        let mut after: Vec<Box<dyn Callback + 'a>> = Vec::new();
        if let Some(section) = &plan.recipe.probes {
            after.push(Box::new(Probes::new(plan, section, run)?));
        }
        after.push(Box::new(WriteSummary::new(plan, run)));
        Ok(Self { before, checkpoints: Checkpoints::new(plan, run), after })
    }

    /// All callbacks in their order.
    pub(super) fn all(&self) -> impl Iterator<Item = &(dyn Callback + 'a)> {
        self.before.iter().chain(&self.after).map(Box::as_ref)
    }

    /// The states of all callbacks by name.
    pub(super) fn states(&self) -> BTreeMap<String, Value> {
        self.all().filter_map(|callback| Some((callback.name(), callback.state()?))).collect()
    }

    /// Restores the states of all callbacks and of the checkpoints. A callback that had no state starts anew.
    ///
    /// # Errors
    /// A state is not one of its callback, or the checkpoints of the run cannot be changed.
    pub(super) fn restore(&mut self, states: &BTreeMap<String, Value>) -> Result<(), TrainError> {
        if let Some(state) = states.get(Self::CHECKPOINTS) {
            self.checkpoints.restore(state.clone())?;
        }
        for callback in self.before.iter_mut().chain(&mut self.after) {
            if let Some(state) = states.get(&callback.name()) {
                callback.restore(state.clone())?;
            }
        }
        Ok(())
    }
}

/// Returns whether a metric rose by more than `least` above the `best` so far; a loss, whether it fell. NaN is never an
/// improvement: nothing is better than it, so it would remain the best.
pub(super) fn improves(metric: &str, value: f64, best: Option<f64>, least: f64) -> bool {
    let rises = |best: f64| match is_loss(metric) {
        true => value < best - least,
        false => value > best + least,
    };
    !value.is_nan() && best.is_none_or(rises)
}

#[cfg(test)]
mod tests {
    use super::improves;

    #[test]
    fn nan_is_never_the_best() {
        let improves = |value, best, least| improves("validation/hits@1", value, best, least);
        assert!(!improves(f64::NAN, None, 0.0) && !improves(f64::NAN, Some(0.1), 0.0));
        assert!(improves(0.1, None, 0.0) && improves(0.2, Some(0.1), 0.0));
        assert!(!improves(0.1, Some(0.1), 0.0) && !improves(0.2, Some(0.1), 0.2));
    }

    #[test]
    fn a_lower_loss_is_better() {
        let improves = |value, best, least| improves("denoising/loss", value, best, least);
        assert!(!improves(f64::NAN, None, 0.0) && improves(2.0, None, 0.0));
        assert!(improves(1.9, Some(2.0), 0.0) && !improves(2.1, Some(2.0), 0.0));
        assert!(!improves(1.9, Some(2.0), 0.2) && improves(1.7, Some(2.0), 0.2));
    }
}
