//! Writes checkpoints, removes old ones, and updates the symbolic links `latest` and `best`.
//!
//! The promise: a checkpoint directory is complete or absent, whatever ends the process. All files are written and
//! flushed in a hidden directory, the manifest with their sizes and checksums last; the directory is renamed; the links
//! are moved; only then are old checkpoints removed, each after a rename to a hidden name. `docs/reliability.md` has
//! the cost of this and what it does not cover.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use serde::Deserialize;
use serde_json::{Value, json};

use super::TrainError;
use super::callback::TrainerState;
use super::callbacks::improves;
use super::optimizer::Optimizer;
use super::plan::Plan;
use super::shards::Shards;
use super::training_state::{OPTIMIZER, TrainingState};
use crate::allocator::MemoryScope;
use crate::checkpoint::{self, CheckpointContents, Manifest};
use crate::exact::Exact;
use crate::files::FileError;
use crate::run::{LATEST, RunDirectory};
use crate::t5::weights::{OtherRows, Put, StoredType};
use crate::task::Encoding;

/// The checkpoints of a run: `step-<step>` at the cadence of the recipe, and whenever the best metric so far is
/// measured.
pub struct Checkpoints<'a> {
    plan: &'a Plan,
    run: &'a RunDirectory,
    encoding: Encoding,
    listed: Listed,
}

/// The checkpoints that are on the disk.
#[derive(Debug, Clone, Default, PartialEq)]
struct Listed {
    /// Their names, oldest first.
    names: VecDeque<String>,
    /// The best value of the metric that selects the best one, and its name.
    best: Option<(f64, String)>,
}

impl Listed {
    /// Adds a checkpoint; `best`: its metric, if that is the best so far.
    fn add(&mut self, name: String, best: Option<f64>) {
        if let Some(value) = best {
            self.best = Some((value, name.clone()));
        }
        self.names.push_back(name);
    }

    /// Removes and returns the names of those that are neither among the last `count` nor the best.
    fn retain(&mut self, count: usize) -> Vec<String> {
        let old = self.names.len().saturating_sub(count);
        let is_best = |name: &String| self.best.as_ref().is_some_and(|(_, best)| best == name);
        let (kept, removed) =
            self.names.drain(..old).partition::<VecDeque<_>, _>(|name| is_best(name));
        for name in kept.into_iter().rev() {
            self.names.push_front(name);
        }
        removed.into()
    }
}

impl<'a> Checkpoints<'a> {
    /// Checkpoints under the run's `checkpoints/`.
    pub fn new(plan: &'a Plan, run: &'a RunDirectory) -> Self {
        let encoding = plan.recipe.task.encoding();
        Self { plan, run, encoding, listed: Listed::default() }
    }

    /// True if a checkpoint is due by its cadence or by its metric, or because no update follows.
    ///
    /// # Errors
    /// The evaluation did not give the metric that selects the best one.
    pub(super) fn is_due(&self, state: &TrainerState) -> Result<bool, TrainError> {
        if state.step == 0 {
            return Ok(state.is_last);
        }
        let section = &self.plan.recipe.save;
        let measured = state.metric("save.best_metric", &section.best_metric)?;
        let is_due = match section.every_steps {
            Some(every) => state.step.is_multiple_of(every),
            None => measured.is_some(),
        };
        Ok(is_due || state.is_last || self.is_best(state)?.is_some())
    }

    /// The value of the metric, if it is the best so far.
    fn is_best(&self, state: &TrainerState) -> Result<Option<f64>, TrainError> {
        let metric = &self.plan.recipe.save.best_metric;
        let measured = state.metric("save.best_metric", metric)?;
        let best = self.listed.best.as_ref().map(|(best, _)| *best);
        Ok(measured.filter(|&value| improves(metric, value, best, 0.0)))
    }

    /// True if there is a checkpoint of this step.
    pub(super) fn has(&self, step: u64) -> bool {
        self.listed.names.contains(&name_at(step))
    }

    /// Writes the checkpoint of the current step and removes old ones. `training` gets the state of this object after
    /// it, and returns the state of the training.
    ///
    /// # Errors
    /// It cannot be written, and the earlier ones remain; or an old one cannot be removed.
    pub(super) fn write(
        &mut self,
        state: &TrainerState,
        optimizer: &Optimizer,
        training: impl FnOnce(Value) -> TrainingState,
    ) -> Result<(), TrainError> {
        let _memory = MemoryScope::begin();
        let (name, is_best) = (name_at(state.step), self.is_best(state)?);
        let mut after = self.listed.clone();
        after.add(name.clone(), is_best);
        let old = after.retain(self.plan.recipe.save.keep_last);
        let training = training(after.to_json());
        self.write_in(&self.run.checkpoints(), &name, state, optimizer, training)?;
        self.listed = after;
        self.finish(&old)
    }

