//! The training loop.

mod between_updates;
mod follow;
mod frozen;
mod sharded;
mod shares;
mod together;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};

use self::follow::Follower;
use super::callbacks::Callbacks;
use super::costs::{Costs, Phase, processor_time};
use super::exchange::sum_of_all;
use super::gradient_sum::{GradientSum, added};
use super::optimizer::{Optimizer, UpdateError};
use super::plan::Plan;
use super::plan_error::PlanError;
use super::requests::Requests;
use super::schedule::Schedule;
use super::shards::Shards;
use super::step::{StepInput, StepOptions, forward_backward};
use super::text_step::{TextBatch, forward_backward_text};
use super::training_state::{Called, OPTIMIZER, TrainingState, UpdateRecord};
use super::{NonFinite, TrainError};
use crate::allocator::release_freed_memory;
use crate::component::freeze_all_but;
use crate::device::pad_to_multiple_of;
use crate::exact::from_exact;
use crate::monitor::Monitor;
use crate::prefix::{Prefetcher, Prefix};
use crate::processes::{Order, ProcessesError, World, share};
use crate::random;
use crate::t5::{Dropout, GenirModel, Tokens, weights};
use crate::task::{Batch, BatchPart, PartExamples, Sampler, collate, collate_corrupted};
use sharded::Rounds;
use shares::Shares;

/// A run in progress.
pub struct Trainer<'a> {
    plan: &'a Plan,
    /// With autodiff.
    device: Device,
    pub(super) optimizer: Optimizer,
    schedule: Schedule,
    sampler: Sampler,
    total_steps: u64,
    /// Outputs of the frozen prefix, set when the run starts; none if the encoder is trained.
    prefix: Option<Arc<Prefix>>,
    /// Gathers the prefix of the next batch, if gathering blocks.
    ahead: Option<Prefetcher>,
    costs: Costs,
    requests: Requests,
    /// The latest update.
    newest: Step,
    /// The callbacks that were called after it.
    called: Called,
    /// The reason for which a callback stopped the run, if one did.
    stopped: Option<String>,
    /// The recipe as TOML, and the hash of the examples.
    identity: (String, String),
    /// The processes that train this run together; none if this one trains it alone.
    world: Option<&'a World>,
    /// The work of this process for the first one; none if it is the first.
    follower: Option<Follower<'a>>,
    /// Where docid rows are divided among them.
    shards: Option<Shards<'a>>,
}

/// The result of a run. Its checkpoints and metrics are in the run directory: see [`crate::checkpoint::checkpoint_at`].
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Updates done.
    pub steps: u64,
    /// The reason for which a callback stopped the run early, if one did.
    pub stopped: Option<String>,
    /// The signal that interrupted the run, if one did: the same command continues it.
    pub signal: Option<i32>,
}

/// Why no update follows before the last one.
enum Stop {
    /// A callback stopped the run, for this reason.
    Early(String),
    /// A signal.
    Signal(i32),
}

/// Result of one update.
#[derive(Default)]
pub(super) struct Step {
    /// Number of the update, from 1; 0 before the first.
    number: u64,
    /// Mean over its examples.
    pub(super) loss: f64,
    pub(super) learning_rate: f64,
    pub(super) gradient_norm: f64,
    examples: u64,
    /// Metrics that callbacks measured after it, by name.
    metrics: BTreeMap<String, f64>,
}

impl<'a> Trainer<'a> {
    /// A run that follows `plan`, before its first step.
    ///
    /// # Errors
    /// None, since a plan is complete.
    pub fn new(plan: &'a Plan) -> Result<Self, TrainError> {
        let recipe = &plan.recipe;
        let total_steps = plan.total_steps();
        Ok(Self {
            optimizer: Optimizer::new(&recipe.optimizer),
            schedule: Schedule {
                name: recipe.schedule.name,
                learning_rate: recipe.optimizer.learning_rate,
                warmup_steps: recipe.schedule.warmup_steps,
                total_steps,
            },
            sampler: Sampler::new(&plan.examples, &plan.mixture, plan.epochs, recipe.run.seed),
            total_steps,
            prefix: None,
            ahead: None,
            costs: Costs::begin(),
            requests: Requests::default(),
            newest: Step { loss: f64::NAN, ..Step::default() },
            called: Called::None,
            stopped: None,
            identity: (recipe.to_toml()?, plan.fingerprint()),
            device: plan.device.clone().autodiff(),
            world: None,
            follower: None,
            shards: None,
            plan,
        })
    }

