//! Repeats updates of a run from a checkpoint before them, and compares the bits with what the run has recorded.
//!
//! An update is a pure function of the weights, the moments and the seed, so that a repeated one gives the same bits on
//! the same machine. Where it does not, memory, the disk or a device has changed a number without an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use thiserror::Error;

use super::failed_step::FailedStep;
use super::optimizer::Optimizer;
use super::plan::Plan;
use super::plan_error::{PlanError, PlanErrors};
use super::resume::{ResumePoint, checkpoints_in, point_at};
use super::trainer::{Trainer, parameter_shapes};
use super::training::other_config;
use super::training_state::{Arithmetic, OPTIMIZER, TrainingState};
use super::{NonFinite, TrainError};
use crate::device::describe;
use crate::exact::Exact;
use crate::files::{FileError, read_regular_to_string};
use crate::recipe::{Recipe, RecipeErrors};
use crate::run::{RunDirectory, RunError};
use crate::t5::GenirModel;
use crate::t5::weights::{first_not_finite_where, parameters};

/// What to repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayOptions {
    /// The last update to repeat, counted from 1.
    pub step: u64,
    /// The device, if it is not the recipe's. Another device gives other bits.
    pub device: Option<String>,
}

/// The result of [`replay`].
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// The checkpoint that it started from; `None`: the model before the first update.
    pub from: Option<PathBuf>,
    /// Messages for the user: checkpoints that were passed over, and differences of the machine.
    pub notes: Vec<String>,
    /// The repeated updates. If one failed, it is the last.
    pub steps: Vec<ReplayedStep>,
}

/// An update that was repeated.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayedStep {
    /// The update, counted from 1.
    pub step: u64,
    /// Mean loss of its examples; NaN if the gradient norm failed.
    pub loss: f64,
    /// Norm of its gradients before clipping; NaN if the loss failed.
    pub gradient_norm: f64,
    /// The value that was not finite, if one was: the update was not applied.
    pub failed: Option<NonFinite>,
    /// A trained parameter that is not finite after the last update, with the number of such values.
    pub damaged: Option<(String, usize)>,
    /// What it was compared with.
    pub comparisons: Vec<Comparison>,
}

/// The comparison of an update with a file of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The file or checkpoint, relative to the run directory.
    pub with: PathBuf,
    /// What differs; empty: the bits are the same.
    pub differences: Vec<String>,
}

impl Replay {
    /// Number of comparisons.
    pub fn compared(&self) -> usize {
        self.steps.iter().map(|step| step.comparisons.len()).sum()
    }

    /// Returns whether no comparison found a difference.
    pub fn is_same(&self) -> bool {
        let mut all = self.steps.iter().flat_map(|step| &step.comparisons);
        all.all(|comparison| comparison.differences.is_empty())
    }
}

/// Errors of repeating updates.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The directory is not one of a run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A file of the run cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The recipe of the run is not one of this version.
    #[error(transparent)]
    Recipe(#[from] RecipeErrors),
    /// The corpus, the base model or the device cannot be used.
    #[error(transparent)]
    Plan(#[from] PlanErrors),
    /// There is no such update.
    #[error("--step {step}: expected a step from 1 to {last}, the last one of the run")]
    NoStep {
        /// The update.
        step: u64,
        /// The last update of the recipe.
        last: u64,
    },
    /// The corpus has changed.
    #[error(
        "{}: the training examples are not those of the run: the corpus at corpus.path or the tokenizer has changed \
         since; restore it to repeat a step", run.display()
    )]
    OtherExamples {
        /// The run directory.
        run: PathBuf,
    },
    /// The base model has another configuration.
    #[error("{}: model.base has another configuration than the run: {found}", run.display())]
    OtherModel {
        /// The run directory.
        run: PathBuf,
        /// The differences.
        found: String,
    },
    /// A checkpoint cannot be loaded, or an update cannot be computed.
    #[error(transparent)]
    Train(#[from] TrainError),
}

