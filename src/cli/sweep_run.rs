//! A run of a sweep as a process of its own, and the progress of all of them.
//!
//! A process and not a call: the peak of resident memory that a run reports is one of its process, and what an allocator
//! keeps of an earlier run would count for the next one. A run that the kernel kills for memory, or that panics, does not
//! end the sweep either.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{FormattedDuration, ProgressBar};
use signal_hook::consts::SIGUSR1;

use super::signals::{FROM_STANDARD_INPUT, REQUESTS};
use super::sweep::shortened;
use crate::monitor::Console;
use crate::sweep::{RunRecord, RunStatus, SweepPlan};
use crate::train::Requests;

/// The time between two looks at the requests, and two updates of the bar.
const INTERVAL: Duration = Duration::from_millis(100);

/// The longest line of a run that is read, in bytes.
const LONGEST_LINE: u64 = 1 << 16;

/// Lines of a run that are kept for the reason of a failure.
const KEPT_LINES: usize = 10;

/// How a run ended.
pub(super) enum Ended {
    Finished,
    /// A signal asked it to save and to stop.
    Interrupted,
    /// It failed, with its error.
    Failed(String),
}

/// Starts the runs of a sweep.
pub(super) struct Runner<'a> {
    pub program: &'a Path,
    pub console: &'a Console,
    pub requests: &'a Requests,
}

impl Runner<'_> {
    /// Runs genir with these arguments and waits until it ends. Requests are passed on to it.
    pub fn run(
        &self,
        arguments: &[String],
        progress: &mut Progress,
        index: usize,
    ) -> Result<Ended> {
        let mut child = Command::new(self.program)
            .args(self.console.is_quiet().then_some("--quiet"))
            .args(arguments)
            .env(REQUESTS, FROM_STANDARD_INPUT)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        progress.started(index);
        let trains = arguments.first().is_some_and(|command| command == "train");
        let lines = lines(&mut child);
        let mut output = Output::default();
        // While this end of the pipe is open the run goes on; it is closed with this process, whatever ends it.
        let mut input = child.stdin.take();
        loop {
            match lines.recv_timeout(INTERVAL) {
                Ok(line) => output.take(&line, progress),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.pass_on(&mut input, &mut child, trains);
            progress.show();
        }
        let status = loop {
            // A process may close its standard error before it ends.
            match child.try_wait()? {
                Some(status) => break status,
                None => thread::sleep(INTERVAL),
            }
            self.pass_on(&mut input, &mut child, trains);
        };
        Ok(output.ended(status))
    }

    /// Passes requests on to the run: a training saves first, anything else is ended.
    fn pass_on(&self, input: &mut Option<ChildStdin>, child: &mut Child, trains: bool) {
        // A run that has just ended cannot be reached, and need not be.
        if self.requests.take_save()
            && let Some(input) = input
        {
            let _ = send(input, SIGUSR1);
        }
        if let Some(signal) = self.requests.signal()
            && let Some(mut input) = input.take()
        {
            let _ = match trains {
                true => send(&mut input, signal),
                false => child.kill(),
            };
        }
    }
}

fn send(input: &mut ChildStdin, signal: i32) -> io::Result<()> {
    input.write_all(&[u8::try_from(signal).unwrap_or(0)])?;
    input.flush()
}

/// Reads the lines that a run prints on standard error, on a thread of its own.
fn lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(errors) = child.stderr.take() {
        thread::spawn(move || {
            let mut reader = BufReader::new(errors);
            let mut line = Vec::new();
            while matches!(
                reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line),
                Ok(read) if read > 0
            ) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(text).is_err() {
                    break;
                }
                line.clear();
            }
        });
    }
    receiver
}

/// The output of a run.
#[derive(Default)]
struct Output {
    /// The lines of its error, from `error: ` on.
    error: Vec<String>,
    /// Its last lines.
    last: Vec<String>,
}

