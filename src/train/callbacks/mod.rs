//! The callbacks of a run: logging, evaluation, early stopping, checkpoints, probes.

mod evaluate;
mod log;
mod probes;
mod save;
mod stop;

pub use evaluate::Evaluate;
pub use log::Log;
pub use probes::Probes;
pub use save::Save;
pub use stop::EarlyStop;

use super::TrainError;
use super::callback::Callback;
use super::plan::Plan;
use crate::run::RunDirectory;

/// The callbacks that a plan asks for, in the order in which they must run: what measures comes before
/// what decides, and a run that is stopped early still saves its last checkpoint. Probes come last: they know
/// then whether the run ends here, and a probe that fails costs no checkpoint.
pub fn standard<'a>(
    plan: &'a Plan,
    run: &'a RunDirectory,
) -> Result<Vec<Box<dyn Callback + 'a>>, TrainError> {
    let mut callbacks: Vec<Box<dyn Callback + 'a>> =
        vec![Box::new(Log::new(plan.recipe.log.every_steps)), Box::new(Evaluate::new(plan, run)?)];
    if let Some(stop) = &plan.recipe.stop {
        callbacks.push(Box::new(EarlyStop::new(stop)));
    }
    callbacks.push(Box::new(Save::new(plan, run)));
    if let Some(section) = &plan.recipe.probes {
        callbacks.push(Box::new(Probes::new(plan, section, run)?));
    }
    Ok(callbacks)
}
