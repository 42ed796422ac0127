//! What happens between two updates: callbacks, checkpoints, and answers to requests.

use std::time::Instant;

use super::super::TrainError;
use super::super::callback::{Callback, Ending, TrainerState, Verdict};
use super::super::callbacks::Callbacks;
use super::super::costs::Phase;
use super::super::failed_step::FailedStep;
use super::super::training_state::{Arithmetic, Called, TrainingState, UpdateRecord};
use super::{Stop, Trainer};
use crate::device::describe;
use crate::exact::{Exact, to_exact};
use crate::monitor::Monitor;
use crate::t5::GenirModel;

impl<'a> Trainer<'a> {
    /// Calls the callbacks that are due after the latest update and writes a checkpoint if one is; answers requests.
    /// Returns why no update follows, if none does before the last.
    pub(super) fn between_updates(
        &mut self,
        model: &GenirModel,
        callbacks: &mut Callbacks<'_>,
        monitor: &mut Monitor,
    ) -> Result<Option<Stop>, TrainError> {
        // A request to stop is answered at once: an evaluation that is due may take longer than a cluster waits.
        if self.called != Called::None || self.requests.signal().is_none() {
            match self.call_due(model, callbacks, monitor) {
                Err(TrainError::Interrupted) => {}
                called => return called,
            }
        }
        if self.newest.number > 0 {
            self.save_unless_saved(model, callbacks, monitor)?;
        }
        self.requests
            .signal()
            .map(|signal| Some(Stop::Signal(signal)))
            .ok_or(TrainError::Interrupted)
    }

    fn call_due(
        &mut self,
        model: &GenirModel,
        callbacks: &mut Callbacks<'_>,
        monitor: &mut Monitor,
    ) -> Result<Option<Stop>, TrainError> {
        let is_measured = matches!(self.called, Called::Before | Called::All);
        if !is_measured {
            self.call(model, &mut callbacks.before, monitor)?;
            self.called = Called::Before;
        }
        if let (Some(reason), Called::Before) = (&self.stopped, &self.called) {
            // Its last evaluation comes before its last checkpoint: at the end.
            return Ok(Some(Stop::Early(reason.clone())));
        }
        if !is_measured {
            self.save_if_due(model, callbacks, monitor)?;
        }
        if let Some(problem) = monitor.problem() {
            // Training could continue, but its results would be lost.
            self.save_unless_saved(model, callbacks, monitor)?;
            return Err(problem.into());
        }
        if self.called == Called::Before {
            // Of these only the first can be interrupted: nothing is called twice.
            self.call(model, &mut callbacks.after, monitor)?;
            self.called = Called::All;
        }
        if let Some(problem) = monitor.problem() {
            self.save_unless_saved(model, callbacks, monitor)?;
            return Err(problem.into());
        }
        if let Some(reason) = &self.stopped {
            return Ok(Some(Stop::Early(reason.clone())));
        }
        let signal = self.requests.signal().filter(|_| self.newest.number < self.total_steps);
        if signal.is_some() && self.newest.number > 0 {
            self.save_unless_saved(model, callbacks, monitor)?;
        }
        Ok(signal.map(Stop::Signal))
    }

