//! Connects signals to the requests of a training.

use std::env;
use std::fs;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use crate::train::Requests;

/// SIGINT, SIGTERM and SIGHUP ask the training to stop; while it has nothing to save, and at a second signal a second
/// later, they end the process at once. SIGUSR1 asks it to save. A signal that the parent process has ignored stays ignored, as `nohup`
/// and background jobs of a shell expect.
pub(super) fn listen(requests: &Requests) -> Result<()> {
    let ignored = ignored_signals();
    let is_ignored = |signal: i32| ignored >> (signal - 1) & 1 == 1;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if !is_ignored(signal) {
            let connected = connect(signal, requests);
            connected.with_context(|| format!("cannot handle signal {signal}"))?;
        }
    }
    if !is_ignored(SIGUSR1) {
        flag::register(SIGUSR1, requests.save.clone()).context("cannot handle SIGUSR1")?;
    }
    let requests = requests.clone();
    thread::spawn(move || {
        while requests.signal().is_none() {
            thread::sleep(SAME_SIGNAL);
        }
        thread::sleep(REPEATED);
        requests.at_once.store(true, Ordering::SeqCst);
    });
    Ok(())
}

/// A signal that is repeated within this time is ignored: at a job's time limit, SLURM sends SIGTERM twice within milliseconds.
const REPEATED: Duration = Duration::from_secs(1);

/// Ignores the signals that [`listen`] listens to, in a process that waits for what another one decides.
pub(super) fn ignore() -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGUSR1] {
        flag::register(signal, Arc::default())
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    Ok(())
}

/// The environment variable with which a sweep starts a training whose requests come through standard input.
pub(super) const REQUESTS: &str = "GENIR_REQUESTS";

/// Its value.
pub(super) const FROM_STANDARD_INPUT: &str = "stdin";

/// The time in which a signal that the terminal has sent to both processes arrives before what the sweep passes on.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// If a sweep has started this process, listens to what it sends through standard input: each byte is the number of a
/// signal, with the meaning that [`listen`] gives it. The end of the input, also if the sweep was killed, is SIGTERM: no
/// training goes on that nobody waits for.
///
/// A signal that has already come in another way is not a second one: Ctrl-C reaches both processes.
pub(super) fn listen_to_sweep(requests: &Requests) {
    if env::var(REQUESTS).as_deref() != Ok(FROM_STANDARD_INPUT) {
        return;
    }
    let requests = requests.clone();
    thread::spawn(move || {
        let mut input = io::stdin().lock().bytes();
        while requests.signal().is_none() {
            let signal = match input.next() {
                Some(Ok(byte)) => i32::from(byte),
                Some(Err(_)) | None => SIGTERM,
            };
            if signal == SIGUSR1 {
                requests.save();
                continue;
            }
            thread::sleep(SAME_SIGNAL);
            if requests.signal().is_none() {
                if requests.is_at_once() {
                    std::process::exit(128 + signal);
                }
                requests.stop(signal);
            }
        }
    });
}

fn connect(signal: i32, requests: &Requests) -> io::Result<()> {
    flag::register_conditional_shutdown(signal, 128 + signal, requests.at_once.clone())?;
    let number = usize::try_from(signal).unwrap_or_default();
    flag::register_usize(signal, requests.stop.clone(), number)?;
    Ok(())
}

/// The signals that this process has inherited as ignored, as bits from signal 1 (Linux; none elsewhere).
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