impl Output {
    fn take(&mut self, line: &str, progress: &mut Progress) {
        if !self.error.is_empty() || line.starts_with("error: ") {
            self.error.push(line.strip_prefix("error: ").unwrap_or(line).to_owned());
            return;
        }
        if self.last.len() == KEPT_LINES {
            self.last.remove(0);
        }
        self.last.push(line.to_owned());
        match Line::of(line) {
            Line::Progress { done, total } => progress.at(line, done, total),
            Line::Message => progress.message(line),
            // Its summary, which the log of the run has.
            Line::Other => {}
        }
    }

    fn ended(self, status: ExitStatus) -> Ended {
        match (status.code(), status.signal()) {
            (Some(0), _) => Ended::Finished,
            (Some(129 | 130 | 143), _) => Ended::Interrupted,
            (_, Some(9)) => Ended::Failed(
                "killed by signal 9; the kernel kills a process like this when the memory runs out"
                    .to_owned(),
            ),
            (_, Some(signal)) => Ended::Failed(format!("killed by signal {signal}")),
            (code, _) if self.error.is_empty() => {
                Ended::Failed(format!("exit code {}\n{}", code.unwrap_or(-1), self.last.join("\n")))
            }
            _ => Ended::Failed(self.error.join("\n")),
        }
    }
}

/// A line that a run prints where there is no terminal.
#[derive(Debug, PartialEq)]
enum Line {
    /// `step 10/300  ...`, or `encoding texts: 10/300`.
    Progress { done: u64, total: u64 },
    /// An evaluation, `step 10: validation ...`, or a warning.
    Message,
    /// Anything else.
    Other,
}

impl Line {
    fn of(line: &str) -> Self {
        let fraction = |text: &str| {
            let (done, total) = text.split_once('/')?;
            Some((done.parse::<u64>().ok()?, total.parse::<u64>().ok()?))
        };
        let step = line.strip_prefix("step ");
        let word = step.and_then(|rest| rest.split_whitespace().next());
        if let Some((done, total)) = word.and_then(fraction) {
            return Self::Progress { done, total };
        }
        let prepared = line.rsplit_once(": ").and_then(|(_, last)| fraction(last));
        if prepared.is_some() {
            return Self::Progress { done: 0, total: 0 };
        }
        let is_level = |word| word == "WARN" || word == "ERROR";
        match word.is_some_and(|word| word.ends_with(':'))
            || line.split_whitespace().take(2).any(is_level)
        {
            true => Self::Message,
            false => Self::Other,
        }
    }
}

/// The progress of a sweep: a bar over all runs on a terminal, lines elsewhere.
pub(super) struct Progress<'a> {
    console: &'a Console,
    bar: Option<ProgressBar>,
    start: Instant,
    runs: Vec<Run>,
    current: Current,
}

struct Run {
    arm: usize,
    name: String,
    /// An estimate of its operations.
    operations: f64,
    /// Wall time, if it was trained to its end.
    seconds: Option<f64>,
    ended: bool,
}

struct Current {
    index: usize,
    start: Instant,
    /// The part of its steps that is done.
    share: f64,
    line: String,
}

impl<'a> Progress<'a> {
    pub fn new(console: &'a Console, plan: &SweepPlan) -> Self {
        let runs = plan.runs.iter().map(|run| Run {
            arm: run.arm,
            name: run.name.clone(),
            operations: plan.arms[run.arm].operations,
            seconds: None,
            ended: false,
        });
        let start = Instant::now();
        Self {
            console,
            bar: console.bar(plan.runs.len() as u64),
            start,
            runs: runs.collect(),
            current: Current { index: 0, start, share: 0.0, line: String::new() },
        }
    }

    /// A run was finished before this sweep started.
    pub fn done(&mut self, index: usize, seconds: Option<f64>) {
        self.runs[index].ended = true;
        self.runs[index].seconds = seconds;
    }

    fn started(&mut self, index: usize) {
        let start = Instant::now();
        self.current = Current { index, start, share: 0.0, line: String::new() };
        self.console.message(&format!("{} starts{}", self.position(), self.times()));
    }