/// Repeats the updates of the run in `run` from the newest checkpoint before `options.step` (or from the state that a
/// failed update left, or from the start) up to it, without callbacks, and compares them with the run's metrics,
/// checkpoints and failed step. Nothing is written into the run. `each` is called after each update.
///
/// # Errors
/// The run, its corpus or its base model cannot be read, or are not those of the run. A difference is not an error, and
/// neither is an update that fails: see [`Replay`].
pub fn replay(
    run: &Path,
    options: &ReplayOptions,
    each: &mut dyn FnMut(&ReplayedStep),
) -> Result<Replay, ReplayError> {
    let run = RunDirectory::open(run)?;
    let records = Records::of(&run)?;
    let (point, mut notes) = records.point_before(options.step);
    let plan = Plan::new(records.recipe_of(options)?)?;
    let last = plan.total_steps();
    if !(1..=last).contains(&options.step) {
        return Err(ReplayError::NoStep { step: options.step, last });
    }
    let mut trainer = Trainer::new(&plan)?;
    let (from, before, model) = match point {
        None => {
            notes.push(format!(
                "no checkpoint before step {} can be read: from the model before the first step",
                options.step
            ));
            (None, 0, trainer.initial_model()?)
        }
        Some(ResumePoint { directory, state, .. }) => {
            let path = run.path().to_path_buf();
            if state.examples != plan.fingerprint() {
                return Err(ReplayError::OtherExamples { run: path });
            }
            if let Some(found) = other_config(&plan, &directory) {
                return Err(ReplayError::OtherModel { run: path, found });
            }
            let here = Arithmetic::of(describe(&plan.device, plan.precision));
            let differences = state.arithmetic.differences(&here);
            if !differences.is_empty() {
                notes.push(format!(
                    "the last bits may differ for another reason than damage: {}",
                    differences.join("; ")
                ));
            }
            let step = state.step;
            let model = trainer.restore(state, &directory)?;
            (Some(directory), step, model)
        }
    };
    trainer.prepare(&model, Vec::new(), &mut |_, _, _| {});
    let mut model = trainer.release_frozen(model, None)?;
    let mut steps = Vec::new();
    for step in before + 1..=options.step {
        let done;
        (model, done) = trainer.step(model, step);
        let mut replayed = ReplayedStep {
            step,
            loss: f64::NAN,
            gradient_norm: f64::NAN,
            failed: None,
            damaged: None,
            comparisons: Vec::new(),
        };
        let learning_rate = match done {
            Ok(done) => {
                (replayed.loss, replayed.gradient_norm) = (done.loss, done.gradient_norm);
                done.learning_rate
            }
            Err(TrainError::NotFinite { what, value, learning_rate, .. }) => {
                replayed.failed = Some(what);
                match what {
                    NonFinite::Loss => replayed.loss = value,
                    NonFinite::GradientNorm => replayed.gradient_norm = value,
                }
                learning_rate
            }
            Err(error) => return Err(error.into()),
        };
        if step == options.step && replayed.failed.is_none() {
            let trained = |name: &str| plan.trained.contains(name);
            replayed.damaged = first_not_finite_where(&model.valid(), trained);
        }
        records.compare(&mut replayed, learning_rate, &plan, &model, &trainer.optimizer)?;
        each(&replayed);
        let failed = replayed.failed.is_some();
        steps.push(replayed);
        if failed {
            break;
        }
    }
    Ok(Replay { from, notes, steps })
}

/// Learning rate and gradient norm of an update.
type Logged = (Option<f64>, Option<f64>);

/// What a run has recorded of its updates.
struct Records<'a> {
    run: &'a RunDirectory,
    /// By number of updates.
    checkpoints: BTreeMap<u64, PathBuf>,
    /// The states before failed updates: one at most.
    failed_states: BTreeMap<u64, PathBuf>,
    failed: Option<FailedStep>,
    /// Learning rate and gradient norm in `metrics.jsonl`, by update.
    logged: BTreeMap<u64, Logged>,
}

impl<'a> Records<'a> {
    fn of(run: &'a RunDirectory) -> Result<Self, ReplayError> {
        Ok(Self {
            run,
            checkpoints: checkpoints_in(&run.checkpoints())?,
            failed_states: checkpoints_in(&run.failed_step())?,
            failed: FailedStep::read(run)?,
            logged: logged(&run.metrics())?,
        })
    }