    /// Calls those of `callbacks` that are due and were not called when a signal interrupted one of them.
    fn call(
        &mut self,
        model: &GenirModel,
        callbacks: &mut [Box<dyn Callback + '_>],
        monitor: &mut Monitor,
    ) -> Result<(), TrainError> {
        let mut done = match &self.called {
            Called::Some(names) => names.clone(),
            _ => Vec::new(),
        };
        let mut state = self.state(model, monitor);
        let mut stopped = None;
        let mut called = Ok(());
        for callback in callbacks {
            let is_due = callback.cadence().is_due(state.step, state.is_last);
            if !is_due || done.contains(&callback.name()) {
                continue;
            }
            match timed(callback.as_mut(), &mut state, |callback, state| callback.call(state)) {
                Ok(Verdict::Stop(reason)) if !state.is_last => {
                    state.is_last = true;
                    stopped = Some(reason);
                }
                Ok(_) => {}
                Err(error) => {
                    called = Err(error);
                    break;
                }
            }
            done.push(callback.name());
        }
        let TrainerState { metrics, costs, .. } = state;
        (self.newest.metrics, self.costs) = (metrics, costs);
        self.stopped = stopped.or(self.stopped.take());
        if called.is_err() && self.called != Called::Before {
            self.called = Called::Some(done);
        }
        called
    }

    /// Writes a checkpoint if one is due or was requested.
    fn save_if_due(
        &mut self,
        model: &GenirModel,
        callbacks: &mut Callbacks<'_>,
        monitor: &mut Monitor,
    ) -> Result<(), TrainError> {
        let is_requested = self.requests.take_save() && self.newest.number > 0;
        let state = self.state(model, monitor);
        let checkpoints = &mut callbacks.checkpoints;
        // A checkpoint that was written before the step was evaluated gets its metrics now.
        let is_due = match checkpoints.has(state.step) {
            true => checkpoints.add_metrics(&state).map(|()| false),
            false => checkpoints.is_due(&state).map(|is_due| is_due || is_requested),
        };
        self.newest.metrics = state.metrics;
        match is_due? {
            true => self.save_unless_saved(model, callbacks, monitor),
            false => Ok(()),
        }
    }

    /// Writes a checkpoint of the latest update, if there is none yet.
    fn save_unless_saved(
        &mut self,
        model: &GenirModel,
        callbacks: &mut Callbacks<'_>,
        monitor: &mut Monitor,
    ) -> Result<(), TrainError> {
        if callbacks.checkpoints.has(self.newest.number) {
            return Ok(());
        }
        let begun = Instant::now();
        let mut states = callbacks.states();
        let state = self.state(model, monitor);
        let training = self.training_state(&state);
        let written = callbacks.checkpoints.write(&state, &self.optimizer, |checkpoints| {
            states.insert(Callbacks::CHECKPOINTS.to_owned(), checkpoints);
            TrainingState { callbacks: states, ..training }
        });
        self.newest.metrics = state.metrics;
        self.costs.spend(Phase::Saving, begun.elapsed());
        written
    }

    /// Writes the state before a step that failed, and returns the error with its place.
    pub(super) fn stored_before(
        &mut self,
        error: TrainError,
        model: &GenirModel,
        callbacks: &Callbacks<'_>,
        monitor: &mut Monitor,
    ) -> TrainError {
        let TrainError::NotFinite { what, value, step, learning_rate, examples, .. } = error else {
            return error;
        };
        let failed = FailedStep {
            step,
            what,
            value: Exact(value),
            learning_rate: Exact(learning_rate),
            examples: examples.clone(),
        };
        let mut states = callbacks.states();
        let state = self.state(model, monitor);
        let training = self.training_state(&state);
        let checkpoints = &callbacks.checkpoints;
        let written = checkpoints.write_failed(&failed, &state, &self.optimizer, |checkpoints| {
            states.insert(Callbacks::CHECKPOINTS.to_owned(), checkpoints);
            TrainingState { callbacks: states, ..training }
        });
        self.newest.metrics = state.metrics;
        // The first error is the one to report.
        let dump = written
            .inspect_err(|error| {
                tracing::warn!("the state before step {step} is not stored: {error}")
            })
            .ok();
        TrainError::NotFinite { what, value, step, learning_rate, examples, dump }
    }

    /// What a checkpoint of `state` contains besides weights and moments, without the states of callbacks.
    fn training_state(&self, state: &TrainerState) -> TrainingState {
        let (recipe, examples) = self.identity.clone();
        TrainingState {
            format: TrainingState::FORMAT,
            genir: env!("CARGO_PKG_VERSION").to_owned(),
            step: state.step,
            called: self.called.clone(),
            stopped: self.stopped.clone(),
            update: UpdateRecord {
                loss: Exact(state.loss),
                learning_rate: Exact(state.learning_rate),
                gradient_norm: Exact(state.gradient_norm),
                examples: state.examples,
                metrics: to_exact(&state.metrics),
            },
            costs: self.costs.record(),
            optimizer_steps: self.optimizer.steps(),
            callbacks: Default::default(),
            recipe,
            examples,
            arithmetic: Arithmetic::of(describe(&self.plan.device, self.plan.precision)),
            files: Default::default(),
            retained: Default::default(),
        }
    }

    /// Calls [`Callback::end`] of all callbacks, and writes a last checkpoint unless the run failed; returns why it
    /// ended early, if it did.
    pub(super) fn end(
        &mut self,
        mut ended: Result<Option<Stop>, TrainError>,
        model: &GenirModel,
        callbacks: &mut Callbacks<'_>,
        monitor: &mut Monitor,
    ) -> Result<Option<Stop>, TrainError> {
        self.end_all(&mut callbacks.before, &mut ended, model, monitor);
        // Interrupted before the first update, it has nothing to save.
        let is_new = self.newest.number == 0 && matches!(ended, Ok(Some(Stop::Signal(_))));
        if ended.is_ok()
            && !is_new
            && let Err(error) = self.save_unless_saved(model, callbacks, monitor)
        {
            ended = Err(error);
        }
        self.end_all(&mut callbacks.after, &mut ended, model, monitor);
        ended
    }

    fn end_all(
        &mut self,
        callbacks: &mut [Box<dyn Callback + '_>],
        ended: &mut Result<Option<Stop>, TrainError>,
        model: &GenirModel,
        monitor: &mut Monitor,
    ) {
        let mut state = self.state(model, monitor);
        state.is_last = true;
        for callback in callbacks {
            let ending = match &*ended {
                Ok(None) => Ending::Finished,
                Ok(Some(Stop::Early(reason))) => Ending::Stopped(reason),
                Ok(Some(Stop::Signal(signal))) => Ending::Interrupted(*signal),
                Err(error) => Ending::Failed(error),
            };
            let end =
                |callback: &mut dyn Callback, state: &mut TrainerState| callback.end(state, ending);
            match timed(callback.as_mut(), &mut state, end) {
                Err(error) if ended.is_ok() => {
                    let signal = self.requests.signal().map(Stop::Signal);
                    *ended = match (&error, signal) {
                        (TrainError::Interrupted, Some(signal)) => Ok(Some(signal)),
                        _ => Err(error),
                    };
                }
                _ => {}
            }
        }
        let TrainerState { metrics, costs, .. } = state;
        (self.newest.metrics, self.costs) = (metrics, costs);
    }

    /// The state after the latest update; its metrics are moved out of it.
    fn state<'m>(&mut self, model: &'m GenirModel, monitor: &'m mut Monitor) -> TrainerState<'m>
    where
        'a: 'm,
    {
        let newest = &mut self.newest;
        TrainerState {
            step: newest.number,
            total_steps: self.total_steps,
            epoch: self.plan.epochs.epochs_after(newest.number),
            is_last: newest.number == self.total_steps || self.stopped.is_some(),
            model,
            shards: self.shards.clone(),
            prefix: self.prefix.clone(),
            loss: newest.loss,
            examples: newest.examples,
            learning_rate: newest.learning_rate,
            gradient_norm: newest.gradient_norm,
            training_seconds: self.costs.seconds(Phase::Steps),
            costs: self.costs,
            metrics: std::mem::take(&mut newest.metrics),
            monitor,
            requests: self.requests.clone(),
            world: self.world,
        }
    }
}

/// Calls a callback and adds its time to the costs.
fn timed<T>(
    callback: &mut dyn Callback,
    state: &mut TrainerState,
    call: impl FnOnce(&mut dyn Callback, &mut TrainerState) -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    let begun = Instant::now();
    let result = call(callback, state);
    if let Some(phase) = callback.phase() {
        state.costs.spend(phase, begun.elapsed());
    }
    result
}