    fn at(&mut self, line: &str, done: u64, total: u64) {
        self.current.line = line.to_owned();
        if total > 0 {
            self.current.share = done as f64 / total as f64;
        }
        if self.bar.is_none() {
            self.console.progress(&format!("{}: {line}{}", self.position(), self.times()));
        }
    }

    fn message(&self, line: &str) {
        self.console.message(&format!("{}: {line}", self.runs[self.current.index].name));
    }

    pub fn ended(&mut self, index: usize, record: &RunRecord) {
        let text = match (record.status, &record.reason) {
            (RunStatus::Failed, Some(reason)) => format!("failed: {}", shortened(reason)),
            (RunStatus::Interrupted, _) => "interrupted".to_owned(),
            _ => format!("finished in {}", FormattedDuration(self.current.start.elapsed())),
        };
        self.console.message(&format!("{} {text}", self.position()));
        self.runs[index].ended = true;
        if record.status == RunStatus::Finished {
            self.runs[index].seconds = record.seconds;
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn show(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.runs.iter().filter(|run| run.ended).count() as u64);
            bar.set_message(format!("{}{}  {}", self.position(), self.times(), self.current.line));
        }
    }

    /// `run 2 of 6, full-seed-2`
    fn position(&self) -> String {
        let index = self.current.index;
        format!("run {} of {}, {}", index + 1, self.runs.len(), self.runs[index].name)
    }

    /// The time since the start, and an estimate of what is left.
    fn times(&self) -> String {
        let elapsed = FormattedDuration(self.start.elapsed());
        match self.left().and_then(|left| Duration::try_from_secs_f64(left).ok()) {
            Some(left) => {
                format!("  ({elapsed} since the start, about {} left)", FormattedDuration(left))
            }
            None => format!("  ({elapsed} since the start)"),
        }
    }

    /// Estimates the seconds that are left: of an arm from its own runs, else from those of the others by the number of
    /// operations. `None` as long as nothing is known.
    fn left(&self) -> Option<f64> {
        let current = &self.current;
        let spent = current.start.elapsed().as_secs_f64();
        // Early in a run its rate is that of the preparation.
        let projected = (current.share > 0.1).then(|| spent / current.share);
        let known: Vec<(&Run, f64)> = self
            .runs
            .iter()
            .enumerate()
            .filter_map(|(index, run)| {
                let projected = projected.filter(|_| index == current.index && !run.ended);
                Some((run, run.seconds.or(projected)?))
            })
            .collect();
        let trained = known.iter().filter(|(run, _)| run.operations > 0.0);
        let (operations, seconds) = trained
            .fold((0.0, 0.0), |(operations, seconds), (run, own)| {
                (operations + run.operations, seconds + own)
            });
        let mut left = 0.0;
        for (index, run) in self.runs.iter().enumerate().filter(|(_, run)| !run.ended) {
            let of_arm: Vec<f64> = known
                .iter()
                .filter(|(other, _)| other.arm == run.arm)
                .map(|(_, seconds)| *seconds)
                .collect();
            let whole = match (of_arm.len(), run.operations > 0.0) {
                (0, false) => 0.0,
                (0, true) if operations > 0.0 => seconds * run.operations / operations,
                (0, true) => return None,
                (count, _) => of_arm.iter().sum::<f64>() / count as f64,
            };
            let spent = if index == current.index { spent } else { 0.0 };
            left += (whole - spent).max(0.0);
        }
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_progress_and_messages_are_told_apart() {
        assert_eq!(Line::of("step 10/300  00:01 left"), Line::Progress { done: 10, total: 300 });
        assert_eq!(Line::of("encoding texts: 5/80"), Line::Progress { done: 0, total: 0 });
        assert_eq!(Line::of("step 10: validation  hits@1 0.5"), Line::Message);
        assert_eq!(Line::of("2026-01-01T00:00:00Z  WARN genir: slow"), Line::Message);
        assert_eq!(Line::of("corpus    a: 3 documents"), Line::Other);
        assert_eq!(Line::of("step by step"), Line::Other);
    }
}
