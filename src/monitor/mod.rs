//! Monitoring of a run: scalars in TensorBoard and `metrics.jsonl`, histograms and images in TensorBoard, progress and
//! log lines on standard error.

mod charts;
mod console;
mod event_file;
mod hparams;
mod journal;
mod metrics_file;
mod progress;
mod scalars;
mod tensorboard;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use charts::{Histogram, Image, Line, Point};
pub use console::{Console, LogLine, Verbosity};
pub use hparams::Hyperparameter;
pub use scalars::{Scalars, read_scalars};

use crate::files::{FileError, remove_file, truncate};
use crate::retrieval::Metrics;
use crate::run::{RunDirectory, RunOutcome};
use journal::Journal;
use progress::Progress;
use tensorboard::TensorBoard;

/// Writes the scalars of a run to `metrics.jsonl` and TensorBoard, and its progress to the console.
///
/// Every scalar is written to both with the same step and wall time, before the call returns, so that a killed process
/// loses none. Values that are not finite are written too: as NaN and infinities in TensorBoard, as strings in
/// `metrics.jsonl`.
///
/// No call fails: what cannot be written (a full disk) is retained and written with the next values, and
/// [`Monitor::problem`] returns the error. A training then saves a checkpoint after the current step and ends with it.
pub struct Monitor {
    metrics: PathBuf,
    tensorboard: PathBuf,
    probes: PathBuf,
    journal: Journal,
    events: TensorBoard,
    progress: Progress,
}

impl Monitor {
    /// Opens the files in the run directory. Scalars are appended to those of earlier processes. `total_steps` is the
    /// length of the progress bar.
    ///
    /// # Errors
    /// A file cannot be opened or created.
    pub fn open(
        run: &RunDirectory,
        total_steps: u64,
        console: &Console,
    ) -> Result<Monitor, FileError> {
        Self::start(run, total_steps, console, None)
    }

    /// As [`Monitor::open`] for a run that continues from `step`: see [`GrowingFiles::restore`].
    pub(crate) fn resume(
        run: &RunDirectory,
        total_steps: u64,
        console: &Console,
        step: u64,
    ) -> Result<Monitor, FileError> {
        Self::start(run, total_steps, console, Some(step))
    }

    fn start(
        run: &RunDirectory,
        total_steps: u64,
        console: &Console,
        resumed: Option<u64>,
    ) -> Result<Monitor, FileError> {
        let mut journal = Journal::default();
        let (metrics, tensorboard) = (run.metrics(), run.tensorboard());
        journal.open(&metrics)?;
        let events = TensorBoard::open(&tensorboard, unix_time(), resumed, &mut journal)?;
        let progress = Progress::new(console.clone(), total_steps);
        Ok(Monitor { metrics, tensorboard, probes: run.probes(), journal, events, progress })
    }

    /// Records scalars by tag (`loss/train`) after `step` updates; `epoch` is the number of epochs so far, with its
    /// fraction.
    pub fn scalars(&mut self, step: u64, epoch: f64, values: &[(&str, f64)]) {
        let wall_time = unix_time();
        match metrics_file::line(step, epoch, wall_time, values) {
            Ok(line) => self.journal.append(&self.metrics, &line),
            Err(error) => self.report(FileError::new("write", &self.metrics)(error.into())),
        }
        self.events.scalars(&mut self.journal, step, wall_time, values);
    }

    /// Records the metrics of a query set as `<split>/<metric>`, and prints them.
    pub fn evaluation(&mut self, step: u64, epoch: f64, split: &str, metrics: &Metrics) {
        let tagged: Vec<(String, f64)> =
            metrics.values().map(|(name, value)| (format!("{split}/{name}"), value)).collect();
        let values: Vec<(&str, f64)> =
            tagged.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
        self.progress.evaluation(step, split, metrics);
        self.scalars(step, epoch, &values);
    }

    /// Records the loss of an evaluation, and prints it.
    pub fn loss(&mut self, step: u64, epoch: f64, tag: &str, loss: f64) {
        self.progress.loss(step, tag, loss);
        self.scalars(step, epoch, &[(tag, loss)]);
    }

    /// Records points of charts: each line of a chart is a scalar, and TensorBoard draws them together.
    pub fn points(&mut self, step: u64, epoch: f64, points: &[Point]) {
        let tagged: Vec<(String, f64)> =
            points.iter().map(|point| (point.line.tag(&point.chart), point.value)).collect();
        let values: Vec<(&str, f64)> =
            tagged.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
        self.events.chart(&mut self.journal, step, unix_time(), points);
        self.scalars(step, epoch, &values);
    }

