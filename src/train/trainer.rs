//! The training loop: the only one there is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::callback::{Callback, Moment, Verdict};
use super::optimizer::Optimizer;
use super::plan::{Plan, PlanError};
use super::schedule::Schedule;
use super::step::{StepInput, StepOptions, forward_backward};
use super::{NonFinite, TrainError};
use crate::allocator::give_back_freed_memory;
use crate::component::freeze_all_but;
use crate::device::length_step;
use crate::monitor::Monitor;
use crate::prefix::{Ahead, Frozen, Prefix, mebibytes};
use crate::random;
use crate::t5::{Dropout, GenirModel, Tokens};
use crate::task::{Batch, Sampler, assemble};

/// A run in progress.
pub struct Trainer<'a> {
    plan: &'a Plan,
    /// With autodiff.
    device: Device,
    optimizer: Optimizer,
    schedule: Schedule,
    sampler: Sampler,
    total_steps: u64,
    /// What comes before every trained parameter, once a run has begun; none where the encoder is trained.
    prefix: Option<Arc<Prefix>>,
    /// The next batch's part of it, where fetching that takes time.
    ahead: Option<Ahead>,
    /// Time in updates so far.
    training: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Updates done.
    pub steps: u64,
    /// Why it ended before its last step, if it did.
    pub stopped: Option<String>,
}

/// What one update did.
struct Step {
    loss: f64,
    learning_rate: f64,
    gradient_norm: f64,
    examples: u64,
}

