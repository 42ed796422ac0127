//! Callbacks: called between updates, each at its own cadence.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::monitor::Monitor;
use crate::prefix::{Prefix, TextSet};
use crate::processes::World;
use crate::t5::GenirModel;

use super::TrainError;
use super::costs::{Costs, Phase};
use super::requests::Requests;
use super::shards::Shards;

/// When a callback runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cadence {
    /// Interval in updates; `None` or 0 for never in between.
    pub every: Option<u64>,
    /// Before the first update.
    pub at_start: bool,
    /// After the last update, whatever `every` says.
    pub at_end: bool,
}

impl Cadence {
    /// Returns whether the callback is due after `step` updates (0 before the first).
    pub fn is_due(&self, step: u64, is_last: bool) -> bool {
        if step == 0 {
            return self.at_start;
        }
        (is_last && self.at_end) || self.every.is_some_and(|every| step.is_multiple_of(every))
    }

    /// Returns the number of times that the callback is due in a run of `steps` updates.
    pub fn times(&self, steps: u64) -> u64 {
        let between = self.every.map_or(0, |every| steps.checked_div(every).unwrap_or(0));
        let end = self.at_end && self.every.is_none_or(|every| !steps.is_multiple_of(every));
        u64::from(self.at_start) + between + u64::from(end)
    }
}

/// The state of a run between two updates, as callbacks see it.
pub struct TrainerState<'a> {
    /// Updates done.
    pub step: u64,
    /// Updates of the whole run.
    pub total_steps: u64,
    /// Passes over the examples, with their fraction.
    pub epoch: f64,
    /// True if it is known that no update follows: at the last step, or if an earlier callback has stopped the run. If
    /// a later callback stops the run, only [`Callback::end`] is called.
    pub is_last: bool,
    /// The model, with autodiff. Evaluate on `model.valid()`; what reads the matrices of a LoRA run takes them from
    /// `model.merged()`. With `docids.shard = true` and several processes it has the docid rows of this process only.
    pub model: &'a GenirModel,
    /// Where docid rows are divided among processes; the model has this process's rows.
    pub(super) shards: Option<Shards<'a>>,
    /// The stored frozen prefix; `None` if the encoder is trained.
    pub prefix: Option<Arc<Prefix>>,
    /// Mean loss of the newest update's examples; NaN before the first.
    pub loss: f64,
    /// Examples of the newest update; 0 before the first.
    pub examples: u64,
    /// Learning rate of the newest update; 0 before the first.
    pub learning_rate: f64,
    /// L2 norm of all its gradients together, before clipping; 0 before the first update.
    pub gradient_norm: f64,
    /// Seconds spent in updates so far; callbacks are not counted.
    pub training_seconds: f64,
    /// The cost of the run so far, including the callbacks before this one.
    pub costs: Costs,
    /// Metrics measured at this step, by name (`validation/hits@1`). Callbacks run in order: the evaluation adds here,
    /// and the best checkpoint and early stopping read. A callback of yours may add metrics under other names;
    /// `save.best_metric` and `stop.metric` name metrics of the evaluation only.
    pub metrics: BTreeMap<String, f64>,
    /// Writes scalars and messages.
    pub monitor: &'a mut Monitor,
    /// Requests to stop.
    pub(super) requests: Requests,
    /// The processes that train together; none if this one trains alone.
    pub(super) world: Option<&'a World>,
}

impl TrainerState<'_> {
    /// Call this between the parts of a callback that takes long. It has no effect until a signal asks the training to
    /// stop.
    ///
    /// # Errors
    /// [`TrainError::Interrupted`]: a signal asked the training to stop. Return it from [`Callback::call`], with the
    /// callback and the monitor as they were before the call: a checkpoint is written, and the run that continues from
    /// it calls the callback again.
    pub fn check_interrupt(&self) -> Result<(), TrainError> {
        match self.requests.signal() {
            Some(_) => Err(TrainError::Interrupted),
            None => Ok(()),
        }
    }

    /// The value of `metric`, which the recipe names under `key`, if its queries were evaluated at this step.
    ///
    /// # Errors
    /// The queries were evaluated, but without this metric.
    pub fn metric(&self, key: &'static str, metric: &str) -> Result<Option<f64>, TrainError> {
        match self.metrics.get(metric) {
            Some(&value) => Ok(Some(value)),
            None if !self.is_evaluated(metric) => Ok(None),
            None => Err(TrainError::NoMetric {
                key,
                metric: metric.to_owned(),
                measured: self.metrics.keys().cloned().collect(),
            }),
        }
    }
}

