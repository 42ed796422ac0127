//! The callbacks that every run has: logging, evaluation, early stopping, checkpoints.

mod evaluate;
mod log;
mod save;
mod stop;

pub use evaluate::Evaluate;
pub use log::Log;
pub use save::Save;
pub use stop::EarlyStop;

use super::TrainError;
use super::callback::Callback;
use super::plan::Plan;
use crate::run::RunDirectory;

/// The callbacks that a plan asks for, in the order in which they must run: what measures comes before
/// what decides, and a run that is stopped early still saves its last checkpoint.
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
    Ok(callbacks)
}