    /// The newest usable state before `step`, and the problems of newer ones.
    fn point_before(&self, step: u64) -> (Option<ResumePoint>, Vec<String>) {
        let mut before: BTreeMap<u64, &PathBuf> = BTreeMap::new();
        for states in [&self.failed_states, &self.checkpoints] {
            before.extend(states.range(..step).map(|(&step, path)| (step, path)));
        }
        let mut notes = Vec::new();
        for path in before.into_values().rev() {
            match point_at(path) {
                Ok(point) => return (Some(point), notes),
                Err(problem) => notes.push(format!("passed over: {problem}")),
            }
        }
        (None, notes)
    }

    /// The recipe that the run had at the update, which a later resume may have changed: that of the next state, or the
    /// latest one.
    fn recipe_of(&self, options: &ReplayOptions) -> Result<Recipe, ReplayError> {
        let later = self.checkpoints.range(options.step..);
        let failed = self.failed_states.range(options.step.saturating_sub(1)..);
        let stored = later.chain(failed).find_map(|(_, path)| TrainingState::read(path).ok()?);
        let file = self.run.recipe();
        let text = match stored {
            Some(state) => state.recipe,
            None => read_regular_to_string(&file).map_err(FileError::new("read", &file))?,
        };
        let device = options.device.iter().map(|device| format!("run.device={device}"));
        let name = file.display().to_string();
        let mut recipe = Recipe::from_text(&name, &text, &device.collect::<Vec<_>>())?;
        // Their base model would be read for nothing.
        recipe.probes = None;
        Ok(recipe)
    }

    /// Compares an update with all that the run has recorded of it. `model` and `optimizer` are those after it.
    fn compare(
        &self,
        replayed: &mut ReplayedStep,
        learning_rate: f64,
        plan: &Plan,
        model: &GenirModel,
        optimizer: &Optimizer,
    ) -> Result<(), ReplayError> {
        let relative = |path: &Path| path.strip_prefix(self.run.path()).unwrap_or(path).to_owned();
        let norm = replayed.gradient_norm;
        if let Some(&(logged_rate, logged_norm)) = self.logged.get(&replayed.step) {
            let mut differences = Vec::new();
            compare_number(&mut differences, "learning rate", learning_rate, logged_rate);
            compare_number(&mut differences, "gradient norm", norm, logged_norm);
            let with = relative(&self.run.metrics());
            replayed.comparisons.push(Comparison { with, differences });
        }
        if let Some(failed) = self.failed.as_ref().filter(|failed| failed.step == replayed.step) {
            let mut differences = Vec::new();
            let value = match failed.what {
                NonFinite::Loss => replayed.loss,
                NonFinite::GradientNorm => norm,
            };
            if replayed.failed != Some(failed.what) {
                differences.push(format!("the {} is finite: {value}", failed.what));
            } else {
                compare_number(
                    &mut differences,
                    &failed.what.to_string(),
                    value,
                    Some(failed.value.0),
                );
            }
            let Exact(rate) = failed.learning_rate;
            compare_number(&mut differences, "learning rate", learning_rate, Some(rate));
            let with = relative(&self.run.failed_step().join("report.json"));
            replayed.comparisons.push(Comparison { with, differences });
        }
        if replayed.failed.is_some() {
            return Ok(());
        }
        for states in [&self.checkpoints, &self.failed_states] {
            if let Some(directory) = states.get(&replayed.step) {
                let differences = match point_at(directory) {
                    Err(problem) => vec![problem],
                    Ok(point) => {
                        let (mut differences, update) = (Vec::new(), &point.state.update);
                        let loss = Some(update.loss.0);
                        compare_number(&mut differences, "loss", replayed.loss, loss);
                        let logged = Some(update.gradient_norm.0);
                        compare_number(&mut differences, "gradient norm", norm, logged);
                        differences.extend(tensor_differences(plan, &point, model, optimizer)?);
                        differences
                    }
                };
                replayed.comparisons.push(Comparison { with: relative(directory), differences });
            }
        }
        Ok(())
    }
}

/// Adds the difference of a number from the recorded one, if there is one. A NaN equals every NaN.
fn compare_number(differences: &mut Vec<String>, name: &str, found: f64, recorded: Option<f64>) {
    let Some(recorded) = recorded else { return };
    let same = found.to_bits() == recorded.to_bits() || (found.is_nan() && recorded.is_nan());
    if !same {
        differences.push(format!("{name} {found}, recorded {recorded}"));
    }
}

