//! Standard error, shared by the progress bar, messages and log lines so that none tears another.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::files::{FileError, append_to};

/// How much is shown on standard error. The log of a run is not affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verbosity {
    /// Progress, messages and log lines.
    #[default]
    Normal,
    /// Only logged warnings and errors.
    Quiet,
}

/// The console: standard error and, once [`Console::log_to`] is called, the log of a run.
///
/// Make one a process, and hand clones of it to [`Monitor::open`](super::Monitor::open) and to
/// the log:
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
/// Where standard error is not a terminal no escape codes are written: progress is plain lines.
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
    /// There will be one: what goes to its beginning.
    Later(Vec<u8>),
    File(File),
}

impl Console {
    /// The console on this process's standard error.
    pub fn stderr(verbosity: Verbosity) -> Console {
        Console {
            shared: Arc::new(Shared {
                verbosity,
                bars: MultiProgress::new(),
                log: Mutex::new(Log::None),
            }),
        }
    }

    /// Keeps messages and log lines for the file that [`Console::log_to`] will name.
    pub fn log_later(&self) {
        *self.log() = Log::Later(Vec::new());
    }

    /// Writes messages and log lines to the end of this file too: from now on, or since [`Console::log_later`].
    pub fn log_to(&self, path: &Path) -> Result<(), FileError> {
        let mut file = append_to(path)?;
        let mut log = self.log();
        if let Log::Later(text) = &*log {
            file.write_all(text).map_err(FileError::new("write", path))?;
        }
        *log = Log::File(file);
        Ok(())
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a line of text, above the bar if there is one, and puts it in the log.
    pub fn message(&self, text: &str) {
        let quiet = self.shared.verbosity == Verbosity::Quiet;
        // A log that cannot be written must not end the run either.
        let _ = self.write(!quiet, format!("{text}\n").as_bytes());
    }

    /// Shows a line of progress, which is of no use in the log.
    pub(super) fn progress(&self, text: &str) {
        if self.shared.verbosity == Verbosity::Normal {
            self.show(format!("{text}\n").as_bytes());
        }
    }

    /// Where progress can be shown as a bar, gives one that shares the screen.
    pub(crate) fn bar(&self, total: u64) -> Option<ProgressBar> {
        let wanted = self.shared.verbosity == Verbosity::Normal && !self.shared.bars.is_hidden();
        // `wide_msg` is cut at the width of the terminal: the bar never wraps.
        let style = ProgressStyle::with_template("{bar:12} {pos}/{len} {wide_msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        wanted.then(|| self.shared.bars.add(ProgressBar::new(total).with_style(style)))
    }

    /// A console that has gone away must not end the run: its errors are passed over.
    fn show(&self, bytes: &[u8]) {
        let _ = self.shared.bars.suspend(|| io::stderr().write_all(bytes));
    }

    fn write(&self, screen: bool, bytes: &[u8]) -> io::Result<()> {
        if screen {
            self.show(bytes);
        }
        match &mut *self.log() {
            Log::None => Ok(()),
            Log::Later(text) => text.write_all(bytes),
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
            screen: self.shared.verbosity == Verbosity::Normal || *meta.level() <= Level::WARN,
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
