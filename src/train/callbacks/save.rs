//! Writes checkpoints, removes old ones, and updates the symbolic links `latest` and `best`.

use std::collections::VecDeque;

use burn::module::Module;

use super::improves;
use crate::allocator;
use crate::checkpoint::{self, CheckpointContents, Manifest};
use crate::run::{LATEST, RunDirectory};
use crate::task::Encoding;
use crate::train::TrainError;
use crate::train::callback::{Cadence, Callback, Ending, TrainerState, Verdict};
use crate::train::costs::Phase;
use crate::train::plan::Plan;

/// Writes the checkpoint `step-<step>` at its cadence, and whenever the best metric so far is measured.
pub struct Save<'a> {
    plan: &'a Plan,
    run: &'a RunDirectory,
    encoding: Encoding,
    /// Checkpoints on the disk, oldest first.
    written: VecDeque<String>,
    best: Option<(f64, String)>,
}

impl<'a> Save<'a> {
    /// Saves under the run's `checkpoints/`.
    pub fn new(plan: &'a Plan, run: &'a RunDirectory) -> Self {
        let encoding = plan.recipe.task.encoding();
        Self { plan, run, encoding, written: VecDeque::new(), best: None }
    }

    /// Removes what is neither among the last ones nor the best.
    fn prune(&mut self) -> Result<(), TrainError> {
        let kept = self.plan.recipe.save.keep_last;
        let best = self.best.as_ref().map(|(_, name)| name.clone());
        let old = self.written.len().saturating_sub(kept);
        let (old, mut keep): (Vec<_>, VecDeque<_>) = {
            let mut all = std::mem::take(&mut self.written);
            let keep = all.split_off(old);
            (all.into_iter().collect(), keep)
        };
        for name in old.into_iter().rev() {
            if Some(&name) == best.as_ref() {
                keep.push_front(name);
            } else {
                checkpoint::prune(&self.run.checkpoints(), &name)?;
            }
        }
        self.written = keep;
        Ok(())
    }
}

impl Callback for Save<'_> {
    fn cadence(&self) -> Cadence {
        Cadence { every: Some(1), at_start: false, at_end: true }
    }

    fn reads_no_other_texts(&self) -> bool {
        true
    }

    fn phase(&self) -> Option<Phase> {
        Some(Phase::Saving)
    }

    fn call(&mut self, state: &mut TrainerState) -> Result<Verdict, TrainError> {
        let section = &self.plan.recipe.save;
        let measured = state.metric("save.best_metric", &section.best_metric)?;
        let best = self.best.as_ref().map(|(best, _)| *best);
        let is_best = measured.is_some_and(|value| improves(value, best, 0.0));
        let is_due = match section.every_steps {
            Some(every) => state.step.is_multiple_of(every),
            None => measured.is_some(),
        };
        if !(is_due || is_best || state.is_last) {
            return Ok(Verdict::Continue);
        }
        let _memory = allocator::MemoryScope::begin();
        let name = name_at(state.step);
        let manifest = Manifest {
            format: Manifest::FORMAT,
            genir: env!("CARGO_PKG_VERSION").to_owned(),
            step: state.step,
            metrics: state.metrics.clone(),
            encoding: self.encoding.clone(),
        };
        let checkpoints = self.run.checkpoints();
        let contents = CheckpointContents {
            model: &state.model.valid(),
            tokenizer: &self.plan.tokenizer,
            docids: &self.plan.docids,
            manifest: &manifest,
        };
        checkpoint::write(&checkpoints, &name, &contents)?;
        checkpoint::link(&checkpoints, LATEST, &name)?;
        if let (true, Some(value)) = (is_best, measured) {
            checkpoint::link(&checkpoints, "best", &name)?;
            self.best = Some((value, name.clone()));
        }
        self.written.push_back(name);
        self.prune()?;
        Ok(Verdict::Continue)
    }

    fn end(&mut self, state: &mut TrainerState, ending: Ending) -> Result<(), TrainError> {
        let failed = matches!(ending, Ending::Failed(_));
        if !failed && self.written.back() != Some(&name_at(state.step)) {
            self.call(state)?;
        }
        Ok(())
    }
}

/// The name of the checkpoint after so many updates.
fn name_at(step: u64) -> String {
    format!("step-{step:06}")
}
