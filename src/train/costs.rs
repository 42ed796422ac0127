//! The costs of a run so far: time by phase, examples, optimizer memory.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

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
    /// Processor time of updates and of the frozen prefix, in seconds, summed over all threads. Unlike wall time, it hardly
    /// depends on what else the machine does.
    pub processor_seconds: f64,
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
            processor_seconds: 0.0,
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
        Self {
            before: record.total_seconds,
            processor_seconds: record.processor_seconds,
            examples: record.examples,
            optimizer_bytes,
            ..costs
        }
    }

    /// The costs as checkpoints store them.
    pub(super) fn record(&self) -> CostRecord {
        let of = |&phase: &Phase| (phase.name().to_owned(), self.seconds(phase));
        CostRecord {
            total_seconds: self.total_seconds(),
            seconds: Phase::ALL.iter().map(of).collect(),
            processor_seconds: self.processor_seconds,
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

/// Processor time of this process so far, all threads, user and system.
pub(super) fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_continues_adds_to_the_costs_of_the_one_before() {
        let mut before = Costs::begin();
        before.spend(Phase::Steps, Duration::from_secs(3));
        before.processor_seconds = 5.0;
        before.examples = 7;
        let continued = Costs::continued(&before.record(), 8);
        assert_eq!(continued.seconds(Phase::Steps), 3.0);
        assert_eq!((continued.processor_seconds, continued.examples), (5.0, 7));
    }
}
