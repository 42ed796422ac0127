//! Logs loss, learning rate, gradient norm and speed.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::exact::Exact;
use crate::train::TrainError;
use crate::train::callback::{Cadence, Callback, Ending, TrainerState, Verdict};

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
    fn log(&mut self, state: &mut TrainerState) {
        if self.examples == 0 {
            return;
        }
        let mut values = vec![
            ("loss/train", self.losses / self.examples as f64),
            ("optimizer/learning_rate", state.learning_rate),
            ("optimizer/gradient_norm", state.gradient_norm),
        ];
        if let Some(speed) = state.monitor.examples_per_second() {
            values.push(("time/examples_per_second", speed));
        }
        (self.losses, self.examples) = (0.0, 0);
        state.monitor.scalars(state.step, state.epoch, &values);
    }
}

impl Callback for Log {
    fn cadence(&self) -> Cadence {
        Cadence { every: Some(1), at_start: false, at_end: false }
    }

    fn reads_no_other_texts(&self) -> bool {
        true
    }

    fn call(&mut self, state: &mut TrainerState) -> Result<Verdict, TrainError> {
        self.losses += state.loss * state.examples as f64;
        self.examples += state.examples;
        if state.is_last || state.step.is_multiple_of(self.every) {
            self.log(state);
        }
        Ok(Verdict::Continue)
    }

    fn end(&mut self, state: &mut TrainerState, ending: Ending) -> Result<(), TrainError> {
        // A run that continues logs them with the others.
        if !matches!(ending, Ending::Interrupted(_)) {
            self.log(state);
        }
        Ok(())
    }

    fn name(&self) -> String {
        "log".to_owned()
    }

    fn state(&self) -> Option<Value> {
        Some(json!({ "losses": Exact(self.losses), "examples": self.examples }))
    }

    fn restore(&mut self, state: Value) -> serde_json::Result<()> {
        #[derive(Deserialize)]
        struct State {
            losses: Exact,
            examples: u64,
        }
        let State { losses: Exact(losses), examples } = serde_json::from_value(state)?;
        (self.losses, self.examples) = (losses, examples);
        Ok(())
    }
}
