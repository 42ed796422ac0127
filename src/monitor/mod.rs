//! Monitoring of a run: scalars in TensorBoard and `metrics.jsonl`, histograms and images in TensorBoard, progress and
//! log lines on standard error.

mod charts;
mod console;
mod event_file;
mod hparams;
mod metrics_file;
mod progress;
mod scalars;
mod tensorboard;

use std::time::SystemTime;

pub use charts::{Histogram, Image, Line, Point};
pub use console::{Console, LogLine, Verbosity};
pub use hparams::Hyperparameter;
pub use scalars::{Scalars, read_scalars};

use crate::files::FileError;
use crate::retrieval::Metrics;
use crate::run::{RunDirectory, RunOutcome};
use metrics_file::MetricsFile;
use progress::Progress;
use tensorboard::TensorBoard;

/// Writes the scalars of a run to `metrics.jsonl` and TensorBoard, and its progress to the console.
///
/// Every scalar is written to both with the same step and wall time, before the call returns, so that a killed process
/// loses none. Values that are not finite are written too: as NaN and infinities in TensorBoard, as strings in
/// `metrics.jsonl`.
pub struct Monitor {
    metrics: MetricsFile,
    events: TensorBoard,
    progress: Progress,
}

impl Monitor {
    /// Opens the files in the run directory. Scalars are appended to those of earlier processes. `total_steps` is the
    /// length of the progress bar.
    ///
    /// # Errors
    /// `metrics.jsonl` or the event file cannot be opened or created, for example because the directory of the run does
    /// not exist or is read-only.
    pub fn open(
        run: &RunDirectory,
        total_steps: u64,
        console: &Console,
    ) -> Result<Monitor, FileError> {
        Ok(Monitor {
            metrics: MetricsFile::open(&run.metrics())?,
            events: TensorBoard::open(&run.tensorboard(), unix_time())?,
            progress: Progress::new(console.clone(), total_steps),
        })
    }

    /// Records scalars by tag (`loss/train`) after `step` updates; `epoch` is the number of epochs so far, with its
    /// fraction.
    ///
    /// # Errors
    /// `metrics.jsonl` or the event file cannot be written, for example because the disk is full.
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

    /// Records the metrics of a query set as `<split>/<metric>`, and prints them.
    ///
    /// # Errors
    /// As for [`Monitor::scalars`].
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

    /// Records points of charts: each line of a chart is a scalar, and TensorBoard draws them together.
    ///
    /// # Errors
    /// As for [`Monitor::scalars`].
    pub fn points(&mut self, step: u64, epoch: f64, points: &[Point]) -> Result<(), FileError> {
        let tagged: Vec<(String, f64)> =
            points.iter().map(|point| (point.line.tag(&point.chart), point.value)).collect();
        let values: Vec<(&str, f64)> =
            tagged.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
        self.events.chart(step, unix_time(), points)?;
        self.scalars(step, epoch, &values)
    }

    /// Records the run's hyperparameters by name, and the tags of the metrics in their table, in TensorBoard only.
    ///
    /// # Errors
    /// The event file cannot be written, for example because the disk is full.
    pub fn hyperparameters(
        &mut self,
        values: &[(&str, Hyperparameter)],
        metrics: &[String],
    ) -> Result<(), FileError> {
        self.events.hyperparameters(unix_time(), values, metrics)
    }

    /// Records how the run ended, in TensorBoard only.
    ///
    /// # Errors
    /// The event file cannot be written, for example because the disk is full.
    pub fn ended(&mut self, how: RunOutcome) -> Result<(), FileError> {
        self.events.ended(how == RunOutcome::Failed, unix_time())
    }

    /// Records histograms, in TensorBoard only.
    ///
    /// # Errors
    /// The event file cannot be written, for example because the disk is full.
    pub fn histograms(&mut self, step: u64, histograms: &[Histogram]) -> Result<(), FileError> {
        let wall_time = unix_time();
        let mut write = |histogram| self.events.histogram(step, wall_time, histogram);
        histograms.iter().try_for_each(&mut write)
    }

    /// Records images, in TensorBoard only. An image whose number of pixels does not match its width and height is
    /// skipped.
    ///
    /// # Errors
    /// The event file cannot be written, for example because the disk is full.
    pub fn images(&mut self, step: u64, images: &[Image]) -> Result<(), FileError> {
        let wall_time = unix_time();
        images.iter().try_for_each(|image| self.events.image(step, wall_time, image))
    }

    /// Updates the progress after `step` updates, with the `loss` of the last one and the number of examples since the
    /// start of training. Cheap enough to call at every step.
    pub fn step(&mut self, step: u64, loss: f64, examples_done: u64) {
        self.progress.step(step, loss, examples_done);
    }

    /// Reports progress of the preparation before the first step: `done` of `total`.
    pub fn preparing(&mut self, what: &str, done: u64, total: u64) {
        self.progress.preparing(what, done, total);
    }

    /// Returns the training rate, measured over the last seconds of steps without evaluations; `None` in the first
    /// seconds.
    pub fn examples_per_second(&self) -> Option<f64> {
        self.progress.examples_per_second()
    }

    /// Excludes the time since the last step from the training rate; called after evaluations and probes.
    pub fn pause(&mut self) {
        self.progress.pause();
    }

    /// Prints a line above the progress bar, and writes it to the log.
    pub fn message(&self, text: &str) {
        self.progress.message(text);
    }

    /// Ends the progress and flushes the scalars to disk.
    ///
    /// # Errors
    /// The operating system cannot flush `metrics.jsonl` or the event file to disk.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.progress.finish();
        self.metrics.sync()?;
        self.events.sync()
    }
}

/// Returns the wall time of TensorBoard: seconds since 1970.
fn unix_time() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
