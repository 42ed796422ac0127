//! Stops a run whose metric no longer improves.

use serde::Deserialize;
use serde_json::{Value, json};

use super::improves;
use crate::exact::Exact;
use crate::recipe::StopSection;
use crate::retrieval::names::is_loss;
use crate::train::TrainError;
use crate::train::callback::{Cadence, Callback, TrainerState, Verdict};

/// Counts the evaluations since the metric last improved.
pub struct EarlyStop {
    metric: String,
    patience: u64,
    min_delta: f64,
    best: Option<f64>,
    waited: u64,
}

impl EarlyStop {
    /// Early stopping as the recipe asks for it.
    pub fn new(section: &StopSection) -> Self {
        Self {
            metric: section.metric.clone(),
            patience: section.patience,
            min_delta: section.min_delta,
            best: None,
            waited: 0,
        }
    }
}

impl Callback for EarlyStop {
    fn cadence(&self) -> Cadence {
        Cadence { every: Some(1), at_start: true, at_end: false }
    }

    fn reads_no_other_texts(&self) -> bool {
        true
    }

    fn call(&mut self, state: &mut TrainerState) -> Result<Verdict, TrainError> {
        // Nothing was measured at most steps.
        let Some(value) = state.metric("stop.metric", &self.metric)? else {
            return Ok(Verdict::Continue);
        };
        if improves(&self.metric, value, self.best, self.min_delta) {
            self.best = Some(value);
            self.waited = 0;
            return Ok(Verdict::Continue);
        }
        self.waited += 1;
        if self.waited < self.patience {
            return Ok(Verdict::Continue);
        }
        let best = self.best.unwrap_or(value);
        let better = match is_loss(&self.metric) {
            true => ("fallen", "below"),
            false => ("risen", "above"),
        };
        Ok(Verdict::Stop(format!(
            "{} has not {} by more than {} {} {best:.4} for {} evaluations",
            self.metric, better.0, self.min_delta, better.1, self.waited
        )))
    }

    fn name(&self) -> String {
        "early_stop".to_owned()
    }

    fn state(&self) -> Option<Value> {
        Some(json!({ "best": self.best.map(Exact), "waited": self.waited }))
    }

    fn restore(&mut self, state: Value) -> serde_json::Result<()> {
        #[derive(Deserialize)]
        struct State {
            best: Option<Exact>,
            waited: u64,
        }
        let State { best, waited } = serde_json::from_value(state)?;
        (self.best, self.waited) = (best.map(|best| best.0), waited);
        Ok(())
    }
}
