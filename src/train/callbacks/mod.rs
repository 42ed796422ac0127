//! The callbacks of a run: logging, evaluation, early stopping, checkpoints, probes.

mod evaluate;
mod log;
mod probes;
mod save;
mod stop;
mod summary;

pub use evaluate::Evaluate;
pub use log::Log;
pub use probes::Probes;
pub use save::Save;
pub use stop::EarlyStop;
pub use summary::WriteSummary;

use super::TrainError;
use super::callback::Callback;
use super::plan::Plan;
use crate::run::RunDirectory;

/// The callbacks that a plan asks for, in the order in which they must run: what measures comes before what decides,
/// and a run that is stopped early still saves its last checkpoint. `more` come after the evaluation. Probes come last:
/// they know then whether the run ends here, and a probe that fails costs no checkpoint. The summary counts what all of
/// them cost.
///
/// # Errors
/// Those of [`Evaluate::new`] and [`Probes::new`].
pub fn standard<'a>(
    plan: &'a Plan,
    run: &'a RunDirectory,
    more: Vec<Box<dyn Callback + 'a>>,
) -> Result<Vec<Box<dyn Callback + 'a>>, TrainError> {
    let mut callbacks: Vec<Box<dyn Callback + 'a>> =
        vec![Box::new(Log::new(plan.recipe.log.every_steps)), Box::new(Evaluate::new(plan, run)?)];
    callbacks.extend(more);
    if let Some(stop) = &plan.recipe.stop {
        callbacks.push(Box::new(EarlyStop::new(stop)));
    }
    callbacks.push(Box::new(Save::new(plan, run)));
    if let Some(section) = &plan.recipe.probes {
        callbacks.push(Box::new(Probes::new(plan, section, run)?));
    }
    callbacks.push(Box::new(WriteSummary::new(plan, run)));
    Ok(callbacks)
}

/// Returns whether a metric rose by more than `least` above the `best` so far. NaN is never an improvement: nothing is
/// greater than it, so it would remain the best.
fn improves(value: f64, best: Option<f64>, least: f64) -> bool {
    !value.is_nan() && best.is_none_or(|best| value > best + least)
}

#[cfg(test)]
mod tests {
    use super::improves;

    #[test]
    fn nan_is_never_the_best() {
        assert!(!improves(f64::NAN, None, 0.0) && !improves(f64::NAN, Some(0.1), 0.0));
        assert!(improves(0.1, None, 0.0) && improves(0.2, Some(0.1), 0.0));
        assert!(!improves(0.1, Some(0.1), 0.0) && !improves(0.2, Some(0.1), 0.2));
    }
}
