//! How far a run is: a bar on a terminal, a plain line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, HumanBytes, ProgressBar};

use super::console::Console;
use crate::retrieval::Metrics;
use crate::run::resident_memory;

/// Time between two updates of the bar: fast enough for the eye, and no cost at any step rate.
const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two plain lines: a night's log stays readable.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// The shortest time over which training speed is measured.
const RATE_INTERVAL: Duration = Duration::from_secs(2);

/// The progress of a run, as it is shown on its console.
pub(super) struct Progress {
    console: Console,
    bar: Option<ProgressBar>,
    total: u64,
    /// When and at which step the first step was reported.
    start: Option<(Instant, u64)>,
    shown: Option<Instant>,
    newest: Newest,
    rate: Rate,
}

/// The newest values.
#[derive(Default)]
struct Newest {
    step: u64,
    loss: Option<f64>,
    metric: Option<String>,
    left: Option<Duration>,
}

impl Progress {
    pub fn new(console: Console, total: u64) -> Progress {
        Progress {
            bar: console.bar(total),
            console,
            total,
            start: None,
            shown: None,
            newest: Newest::default(),
            rate: Rate::default(),
        }
    }

    pub fn step(&mut self, step: u64, loss: f64, examples_done: u64) {
        let time = Instant::now();
        let &mut (start, first_step) = self.start.get_or_insert((time, step));
        self.newest.step = step;
        self.newest.loss = Some(loss);
        let done = step.saturating_sub(first_step);
        if done > 0 {
            let a_step = time.duration_since(start).as_secs_f64() / done as f64;
            let left = a_step * self.total.saturating_sub(step) as f64;
            self.newest.left = Duration::try_from_secs_f64(left).ok();
        }
        self.rate.update(time, examples_done);

        let interval = if self.bar.is_some() { BAR_INTERVAL } else { LINE_INTERVAL };
        let due = self.shown.is_none_or(|shown| time.duration_since(shown) >= interval);
        if due {
            self.show();
            self.shown = Some(time);
        }
    }

    /// Work before the first step, on the same bar.
    pub fn preparing(&mut self, what: &str, done: u64, total: u64) {
        let is_done = done >= total;
        match &self.bar {
            Some(bar) => {
                let (at, of) = if is_done { (0, self.total) } else { (done, total) };
                bar.set_length(of);
                bar.set_position(at);
                bar.set_message(if is_done { String::new() } else { what.to_owned() });
            }
            None => {
                let time = Instant::now();
                let due = |shown: Instant| time.duration_since(shown) >= LINE_INTERVAL;
                if !is_done && self.shown.is_none_or(due) {
                    self.console.progress(&format!("{what}: {done}/{total}"));
                    self.shown = Some(time);
                }
            }
        }
    }

    pub fn evaluation(&mut self, step: u64, split: &str, metrics: &Metrics) {
        self.pause();
        let mut line = format!("step {step}: {split}");
        for (name, value) in metrics.values().filter(|(name, _)| *name != "queries") {
            line += &format!("  {name} {value:.3}");
        }
        self.console.message(&format!("{line}  ({} queries)", metrics.queries));
        self.newest.metric = Some(format!("{split}/hits@1 {:.3}", metrics.hits_1));
    }

    /// What was done since the last step, such as an evaluation, is no training time.
    pub fn pause(&mut self) {
        self.rate.pause();
    }

    pub fn examples_per_second(&self) -> Option<f64> {
        self.rate.value
    }

    pub fn message(&self, text: &str) {
        self.console.message(text);
    }

    /// Shows the last values once more and leaves them on the screen.
    pub fn finish(&mut self) {
        self.newest.left = None;
        self.show();
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    fn show(&self) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.newest.step);
                bar.set_message(self.status());
            }
            None => {
                let step = self.newest.step;
                let text = format!("step {step}/{}  {}", self.total, self.status());
                self.console.progress(&text);
            }
        }
    }

    /// Time left, loss, newest metric, speed and memory: those that are known. A narrow terminal
    /// cuts the end off, so what matters most comes first.
    fn status(&self) -> String {
        let rate = self.rate.value.map(|rate| {
            let digits = usize::from(rate < 10.0);
            format!("{rate:.digits$} examples/s")
        });
        let left = self.newest.left.map(FormattedDuration);
        let parts = [
            left.map(|left| format!("{left} left")),
            self.newest.loss.map(|loss| format!("loss {loss:.4}")),
            self.newest.metric.clone(),
            rate,
            resident_memory().map(|bytes| HumanBytes(bytes).to_string()),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
    }
}

/// Examples a second, measured over stretches of at least [`RATE_INTERVAL`].
#[derive(Default)]
struct Rate {
    from: Option<(Instant, u64)>,
    value: Option<f64>,
}

impl Rate {
    fn update(&mut self, time: Instant, examples: u64) {
        let &mut (since, before) = self.from.get_or_insert((time, examples));
        let elapsed = time.duration_since(since);
        if elapsed >= RATE_INTERVAL {
            self.value = Some(examples.saturating_sub(before) as f64 / elapsed.as_secs_f64());
            self.from = Some((time, examples));
        }
    }

    /// What comes before the next update does not count.
    fn pause(&mut self) {
        self.from = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_leaves_out_pauses() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rate = Rate::default();
        rate.update(at(0), 0);
        rate.update(at(1), 100);
        assert_eq!(rate.value, None);
        rate.update(at(2), 200);
        assert_eq!(rate.value, Some(100.0));
        rate.pause();
        rate.update(at(60), 300);
        assert_eq!(rate.value, Some(100.0));
        rate.update(at(64), 500);
        assert_eq!(rate.value, Some(50.0));
    }
}
