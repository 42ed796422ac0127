//! The cost of training a run, and the cost of reaching a level of a metric.

use serde::Serialize;

use super::CompareError;
use crate::monitor::{Scalars, read_scalars};
use crate::run::{RunDirectory, RunOutcome, Summary};

/// Size of a gradient in bytes.
const GRADIENT: f64 = 4.0;

/// The cost of a run.
pub(super) struct TrainingCost {
    pub summary: Option<Summary>,
    lines: Vec<Scalars>,
}

/// The cost of a run as it is reported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// How the run ended; `None` if it has not.
    pub ended: Option<RunOutcome>,
    /// Number of updates.
    pub steps: u64,
    /// Number of examples of these updates.
    pub examples: u64,
    /// Number of trained parameters.
    pub trained_parameters: usize,
    /// Size of the optimizer state in bytes.
    pub optimizer_state_bytes: u64,
    /// Peak resident memory in bytes; GPU memory is not included.
    pub peak_memory_bytes: Option<u64>,
    /// The most GPU memory of the process in bytes; `None` on the CPU, and where the machine does not tell.
    pub peak_gpu_memory_bytes: Option<u64>,
    /// Joules of the machine's processors over the whole run, with evaluations; `None` where the machine does not tell.
    pub processor_joules: Option<f64>,
    /// Joules of the GPU over the whole run; `None` on the CPU, and where the machine does not tell.
    pub gpu_joules: Option<f64>,
    /// Seconds in updates, and in computing the frozen prefix.
    pub training_seconds: f64,
    /// Processor time of these, in seconds, summed over all threads; `None` for runs of versions before it was measured.
    pub processor_seconds: Option<f64>,
}

/// The cost to reach a level of a metric, interpolated linearly between evaluations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CostToLevel {
    /// The level.
    pub level: f64,
    /// Updates, examples, seconds of training, processor time and bytes of gradients until then; `None` if it was never
    /// reached.
    pub reached: Option<Reached>,
}

/// The cost until a level was reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reached {
    /// Number of updates.
    pub steps: f64,
    /// Number of examples.
    pub examples: f64,
    /// Seconds in updates, and in computing the frozen prefix.
    pub seconds: f64,
    /// Processor time of these, in seconds.
    pub processor_seconds: Option<f64>,
    /// Bytes of gradients that several processes would have exchanged: 4 for each trained parameter and update.
    pub gradient_bytes: f64,
}

impl TrainingCost {
    pub fn read(run: &RunDirectory) -> Result<Self, CompareError> {
        // A run that has not ended has no summary.
        let summary = run.summary().exists().then(|| Summary::read(&run.summary())).transpose()?;
        Ok(Self { summary, lines: read_scalars(&run.metrics())? })
    }

    /// The cost so far.
    pub fn total(&self) -> Option<Cost> {
        let summary = self.summary.as_ref()?;
        Some(Cost {
            ended: Some(summary.ended),
            steps: summary.steps,
            examples: summary.examples,
            trained_parameters: summary.parameters.trained,
            optimizer_state_bytes: summary.optimizer_state_bytes,
            peak_memory_bytes: summary.peak_memory_bytes,
            peak_gpu_memory_bytes: summary.peak_gpu_memory_bytes,
            processor_joules: summary.processor_joules,
            gpu_joules: summary.gpu_joules,
            training_seconds: summary.seconds.steps + summary.seconds.prefix,
            processor_seconds: summary.processor_seconds,
        })
    }

    /// The values of a metric after the steps at which it was measured.
    pub fn curve(&self, metric: &str) -> Vec<(f64, f64)> {
        let of_line = |line: &Scalars| Some((line.step as f64, *line.values.get(metric)?));
        self.lines.iter().filter_map(of_line).collect()
    }

    /// The cost to reach `level` of `metric` for the first time.
    pub fn to_level(&self, metric: &str, level: f64) -> CostToLevel {
        let reached = first_at(&self.curve(metric), level).and_then(|steps| {
            let summary = self.summary.as_ref()?;
            let prefix =
                self.curve("time/prefix_seconds").first().map_or(0.0, |(_, seconds)| *seconds);
            Some(Reached {
                steps,
                examples: steps * summary.examples as f64 / summary.steps.max(1) as f64,
                seconds: prefix + at(&self.curve("time/steps_seconds"), steps)?,
                // Where a prefix is stored, the curve begins with its time at step 0.
                processor_seconds: at(&self.curve("time/processor_seconds"), steps),
                gradient_bytes: steps * summary.parameters.trained as f64 * GRADIENT,
            })
        });
        CostToLevel { level, reached }
    }
}

/// The place at which a curve first has a value of `level` or more, on straight lines between its points.
fn first_at(curve: &[(f64, f64)], level: f64) -> Option<f64> {
    let index = curve.iter().position(|&(_, value)| value >= level)?;
    let (step, value) = curve[index];
    let Some(&(before, lower)) = index.checked_sub(1).map(|before| &curve[before]) else {
        return Some(step);
    };
    Some(before + (step - before) * (level - lower) / (value - lower))
}

/// The value of a curve that starts at `(0, 0)`, on straight lines between its points and beyond the last.
fn at(curve: &[(f64, f64)], place: f64) -> Option<f64> {
    let mut before = (0.0, 0.0);
    for &point in curve {
        if point.0 >= place {
            let share =
                if point.0 > before.0 { (place - before.0) / (point.0 - before.0) } else { 1.0 };
            return Some(before.1 + (point.1 - before.1) * share);
        }
        before = point;
    }
    (before.0 > 0.0).then(|| before.1 * place / before.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_reached_between_the_evaluations_around_it() {
        let curve = [(10.0, 0.2), (20.0, 0.1), (30.0, 0.5)];
        assert_eq!(first_at(&curve, 0.1), Some(10.0), "measured at the first evaluation");
        assert_eq!(first_at(&curve, 0.3), Some(25.0));
        assert_eq!(first_at(&curve, 0.51), None);
        let seconds = [(10.0, 5.0), (30.0, 45.0)];
        assert_eq!(at(&seconds, 5.0), Some(2.5));
        assert_eq!(at(&seconds, 25.0), Some(35.0));
        assert_eq!(at(&seconds, 60.0), Some(90.0));
        assert_eq!(at(&[], 5.0), None);
    }
}
