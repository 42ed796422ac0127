//! An existing run is never lost by accident, and a run says what it ran on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use genir::run::{Environment, Overwrite, RunDirectory, RunError};

const RECIPE: &str = "[training]\nsteps = 10\n";

fn create(path: &Path, overwrite: Overwrite) -> Result<RunDirectory, RunError> {
    RunDirectory::create(path, overwrite, RECIPE, &Environment::capture("cpu"))
}

/// Every file below a directory, with its content.
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
fn a_new_run_holds_its_recipe_and_environment_from_the_start() {
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
fn replacing_a_run_deletes_what_runs_write_and_nothing_else() {
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
        // Checkpoints kept on another disk.
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
fn a_directory_that_is_no_run_is_never_deleted() {
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
fn what_is_no_run_cannot_be_opened() {
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
fn a_file_in_the_way_is_an_error_that_names_it() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("file");
    fs::write(&path, "a file").unwrap();
    let error = create(&path, Overwrite::Replace).unwrap_err();
    assert!(matches!(error, RunError::File(_)), "{error}");
    assert!(error.to_string().contains("file"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
}