    /// Adds the metrics of the current step to its checkpoint, which was written before they were measured.
    ///
    /// # Errors
    /// Its manifest cannot be read or written, or the link to the best checkpoint not moved.
    pub(super) fn add_metrics(&mut self, state: &TrainerState) -> Result<(), TrainError> {
        if state.metrics.is_empty() {
            return Ok(());
        }
        let name = name_at(state.step);
        checkpoint::add_metrics(&self.run.checkpoints().join(&name), &state.metrics)?;
        if let Some(value) = self.is_best(state)? {
            self.listed.best = Some((value, name));
        }
        self.finish(&[])
    }

    /// Writes the checkpoint `parent/name` of the current step, and returns its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write_in(
        &self,
        parent: &Path,
        name: &str,
        state: &TrainerState,
        optimizer: &Optimizer,
        training: TrainingState,
    ) -> Result<PathBuf, TrainError> {
        let training = training.with_files(state.monitor.flushed()?);
        let model = state.model.valid();
        let shards = state.shards.as_ref();
        let receive =
            |put: &mut Put| shards.map_or(Ok(()), |shards| shards.receive(Shards::ROWS, put));
        let other_rows =
            shards.map(|shards| OtherRows { count: shards.others(), values: &receive });
        let adapter = self.plan.adapter(&model, other_rows);
        let more = |directory: &Path| {
            optimizer.write(&directory.join(OPTIMIZER), shards)?;
            if let Some(adapter) = &adapter {
                adapter.write(directory)?;
            }
            Ok(training.write(directory)?)
        };
        let manifest = Manifest {
            format: Manifest::FORMAT,
            genir: env!("CARGO_PKG_VERSION").to_owned(),
            step: state.step,
            metrics: state.metrics.clone(),
            encoding: self.encoding.clone(),
            files: Default::default(),
        };
        let contents = CheckpointContents {
            model: &model,
            tokenizer: &self.plan.tokenizer,
            docids: Some(&self.plan.docids),
            stored: StoredType::Float32,
            other_rows,
            manifest: &manifest,
            training: Some(&more),
        };
        Ok(checkpoint::write(parent, name, &contents)?)
    }

    /// The state of this object, as a checkpoint stores it.
    pub(super) fn to_json(&self) -> Value {
        self.listed.to_json()
    }

    /// The run directory.
    pub(super) fn run(&self) -> &RunDirectory {
        self.run
    }

    /// Moves the links to the listed checkpoints, then removes those named in `old`.
    fn finish(&self, old: &[String]) -> Result<(), TrainError> {
        let directory = self.run.checkpoints();
        if let Some(latest) = self.listed.names.back() {
            checkpoint::link(&directory, LATEST, latest)?;
        }
        if let Some((_, best)) = &self.listed.best {
            match directory.join(best).is_dir() {
                true => checkpoint::link(&directory, "best", best)?,
                false => tracing::warn!(
                    "{}: the best checkpoint so far was removed by something else",
                    directory.join(best).display()
                ),
            }
        }
        for name in old {
            checkpoint::prune(&directory, name)?;
        }
        Ok(())
    }

    /// Restores the state that was stored in a checkpoint of this run, and completes what may have been interrupted
    /// after that checkpoint was written: moves the links, and removes all checkpoints that are not listed.
    ///
    /// # Errors
    /// A link cannot be moved, or a checkpoint not removed.
    pub(super) fn restore(&mut self, state: Value) -> Result<(), TrainError> {
        self.listed = Listed::from_json(state)?;
        let directory = self.run.checkpoints();
        let mut others = Vec::new();
        for entry in fs::read_dir(&directory).map_err(FileError::new("list", &directory))? {
            let name = entry.map_err(FileError::new("list", &directory))?.file_name();
            let name = name.to_string_lossy().into_owned();
            if step_of(&name).is_some() && !self.listed.names.contains(&name) {
                others.push(name);
            }
        }
        self.finish(&others)
    }
}

impl Listed {
    fn to_json(&self) -> Value {
        let best = self.best.as_ref().map(|(value, name)| (Exact(*value), name));
        json!({ "names": self.names, "best": best })
    }

    fn from_json(state: Value) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct State {
            names: VecDeque<String>,
            best: Option<(Exact, String)>,
        }
        let State { names, best } = serde_json::from_value(state)?;
        Ok(Self { names, best: best.map(|(Exact(value), name)| (value, name)) })
    }
}

/// The name of the checkpoint after so many updates.
pub(super) fn name_at(step: u64) -> String {
    format!("step-{step:06}")
}

/// The number of updates in the name of a checkpoint.
pub(super) fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_checkpoints_and_the_best_one_are_retained() {
        let mut listed = Listed::default();
        let mut removed = Vec::new();
        for (step, best) in
            [(1, None), (2, Some(0.5)), (3, None), (4, None), (5, Some(0.6)), (6, None)]
        {
            listed.add(name_at(step), best);
            removed.extend(listed.retain(2).iter().filter_map(|name| step_of(name)));
        }
        assert_eq!(removed, [1, 2, 3, 4]);
        let steps: Vec<u64> = listed.names.iter().filter_map(|name| step_of(name)).collect();
        assert_eq!(steps, [5, 6]);
        assert_eq!(Listed::from_json(listed.to_json()).unwrap(), listed);
    }
}
