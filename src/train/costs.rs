//! The costs of a run so far: time by phase, examples, optimizer memory.

use std::time::{Duration, Instant};

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
    seconds: [f64; Phase::ALL.len()],
    /// Examples that updates were made from, each time counted.
    pub examples: u64,
    /// Bytes of the optimizer's state.
    pub optimizer_bytes: u64,
}

impl Costs {
    /// The costs of a run that starts now.
    pub(super) fn begin() -> Self {
        Self { begun: Instant::now(), seconds: Default::default(), examples: 0, optimizer_bytes: 0 }
    }

    /// Seconds spent on `phase`.
    pub fn seconds(&self, phase: Phase) -> f64 {
        self.seconds[phase as usize]
    }

    /// Seconds since the run began: all phases, and what belongs to none (reading weights, logging).
    pub fn total_seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    pub(super) fn spend(&mut self, phase: Phase, time: Duration) {
        self.seconds[phase as usize] += time.as_secs_f64();
    }
}
