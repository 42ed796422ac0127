//! Training in a run directory, from locking the directory to the last checkpoint.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use serde_json::Value;

use super::TrainError;
use super::callback::{Cadence, Callback, Ending, TrainerState, Verdict};
use super::callbacks::Callbacks;
use super::plan::Plan;
use super::requests::Requests;
use super::resume::{ResumeError, ResumePoint, Start};
use super::trainer::{Outcome, Trainer};
use super::training_state::Arithmetic;
use crate::device;
use crate::files::read_small_to_string;
use crate::monitor::{Console, Monitor};
use crate::processes::World;
use crate::run::{Environment, NewRun, Overwrite, RunDirectory, RunError};
use crate::t5::weights::StoredType;

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
    /// The checkpoint from which the run continues; `None` for a new run.
    point: Option<Box<ResumePoint>>,
    requests: Requests,
    /// The processes that train together with this one, which is the first of them.
    world: Option<&'a World>,
}

/// Trains the run of `plan` together with the other processes of `world`, as one that is not the first: without a run
/// directory, callbacks or progress.
///
/// # Errors
/// The model cannot be made, a loss or gradient is not finite, or MPI fails.
pub fn follow(plan: &Plan, start: Start, world: &World) -> Result<Outcome, TrainError> {
    let mut trainer = Trainer::new(plan)?;
    trainer.join(world)?;
    let model = match start {
        Start::New(_) => trainer.initial_model()?,
        Start::Continue(point) => trainer.restore(point.state, &point.directory)?,
    };
    trainer.follow(model)
}

impl<'a> Training<'a> {
    /// Locks the run directory of `plan`. Nothing in it is changed before [`Self::run`].
    ///
    /// # Errors
    /// Another process trains there, or there is something that must not be replaced.
    pub fn claim(plan: &'a Plan, overwrite: Overwrite) -> Result<Self, RunError> {
        let new = NewRun::claim(&plan.recipe.run.directory, overwrite)?;
        let requests = Requests::default();
        Ok(Self { plan, new, callbacks: Vec::new(), point: None, requests, world: None })
    }

    /// Locks the run directory of `plan` and starts as [`find_start`](super::find_start) has found.
    ///
    /// # Errors
    /// Those of [`Self::claim`]; or the corpus is not that of the run that would continue.
    pub fn start(plan: &'a Plan, start: Start) -> Result<Self, TrainError> {
        let point = match start {
            Start::New(overwrite) => return Ok(Self::claim(plan, overwrite)?),
            Start::Continue(point) => point,
        };
        let directory = &plan.recipe.run.directory;
        let new = NewRun::resume(directory)?;
        if point.state.examples != plan.fingerprint() {
            return Err(ResumeError::OtherExamples { directory: directory.clone() }.into());
        }
        let (steps, total) = (point.state.step, plan.total_steps());
        if steps > total {
            return Err(ResumeError::TooShort { directory: directory.clone(), steps, total }.into());
        }
        if let Some(found) = other_config(plan, &point.directory) {
            return Err(ResumeError::OtherModel { directory: directory.clone(), found }.into());
        }
        let (callbacks, requests) = (Vec::new(), Requests::default());
        Ok(Self { plan, new, callbacks, point: Some(point), requests, world: None })
    }

    /// Trains together with the other processes of `world`, which call [`follow`].
    pub fn with(mut self, world: &'a World) -> Self {
        self.world = Some(world);
        self
    }

    /// Requests to this training, to be sent by signal handlers or other threads.
    pub fn requests(&self) -> Requests {
        self.requests.clone()
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
            processes: self.world.map(World::count),
            ..Environment::capture(&device::describe(&plan.device, plan.precision))
        };
        let recipe = plan.recipe.to_toml()?;
        let mut trainer = Trainer::new(plan)?;
        trainer.listen_to(&self.requests);
        if let Some(world) = self.world {
            trainer.join(world)?;
        }
        let mut callbacks = Callbacks::standard(plan, &run, self.callbacks)?;
        let (model, mut monitor) = match self.point {
            None => {
                let model = trainer.initial_model()?;
                self.new.begin(&recipe, &environment)?;
                console.log_to(&run.log())?;
                (model, Monitor::open(&run, plan.total_steps(), console)?)
            }
            Some(point) => {
                let ResumePoint { directory, state, notes } = *point;
                let step = state.step;
                console.log_to(&run.log())?;
                console.message(&format!("the run continues from {}", directory.display()));
                notes.iter().for_each(|note| console.message(note));
                let device = device::describe(&plan.device, plan.precision);
                let differences = state.arithmetic.differences(&Arithmetic::of(device));
                if !differences.is_empty() {
                    tracing::warn!(
                        "the weights may differ in their last bits from those of an uninterrupted run: {}",
                        differences.join("; ")
                    );
                }
                let (files, states) = (state.growing_files(), state.callbacks.clone());
                let model = trainer.restore(state, &directory)?;
                self.new.continue_from(step, &recipe, environment)?;
                for short in files.restore(&run)? {
                    tracing::warn!(
                        "{} has lost lines from before the checkpoint; they are not repeated",
                        short.display()
                    );
                }
                callbacks.restore(&states)?;
                (model, Monitor::resume(&run, plan.total_steps(), console, step)?)
            }
        };
        if !self.new.replaces() {
            self.new.commit()?;
        }
        callbacks.after.push(Box::new(KeepNewRun { new: &mut self.new }));
        let outcome = trainer.run_for_callbacks(model, &mut callbacks, &mut monitor)?;
        monitor.finish()?;
        drop(callbacks);
        self.new.commit()?;
        Ok(outcome)
    }
}

/// The keys of `config.json` in a checkpoint that differ from those that a checkpoint of `plan` would have.
pub(super) fn other_config(plan: &Plan, checkpoint: &Path) -> Option<String> {
    let file = checkpoint.join("config.json");
    let read =
        || serde_json::from_str::<Value>(&read_small_to_string(&file)?).map_err(io::Error::from);
    let stored = match read() {
        Ok(stored) => stored,
        Err(error) => return Some(format!("{}: {error}", file.display())),
    };
    let rows = plan.config().vocab_size + plan.docids.len();
    let expected = plan.config().export(rows, plan.is_tied(), StoredType::Float32);
    let keys = |value: &Value| {
        value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    let mut all: BTreeSet<String> = keys(&stored);
    all.extend::<BTreeSet<String>>(keys(&expected));
    let differing = all.into_iter().filter(|key| stored.get(key) != expected.get(key));
    let described: Vec<String> = differing
        .map(|key| {
            let show =
                |value: &Value| value.get(&key).map_or("not set".to_owned(), Value::to_string);
            format!("{key}: {} in the run, {} now", show(&stored), show(&expected))
        })
        .collect();
    (!described.is_empty()).then(|| described.join(", "))
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
