//! An existing run is never lost by accident, and a run records its environment.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use genir::run::{Environment, NewRun, Overwrite, RunDirectory, RunError};

const RECIPE: &str = "[training]\nsteps = 10\n";

fn create(path: &Path, overwrite: Overwrite) -> Result<RunDirectory, RunError> {
    RunDirectory::create(path, overwrite, RECIPE, &Environment::capture("cpu"))
}

/// Returns all files below a directory with their contents.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn a_new_run_has_its_recipe_and_environment_from_the_start() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("runs/first");
    let run = create(&path, Overwrite::Refuse).unwrap();

    assert_eq!(fs::read_to_string(run.recipe()).unwrap(), RECIPE);
    for directory in [run.tensorboard(), run.checkpoints(), run.retrieval()] {
        assert!(directory.is_dir(), "{}", directory.display());
    }
    let opened = RunDirectory::open(&path).unwrap();
    assert_eq!(opened, run);
    let environment = opened.environment().unwrap();
    assert_eq!(environment.genir, env!("CARGO_PKG_VERSION"));
    assert_eq!(environment.device, "cpu");
    assert!(environment.cores.unwrap() >= 1);
    assert!(!environment.command.is_empty());
    assert!(environment.started.ends_with('Z'), "{}", environment.started);
}

#[test]
fn an_empty_directory_may_become_a_run() {
    let temporary = tempfile::tempdir().unwrap();
    create(temporary.path(), Overwrite::Refuse).unwrap();
}

