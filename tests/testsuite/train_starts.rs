//! `genir train` with an existing run: a failed start never loses a run, and two processes never share one.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::command::{assert_says, genir_with_input, is_refused, succeeds, text};
use crate::everything::everything;
use crate::tiny_recipe::tiny_recipe;

/// A process that is killed at the end of the test, also if the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_second_process_is_refused_and_a_killed_one_blocks_nothing() {
    let home = TempDir::new().unwrap();
    let (recipe, run) = (tiny_recipe(&home), home.path().join("run"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_genir"));
    command.args(["train", &recipe, "train.steps=1000000", "save.every_steps=5"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    let mut first = Killed(command.spawn().unwrap());
    let checkpoint = run.join("checkpoints/latest/config.json");
    let begun = Instant::now();
    while !checkpoint.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not begin");
        assert!(first.0.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(20));
    }

    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let owner = format!("process {} on {} since 2", first.0.id(), host.trim());
    let words = ["is in use by", &owner, "run.directory"];
    is_refused(&["train", &recipe, "run.seed=2", "train.steps=2", "--overwrite"], &words);
    is_refused(&["train", &recipe, "run.seed=2", "train.steps=2"], &words);
    let resolved = fs::read_to_string(run.join("recipe.toml")).unwrap();
    assert_says(&resolved, &["seed = 3", "steps = 1000000"]);
    assert!(first.0.try_wait().unwrap().is_none(), "the first goes on");
    // A reader needs no lock. (The checkpoint may be pruned while it is read: one of several attempts must succeed.)
    let read = |_| genir_with_input(&["search", run.to_str().unwrap(), "gold"], "").code == 0;
    assert!((0..20).any(read));

    // The lock is released when its owner ends for any reason.
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    let never = ["train", &recipe, "--resume", "never"];
    is_refused(&never, &["already holds a run", "--overwrite"]);
    is_refused(&["train", &recipe, "train.steps=4"], &["steps already", "the recipe has 4"]);
    succeeds(&["train", &recipe, "run.seed=2", "train.steps=2", "--overwrite"]);
    assert_says(&fs::read_to_string(run.join("recipe.toml")).unwrap(), &["seed = 2"]);
    assert!(!run.join(".genir.lock").exists());
}

/// Runs a command that must fail, possibly after it has printed its plan.
#[track_caller]
fn fails(arguments: &[&str], words: &[&str]) {
    let done = genir_with_input(arguments, "");
    assert_eq!(done.code, 1, "{arguments:?}: {}", done.stderr);
    assert_says(&done.stderr, &[&["error: "], words].concat());
}

#[test]
fn a_failed_start_leaves_the_existing_run() {
    let home = TempDir::new().unwrap();
    let (recipe, run) = (tiny_recipe(&home), home.path().join("run"));
    succeeds(&["train", &recipe, "train.steps=1"]);
    fs::write(run.join("notes.md"), "mine").unwrap();
    let before = everything(&run);

    // Weights whose shapes differ from the configuration.
    let base = home.path().join("base");
    fs::create_dir(&base).unwrap();
    for entry in fs::read_dir(run.join("checkpoints/latest/")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, base.join(path.file_name().unwrap())).unwrap();
    }
    let config = fs::read_to_string(base.join("config.json")).unwrap();
    let broken = config.replace("\"d_ff\": 32", "\"d_ff\": 64");
    assert_ne!(broken, config);
    fs::write(base.join("config.json"), broken).unwrap();
    let base = format!("model.base={}", base.display());
    let pretrained = ["train", &recipe, &base, "model.init=pretrained", "~model.config"];
    fails(&[&pretrained[..], &["--overwrite"]].concat(), &["model.base"]);
    assert!(everything(&run) == before);

    // An unreadable corpus, and a split without queries.
    is_refused(&["train", &recipe, "--overwrite", "corpus.path=no/corpus"], &["no/corpus"]);
    fs::remove_file(home.path().join("corpus/test_queries.json")).unwrap();
    let splits = "evaluate.splits=[\"test\"]";
    fails(&["train", &recipe, "--overwrite", splits], &["test"]);
    assert!(everything(&run) == before);

    // In a new directory, no file is left that blocks the next attempt.
    let elsewhere = format!("run.directory={}", home.path().join("other/run").display());
    fails(&[&pretrained[..], &[&elsewhere]].concat(), &["model.base"]);
    assert!(!home.path().join("other").exists());
    succeeds(&["train", &recipe, "train.steps=1", &elsewhere]);
}

#[test]
fn a_base_model_in_the_run_that_would_be_replaced_is_refused() {
    let home = TempDir::new().unwrap();
    let (recipe, run) = (tiny_recipe(&home), home.path().join("run"));
    succeeds(&["train", &recipe, "train.steps=1"]);
    symlink(run.join("checkpoints/best"), home.path().join("link")).unwrap();
    let before = everything(&run);
    for base in ["run/checkpoints/latest", "run/checkpoints/step-000001", "link"] {
        let base = format!("model.base={}", home.path().join(base).display());
        let train = ["train", &recipe, &base, "model.init=pretrained", "~model.config"];
        is_refused(
            &[&train[..], &["--overwrite"]].concat(),
            &["model.base", "--overwrite would replace", "run.directory"],
        );
        assert!(everything(&run) == before);
    }
    for (key, inside) in [
        ("cache.directory", "run/checkpoints/cache"),
        ("corpus.generated_queries", "run/retrieval/generated.jsonl"),
    ] {
        let inside = home.path().join(inside);
        match key {
            "cache.directory" => fs::create_dir(&inside).unwrap(),
            _ => fs::write(&inside, "{\"query\": \"what\", \"docid\": 7}\n").unwrap(),
        }
        let before = everything(&run);
        let input = format!("{key}={}", inside.display());
        is_refused(&["train", &recipe, &input, "--overwrite"], &[key, "would replace"]);
        assert!(everything(&run) == before);
    }
    // Training from a checkpoint of this run into another directory is allowed.
    let elsewhere = format!("run.directory={}", home.path().join("next").display());
    let base = format!("model.base={}", home.path().join("link").display());
    let train =
        ["train", &recipe, &base, "model.init=pretrained", "~model.config", "train.steps=1"];
    succeeds(&[&train[..], &[&elsewhere, "--overwrite"]].concat());
    // And so is training a resolved recipe again.
    let resolved = text(run.join("recipe.toml"));
    succeeds(&["train", &resolved, "--overwrite"]);
}

#[test]
fn a_run_directory_must_not_be_empty_and_may_start_with_a_tilde() {
    let home = TempDir::new().unwrap();
    let recipe = tiny_recipe(&home);
    is_refused(&["check", &recipe, "run.directory="], &["run.directory", "empty"]);
    is_refused(
        &["check", &recipe, "run.directory=~you/runs"],
        &["run.directory", "~you/runs", "~/"],
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_genir"));
    command.args([
        "train",
        &recipe,
        "train.steps=1",
        "run.directory=~/runs/a",
        "corpus.path=~/corpus",
    ]);
    let output = command.env("HOME", home.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(home.path().join("runs/a/recipe.toml").exists());
}

#[test]
fn the_log_starts_with_the_messages_before_the_start_of_the_run() {
    let home = TempDir::new().unwrap();
    let (recipe, run) = (tiny_recipe(&home), home.path().join("run"));
    let said = succeeds(&["train", &recipe, "train.steps=1"]).stderr;
    let log = fs::read_to_string(run.join("log.txt")).unwrap();
    assert!(log.starts_with(&said[..100]), "{log}");
    assert_says(&log, &["8 documents", "step 1: validation", "done in"]);
}

/// The files below a run directory, without the logs of failed replacements.
fn without_failed(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = everything(run);
    found.retain(|path, _| !text(path.clone()).contains("/failed-run"));
    found
}

/// Runs `genir train --overwrite` with a file size limit of 100 KiB, so that the first checkpoint cannot be written:
/// the process gets an error or, with `killed`, a signal that ends it.
fn train_without_room(recipe: &str, killed: bool) -> std::process::Output {
    let ignore = if killed { "" } else { "trap '' XFSZ;" };
    let script = format!("{ignore} ulimit -c 0; ulimit -f 100; exec \"$@\"");
    let mut command = Command::new("bash");
    command.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_genir")]);
    command.args(["train", recipe, "--overwrite", "train.steps=3"]).output().unwrap()
}

#[test]
fn a_replacement_without_a_checkpoint_restores_the_old_run_and_keeps_the_logs_of_the_new_one() {
    let home = TempDir::new().unwrap();
    let (recipe, run) = (tiny_recipe(&home), home.path().join("run"));
    succeeds(&["train", &recipe, "train.steps=1"]);
    fs::write(run.join("notes.md"), "mine").unwrap();
    let before = everything(&run);

    // The loss becomes infinite or NaN after some steps.
    let diverges = ["train", &recipe, "--overwrite", "optimizer.learning_rate=1e20"];
    fails(&diverges, &["the update was not applied"]);
    assert!(without_failed(&run) == before);
    let failed = run.join("failed-run");
    assert_says(&fs::read_to_string(failed.join("log.txt")).unwrap(), &["8 documents"]);
    assert_says(&fs::read_to_string(failed.join("recipe.toml")).unwrap(), &["steps = 30"]);
    for name in ["metrics.jsonl", "environment.json", "tensorboard"] {
        assert!(failed.join(name).exists(), "{name}");
    }

    // A full disk, reported as an error.
    let done = train_without_room(&recipe, false);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert_says(&said, &["File too large", "was restored", "failed-run-2", "error: "]);
    assert!(without_failed(&run) == before);

    // A killed process: the next start restores the old run, even if that start is refused.
    let done = train_without_room(&recipe, true);
    assert_eq!(done.status.code(), None, "{done:?}");
    assert!(run.join(".genir-old/checkpoints/latest").exists());
    let next = genir_with_input(&["train", &recipe], "");
    assert_says(&next.stderr, &["was restored", "failed-run-3", "already holds a run"]);
    assert!(without_failed(&run) == before);
    succeeds(&["search", &text(run.clone()), "gold"]);

    // With its first checkpoint a run has replaced the old one, whatever comes after.
    fails(&[&diverges[..], &["save.every_steps=1"]].concat(), &["was not applied"]);
    assert_says(&fs::read_to_string(run.join("recipe.toml")).unwrap(), &["steps = 30"]);
    assert!(
        run.join("checkpoints/step-000001").exists() && run.join("failed-run/log.txt").exists()
    );
    assert!(!run.join(".genir-old").exists() && run.join("notes.md").exists());

    // It does so at once, not at its end.
    let mut command = Command::new(env!("CARGO_BIN_EXE_genir"));
    command.args(["train", &recipe, "--overwrite", "train.steps=1000000", "save.every_steps=5"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    let (mut running, begun) = (Killed(command.spawn().unwrap()), Instant::now());
    let replaced = || {
        let recipe = fs::read_to_string(run.join("recipe.toml")).unwrap_or_default();
        recipe.contains("steps = 1000000")
            && run.join("checkpoints/latest").exists()
            && !run.join(".genir-old").exists()
    };
    while !replaced() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the old run is still there");
        assert!(running.0.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
}