    /// Trains together with the other processes of `world`, each of which has a trainer of the same plan: the first one
    /// with [`Trainer::run`], the others with [`follow`](super::follow).
    ///
    /// # Errors
    /// They cannot share the batches of an update, or the docid rows.
    pub fn join(&mut self, world: &'a World) -> Result<(), ProcessesError> {
        let plan = self.plan;
        share(plan.recipe.train.accumulate, world.count())?;
        if plan.recipe.docids.shard {
            self.shards = Some(Shards::new(world, plan.docids.len(), plan.config().d_model)?);
        }
        self.world = Some(world);
        Ok(())
    }

    /// Listens to `requests` while it trains.
    pub(super) fn listen_to(&mut self, requests: &Requests) {
        self.requests = requests.clone();
    }

    /// Continues from `state`, which was read from the checkpoint in `directory`, and returns its model.
    ///
    /// # Errors
    /// The weights or the optimizer's state cannot be read.
    pub(super) fn restore(
        &mut self,
        state: TrainingState,
        directory: &Path,
    ) -> Result<GenirModel, TrainError> {
        let own = self.own_rows();
        let model = self.plan.model_of(directory, &self.device, own.clone())?;
        let model = freeze_all_but(model, &self.plan.trained);
        let shapes = parameter_shapes(&model);
        let path = directory.join(OPTIMIZER);
        let (device, rows) = (&self.plan.device, self.shards.is_some().then_some(own));
        self.optimizer.restore(&path, &state.optimizer_steps, &shapes, device, rows)?;
        self.costs = Costs::continued(&state.costs, self.optimizer.state_bytes());
        let UpdateRecord { loss, learning_rate, gradient_norm, examples, metrics } = state.update;
        self.newest = Step {
            number: state.step,
            loss: loss.0,
            learning_rate: learning_rate.0,
            gradient_norm: gradient_norm.0,
            examples,
            metrics: from_exact(metrics),
        };
        (self.called, self.stopped) = (state.called, state.stopped);
        Ok(model)
    }

    /// The model before the first step, with all parameters frozen that are not trained.
    ///
    /// # Errors
    /// As for [`Plan::model`].
    pub fn initial_model(&self) -> Result<GenirModel, TrainError> {
        let model = self.plan.model_with_rows(&self.device, self.own_rows())?;
        Ok(freeze_all_but(model, &self.plan.trained))
    }

    /// The docid rows that this process has.
    fn own_rows(&self) -> Range<usize> {
        self.shards.as_ref().map_or(0..self.plan.docids.len(), Shards::own)
    }

    /// Names of the parameters that have an optimizer state.
    pub fn optimized(&self) -> impl Iterator<Item = &str> {
        self.optimizer.names()
    }

    /// Trains `model` to the last step, or until a callback stops the run, and returns it, with the factors of LoRA
    /// merged.
    ///
    /// # Errors
    /// The first error of a callback, or a loss or gradient that is not finite: that update is not applied,
    /// and earlier checkpoints stay.
    pub fn run(
        &mut self,
        model: GenirModel,
        callbacks: &mut Callbacks<'_>,
        monitor: &mut Monitor,
    ) -> Result<(GenirModel, Outcome), TrainError> {
        let (mut model, outcome) = self.train(model, Some((callbacks, monitor)))?;
        model.t5 = model.t5.restored().map_err(PlanError::from)?;
        Ok((model.merged(), outcome))
    }

