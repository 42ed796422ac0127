//! The message of a panic, which is always a bug: what to report, and how.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::panics::is_caught;
use crate::terminal::Escaped;

/// Makes a panic anywhere in the process print [`Report`] instead of Rust's own message. The exit code remains 101.
pub(super) fn install_hook() {
    panic::set_hook(Box::new(|panic| {
        if is_caught() {
            return; // An error says it.
        }
        // Several threads may run into the same bug.
        static REPORTED: AtomicBool = AtomicBool::new(false);
        let report = Report { panic, is_first: !REPORTED.swap(true, Ordering::Relaxed) };
        // If standard error cannot be written, nothing is left to report to.
        let _ = io::stderr().lock().write_all(report.to_string().as_bytes());
    }));
}

/// Panics if the environment asks for it, which only the test of the message does.
pub(super) fn panic_if_asked() {
    if std::env::var_os("GENIR_TEST_PANIC").is_some() {
        panic!("asked for by GENIR_TEST_PANIC\u{1b}[2J");
    }
}

/// The message of a panic: its text, location, version and command, and for the first one, how to report it.
struct Report<'a> {
    panic: &'a PanicHookInfo<'a>,
    is_first: bool,
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A progress bar may be on the current line.
        writeln!(f, "\nerror: genir has panicked: {}", Escaped(message(self.panic)))?;
        if let Some(location) = self.panic.location() {
            writeln!(f, "  at        {location}")?;
        }
        writeln!(f, "  thread    {}", thread::current().name().unwrap_or("without a name"))?;
        if !self.is_first {
            return Ok(());
        }
        let command: Vec<String> =
            std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
        let device = if cfg!(feature = "cuda") { "with CUDA" } else { "without CUDA" };
        let (system, processor) = (std::env::consts::OS, std::env::consts::ARCH);
        writeln!(f, "  version   {} {device}, {system} {processor}", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "  command   {}", Escaped(&command.join(" ")))?;
        writeln!(
            f,
            "This is a bug in genir, whatever the input was. Please report it with this message and the recipe \
             (of a run: recipe.toml in its directory)."
        )?;
        let backtrace = Backtrace::capture();
        match backtrace.status() {
            BacktraceStatus::Captured => write!(f, "{backtrace}"),
            _ => writeln!(
                f,
                "The same command with RUST_BACKTRACE=1 also prints the calls that led there."
            ),
        }
    }
}

fn message<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    panic.payload_as_str().unwrap_or("no message")
}