impl<'a> Trainer<'a> {
    /// A run that follows `plan`, before its first step.
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
            sampler: Sampler::new(
                &plan.examples,
                &plan.mixture,
                recipe.train.batch_size,
                recipe.run.seed,
            )?,
            total_steps,
            prefix: None,
            ahead: None,
            training: Duration::ZERO,
            device: plan.device.clone().autodiff(),
            plan,
        })
    }

    /// The model before the first step, with everything frozen that is not to be trained.
    pub fn initial_model(&self) -> Result<GenirModel, TrainError> {
        Ok(freeze_all_but(self.plan.model(&self.device)?, &self.plan.trained))
    }

    /// Names of the parameters that the optimizer keeps a state for.
    pub fn optimized(&self) -> impl Iterator<Item = &str> {
        self.optimizer.names()
    }

    /// Trains `model` to the last step, or until a callback stops the run, and gives it back.
    ///
    /// # Errors
    /// The first error of a callback, or a loss or gradient that is not finite: the update that it would
    /// have led to is not made, and the checkpoints written before stay.
    pub fn run(
        &mut self,
        model: GenirModel,
        callbacks: &mut [Box<dyn Callback + '_>],
        monitor: &mut Monitor,
    ) -> Result<(GenirModel, Outcome), TrainError> {
        let (mut model, outcome) = self.train(model, callbacks, monitor)?;
        model.t5 = model.t5.whole().map_err(PlanError::from)?;
        Ok((model, outcome))
    }

    /// As [`Trainer::run`], for what the callbacks keep: the model is not brought back whole, which may need more
    /// memory than training did.
    pub fn run_for_callbacks(
        &mut self,
        model: GenirModel,
        callbacks: &mut [Box<dyn Callback + '_>],
        monitor: &mut Monitor,
    ) -> Result<Outcome, TrainError> {
        Ok(self.train(model, callbacks, monitor)?.1)
    }

    fn train(
        &mut self,
        model: GenirModel,
        callbacks: &mut [Box<dyn Callback + '_>],
        monitor: &mut Monitor,
    ) -> Result<(GenirModel, Outcome), TrainError> {
        self.prefix = self.prepare(&model, callbacks, monitor)?;
        self.ahead = self.prefix.as_ref().and_then(|prefix| prefix.training_ahead());
        let mut model = self.let_go(model, callbacks, monitor)?;
        give_back_freed_memory();
        let mut examples = 0;
        let before = Step { loss: f64::NAN, learning_rate: 0.0, gradient_norm: 0.0, examples: 0 };
        self.call_back(0, &model, &before, callbacks, monitor)?;
        for step in 1..=self.total_steps {
            let begun = Instant::now();
            let done;
            (model, done) = self.step(model, step)?;
            self.training += begun.elapsed();
            examples += done.examples;
            monitor.step(step, done.loss, examples);
            if let Some(stopped) = self.call_back(step, &model, &done, callbacks, monitor)? {
                return Ok((model, Outcome { steps: step, stopped: Some(stopped) }));
            }
        }
        Ok((model, Outcome { steps: self.total_steps, stopped: None }))
    }

    /// Finds or computes the frozen prefix of the texts that are read more than once, and says what it did.
    ///
    /// All of it before the first step: sorted by length the texts waste no padding, and the first epoch would
    /// otherwise ask for them in another order than the one they are stored in.
    fn prepare(
        &self,
        model: &GenirModel,
        callbacks: &[Box<dyn Callback + '_>],
        monitor: &mut Monitor,
    ) -> Result<Option<Arc<Prefix>>, TrainError> {
        let Plan { recipe, tokenizer, device, .. } = self.plan;
        let Some(prefix) = self.plan.frozen_prefix() else {
            return Ok(None);
        };
        let t5 = model.t5.valid();
        let frozen = Frozen { t5: &t5, prefix, device, pad_id: tokenizer.pad_id() };
        let training = self.plan.reading();
        let steps = self.total_steps;
        let asked = callbacks.iter().flat_map(|callback| callback.readings(steps)).collect();
        let settings = recipe.cache.settings();
        let mut progress = |name: &str, done: usize, of: usize| {
            monitor.preparing(&format!("frozen prefix of {name}"), done as u64, of as u64);
        };
        let prefix = Prefix::prepare(&frozen, &settings, training, asked, &mut progress);
        for kept in prefix.kept() {
            monitor.message(&format!("frozen prefix of {kept}"));
        }
        if !prefix.kept().is_empty() {
            monitor.scalars(0, 0.0, &prefix.summary())?;
        }
        Ok(Some(Arc::new(prefix)))
    }

    /// Lets go of the weights that only the frozen prefix computes with, where nothing will ask for them any more.
    fn let_go(
        &self,
        mut model: GenirModel,
        callbacks: &[Box<dyn Callback + '_>],
        monitor: &mut Monitor,
    ) -> Result<GenirModel, TrainError> {
        let Some(prefix) = self.prefix.as_ref().filter(|prefix| prefix.is_complete()) else {
            return Ok(model);
        };
        if callbacks.iter().all(|callback| callback.reads_only_its_texts()) {
            let origin = Arc::new(self.plan.origin().map_err(PlanError::from)?);
            let frozen = prefix.frozen();
            let bytes;
            (model.t5, bytes) =
                model.t5.let_go(frozen.layer(), &origin).map_err(PlanError::from)?;
            if bytes > 0 {
                let size = mebibytes(bytes as u64);
                monitor.message(&format!(
                    "frozen prefix: the weights of the {frozen} are let go ({size})"
                ));
            }
        }
        Ok(model)
    }

    /// One update: forward and backward for each of its batches, then the optimizer. The model goes in and
    /// comes out, so that the optimizer alone owns each tensor that it updates in place.
    fn step(&mut self, model: GenirModel, step: u64) -> Result<(GenirModel, Step), TrainError> {
        let train = &self.plan.recipe.train;
        let learning_rate = self.schedule.at(step - 1);
        let mut accumulator = GradientsAccumulator::new();
        let mut gradients = None;
        let (mut loss, mut examples) = (0.0, 0);
        for part in 0..train.accumulate as u64 {
            let position = (step - 1) * train.accumulate as u64 + part;
            let batch = self.batch(position);
            examples += batch.size() as u64;
            let (value, found) = self.forward_backward(&model, &batch, position);
            if !value.is_finite() {
                return Err(self.non_finite(NonFinite::Loss, value, step, learning_rate));
            }
            loss += value / train.accumulate as f64;
            if train.accumulate == 1 {
                gradients = Some(found);
            } else {
                accumulator.accumulate(&model, found);
            }
        }
        let gradients = gradients.unwrap_or_else(|| accumulator.grads());
        let (model, updated) = self.optimizer.step(model, gradients, learning_rate);
        match updated {
            Ok(updated) => {
                let gradient_norm = updated.gradient_norm;
                Ok((model, Step { loss, learning_rate, gradient_norm, examples }))
            }
            Err(norm) => Err(self.non_finite(NonFinite::GradientNorm, norm, step, learning_rate)),
        }
    }

    /// Batch `position`, counted over the whole run: a function of it and the seed alone.
    ///
    /// Made here and not ahead of time by another thread: tokens are encoded once before the first step, so
    /// a batch is a copy of a few kilobytes (`benches/README.md`).
    fn batch(&mut self, position: u64) -> Batch {
        let indices = self.sampler.batch(position);
        let pad_id = self.plan.tokenizer.pad_id();
        assemble(&self.plan.examples, &indices, pad_id, length_step(&self.device))
    }

    /// Mean loss of a batch, and its gradients over the number of batches of an update.
    fn forward_backward(
        &mut self,
        model: &GenirModel,
        batch: &Batch,
        position: u64,
    ) -> (f64, GradientsParams) {
        let train = &self.plan.recipe.train;
        let targets: Vec<i32> = batch.targets.iter().map(|&row| row as i32).collect();
        let targets = TensorData::new(targets, [batch.size()]);
        let targets = Tensor::<1, Int>::from_data(targets, &self.device);
        let options = StepOptions {
            dropout: Dropout {
                probability: self.plan.dropout(),
                key: random::key(self.plan.recipe.run.seed, position, "dropout"),
            },
            label_smoothing: train.label_smoothing,
            weight: 1.0 / train.accumulate as f64,
        };
        forward_backward(model, self.input(model, batch, position), targets, options)
    }

    /// What a batch's step starts from: its tokens, or what the frozen prefix makes of them, stored or computed now.
    fn input(&mut self, model: &GenirModel, batch: &Batch, position: u64) -> StepInput {
        let Some(prefix) = &self.prefix else {
            return StepInput::Tokens(Tokens::new(&batch.ids, &batch.lengths, &self.device));
        };
        let examples = &self.plan.examples;
        let texts = |batch: &[u32]| -> Vec<&[u32]> {
            batch.iter().map(|&example| examples.tokens(example as usize)).collect()
        };
        let now = texts(&batch.examples);
        let stored = match &mut self.ahead {
            None => prefix.of_training(&now),
            Some(ahead) => {
                let stored = ahead.take(&now);
                if position + 1 < self.total_steps * self.plan.recipe.train.accumulate as u64 {
                    ahead.ask(&texts(&self.sampler.batch(position + 1)));
                }
                stored
            }
        };
        StepInput::Prefix(stored.unwrap_or_else(|| {
            let source = Tokens::new(&batch.ids, &batch.lengths, &self.plan.device);
            prefix.frozen().compute(&model.t5.valid(), &source)
        }))
    }

    /// Calls the callbacks that are due; the reason, if one of them stopped the run.
    fn call_back(
        &self,
        step: u64,
        model: &GenirModel,
        done: &Step,
        callbacks: &mut [Box<dyn Callback + '_>],
        monitor: &mut Monitor,
    ) -> Result<Option<String>, TrainError> {
        let updates_per_epoch = self.plan.mixture.per_epoch() as f64
            / (self.plan.recipe.train.batch_size * self.plan.recipe.train.accumulate) as f64;
        let mut moment = Moment {
            step,
            total_steps: self.total_steps,
            epoch: step as f64 / updates_per_epoch,
            is_last: step == self.total_steps,
            model,
            prefix: self.prefix.as_ref(),
            loss: done.loss,
            learning_rate: done.learning_rate,
            gradient_norm: done.gradient_norm,
            training_seconds: self.training.as_secs_f64(),
            metrics: Default::default(),
            monitor,
        };
        let mut stopped = None;
        for callback in callbacks {
            if callback.cadence().is_due(step, moment.is_last)
                && let Verdict::Stop(reason) = callback.call(&mut moment)?
            {
                moment.is_last = true;
                stopped.get_or_insert(reason);
            }
        }
        Ok(stopped)
    }

    fn non_finite(
        &mut self,
        what: NonFinite,
        value: f64,
        step: u64,
        learning_rate: f64,
    ) -> TrainError {
        let accumulate = self.plan.recipe.train.accumulate as u64;
        let examples = ((step - 1) * accumulate..step * accumulate)
            .flat_map(|position| self.sampler.batch(position))
            .map(|example| self.plan.examples.source_id(example as usize))
            .collect();
        TrainError::NotFinite { what, value, step, learning_rate, examples }
    }
}
