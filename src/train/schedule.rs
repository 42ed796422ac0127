//! Learning-rate schedules, with the warm-up and the factors of transformers' `get_scheduler`.

use crate::recipe::ScheduleName;

/// The learning rate of every step of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The form after warm-up.
    pub name: ScheduleName,
    /// The rate that the factors multiply.
    pub learning_rate: f64,
    /// Steps over which the rate rises linearly from 0.
    pub warmup_steps: u64,
    /// Steps of the whole run, where linear and cosine reach 0.
    pub total_steps: u64,
}

impl Schedule {
    /// Learning rate of the update that `done` updates came before (0 for the first).
    pub fn at(&self, done: u64) -> f64 {
        self.learning_rate * self.factor(done)
    }

    fn factor(&self, done: u64) -> f64 {
        let (step, warmup) = (done as f64, self.warmup_steps as f64);
        if done < self.warmup_steps {
            return step / warmup;
        }
        let rest = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        // Burn's own cosine rises again after its end; here both stay at 0.
        let progress = ((step - warmup) / rest).min(1.0);
        match self.name {
            ScheduleName::Constant => 1.0,
            ScheduleName::Linear => 1.0 - progress,
            ScheduleName::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            // transformers counts the decay from a time scale: the warm-up, or 10,000 steps without one.
            ScheduleName::InverseSqrt => {
                let scale = if self.warmup_steps == 0 { 10_000.0 } else { warmup };
                (scale / (step - warmup + scale)).sqrt()
            }
        }
    }
}