/// The differences of weights and moments from those in a checkpoint.
fn tensor_differences(
    plan: &Plan,
    point: &ResumePoint,
    model: &GenirModel,
    optimizer: &Optimizer,
) -> Result<Vec<String>, TrainError> {
    let stored = plan.model_of(&point.directory, &plan.device, 0..plan.docids.len())?;
    let whole = GenirModel {
        t5: model.t5.clone().restored().map_err(PlanError::from)?,
        docids: model.docids.clone(),
    };
    let mut weights = Differing::default();
    for (found, expected) in parameters(&whole).into_iter().zip(parameters(&stored)) {
        let (found_values, expected) = (found.values.into_data(), expected.values.into_data());
        weights.compare(
            &found.name,
            found_values.as_slice().unwrap_or_default(),
            expected.as_slice().unwrap_or_default(),
        );
    }
    let mut recorded = Optimizer::new(&plan.recipe.optimizer);
    let path = point.directory.join(OPTIMIZER);
    let shapes = parameter_shapes(&stored);
    recorded.restore(&path, &point.state.optimizer_steps, &shapes, &plan.device, None)?;
    let mut moments = Differing::default();
    let mut differences = Vec::new();
    if optimizer.steps() != recorded.steps() {
        differences.push(
            "the optimizer has updated other parameters, or at another number of steps".to_owned(),
        );
    }
    for ((name, found), (_, expected)) in optimizer.moments().zip(recorded.moments()) {
        let (found, expected) = (found.as_slice(), expected.as_slice());
        moments.compare(&name, found.unwrap_or_default(), expected.unwrap_or_default());
    }
    differences.extend(weights.describe("weights"));
    differences.extend(moments.describe("optimizer moments"));
    Ok(differences)
}

/// Tensors that differ from recorded ones.
#[derive(Default)]
struct Differing {
    compared: usize,
    differing: usize,
    /// The first tensor that differs, with the number of its values that do, and of all of them.
    first: Option<(String, usize, usize)>,
    largest: f32,
}

impl Differing {
    fn compare(&mut self, name: &str, found: &[f32], recorded: &[f32]) {
        self.compared += 1;
        let pairs = || found.iter().zip(recorded);
        let count =
            pairs().filter(|(found, recorded)| found.to_bits() != recorded.to_bits()).count()
                + found.len().abs_diff(recorded.len());
        if count == 0 {
            return;
        }
        self.differing += 1;
        let largest = pairs().fold(0.0_f32, |most, (found, recorded)| {
            let difference = (found - recorded).abs();
            if difference.is_nan() { f32::NAN } else { most.max(difference) }
        });
        // A NaN is a larger difference than any number.
        self.largest = if largest.is_nan() { largest } else { self.largest.max(largest) };
        self.first.get_or_insert((name.to_owned(), count, found.len()));
    }

    fn describe(&self, what: &str) -> Option<String> {
        let (name, count, values) = self.first.as_ref()?;
        Some(format!(
            "{what}: {} of {} tensors differ; the first is `{name}` ({count} of {values} values); the largest \
             difference is {:e}",
            self.differing, self.compared, self.largest
        ))
    }
}

/// Learning rate and gradient norm of each update in `metrics.jsonl`, with all of their bits: JSON parsers may return a
/// neighbouring number, Rust's does not.
fn logged(metrics: &Path) -> Result<BTreeMap<u64, Logged>, FileError> {
    let mut logged = BTreeMap::new();
    if !metrics.exists() {
        return Ok(logged);
    }
    let text = read_regular_to_string(metrics).map_err(FileError::new("read", metrics))?;
    for line in text.lines().filter(|line| line.ends_with('}')) {
        let number = |tag: &str| {
            let (_, rest) = line.split_once(&format!("\"{tag}\":"))?;
            let end = rest.find([',', '}'])?;
            rest[..end].trim().trim_matches('"').parse::<f64>().ok()
        };
        let values = (number("optimizer/learning_rate"), number("optimizer/gradient_norm"));
        if let (Some(step), (Some(_), _) | (_, Some(_))) = (number("step"), values) {
            logged.insert(step as u64, values);
        }
    }
    Ok(logged)
}
