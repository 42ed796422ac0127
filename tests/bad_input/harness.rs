//! Runs `genir` on the input of a case, within a limit of time and memory, and compares what it says.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::home::Home;

/// The time of one case. Most take a fraction of a second; the machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Bytes of resident memory of one case: about three times what a valid input takes.
pub const MEMORY: u64 = 400 << 20;

/// KiB of virtual memory of one case, the limit at which an allocation aborts the process.
const ADDRESSES: u64 = 8 << 20;

/// Bad input, and what it is answered with.
pub struct Case {
    /// What is wrong: the first column of the table in the documents.
    pub name: &'static str,
    /// Writes the files and returns the arguments of `genir`.
    pub input: fn(&Home) -> Vec<String>,
    /// How the command ends.
    pub ends: Ends,
    /// The words that must be in what the command prints.
    pub says: &'static [&'static str],
}

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// With exit code 1 and an error.
    Refused,
    /// With exit code 0 and a warning.
    Warned,
    /// With exit code 0: the input is unusual, and read as it should be.
    Accepted,
}

/// A case that is refused.
pub const fn refused(
    name: &'static str,
    input: fn(&Home) -> Vec<String>,
    says: &'static [&'static str],
) -> Case {
    Case { name, input, ends: Ends::Refused, says }
}

/// A case that is warned of.
pub const fn warned(
    name: &'static str,
    input: fn(&Home) -> Vec<String>,
    says: &'static [&'static str],
) -> Case {
    Case { name, input, ends: Ends::Warned, says }
}

/// A case that is read.
pub const fn accepted(
    name: &'static str,
    input: fn(&Home) -> Vec<String>,
    says: &'static [&'static str],
) -> Case {
    Case { name, input, ends: Ends::Accepted, says }
}

/// Tries every case, and fails with all that went wrong.
pub fn try_all(lists: &[&[Case]]) {
    // For work on one case: the beginning of its name.
    let only = std::env::var("GENIR_CASE").unwrap_or_default();
    let cases = lists.iter().copied().flatten().filter(|case| case.name.starts_with(&only));
    let failed: Vec<String> = cases.filter_map(|case| case.fails()).collect();
    assert!(failed.is_empty(), "{} cases failed:\n\n{}", failed.len(), failed.join("\n\n"));
}

impl Case {
    /// What went wrong, if something did.
    fn fails(&self) -> Option<String> {
        let home = Home::new();
        let arguments = (self.input)(&home);
        let done = run(&arguments);
        let mut wrong = Vec::new();
        let code = if self.ends == Ends::Refused { 1 } else { 0 };
        if done.code != Some(code) {
            wrong.push(format!("ended with {:?}, expected {code}", done.code));
        }
        if done.code.is_none() {
            wrong.push("killed by a signal".to_owned());
        }
        if done.printed.contains("panicked") {
            wrong.push("panicked".to_owned());
        }
        if done.seconds >= LIMIT.as_secs_f64() {
            wrong.push(format!("took {:.1} s", done.seconds));
        }
        if done.memory > MEMORY {
            wrong.push(format!("held {} MiB", done.memory >> 20));
        }
        let missing = self.says.iter().filter(|words| !done.printed.contains(**words));
        wrong.extend(missing.map(|words| format!("does not say {words:?}")));
        if std::env::var_os("GENIR_CASE").is_some() {
            eprintln!(
                "{}: {:.2} s, {} MiB\n{}",
                self.name,
                done.seconds,
                done.memory >> 20,
                done.printed
            );
        }
        let printed: String = done.printed.chars().take(1500).collect();
        (!wrong.is_empty()).then(|| {
            format!("{}: {}\n{}\n{printed}", self.name, wrong.join(", "), arguments.join(" "))
        })
    }
}

/// What a command did.
pub struct Done {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub printed: String,
    pub seconds: f64,
    /// Peak of its resident memory in bytes, as far as it was seen.
    pub memory: u64,
}

/// Runs `genir`, which is killed when the time is over. A last argument `<FILE` is its standard input.
pub fn run(arguments: &[String]) -> Done {
    let begun = Instant::now();
    let (arguments, input) = match arguments.split_last() {
        Some((last, others)) if last.starts_with('<') => {
            (others, Stdio::from(fs::File::open(&last[1..]).unwrap()))
        }
        _ => (arguments, Stdio::null()),
    };
    let mut child = Command::new("sh")
        .args(["-c", &format!("ulimit -v {ADDRESSES}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_genir"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("RUST_LOG")
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut memory = 0;
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |mut from: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let (out, err) = (read(Box::new(out)), read(Box::new(err)));
    let status = loop {
        memory = memory.max(peak(&child));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > LIMIT || memory > MEMORY {
            child.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(5));
    };
    let printed = out.join().unwrap() + &err.join().unwrap();
    Done { code: status.code(), printed, seconds: begun.elapsed().as_secs_f64(), memory }
}

/// The peak of a process's resident memory in bytes; 0 where the system does not tell.
fn peak(child: &Child) -> u64 {
    let status = Path::new("/proc").join(child.id().to_string()).join("status");
    let text = fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: Option<u64> =
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kibibytes.unwrap_or(0) << 10
}