    /// As [`Trainer::run`], but the model is dropped: returning it requires its released weights to be restored, which
    /// may need more memory than training.
    ///
    /// # Errors
    /// As for [`Trainer::run`].
    pub fn run_for_callbacks(
        &mut self,
        model: GenirModel,
        callbacks: &mut Callbacks<'_>,
        monitor: &mut Monitor,
    ) -> Result<Outcome, TrainError> {
        Ok(self.train(model, Some((callbacks, monitor)))?.1)
    }

    /// `leader` are the callbacks and the monitor of the process that has them.
    fn train(
        &mut self,
        model: GenirModel,
        mut leader: Option<(&mut Callbacks<'_>, &mut Monitor)>,
    ) -> Result<(GenirModel, Outcome), TrainError> {
        self.check_weights(&model)?;
        let mut model = match &mut leader {
            Some((callbacks, monitor)) => {
                let steps = self.total_steps;
                let asked =
                    callbacks.all().flat_map(|callback| callback.text_sets(steps)).collect();
                self.prepare(&model, asked, &mut |name, done, of| {
                    monitor.preparing(&format!("frozen prefix of {name}"), done as u64, of as u64);
                });
                self.order(Order::Update)?;
                // That of this process is counted already.
                self.costs.processor_seconds += self.of_all(0.0)?;
                self.report_prefix(monitor);
                let is_enough = callbacks.all().all(|callback| callback.reads_no_other_texts());
                self.release_unless_used(model, is_enough, Some(monitor))?
            }
            None => {
                let spent = self.prepare_share(&model)?;
                self.costs.processor_seconds += self.of_all(spent)?;
                self.release_unless_used(model, true, None)?
            }
        };
        self.check_prefix()?;
        release_freed_memory();
        self.requests.accept();
        let ended = loop {
            match &mut leader {
                Some((callbacks, monitor)) => {
                    let ended = self.between_updates(&model, callbacks, monitor);
                    if !matches!(ended, Ok(None)) || self.newest.number == self.total_steps {
                        break ended;
                    }
                    if let Err(error) = self.order(Order::Update) {
                        break Err(error.into());
                    }
                }
                None => match self.follow_orders(&model) {
                    Ok(true) => {}
                    Ok(false) => return Ok((model, self.outcome(None))),
                    Err(error) => return Err(error),
                },
            }
            let (begun, processors) = (Instant::now(), processor_time());
            let done;
            (model, done) = self.step(model, self.newest.number + 1);
            self.costs.spend(Phase::Steps, begun.elapsed());
            let spent = (processor_time() - processors).as_secs_f64();
            let done = done.and_then(|done| {
                self.costs.processor_seconds += self.of_all(spent)?;
                Ok(done)
            });
            match done {
                Ok(done) => self.newest = done,
                Err(error) => match &mut leader {
                    Some((callbacks, monitor)) => {
                        break Err(self.stored_before(error, &model, callbacks, monitor));
                    }
                    None => {
                        // The first process has the same error, and stores the state before the step.
                        if let TrainError::NotFinite { .. } = error {
                            self.follow_orders(&model)?;
                        }
                        return Err(error);
                    }
                },
            }
            self.called = Called::None;
            self.costs.examples += self.newest.examples;
            self.costs.optimizer_bytes = self.optimizer.state_bytes();
            if let Some((_, monitor)) = &mut leader {
                monitor.step(self.newest.number, self.newest.loss, self.costs.examples);
            }
        };
        let ended = match leader {
            Some((callbacks, monitor)) => self.end(ended, &model, callbacks, monitor),
            None => ended,
        };
        // Any other error ends the other processes at once.
        if let Ok(_) | Err(TrainError::NotFinite { .. }) = ended {
            self.order(Order::End)?;
        }
        Ok((model, self.outcome(ended?)))
    }

    fn outcome(&self, stop: Option<Stop>) -> Outcome {
        let (stopped, signal) = match stop {
            None => (None, None),
            Some(Stop::Early(reason)) => (Some(reason), None),
            Some(Stop::Signal(signal)) => (None, Some(signal)),
        };
        Outcome { steps: self.newest.number, stopped, signal }
    }

    /// Update number `step`, from 1: forward and backward for each of its batches, then the optimizer. The model is
    /// moved in and out, so that the optimizer is the only owner of each tensor that it updates in place.
    ///
    /// Gradients are summed along a fixed binary tree over the batches, so that no bit depends on how they are divided
    /// among processes ([`GradientSum`]).
    ///
    /// Batches are assembled here and not by another thread: tokens are encoded once before the first step, so
    /// a batch is a copy of a few kilobytes (`benches/README.md`).
    pub(super) fn step(
        &mut self,
        model: GenirModel,
        step: u64,
    ) -> (GenirModel, Result<Step, TrainError>) {
        let (update, learning_rate) = (step - 1, self.schedule.at(step - 1));
        let parts = self.sampler.parts(update);
        let shares = Shares::of(&parts, self.plan);
        let examples = self.plan.epochs.examples_of(update);
        let own = self.own(&parts);
        let mut losses = vec![0.0; parts.len()];
        let dtype = self.plan.recipe.train.gradient_dtype;
        let (mut sum, mut of_batch) = (GradientSum::new(dtype), None);
        let mut rounds = Rounds::of(self, &parts, &shares);
        for at in own.clone() {
            let (part, share) = (&parts[at], shares.of_part(at));
            let (value, found) = match &part.examples {
                PartExamples::Docids(indices) => {
                    let (pad_id, multiple) =
                        (self.plan.tokenizer.pad_id(), pad_to_multiple_of(&self.device));
                    let batch = collate(&self.plan.examples, indices, pad_id, multiple);
                    let input = self.input(&model, &batch);
                    self.prefetch_next(&parts[at + 1..own.end], step);
                    match &mut rounds {
                        None => self.forward_backward(&model, &batch, input, part.batch, share),
                        Some(rounds) => {
                            match self.forward_backward_of_all(&model, input, part.batch, rounds) {
                                Ok(found) => found,
                                Err(error) => return (model, Err(error.into())),
                            }
                        }
                    }
                }
                PartExamples::Denoising(chosen) => self.denoise(&model, chosen, part.batch, share),
            };
            losses[at] = value;
            // Where docid rows are divided, the others wait for the rest of this process's batches.
            if !value.is_finite() && rounds.is_none() {
                break;
            }
            // Both kinds of a batch, of docids and of texts, are one value of the sum.
            let found = match of_batch.take() {
                Some(first) => added(&model, first, found),
                None => found,
            };
            match parts.get(at + 1) {
                Some(next) if next.batch == part.batch => of_batch = Some(found),
                _ => sum.push(&model, found),
            }
        }
        let divided = match rounds.map(|rounds| rounds.finish(self, &model)).transpose() {
            Ok(divided) => divided,
            Err(error) => return (model, Err(error.into())),
        };
        let losses = match self.losses_of_all(&parts, losses) {
            Ok(losses) => losses,
            Err(error) => return (model, Err(error.into())),
        };
        if let Some(&value) = losses.iter().find(|value| !value.is_finite()) {
            let error = self.non_finite(NonFinite::Loss, value, step, learning_rate);
            return (model, Err(error));
        }
        let loss = (0..parts.len()).map(|at| losses[at] * shares.of_part(at)).sum();
        let gradients = sum.total(&model);
        let gradients = match self.world {
            None => Ok((gradients, None)),
            Some(world) => {
                let device = &self.plan.device;
                sum_of_all(world, &model, gradients, dtype, divided.is_some(), device)
                    .and_then(|gradients| self.with_own_rows(&model, gradients, divided))
            }
        };
        let (gradients, squares) = match gradients {
            Ok(gradients) => gradients,
            Err(error) => return (model, Err(error.into())),
        };
        let (model, updated) = self.optimizer.step_with(model, gradients, learning_rate, squares);
        let done = match updated {
            Ok(updated) => {
                let gradient_norm = updated.gradient_norm;
                let metrics = BTreeMap::new();
                Ok(Step { number: step, loss, learning_rate, gradient_norm, examples, metrics })
            }
            Err(UpdateError { gradient_norm: norm }) => {
                Err(self.non_finite(NonFinite::GradientNorm, norm, step, learning_rate))
            }
        };
        (model, done)
    }

    /// Mean loss of a batch, and its gradients times `share`. Dropout is a function of the seed and of `position`, the
    /// number of batches before this one in the run.
    fn forward_backward(
        &self,
        model: &GenirModel,
        batch: &Batch,
        input: StepInput,
        position: u64,
        share: f64,
    ) -> (f64, GradientsParams) {
        let targets: Vec<i32> = batch.targets.iter().map(|&row| row as i32).collect();
        let targets = TensorData::new(targets, [batch.size()]);
        let targets = Tensor::<1, Int>::from_data(targets, &self.device);
        forward_backward(model, input, targets, self.options(position, "dropout", share))
    }

    /// The same of a batch of denoising.
    fn denoise(
        &self,
        model: &GenirModel,
        chosen: &[(u32, u64)],
        position: u64,
        share: f64,
    ) -> (f64, GradientsParams) {
        let Plan { recipe, examples, sentinels, tokenizer, .. } = self.plan;
        let how = (&recipe.task.options().denoising, sentinels);
        let (pad_id, multiple) = (tokenizer.pad_id(), pad_to_multiple_of(&self.device));
        let batch = collate_corrupted(examples, chosen, how, recipe.run.seed, pad_id, multiple);
        let batch = TextBatch::of(&batch, self.plan.config(), &self.device);
        forward_backward_text(model, &batch, self.options(position, "dropout of denoising", share))
    }

    fn options(&self, position: u64, purpose: &str, share: f64) -> StepOptions {
        StepOptions {
            dropout: Dropout {
                probability: self.plan.dropout(),
                key: random::key(self.plan.recipe.run.seed, position, purpose),
            },
            label_smoothing: self.plan.recipe.train.label_smoothing,
            weight: share,
        }
    }

    /// The input of a batch's step: its tokens, or the output of the frozen prefix for them, stored or computed now.
    fn input(&mut self, model: &GenirModel, batch: &Batch) -> StepInput {
        let Some(prefix) = &self.prefix else {
            return StepInput::Tokens(Tokens::new(&batch.ids, &batch.lengths, &self.device));
        };
        let texts = self.plan.examples.texts(&batch.examples);
        let stored = match &mut self.ahead {
            None => prefix.of_training(&texts),
            Some(ahead) => ahead.take(&texts),
        };
        StepInput::Prefix(stored.unwrap_or_else(|| {
            let source = Tokens::new(&batch.ids, &batch.lengths, &self.plan.device);
            prefix.frozen().compute(&model.t5.valid(), &source)
        }))
    }

    /// Starts gathering the stored prefix of the next batch of docids among those `following` in update number `step`, or
    /// of the first one of the next update.
    fn prefetch_next(&mut self, following: &[BatchPart], step: u64) {
        if self.ahead.is_none() {
            return;
        }
        let of_docids = |parts: &[BatchPart]| {
            parts.iter().find_map(|part| match &part.examples {
                PartExamples::Docids(indices) => Some(indices.clone()),
                PartExamples::Denoising(_) => None,
            })
        };
        let mut next = of_docids(following);
        if next.is_none() && step < self.total_steps {
            let parts = self.sampler.parts(step);
            next = of_docids(&parts[self.own(&parts)]);
        }
        if let (Some(next), Some(ahead)) = (next, &mut self.ahead) {
            ahead.request(&self.plan.examples.texts(&next));
        }
    }

    fn non_finite(
        &mut self,
        what: NonFinite,
        value: f64,
        step: u64,
        learning_rate: f64,
    ) -> TrainError {
        let update = self.sampler.update(step - 1).iter();
        let examples =
            update.map(|&example| self.plan.examples.source_id(example as usize)).collect();
        TrainError::NotFinite { what, value, step, learning_rate, examples, dump: None }
    }
}

/// Dimensions of every parameter by name.
pub(super) fn parameter_shapes(model: &GenirModel) -> BTreeMap<String, Vec<usize>> {
    let parameters = weights::parameters(model).into_iter();
    parameters.map(|parameter| (parameter.name, parameter.shape)).collect()
}