#[test]
fn an_existing_run_is_refused_and_left_untouched() {
    let temporary = tempfile::tempdir().unwrap();
    let run = create(temporary.path(), Overwrite::Refuse).unwrap();
    fs::write(run.checkpoints().join("model.safetensors"), "weights").unwrap();
    let before = files(temporary.path());

    let error = create(temporary.path(), Overwrite::Refuse).unwrap_err();

    assert!(matches!(error, RunError::Exists { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("environment.json") && message.contains("checkpoints/"));
    assert!(message.contains("--overwrite"), "{message}");
    assert_eq!(files(temporary.path()), before);
}

#[test]
fn replacing_a_run_deletes_only_files_that_runs_write() {
    let temporary = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let run = create(temporary.path(), Overwrite::Refuse).unwrap();
    fs::write(run.metrics(), "{}\n").unwrap();
    fs::write(run.tensorboard().join("events"), "old").unwrap();
    fs::create_dir(run.probes()).unwrap();
    fs::write(run.probes().join("logit_lens.jsonl"), "{}\n").unwrap();
    fs::write(temporary.path().join("notes.md"), "mine").unwrap();
    fs::write(elsewhere.path().join("model.safetensors"), "weights").unwrap();
    #[cfg(unix)]
    {
        // Checkpoints on another disk.
        fs::remove_dir(run.checkpoints()).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), run.checkpoints()).unwrap();
    }

    let run = create(temporary.path(), Overwrite::Replace).unwrap();

    assert!(!run.metrics().exists());
    assert!(!run.probes().exists());
    assert_eq!(fs::read_dir(run.tensorboard()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(run.checkpoints()).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(temporary.path().join("notes.md")).unwrap(), "mine");
    assert!(elsewhere.path().join("model.safetensors").exists());
}

#[test]
fn a_directory_that_is_not_a_run_is_never_deleted() {
    for (name, content) in [
        ("thesis.tex", "years of work"),
        ("recipe.toml", RECIPE),
        ("environment.json", "{\"python\": \"3.12\"}"),
    ] {
        let temporary = tempfile::tempdir().unwrap();
        fs::create_dir(temporary.path().join("checkpoints")).unwrap();
        fs::write(temporary.path().join("checkpoints/weights"), "1").unwrap();
        fs::write(temporary.path().join(name), content).unwrap();
        let before = files(temporary.path());
        for overwrite in [Overwrite::Refuse, Overwrite::Replace] {
            let error = create(temporary.path(), overwrite).unwrap_err();
            assert!(matches!(error, RunError::Foreign { .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(files(temporary.path()), before);
        }
    }
}

#[test]
fn a_directory_that_is_not_a_run_cannot_be_opened() {
    let temporary = tempfile::tempdir().unwrap();
    let message = |path: &Path| RunDirectory::open(path).unwrap_err().to_string();
    let text = message(&temporary.path().join("absent"));
    assert!(text.contains("environment.json is missing"), "{text}");

    let run = create(temporary.path(), Overwrite::Refuse).unwrap();
    fs::remove_file(run.recipe()).unwrap();
    let text = message(temporary.path());
    assert!(text.contains("recipe.toml is missing"), "{text}");
}

#[test]
fn a_file_instead_of_the_directory_is_an_error_that_names_it() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("file");
    fs::write(&path, "a file").unwrap();
    let error = create(&path, Overwrite::Replace).unwrap_err();
    assert!(matches!(error, RunError::File(_)), "{error}");
    assert!(error.to_string().contains("file"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
}

#[test]
fn a_failed_start_restores_the_old_run_and_leaves_no_files() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("runs/first");
    // At any moment before the commit of the new run, a directory that did not exist is removed again.
    for begins in [false, true] {
        let mut new = NewRun::claim(&path, Overwrite::Refuse).unwrap();
        if begins {
            new.begin("new", &Environment::capture("cpu")).unwrap();
            fs::write(new.directory().log(), "new").unwrap();
        }
        drop(new);
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }

    let run = create(&path, Overwrite::Refuse).unwrap();
    fs::write(run.checkpoints().join("model.safetensors"), "weights").unwrap();
    fs::write(run.log(), "old").unwrap();
    fs::write(path.join("notes.md"), "mine").unwrap();
    let before = files(&path);
    for begins in [false, true] {
        let mut new = NewRun::claim(&path, Overwrite::Replace).unwrap();
        if begins {
            new.begin("new", &Environment::capture("cpu")).unwrap();
            fs::write(new.directory().metrics(), "new").unwrap();
            fs::write(path.join("written-meanwhile.md"), "mine").unwrap();
        }
        drop(new);
        let mut after = files(&path);
        // The logs of the new run remain, under a separate name.
        let logged = after.remove(&path.join("failed-run/metrics.jsonl").display().to_string());
        assert_eq!(logged.is_some(), begins);
        after.retain(|name, _| !name.contains("/failed-run/"));
        after.remove(&path.join("written-meanwhile.md").display().to_string());
        assert_eq!(after, before);
    }
    assert_eq!(fs::read_to_string(path.join("written-meanwhile.md")).unwrap(), "mine");
}

#[test]
fn a_second_start_is_refused_with_the_owners_process_and_host() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("run");
    let mut first = NewRun::claim(&path, Overwrite::Refuse).unwrap();
    let refused = |overwrite| {
        let error = NewRun::claim(&path, overwrite).unwrap_err();
        assert!(matches!(error, RunError::InUse { .. }), "{error}");
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let owner = format!("process {} on {} since 2", std::process::id(), host.trim());
        assert!(error.to_string().contains(&owner), "{error}");
        assert!(NewRun::check(&path, overwrite).is_err());
    };
    for overwrite in [Overwrite::Refuse, Overwrite::Replace] {
        refused(overwrite);
    }
    first.begin(RECIPE, &Environment::capture("cpu")).unwrap();
    first.commit().unwrap();
    let during = files(&path);
    for overwrite in [Overwrite::Refuse, Overwrite::Replace] {
        refused(overwrite);
    }
    assert_eq!(files(&path), during);
    // Readers need no lock, and the end of the first run releases the directory.
    RunDirectory::open(&path).unwrap();
    drop(first);
    assert!(!path.join(".genir.lock").exists());
    NewRun::check(&path, Overwrite::Replace).unwrap();
    NewRun::claim(&path, Overwrite::Replace).unwrap();
}

#[test]
fn concurrent_starts_use_the_directory_one_at_a_time() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("runs/contended");
    let (inside, kept) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for starter in 0..12 {
            let (path, inside, kept) = (&path, &inside, &kept);
            scope.spawn(move || {
                for attempt in 0..12 {
                    let mut new = match NewRun::claim(path, Overwrite::Replace) {
                        Ok(new) => new,
                        Err(RunError::InUse { .. }) => continue,
                        Err(error) => panic!("{error}"),
                    };
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two are inside");
                    // Some fail at once and remove the directory if they have created it; others fail later.
                    if attempt % 3 > 0 {
                        let recipe = format!("{starter} {attempt}");
                        new.begin(&recipe, &Environment::capture("cpu")).unwrap();
                        assert_eq!(fs::read_to_string(new.directory().recipe()).unwrap(), recipe);
                        if attempt % 3 > 1 {
                            new.commit().unwrap();
                            kept.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
    let found = path.exists() && RunDirectory::open(&path).is_ok();
    assert_eq!(found, kept.into_inner() > 0);
    if found {
        let hidden = |name: &String| name[path.to_str().unwrap().len()..].contains("/.");
        assert_eq!(files(&path).into_keys().find(hidden), None);
    }
}

#[test]
#[cfg(unix)]
fn inputs_that_would_be_removed_are_refused_also_through_links() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("run");
    let run = create(&path, Overwrite::Refuse).unwrap();
    let base = run.checkpoints().join("step-1");
    fs::create_dir(&base).unwrap();
    fs::write(base.join("model.safetensors"), "weights").unwrap();
    std::os::unix::fs::symlink("step-1", run.checkpoints().join("latest")).unwrap();
    let linked = temporary.path().join("linked");
    std::os::unix::fs::symlink(&path, &linked).unwrap();
    let snapshot = temporary.path().join("snapshot");
    fs::create_dir(&snapshot).unwrap();
    std::os::unix::fs::symlink(base.join("model.safetensors"), snapshot.join("model.safetensors"))
        .unwrap();
    fs::create_dir(path.join("corpus")).unwrap();
    fs::write(path.join("corpus/documents.json"), "[]").unwrap();

    for input in [
        base.clone(),
        run.checkpoints().join("latest"),
        linked.join("checkpoints/latest"),
        path.join("../run/checkpoints/latest"),
        snapshot.clone(),
        run.recipe(),
        path.clone(),
    ] {
        let error =
            NewRun::refuse_inputs(&path, [("model.base", input.clone())]).unwrap_err().to_string();
        for words in ["model.base", &input.display().to_string(), "run.directory"] {
            assert!(error.contains(words), "{error}");
        }
    }
    let both = [("model.base", base), ("corpus.generated_queries", snapshot)];
    let error = NewRun::refuse_inputs(&path, both).unwrap_err().to_string();
    assert!(error.contains("model.base") && error.contains("corpus.generated_queries"), "{error}");
    // Files of the user remain, and so may be inputs.
    let fine = [path.join("corpus"), temporary.path().join("elsewhere"), temporary.path().into()];
    NewRun::refuse_inputs(&path, fine.map(|path| ("corpus.path", path))).unwrap();
    assert!(run.checkpoints().join("latest/model.safetensors").exists());
}