impl TrainerState<'_> {
    /// True if there are metrics of the query set that `metric` begins with, such as `validation`.
    fn is_evaluated(&self, metric: &str) -> bool {
        let set = |name: &str| name.split('/').next().map(str::to_owned);
        self.metrics.keys().any(|measured| set(measured) == set(metric))
    }
}

/// Tells the trainer to continue or to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Training continues.
    Continue,
    /// Training stops, for this reason.
    Stop(String),
}

/// The way in which a run ended.
#[derive(Debug, Clone, Copy)]
pub enum Ending<'a> {
    /// After its last update.
    Finished,
    /// A callback stopped it, for this reason.
    Stopped(&'a str),
    /// The process was asked to stop, by this signal: a checkpoint was written from which the run will continue.
    Interrupted(i32),
    /// By an error: of a callback, or a loss or gradient that is not finite.
    Failed(&'a TrainError),
}

impl Ending<'_> {
    /// True if the run is over, and not by an error: what is due at its end is done now.
    pub fn is_final(&self) -> bool {
        matches!(self, Ending::Finished | Ending::Stopped(_))
    }
}

/// A callback of training: evaluation, logging, probes.
pub trait Callback {
    /// The steps at which it runs.
    fn cadence(&self) -> Cadence;

    /// The texts that it encodes with the model in a run of `steps` updates. If the encoder is frozen, texts that are
    /// read more than once are encoded before the first step: see [`TrainerState::prefix`].
    fn text_sets(&self, _steps: u64) -> Vec<TextSet<'_>> {
        Vec::new()
    }

    /// Returns true if it encodes no texts other than those of [`Callback::text_sets`], takes stored ones from
    /// [`TrainerState::prefix`], and uses no weights of the frozen prefix. If all callbacks return true, the run
    /// releases these weights; using them then panics.
    fn reads_no_other_texts(&self) -> bool {
        false
    }

    /// The phase that its time is added to, if any.
    fn phase(&self) -> Option<Phase> {
        None
    }

    /// Returns the state that it needs to continue, which checkpoints contain; `None` if it needs nothing. Store numbers
    /// that must be restored exactly as text: a JSON parser may return a neighbouring number.
    fn state(&self) -> Option<Value> {
        None
    }

    /// Restores what [`Callback::state`] returned when the checkpoint was written from which the run continues.
    ///
    /// # Errors
    /// The state is not one of this callback.
    fn restore(&mut self, _state: Value) -> serde_json::Result<()> {
        Ok(())
    }

    /// The name of its state in checkpoints. Two callbacks of one type in a run need different names.
    fn name(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }

    /// Called when it is due. One that takes long calls [`TrainerState::check_interrupt`] in between.
    ///
    /// # Errors
    /// An error ends the run; the checkpoints written before stay. After [`TrainError::Interrupted`] the run can
    /// continue.
    fn call(&mut self, state: &mut TrainerState) -> Result<Verdict, TrainError>;

    /// Runs once when the run is over, however it ended, after all calls: does what is still to be done, and was not
    /// because a callback that came later, or an error, ended the run. The state is that of the last update that was
    /// applied, with the metrics that were measured then.
    ///
    /// # Errors
    /// An error becomes that of the run, unless it has one; the others are still called.
    fn end(&mut self, _state: &mut TrainerState, _ending: Ending) -> Result<(), TrainError> {
        Ok(())
    }
}
