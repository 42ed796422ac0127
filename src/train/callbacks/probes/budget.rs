//! The time budget of probes.

use serde::{Deserialize, Serialize};

use crate::probe::Probe;

/// Seconds that measurements took, and whether the next may be made.
#[derive(Serialize, Deserialize)]
pub(super) struct Budget {
    /// The most of the time in updates that measurements in between may take.
    #[serde(skip)]
    pub max_share: Option<f64>,
    /// Time of the measurements in between.
    spent: f64,
    /// Time of all measurements, those at the start and the end too.
    pub total: f64,
    /// The time of each probe at its last measurement, without the shared part.
    costs: Vec<(Probe, f64)>,
    /// The time of the last measurement that all probes shared.
    shared: f64,
}

/// The reason for which a measurement waits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Wait {
    /// Seconds that the measurement is expected to take.
    pub cost: f64,
    /// Seconds in updates that there must have been before it is within the share.
    pub training: f64,
}

impl Budget {
    pub fn new(max_share: Option<f64>) -> Self {
        Self { max_share, spent: 0.0, total: 0.0, costs: Vec::new(), shared: 0.0 }
    }

    /// Returns what measuring `probes` after `training` seconds of updates has to wait for; `None` if it is allowed.
    /// A probe that was never measured counts as free, since its cost is unknown.
    pub fn wait(&self, probes: &[Probe], training: f64) -> Option<Wait> {
        let max_share = self.max_share?;
        let known = self.costs.iter().filter(|(probe, _)| probes.contains(probe));
        let cost = self.shared + known.map(|(_, seconds)| seconds).sum::<f64>();
        let needed = (self.spent + cost) / max_share;
        (needed > training).then_some(Wait { cost, training: needed })
    }

    /// Notes a measurement that took `seconds`, of which each probe took its part. One that `max_share` has no say
    /// in is not counted against it.
    pub fn spend(&mut self, seconds: f64, parts: &[(Probe, f64)], counts: bool) {
        self.total += seconds;
        if counts {
            self.spent += seconds;
        }
        self.shared = (seconds - parts.iter().map(|(_, part)| part).sum::<f64>()).max(0.0);
        self.costs.retain(|(known, _)| parts.iter().all(|(probe, _)| probe != known));
        self.costs.extend_from_slice(parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_waits_until_it_is_within_its_share() {
        let (lens, patching) = (Probe::LogitLens, Probe::StagePatching);
        let mut budget = Budget::new(Some(0.1));
        assert_eq!(budget.wait(&[lens, patching], 0.001), None, "the cost is not known yet");
        budget.spend(4.0, &[(lens, 1.0), (patching, 2.0)], true);
        // 4 s so far, and 1 s for both, 1 s for the lens, 2 s for the patching.
        assert_eq!(budget.wait(&[lens], 59.0), Some(Wait { cost: 2.0, training: 60.0 }));
        assert_eq!(budget.wait(&[lens], 60.0), None);
        assert_eq!(budget.wait(&[lens, patching], 79.0), Some(Wait { cost: 4.0, training: 80.0 }));
    }

    #[test]
    fn start_and_end_are_not_counted_against_the_share() {
        let mut budget = Budget::new(Some(0.5));
        budget.spend(100.0, &[(Probe::LogitLens, 99.0)], false);
        assert_eq!(budget.total, 100.0);
        budget.spend(1.0, &[(Probe::LogitLens, 1.0)], true);
        assert_eq!(budget.wait(&[Probe::LogitLens], 4.0), None);
        assert!(Budget::new(None).wait(&[Probe::LogitLens], 0.0).is_none());
    }
}
