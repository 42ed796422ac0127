//! Logs loss, learning rate, gradient norm and speed.

use crate::train::TrainError;
use crate::train::callback::{Cadence, Callback, Moment, Verdict};

/// Adds up the loss at every step and logs its mean at every so many.
pub struct Log {
    every: u64,
    losses: f64,
    steps: u64,
}

impl Log {
    /// Logs at every `every`th step, and at the last one.
    pub fn new(every: u64) -> Self {
        Self { every, losses: 0.0, steps: 0 }
    }
}

impl Callback for Log {
    fn cadence(&self) -> Cadence {
        Cadence { every: Some(1), at_start: false, at_end: true }
    }

    fn reads_only_its_texts(&self) -> bool {
        true
    }

    fn call(&mut self, moment: &mut Moment) -> Result<Verdict, TrainError> {
        self.losses += moment.loss;
        self.steps += 1;
        if moment.is_last || moment.step.is_multiple_of(self.every) {
            let mut values = vec![
                ("train/loss", self.losses / self.steps as f64),
                ("train/learning_rate", moment.learning_rate),
                ("train/gradient_norm", moment.gradient_norm),
            ];
            if let Some(speed) = moment.monitor.examples_per_second() {
                values.push(("train/examples_per_second", speed));
            }
            moment.monitor.scalars(moment.step, moment.epoch, &values)?;
            (self.losses, self.steps) = (0.0, 0);
        }
        Ok(Verdict::Continue)
    }
}
