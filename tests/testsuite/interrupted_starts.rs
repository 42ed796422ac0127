//! Whenever a start is killed, one complete run exists, and the same command continues: a start is killed at each of
//! its changes of the file system, and so is the next start during recovery.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use genir::run::{Environment, NewRun, Overwrite, RunDirectory, RunError};
use tempfile::TempDir;

use crate::everything::everything;
use crate::killed::Killer;
use crate::tiny_corpus;

/// Directory to which the log of a replacement without a checkpoint is moved.
const FAILED: &str = "failed-run";

/// A directory in memory if there is one, since thousands of files are flushed.
fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    TempDir::new_in(memory).or_else(|_| TempDir::new()).unwrap()
}

/// A run directory with a file of the user.
fn old_run(path: &Path) {
    let run =
        RunDirectory::create(path, Overwrite::Refuse, "old", &Environment::capture("cpu")).unwrap();
    let checkpoint = run.checkpoints().join("step-1");
    fs::create_dir(&checkpoint).unwrap();
    fs::write(checkpoint.join("model.safetensors"), "old weights").unwrap();
    std::os::unix::fs::symlink("step-1", run.checkpoints().join("best")).unwrap();
    fs::create_dir(run.probes()).unwrap();
    for (path, content) in [
        (run.log(), "old log"),
        (run.metrics(), "{}\n"),
        (run.probes().join("logit_lens.jsonl"), "{}\n"),
        (path.join("notes.md"), "mine"),
    ] {
        fs::write(path, content).unwrap();
    }
}

/// Starts a run in `directory` and opens its log; [`child`] calls it in a separate process.
fn starter(directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "interrupted_starts::child", "--ignored"]).env("START_IN", directory);
    command
}

#[test]
#[ignore = "run by the other tests, to be killed"]
fn child() {
    let Some(path) = std::env::var_os("START_IN") else { return };
    let mut new = NewRun::claim(Path::new(&path), Overwrite::Replace).unwrap();
    new.begin("new", &Environment::capture("cpu")).unwrap();
    fs::write(new.directory().log(), "new log").unwrap();
    if new.replaces() {
        // As in training, where a first run is kept before it logs.
        fs::write(new.directory().metrics(), "{}\n").unwrap();
    }
    new.commit().unwrap();
}

/// Returns the recipe of the run that the next start finds and refuses to replace; `None` if it would start a run.
fn found(path: &Path) -> Option<String> {
    match NewRun::claim(path, Overwrite::Refuse) {
        Err(RunError::Exists { .. }) => {
            Some(fs::read_to_string(RunDirectory::open(path).unwrap().recipe()).unwrap())
        }
        Err(error) => panic!("{error}"),
        Ok(_) => None,
    }
}

/// Kills starts at every change and, for each of them, the next start at every third change (with another offset each
/// time), in the directory that `prepare` creates. The resulting directory is passed to `check`.
fn kill_everywhere(prepare: impl Fn(&Path), check: impl Fn(&Path, Option<String>, &str)) {
    let (home, tools) = (in_memory(), TempDir::new().unwrap());
    let Some(killer) = Killer::build(tools.path()) else { return };
    let path = home.path().join("run");
    let mut first = 0;
    loop {
        first += 1;
        let mut again = first % 3;
        let reached = loop {
            let _ = fs::remove_dir_all(&path);
            prepare(&path);
            let killed = killer.kill(&mut starter(&path), &path, first);
            let killed_again =
                killed && again > 0 && killer.kill(&mut starter(&path), &path, again);
            let found = found(&path);
            check(&path, found, &format!("killed at {first}, then at {again}"));
            if !killed_again && again > 0 || !killed {
                break killed;
            }
            again += 3;
        };
        if !reached {
            break;
        }
    }
    assert!(first > 15, "only {first} changes: is the killer at work?");
}

#[test]
fn a_replacement_that_is_killed_anywhere_leaves_the_complete_old_run_or_the_new_one() {
    let template = TempDir::new().unwrap();
    let old_at = template.path().join("run");
    let (seen, failures) = (AtomicUsize::new(0), AtomicUsize::new(0));
    old_run(&old_at);
    let old = relative(&old_at);
    kill_everywhere(
        |path| copy(&old_at, path),
        |path, found, when| {
            // What a replacement has logged that was killed before: all of it.
            let (failed, now): (BTreeMap<_, _>, BTreeMap<_, _>) =
                relative(path).into_iter().partition(|(path, _)| {
                    // One for each of two replacements that were killed.
                    path.starts_with(FAILED) || path.starts_with(format!("{FAILED}-2"))
                });
            if !failed.is_empty() {
                failures.fetch_add(1, Ordering::Relaxed);
                let logged = |name: &str| failed.get(&Path::new(FAILED).join(name));
                assert_eq!(logged("log.txt").unwrap(), b"new log", "{when}");
                assert_eq!(logged("metrics.jsonl").unwrap(), b"{}\n", "{when}");
                assert_eq!(logged("recipe.toml").unwrap(), b"new", "{when}");
            }
            match found.as_deref() {
                Some("old") => {
                    assert!(now == old, "{when}");
                }
                Some("new") => {
                    seen.fetch_add(1, Ordering::Relaxed);
                    let names = now.keys().filter_map(|name| name.to_str());
                    // It logs only where it replaces a run with a checkpoint.
                    let names: Vec<&str> = names.filter(|name| *name != "metrics.jsonl").collect();
                    let new = [
                        "checkpoints",
                        "environment.json",
                        "log.txt",
                        "notes.md",
                        "recipe.toml",
                        "retrieval",
                        "tensorboard",
                    ];
                    assert_eq!(names, new, "{when}");
                    assert_eq!(now[Path::new("log.txt")], b"new log", "{when}");
                }
                other => panic!("{when}: found {other:?}"),
            }
            assert_eq!(fs::read_to_string(path.join("notes.md")).unwrap(), "mine", "{when}");
        },
    );
    assert!(seen.into_inner() > 1, "some starts reach their end");
    assert!(failures.into_inner() > 1, "some starts have logged metrics before they are killed");
}

