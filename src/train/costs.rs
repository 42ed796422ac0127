//! The costs of a run so far: time by phase, examples, optimizer memory.

use std::time::{Duration, Instant};

use super::training_state::CostRecord;
use crate::choice::choice;

choice! {
    /// A phase of a run, for its times.
    Phase {
        /// Finding or computing what is stored of the frozen prefix.
        Prefix = "prefix",
        /// Updates.
        Steps = "steps",
        /// Ranking queries.
        Evaluation = "evaluation",
        /// Measuring and reporting probes.
        Probes = "probes",
        /// Writing checkpoints.
        Saving = "saving",
    }
}

/// The costs of a run so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    begun: Instant,
    /// Seconds of the processes that this one continues.
    before: f64,
    seconds: [f64; Phase::ALL.len()],
    /// Examples that updates were made from, each time counted.
    pub examples: u64,
    /// Bytes of the optimizer's state.
    pub optimizer_bytes: u64,
}

impl Costs {
    /// The costs of a run that starts now.
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            before: 0.0,
            seconds: Default::default(),
            examples: 0,
            optimizer_bytes: 0,
        }
    }

    /// The costs of a run that continues now: those in `record`, and what comes.
    pub(super) fn continued(record: &CostRecord, optimizer_bytes: u64) -> Self {
        let seconds = |phase: &Phase| record.seconds.get(phase.name()).copied().unwrap_or(0.0);
        let mut costs = Self::begin();
        for phase in Phase::ALL {
            costs.seconds[*phase as usize] = seconds(phase);
        }
        Self { before: record.total_seconds, examples: record.examples, optimizer_bytes, ..costs }
    }

    /// The costs as checkpoints store them.
    pub(super) fn record(&self) -> CostRecord {
        let of = |&phase: &Phase| (phase.name().to_owned(), self.seconds(phase));
        CostRecord {
            total_seconds: self.total_seconds(),
            seconds: Phase::ALL.iter().map(of).collect(),
            examples: self.examples,
        }
    }

    /// Seconds spent on `phase`.
    pub fn seconds(&self, phase: Phase) -> f64 {
        self.seconds[phase as usize]
    }

    /// Seconds since the run began: all phases, and what belongs to none (reading weights, logging).
    pub fn total_seconds(&self) -> f64 {
        self.before + self.begun.elapsed().as_secs_f64()
    }

    pub(super) fn spend(&mut self, phase: Phase, time: Duration) {
        self.seconds[phase as usize] += time.as_secs_f64();
    }
}
