//! Progress of a run: a bar on a terminal, otherwise a plain line every ten seconds.

use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, HumanBytes, ProgressBar};

use super::console::Console;
use crate::retrieval::Metrics;
use crate::run::resident_memory;

/// Time between two updates of the bar: smooth, and without cost at any step rate.
const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two plain lines: logs of long runs stay short.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// The shortest time over which training speed is measured.
const RATE_INTERVAL: Duration = Duration::from_secs(2);

/// Prints the progress of a run on its console.
pub(super) struct Progress {
    console: Console,
    bar: Option<ProgressBar>,
    total: u64,
    /// Time and number of the first reported step.
    start: Option<(Instant, u64)>,
    shown: Option<Instant>,
    latest: Latest,
    rate: Rate,
}

/// The latest reported values.
#[derive(Default)]
struct Latest {
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
            latest: Latest::default(),
            rate: Rate::default(),
        }
    }

    pub fn step(&mut self, step: u64, loss: f64, examples_done: u64) {
        let time = Instant::now();
        let &mut (start, first_step) = self.start.get_or_insert((time, step));
        self.latest.step = step;
        self.latest.loss = Some(loss);
        let done = step.saturating_sub(first_step);
        if done > 0 {
            let seconds_per_step = time.duration_since(start).as_secs_f64() / done as f64;
            let left = seconds_per_step * self.total.saturating_sub(step) as f64;
            self.latest.left = Duration::try_from_secs_f64(left).ok();
        }
        self.rate.update(time, examples_done);

        let interval = if self.bar.is_some() { BAR_INTERVAL } else { LINE_INTERVAL };
        let due = self.shown.is_none_or(|shown| time.duration_since(shown) >= interval);
        if due {
            self.show();
            self.shown = Some(time);
        }
    }

    /// Reports progress of the preparation before the first step, on the same bar.
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
        self.latest.metric = Some(format!("{split}/hits@1 {:.3}", metrics.hits_1));
    }

    pub fn loss(&mut self, step: u64, tag: &str, loss: f64) {
        self.pause();
        self.console.message(&format!("step {step}: {tag} {loss:.4}"));
        // A ranking's metric says more.
        if self.latest.metric.as_ref().is_none_or(|metric| !metric.contains("hits@1")) {
            self.latest.metric = Some(format!("{tag} {loss:.3}"));
        }
    }

    /// Excludes the time since the last step, such as an evaluation, from the training rate.
    pub fn pause(&mut self) {
        self.rate.pause();
    }

    pub fn examples_per_second(&self) -> Option<f64> {
        self.rate.value
    }

    pub fn message(&self, text: &str) {
        self.console.message(text);
    }

    /// Prints the last values and leaves them on the screen.
    pub fn finish(&mut self) {
        self.latest.left = None;
        self.show();
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    fn show(&self) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.latest.step);
                bar.set_message(self.status());
            }
            None => {
                let step = self.latest.step;
                let text = format!("step {step}/{}  {}", self.total, self.status());
                self.console.progress(&text);
            }
        }
    }

    /// Returns time left, loss, latest metric, training rate and resident memory, as far as known. A narrow terminal
    /// truncates the line, so the most important values come first.
    fn status(&self) -> String {
        let rate = self.rate.value.map(|rate| {
            let digits = usize::from(rate < 10.0);
            format!("{rate:.digits$} examples/s")
        });
        let left = self.latest.left.map(FormattedDuration);
        let parts = [
            left.map(|left| format!("{left} left")),
            self.latest.loss.map(|loss| format!("loss {loss:.4}")),
            self.latest.metric.clone(),
            rate,
            resident_memory().map(|bytes| format!("RSS {}", HumanBytes(bytes))),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
    }
}

/// Examples per second, measured over intervals of at least [`RATE_INTERVAL`].
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

    /// Excludes the time until the next update.
    fn pause(&mut self) {
        self.from = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_excludes_pauses() {
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
