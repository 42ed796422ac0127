//! Sweeps: the arms of an experiment, each with several seeds, as ordinary runs in the directories of one sweep.
//!
//! A [`SweepPlan`] is an experiment of which every run has been checked, as `genir check` does, before the first one
//! starts. The command `genir sweep` then trains what is not done yet, and compares. [`SweepRecord`] is what is written
//! about it, `sweep.json`.

mod arms;
mod plan;
mod planner;
mod record;

use std::fmt;

pub(crate) use plan::in_use;
pub use plan::{PlannedArm, PlannedRun, RunKind, SweepOptions, SweepPlan};
pub use record::{RunRecord, RunStatus, SweepRecord};

/// Something that stands in the way of a sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepProblem {
    /// The arms that have it; empty if it is one of the sweep itself.
    pub arms: Vec<String>,
    /// What it is.
    pub text: String,
}

/// All problems of a sweep, displayed as a heading and one entry for each. A problem that several arms have is reported
/// once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SweepErrors {
    /// The problems.
    pub problems: Vec<SweepProblem>,
    /// Number of arms.
    arms: usize,
}

impl SweepErrors {
    fn add(&mut self, arm: Option<&str>, text: impl fmt::Display) {
        let text = text.to_string();
        match (arm, self.problems.iter_mut().find(|problem| problem.text == text)) {
            (Some(arm), Some(problem)) if !problem.arms.is_empty() => {
                if !problem.arms.iter().any(|known| known == arm) {
                    problem.arms.push(arm.to_owned());
                }
            }
            (None, Some(_)) => {}
            _ => {
                let arms = arm.into_iter().map(str::to_owned).collect();
                self.problems.push(SweepProblem { arms, text });
            }
        }
    }
}

impl fmt::Display for SweepErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "{count} problem{} with this sweep:", if count == 1 { "" } else { "s" })?;
        for problem in &self.problems {
            let text = problem.text.replace('\n', "\n    ");
            match problem.arms.as_slice() {
                [] => write!(f, "\n  {text}")?,
                arms if arms.len() == self.arms && arms.len() > 1 => {
                    write!(f, "\n  all arms: {text}")?;
                }
                [arm] => write!(f, "\n  arm {arm}: {text}")?,
                arms => write!(f, "\n  arms {}: {text}", arms.join(", "))?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for SweepErrors {}
