//! Each write, flush, rename and removal of a training is killed, or fails, in turn: afterwards the run directory holds
//! complete checkpoints only, and the same command goes on to the same bytes.
//!
//! A few points of each kind are tried here. `GENIR_ALL_WRITE_POINTS=1 cargo test --release --test testsuite write_points` tries
//! all of them, in half an hour.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use genir::checkpoint::{Checkpoint, Manifest};
use genir::device::{ComputeDevice, device};
use tempfile::TempDir;

use crate::interrupted_run::{Home, Results};
use crate::killed::Killer;

const OVERRIDES: [&str; 6] = [
    "train.steps=6",
    "save.every_steps=2",
    "save.keep_last=1",
    "evaluate.every_steps=3",
    "evaluate.at_start=true",
    "log.every_steps=1",
];

/// What happens at a point.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    /// One operation fails with this error.
    Once(i32),
    /// So do all later ones, as on a full disk.
    From(i32),
}

const NO_SPACE: i32 = 28;
const NO_PERMISSION: i32 = 13;
const READ_ONLY: i32 = 30;

/// A directory in memory if there is one: what is flushed there costs nothing.
fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    TempDir::new_in(memory).or_else(|_| TempDir::new()).unwrap()
}

/// An undisturbed run, and the number of its changes of the file system.
struct Reference {
    home: TempDir,
    killer: Killer,
    results: Results,
    changes: usize,
}

fn reference() -> Option<Reference> {
    let home = in_memory();
    let killer = Killer::build(home.path())?;
    let undisturbed = Home::new(&home.path().join("undisturbed"), &OVERRIDES);
    let count = home.path().join("count");
    let mut command = undisturbed.command();
    command.env("COUNT_IN", &count);
    assert!(!killer.kill(&mut command, &undisturbed.run(), usize::MAX));
    let changes = fs::read_to_string(&count).unwrap().parse().unwrap();
    let results = undisturbed.results();
    Some(Reference { home, killer, results, changes })
}

impl Reference {
    /// Lets a run meet `fault` at its change number `at`, and trains it to its end.
    fn disturb(&self, at: usize, fault: Fault) {
        let when = format!("{fault:?} at {at} of {}", self.changes);
        let home = Home::new(&self.home.path().join("disturbed"), &OVERRIDES);
        let mut command = home.command();
        match fault {
            Fault::Kill => {}
            Fault::Once(error) => {
                command.env("FAIL_WITH", error.to_string());
            }
            Fault::From(error) => {
                command.env("FAIL_WITH", error.to_string()).env("FAIL_ON", "1");
            }
        }
        self.killer.prepare(&mut command, &home.run(), at);
        let output = command.stdout(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if !matches!(fault, Fault::Kill) {
            // An error in words, or none at all: never a panic.
            assert!(matches!(output.status.code(), Some(0 | 1)), "{when}: {text}");
            assert!(!text.contains("panicked"), "{when}: {text}");
            assert_eq!(output.status.success(), !text.contains("error: "), "{when}: {text}");
        }
        for checkpoint in checkpoints(&home.run()) {
            let manifest = Manifest::read(&checkpoint).unwrap().unwrap();
            manifest.verify(&checkpoint).unwrap_or_else(|error| panic!("{when}: {error}"));
            let cpu: ComputeDevice = device("cpu").unwrap();
            Checkpoint::open(&checkpoint, cpu).unwrap_or_else(|error| panic!("{when}: {error}"));
        }
        // One that is complete but for its last words is not trained again.
        let summary = fs::read_to_string(home.run().join("summary.json")).unwrap_or_default();
        if !summary.contains("\"ended\": \"finished\"") {
            home.train();
        }
        home.results().assert_same(&self.results, &when);
        fs::remove_dir_all(home.path).unwrap();
    }

    /// Tries every `stride`th point, each time from another first one.
    fn disturb_all(&self, fault: Fault, first: usize, stride: usize) {
        let all = std::env::var_os("GENIR_ALL_WRITE_POINTS").is_some();
        let (first, stride) = if all { (1, 1) } else { (first, stride) };
        let mut tried = 0;
        for at in (first..=self.changes).step_by(stride) {
            self.disturb(at, fault);
            tried += 1;
        }
        println!("{fault:?}: {tried} of {} points", self.changes);
    }
}

fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| !path.is_symlink())
        .filter(|path| !path.file_name().unwrap().as_encoded_bytes().starts_with(b"."))
        .collect()
}

#[test]
fn a_kill_at_any_write_leaves_complete_checkpoints_and_the_run_continues() {
    let Some(reference) = reference() else { return };
    assert!(reference.changes > 150, "only {} changes", reference.changes);
    reference.disturb_all(Fault::Kill, 3, 17);
}

#[test]
fn a_failure_of_any_write_is_an_error_in_words_and_the_run_continues() {
    let Some(reference) = reference() else { return };
    reference.disturb_all(Fault::Once(NO_SPACE), 5, 37);
    reference.disturb_all(Fault::Once(NO_PERMISSION), 17, 37);
}

#[test]
fn a_disk_that_becomes_full_or_read_only_is_an_error_in_words_and_the_run_continues() {
    let Some(reference) = reference() else { return };
    reference.disturb_all(Fault::From(NO_SPACE), 11, 37);
    reference.disturb_all(Fault::From(READ_ONLY), 29, 37);
}
