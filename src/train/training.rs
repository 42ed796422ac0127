//! Training in a run directory, from locking the directory to the last checkpoint.

use super::TrainError;
use super::callback::{Cadence, Callback, Ending, TrainerState, Verdict};
use super::callbacks;
use super::plan::Plan;
use super::trainer::{Outcome, Trainer};
use crate::device;
use crate::monitor::{Console, Monitor};
use crate::run::{Environment, NewRun, Overwrite, RunDirectory, RunError};

/// A training that holds its run directory: what `genir train` runs.
///
/// ```no_run
/// use genir::monitor::{Console, Verbosity};
/// use genir::recipe::Recipe;
/// use genir::run::Overwrite;
/// use genir::train::{Plan, Training};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let recipe = Recipe::from_file("recipes/quickstart.toml".as_ref(), &["train.epochs=3".into()])?;
/// let plan = Plan::to_start(recipe, Overwrite::Refuse)?;
/// let console = Console::stderr(Verbosity::Normal);
/// let outcome = Training::claim(&plan, Overwrite::Refuse)?.run(&console)?;
/// println!("{} updates", outcome.steps);
/// # Ok(())
/// # }
/// ```
pub struct Training<'a> {
    plan: &'a Plan,
    new: NewRun,
    callbacks: Vec<Box<dyn Callback + 'a>>,
}

impl<'a> Training<'a> {
    /// Locks the run directory of `plan`. Nothing in it is changed before [`Self::run`].
    ///
    /// # Errors
    /// Another process trains there, or there is something that must not be replaced.
    pub fn claim(plan: &'a Plan, overwrite: Overwrite) -> Result<Self, RunError> {
        let new = NewRun::claim(&plan.recipe.run.directory, overwrite)?;
        Ok(Self { plan, new, callbacks: Vec::new() })
    }

    /// The run directory.
    pub fn directory(&self) -> &RunDirectory {
        self.new.directory()
    }

    /// Adds a callback. Callbacks run in the order in which they are added, after the evaluation and before early
    /// stopping, checkpoints and probes.
    pub fn callback(mut self, callback: impl Callback + 'a) -> Self {
        self.callbacks.push(Box::new(callback));
        self
    }

    /// Trains to the last step, or until a callback stops the run. Progress and messages go to `console`.
    ///
    /// # Errors
    /// An error before training leaves the run directory as it was. An error in training leaves the checkpoints
    /// that were written; without one, an earlier run that was to be replaced is restored.
    pub fn run(mut self, console: &Console) -> Result<Outcome, TrainError> {
        let (plan, run) = (self.plan, self.new.directory().clone());
        // All that can fail comes before the run that is to be replaced is touched.
        let environment = Environment {
            corpus: plan.warning_counts(),
            ..Environment::capture(&device::describe(&plan.device, plan.precision))
        };
        let recipe = plan.recipe.to_toml()?;
        let mut trainer = Trainer::new(plan)?;
        let model = trainer.initial_model()?;
        let mut callbacks = callbacks::standard(plan, &run, self.callbacks)?;
        self.new.begin(&recipe, &environment)?;
        console.log_to(&run.log())?;
        let mut monitor = Monitor::open(&run, plan.total_steps(), console)?;
        if !self.new.replaces() {
            self.new.commit()?;
        }
        callbacks.push(Box::new(KeepNewRun { new: &mut self.new }));
        let outcome = trainer.run_for_callbacks(model, &mut callbacks, &mut monitor)?;
        monitor.finish()?;
        drop(callbacks);
        self.new.commit()?;
        Ok(outcome)
    }
}

/// Removes the run that is replaced as soon as the new one has a checkpoint.
struct KeepNewRun<'a> {
    new: &'a mut NewRun,
}

impl Callback for KeepNewRun<'_> {
    fn cadence(&self) -> Cadence {
        Cadence { every: Some(1), at_start: false, at_end: true }
    }

    fn reads_no_other_texts(&self) -> bool {
        true
    }

    fn call(&mut self, _moment: &mut TrainerState) -> Result<Verdict, TrainError> {
        if self.new.replaces() && self.new.has_checkpoint() {
            self.new.commit()?;
        }
        Ok(Verdict::Continue)
    }

    fn end(&mut self, state: &mut TrainerState, _ending: Ending) -> Result<(), TrainError> {
        self.call(state).map(|_| ())
    }
}