    /// Records the run's hyperparameters by name, and the tags of the metrics in their table, in TensorBoard only.
    pub fn hyperparameters(&mut self, values: &[(&str, Hyperparameter)], metrics: &[String]) {
        self.events.hyperparameters(&mut self.journal, unix_time(), values, metrics);
    }

    /// Records how the run ended, in TensorBoard only.
    pub fn ended(&mut self, how: RunOutcome) {
        self.events.ended(&mut self.journal, how == RunOutcome::Failed, unix_time());
    }

    /// Records histograms, in TensorBoard only.
    pub fn histograms(&mut self, step: u64, histograms: &[Histogram]) {
        let wall_time = unix_time();
        for histogram in histograms {
            self.events.histogram(&mut self.journal, step, wall_time, histogram);
        }
    }

    /// Records images, in TensorBoard only. An image whose number of pixels does not match its width and height is
    /// skipped.
    pub fn images(&mut self, step: u64, images: &[Image]) {
        let wall_time = unix_time();
        for image in images {
            self.events.image(&mut self.journal, step, wall_time, image);
        }
    }

    /// Appends a line to another file of the run.
    pub(crate) fn append(&mut self, path: &Path, line: &[u8]) {
        self.journal.append(path, line);
    }

    /// Records that another file of the run cannot be written, without which training can continue until its next
    /// checkpoint.
    pub(crate) fn report(&mut self, problem: FileError) {
        self.journal.report(problem);
    }

    /// Takes the first problem of writing a file since the last call, if there was one.
    pub fn problem(&mut self) -> Option<FileError> {
        self.journal.problem()
    }

    /// Flushes the files to disk, and returns their sizes and what could not be written yet. A run that continues from
    /// here passes them to [`GrowingFiles::restore`].
    pub(crate) fn flushed(&self) -> Result<GrowingFiles, FileError> {
        self.journal.sync()?;
        let sizes = journal::sizes(&self.metrics, &[self.tensorboard.clone(), self.probes.clone()]);
        let run = self.metrics.parent().unwrap_or(Path::new(""));
        let relative = |path: &Path| path.strip_prefix(run).unwrap_or(path).to_path_buf();
        let retained = self.journal.retained();
        Ok(GrowingFiles {
            sizes: sizes?.into_iter().map(|(path, size)| (relative(&path), size)).collect(),
            retained: retained.map(|(path, bytes)| (relative(path), bytes.to_vec())).collect(),
        })
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
    /// A file could not be written.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.progress.finish();
        match self.journal.problem() {
            Some(problem) => Err(problem),
            None => self.journal.sync(),
        }
    }
}

/// The sizes of the growing files of a run at a checkpoint, with paths relative to the run directory.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct GrowingFiles {
    /// Size of each file in bytes.
    pub sizes: BTreeMap<PathBuf, u64>,
    /// The bytes that could not be written to a file, because of the problem that ended the run.
    pub retained: BTreeMap<PathBuf, Vec<u8>>,
}

impl GrowingFiles {
    /// Cuts the files of `run` back to these sizes, removes those that did not exist, and writes what was retained: no
    /// step is in them twice, and none is missing. Returns the files that are shorter than they were.
    ///
    /// # Errors
    /// A file cannot be changed.
    pub fn restore(&self, run: &RunDirectory) -> Result<Vec<PathBuf>, FileError> {
        let directories = [run.tensorboard(), run.probes()];
        let mut short = Vec::new();
        for (path, size) in journal::sizes(&run.metrics(), &directories)? {
            let relative = path.strip_prefix(run.path()).unwrap_or(&path);
            match self.sizes.get(relative) {
                None => remove_file(&path)?,
                Some(&known) if known < size => truncate(&path, known)?,
                Some(&known) if known > size => short.push(path),
                Some(_) => {}
            }
        }
        let gone = self.sizes.keys().map(|path| run.path().join(path));
        short.extend(gone.filter(|path| !path.exists()));
        let mut journal = Journal::default();
        for (path, bytes) in &self.retained {
            journal.append(&run.path().join(path), bytes);
        }
        journal.problem().map_or(Ok(()), Err)?;
        journal.sync()?;
        Ok(short)
    }
}

/// Returns the wall time of TensorBoard: seconds since 1970.
fn unix_time() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
