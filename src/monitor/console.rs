//! Standard error, shared by the progress bar, messages and log lines without interleaving.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::files::{FileError, append_to};
use crate::terminal::escaped_lines;

/// Amount of output on standard error. The log of a run is not affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verbosity {
    /// Progress, messages and log lines.
    #[default]
    Normal,
    /// Only logged warnings and errors.
    Quiet,
    /// Only log lines: those of a process that is not the first of several.
    Log,
}

/// The console: standard error and, once [`Console::log_to`] is called, the log of a run.
///
/// Create one per process, and pass clones to [`Monitor::open`](super::Monitor::open) and to the tracing subscriber:
///
/// ```no_run
/// # use genir::monitor::{Console, Verbosity};
/// let console = Console::stderr(Verbosity::Normal);
/// tracing_subscriber::fmt()
///     .with_writer(console.clone())
///     .with_ansi(false) // the lines go to log.txt as well
///     .init();
/// ```
///
/// If standard error is not a terminal, no escape codes are written, and progress is printed as plain lines.
#[derive(Debug, Clone)]
pub struct Console {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    verbosity: Verbosity,
    bars: MultiProgress,
    log: Mutex<Log>,
}

/// The log of a run.
#[derive(Debug)]
enum Log {
    None,
    /// Lines that are written once the file is known.
    Buffered(Vec<u8>),
    File(File),
}

impl Console {
    /// Creates a console on this process's standard error.
    pub fn stderr(verbosity: Verbosity) -> Console {
        Console {
            shared: Arc::new(Shared {
                verbosity,
                bars: MultiProgress::new(),
                log: Mutex::new(Log::None),
            }),
        }
    }

    /// Buffers messages and log lines until [`Console::log_to`] sets the file.
    pub fn buffer_log(&self) {
        *self.log() = Log::Buffered(Vec::new());
    }

    /// Appends messages and log lines to this file as well, including those buffered since [`Console::buffer_log`].
    ///
    /// # Errors
    /// The file cannot be opened or written.
    pub fn log_to(&self, path: &Path) -> Result<(), FileError> {
        let mut file = append_to(path)?;
        let mut log = self.log();
        if let Log::Buffered(text) = &*log {
            file.write_all(text).map_err(FileError::new("write", path))?;
        }
        *log = Log::File(file);
        Ok(())
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether only log lines are printed.
    pub(crate) fn is_quiet(&self) -> bool {
        self.shared.verbosity != Verbosity::Normal
    }

    /// Prints text of one or several lines, above the progress bar if there is one, and writes it to the log. Control
    /// characters are escaped.
    pub fn message(&self, text: &str) {
        let quiet = self.is_quiet();
        // A log that cannot be written must not end the run.
        let _ = self.write(!quiet, format!("{}\n", escaped_lines(text)).as_bytes());
    }

    /// Writes a line to the log only.
    pub(crate) fn log_line(&self, text: &str) {
        let _ = self.write(false, format!("{text}\n").as_bytes());
    }

    /// Prints a line of progress, which is not written to the log.
    pub(crate) fn progress(&self, text: &str) {
        if self.shared.verbosity == Verbosity::Normal {
            self.show(format!("{}\n", escaped_lines(text)).as_bytes());
        }
    }

    /// Returns a progress bar that shares the terminal; `None` if there is no terminal or the console is quiet.
    pub(crate) fn bar(&self, total: u64) -> Option<ProgressBar> {
        let wanted = self.shared.verbosity == Verbosity::Normal && !self.shared.bars.is_hidden();
        // `wide_msg` is truncated at the width of the terminal: the bar never wraps.
        let style = ProgressStyle::with_template("{bar:12} {pos}/{len} {wide_msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        wanted.then(|| self.shared.bars.add(ProgressBar::new(total).with_style(style)))
    }

    /// Writes to standard error. Errors are ignored: a closed terminal must not end the run.
    fn show(&self, bytes: &[u8]) {
        let _ = self.shared.bars.suspend(|| io::stderr().write_all(bytes));
    }

    fn write(&self, screen: bool, bytes: &[u8]) -> io::Result<()> {
        if screen {
            self.show(bytes);
        }
        match &mut *self.log() {
            Log::None => Ok(()),
            Log::Buffered(text) => text.write_all(bytes),
            Log::File(file) => file.write_all(bytes),
        }
    }
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> LogLine<'a> {
        LogLine { console: self, screen: true }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> LogLine<'a> {
        LogLine {
            console: self,
            screen: self.shared.verbosity != Verbosity::Quiet || *meta.level() <= Level::WARN,
        }
    }
}

/// The writer of one log line.
#[derive(Debug)]
pub struct LogLine<'a> {
    console: &'a Console,
    screen: bool,
}

impl Write for LogLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.console.write(self.screen, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
