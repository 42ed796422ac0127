//! What a run shows while it runs: scalars to TensorBoard and `metrics.jsonl`, progress and log
//! lines to standard error.

mod console;
mod events;
mod progress;
mod scalars;
mod sinks;

use std::time::SystemTime;

pub use console::{Console, LogLine, Verbosity};
pub use sinks::{Histogram, Image, Line, Point};

use crate::files::FileError;
use crate::retrieval::Metrics;
use crate::run::RunDirectory;
use events::EventFile;
use progress::Progress;
use scalars::ScalarFile;

/// The sinks of one run's scalars, and its progress on the console.
///
/// Every scalar goes to both sinks with the same step and wall time, and is handed to the system
/// before the call returns: a run that is killed keeps what it reported. Values that are not
/// finite are kept too: as NaN and infinities in TensorBoard, as strings in `metrics.jsonl`.
pub struct Monitor {
    metrics: ScalarFile,
    events: EventFile,
    progress: Progress,
}

impl Monitor {
    /// Opens the sinks in the run's directory; what earlier processes wrote there is kept, and
    /// the new scalars follow it. `total_steps` is where the progress bar ends.
    pub fn open(
        run: &RunDirectory,
        total_steps: u64,
        console: &Console,
    ) -> Result<Monitor, FileError> {
        Ok(Monitor {
            metrics: ScalarFile::open(&run.metrics())?,
            events: EventFile::create(&run.tensorboard(), unix_time())?,
            progress: Progress::new(console.clone(), total_steps),
        })
    }

    /// Records scalars by tag (`train/loss`) after `step` updates; `epoch` is how many epochs
    /// of examples have been seen, in part too.
    pub fn scalars(
        &mut self,
        step: u64,
        epoch: f64,
        values: &[(&str, f64)],
    ) -> Result<(), FileError> {
        let wall_time = unix_time();
        self.metrics.write(step, epoch, wall_time, values)?;
        self.events.write(step, wall_time, values)
    }

    /// Records the metrics of a set of queries as `<split>/<metric>`, and shows them.
    pub fn evaluation(
        &mut self,
        step: u64,
        epoch: f64,
        split: &str,
        metrics: &Metrics,
    ) -> Result<(), FileError> {
        let tagged: Vec<(String, f64)> =
            metrics.values().map(|(name, value)| (format!("{split}/{name}"), value)).collect();
        let values: Vec<(&str, f64)> =
            tagged.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
        self.progress.evaluation(step, split, metrics);
        self.scalars(step, epoch, &values)
    }

    /// Moves the progress after `step` updates: `loss` of the last one, `examples_done` since
    /// training began. Cheap enough to be called at every step.
    pub fn step(&mut self, step: u64, loss: f64, examples_done: u64) {
        self.progress.step(step, loss, examples_done);
    }

    /// The newest measurement of training speed, over some seconds of steps without evaluations;
    /// none in the first seconds.
    pub fn examples_per_second(&self) -> Option<f64> {
        self.progress.examples_per_second()
    }

    /// Leaves the time since the last step out of the training speed: something was measured.
    pub fn pause(&mut self) {
        self.progress.pause();
    }

    /// Shows a line of text above the progress bar, and puts it in the log.
    pub fn message(&self, text: &str) {
        self.progress.message(text);
    }

    /// Ends the progress and sees the scalars onto the disk.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.progress.finish();
        self.metrics.sync()?;
        self.events.sync()
    }
}

/// Seconds since 1970, as TensorBoard counts wall time.
fn unix_time() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
