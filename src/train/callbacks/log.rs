//! Logs loss, learning rate, gradient norm and speed.

use crate::train::TrainError;
use crate::train::callback::{Cadence, Callback, Ending, Moment, Verdict};

/// Adds up the losses of all examples and logs their mean at every so many steps.
pub struct Log {
    every: u64,
    losses: f64,
    examples: u64,
}

impl Log {
    /// Logs at every `every`th step, and when the run is over.
    pub fn new(every: u64) -> Self {
        Self { every, losses: 0.0, examples: 0 }
    }

    /// Logs what was added up since the last time, if anything was.
    fn log(&mut self, moment: &mut Moment) -> Result<(), TrainError> {
        if self.examples == 0 {
            return Ok(());
        }
        let mut values = vec![
            ("loss/train", self.losses / self.examples as f64),
            ("optimizer/learning_rate", moment.learning_rate),
            ("optimizer/gradient_norm", moment.gradient_norm),
        ];
        if let Some(speed) = moment.monitor.examples_per_second() {
            values.push(("time/examples_per_second", speed));
        }
        (self.losses, self.examples) = (0.0, 0);
        Ok(moment.monitor.scalars(moment.step, moment.epoch, &values)?)
    }
}

impl Callback for Log {
    fn cadence(&self) -> Cadence {
        Cadence { every: Some(1), at_start: false, at_end: false }
    }

    fn reads_only_its_texts(&self) -> bool {
        true
    }

    fn call(&mut self, moment: &mut Moment) -> Result<Verdict, TrainError> {
        self.losses += moment.loss * moment.examples as f64;
        self.examples += moment.examples;
        if moment.is_last || moment.step.is_multiple_of(self.every) {
            self.log(moment)?;
        }
        Ok(Verdict::Continue)
    }

    fn end(&mut self, moment: &mut Moment, _ending: Ending) -> Result<(), TrainError> {
        self.log(moment)
    }
}