#[test]
fn a_first_start_that_is_killed_anywhere_does_not_block_the_next() {
    kill_everywhere(
        |_| {},
        |path, found, when| match found.as_deref() {
            // The start would succeed; as it was only checked, the directory has been removed.
            None => assert!(!path.exists() || relative(path).is_empty(), "{when}"),
            Some(recipe) => assert_eq!(recipe, "new", "{when}"),
        },
    );
}

/// The files by path relative to `directory`, without the lock file of a dead owner, which has no effect.
fn relative(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let strip = |(path, content): (PathBuf, Vec<u8>)| {
        (path.strip_prefix(directory).unwrap().to_path_buf(), content)
    };
    let is_lock = |path: &PathBuf| path.ends_with(".genir.lock");
    everything(directory).into_iter().map(strip).filter(|(path, _)| !is_lock(path)).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if let Ok(link) = fs::read_link(&path) {
            std::os::unix::fs::symlink(link, to).unwrap();
        } else if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// Returns the command `genir` with these arguments.
fn genir(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_genir"));
    command.args(arguments);
    command
}

#[track_caller]
fn succeeds(arguments: &[&str]) {
    let output = genir(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

#[test]
fn a_command_killed_anywhere_in_its_start_continues_when_it_is_repeated() {
    let (home, tools) = (in_memory(), TempDir::new().unwrap());
    let Some(killer) = Killer::build(tools.path()) else { return };
    let (recipe, run) = (home.path().join("tiny.toml"), home.path().join("run"));
    fs::write(&recipe, tiny_corpus::recipe(home.path())).unwrap();
    let recipe = recipe.to_str().unwrap().to_owned();
    succeeds(&["train", &recipe, "train.steps=1", "evaluate.memorisation=0"]);
    fs::write(run.join("notes.md"), "mine").unwrap();
    let old_at = home.path().join("old");
    fs::rename(&run, &old_at).unwrap();
    let old = relative(&old_at);

    let next = AtomicUsize::new(1);
    let arguments = |run: &Path| {
        let directory = format!("run.directory={}", run.display());
        ["train", &recipe, "train.steps=2", "evaluate.memorisation=0", "--overwrite", &directory]
            .map(str::to_owned)
    };
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let run = home.path().join(format!("run-{worker}"));
            let (next, old, old_at, killer) = (&next, &old, &old_at, &killer);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let _ = fs::remove_dir_all(&run);
                    copy(old_at, &run);
                    let arguments = arguments(&run);
                    let arguments = arguments.each_ref().map(String::as_str);
                    assert!(killer.kill(&mut genir(&arguments), &run, at), "at {at}");
                    let has_begun = found(&run).unwrap().contains("steps = 2");
                    let is_failed = |path: &Path| path.starts_with(FAILED);
                    if has_begun {
                        let weights = run.join("checkpoints/latest/model.safetensors");
                        assert!(weights.exists(), "killed at {at}");
                    } else {
                        let mut now = relative(&run);
                        // A trial directory is removed by the next successful start.
                        let is_trial =
                            |path: &Path| path.to_string_lossy().starts_with(".genir-trial-");
                        now.retain(|path, _| !is_failed(path) && !is_trial(path));
                        assert!(&now == old, "killed at {at}");
                    }
                    succeeds(&arguments);
                    assert!(run.join("checkpoints/latest/model.safetensors").exists(), "{at}");
                    assert_eq!(fs::read_to_string(run.join("notes.md")).unwrap(), "mine");
                    let left: Vec<PathBuf> = relative(&run).into_keys().collect();
                    let hidden = |path: &&PathBuf| {
                        let name = path.to_string_lossy();
                        !is_failed(path) && (name.contains("/.") || name.starts_with('.'))
                    };
                    assert_eq!(left.iter().find(hidden), None, "killed at {at}");
                    if has_begun {
                        break;
                    }
                }
            });
        }
    });
    assert!(next.into_inner() > 20, "is the killer at work?");
}
