//! What a run shows while it runs: scalars to TensorBoard and `metrics.jsonl`, histograms and images to
//! TensorBoard, progress and log lines to standard error.

mod console;
mod events;
mod hparams;
mod lines;
mod progress;
mod scalars;
mod shown;

use std::time::SystemTime;

pub use console::{Console, LogLine, Verbosity};
pub use hparams::Hyperparameter;
pub use shown::{Histogram, Image, Line, Point};

use crate::files::FileError;
use crate::retrieval::Metrics;
use crate::run::{RunDirectory, RunOutcome};
use lines::Events;
use progress::Progress;
use scalars::ScalarFile;

/// The sinks of one run's scalars, and its progress on the console.
///
/// Every scalar goes to both sinks with the same step and wall time, and is handed to the system
/// before the call returns: a run that is killed keeps what it reported. Values that are not
/// finite are kept too: as NaN and infinities in TensorBoard, as strings in `metrics.jsonl`.
pub struct Monitor {
    metrics: ScalarFile,
    events: Events,
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
            events: Events::open(&run.tensorboard(), unix_time())?,
            progress: Progress::new(console.clone(), total_steps),
        })
    }

    /// Records scalars by tag (`loss/train`) after `step` updates; `epoch` is how many epochs
    /// of examples have been seen, in part too.
    pub fn scalars(
        &mut self,
        step: u64,
        epoch: f64,
        values: &[(&str, f64)],
    ) -> Result<(), FileError> {
        let wall_time = unix_time();
        self.metrics.write(step, epoch, wall_time, values)?;
        self.events.scalars(step, wall_time, values)
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

    /// Records points of charts: each line of a chart is a scalar of its own, and TensorBoard shows them together.
    pub fn points(&mut self, step: u64, epoch: f64, points: &[Point]) -> Result<(), FileError> {
        let tagged: Vec<(String, f64)> =
            points.iter().map(|point| (point.line.tag(&point.chart), point.value)).collect();
        let values: Vec<(&str, f64)> =
            tagged.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
        self.events.chart(step, unix_time(), points)?;
        self.scalars(step, epoch, &values)
    }

    /// Records the run's hyperparameters by name, and the tags of the metrics that are shown beside them, in TensorBoard
    /// only.
    pub fn hyperparameters(
        &mut self,
        values: &[(&str, Hyperparameter)],
        metrics: &[String],
    ) -> Result<(), FileError> {
        self.events.hyperparameters(unix_time(), values, metrics)
    }

    /// Records how the run ended, in TensorBoard only.
    pub fn ended(&mut self, how: RunOutcome) -> Result<(), FileError> {
        self.events.ended(how == RunOutcome::Failed, unix_time())
    }

    /// Records histograms, in TensorBoard only.
    pub fn histograms(&mut self, step: u64, histograms: &[Histogram]) -> Result<(), FileError> {
        let wall_time = unix_time();
        let mut write = |histogram| self.events.histogram(step, wall_time, histogram);
        histograms.iter().try_for_each(&mut write)
    }

    /// Records images, in TensorBoard only. An image whose pixels are not as many as its width and height say is
    /// passed over.
    pub fn images(&mut self, step: u64, images: &[Image]) -> Result<(), FileError> {
        let wall_time = unix_time();
        images.iter().try_for_each(|image| self.events.image(step, wall_time, image))
    }

    /// Moves the progress after `step` updates: `loss` of the last one, `examples_done` since
    /// training began. Cheap enough to be called at every step.
    pub fn step(&mut self, step: u64, loss: f64, examples_done: u64) {
        self.progress.step(step, loss, examples_done);
    }

    /// Shows how far something is that comes before the first step: `done` of `total`.
    pub fn preparing(&mut self, what: &str, done: u64, total: u64) {
        self.progress.preparing(what, done, total);
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
