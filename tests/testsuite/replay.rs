//! A failed step leaves the state before it, `genir replay` repeats steps and finds every changed bit, and `[watch]` warns
//! or stops where the recipe says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::interrupted_run::Home;

/// Standard output, standard error and the exit code of `genir replay`.
fn replay(home: &Home, step: u64) -> (String, String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_genir"))
        .args(["replay".as_ref(), home.run().as_os_str()])
        .args(["--step", &step.to_string()])
        .env_remove("RUST_LOG")
        .env("RAYON_NUM_THREADS", "2")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code().unwrap())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

/// All files below `directory` with their bytes; links with their targets.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            found.insert(path, target.into_os_string().into_encoded_bytes());
        } else if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn json(path: &Path) -> Map<String, Value> {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The rate rises so fast that a step soon is not finite, while the weights still are.
const RISING: [&str; 3] =
    ["optimizer.learning_rate=1e20", "schedule.warmup_steps=30", "evaluate.memorisation=0"];

#[test]
fn a_failed_step_leaves_the_state_before_it_and_replay_repeats_its_value() {
    let home = TempDir::new().unwrap();
    let home = Home::new(home.path(), &[&RISING[..], &["save.every_steps=1000"]].concat());
    let failed = home.command().output().unwrap();
    let said = stderr(&failed);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    let directory = home.run().join("failed-step");
    let report = json(&directory.join("report.json"));
    let step = report["step"].as_u64().unwrap();
    let state = format!("step-{:06}", step - 1);
    assert_eq!(names(&directory), ["report.json", &state]);
    assert!(names(&home.run().join("checkpoints")).is_empty());
    let command = format!("genir replay {} --step {step}", home.run().display());
    assert_says(&said, &[&command, &state, "learning rate", "Its examples: "]);
    assert!(!report["examples"].as_array().unwrap().is_empty());

    let before = contents(&home.run());
    let (printed, errors, code) = replay(&home, step);
    let value = report["value"].as_str().unwrap();
    assert_says(&printed, &[&state, &format!("is {value}"), "report.json: same", "same: all bits"]);
    assert_eq!(code, 0, "{printed}{errors}");
    assert!(contents(&home.run()) == before, "replay wrote into the run");

    // Another recorded value is a difference.
    let path = directory.join("report.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&format!("\"value\": \"{value}\""), "\"value\": \"-inf\""))
        .unwrap();
    let (printed, errors, code) = replay(&home, step);
    assert_eq!(code, 1, "{printed}{errors}");
    assert_says(&printed, &["report.json: DIFFERS", "recorded -inf"]);

    // The next run in the directory replaces the dump with all else.
    let next =
        home.command().args(["--overwrite", "optimizer.learning_rate=1e-3"]).output().unwrap();
    assert!(next.status.success(), "{}", stderr(&next));
    assert!(!directory.exists());
}

#[test]
fn a_failed_step_displaces_no_checkpoint_and_its_dump_is_replaced_by_the_next() {
    let home = TempDir::new().unwrap();
    let more = ["save.every_steps=1", "save.keep_last=1", "save.best_metric=validation/hits@1"];
    let home = Home::new(home.path(), &[&RISING[..], &more].concat());
    for _ in 0..2 {
        let said = stderr(&home.command().output().unwrap());
        let report = json(&home.run().join("failed-step/report.json"));
        let state = format!("step-{:06}", report["step"].as_u64().unwrap() - 1);
        assert_eq!(names(&home.run().join("checkpoints")), ["latest", &state], "{said}");
        assert_eq!(names(&home.run().join("failed-step")), ["report.json", &state]);
    }
    let log = fs::read_to_string(home.run().join("log.txt")).unwrap();
    assert_says(&log, &["the run continues from", "/checkpoints/step-"]);
}

#[test]
fn damaged_parameters_are_no_dump_and_are_found_at_once_where_the_recipe_says() {
    let directory = TempDir::new().unwrap();
    let overrides = ["optimizer.learning_rate=1e300", "evaluate.memorisation=0"];
    let home = Home::new(&directory.path().join("unwatched"), &overrides);
    let said = stderr(&home.command().output().unwrap());
    assert_says(&said, &["at step 2", "the state before step 2 is not stored", "are not finite"]);
    assert_eq!(names(&home.run().join("failed-step")), ["report.json"]);

    let watched = [&overrides[..], &["watch.parameters_every_steps=1"]].concat();
    let home = Home::new(&directory.path().join("watched"), &watched);
    let failed = home.command().output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert_says(&stderr(&failed), &["values that are NaN or infinite after step 1", "--step 1"]);
    assert!(names(&home.run().join("checkpoints")).is_empty());
    let (printed, _, _) = replay(&home, 1);
    assert_says(&printed, &["from the model before the first step", "NaN or infinite after it"]);
}

/// Adds a bit to the first value of a file of tensors.
fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn replay_finds_the_same_bits_in_a_healthy_run_and_a_flipped_one_in_a_damaged_one() {
    let kinds: [&[&str]; 3] = [
        &[],
        &["trainable.select=[\"restricted\"]"],
        &["train.accumulate=2", "train.batch_size=3", "optimizer.name=adafactor"],
    ];
    for more in kinds {
        let home = TempDir::new().unwrap();
        let overrides = [&["save.every_steps=10", "save.keep_last=9"], more].concat();
        let home = Home::new(home.path(), &overrides);
        home.train();
        let (before, results) = (contents(&home.run()), home.results());
        let (printed, errors, code) = replay(&home, 20);
        assert_eq!(code, 0, "{more:?}: {printed}{errors}");
        let of_20 = "metrics.jsonl: same, checkpoints/step-000020: same";
        assert_says(&printed, &["checkpoints/step-000010", of_20, "same: all bits"]);
        assert_eq!(printed.matches("metrics.jsonl: same").count(), 10);
        let (printed, _, code) = replay(&home, 3);
        assert_eq!((code, printed.matches("metrics.jsonl: same").count()), (0, 3), "{printed}");
        assert!(contents(&home.run()) == before, "replay wrote into the run");
        home.results().assert_same(&results, "after a replay");

        let checkpoint = home.run().join("checkpoints/step-000020");
        let manifest = checkpoint.join("genir.json");
        let whole = fs::read(&manifest).unwrap();
        for (file, what) in
            [("model.safetensors", "weights: 1 of"), ("optimizer.safetensors", "moments: 1 of")]
        {
            let path = checkpoint.join(file);
            flip_a_bit(&path);
            let (printed, _, code) = replay(&home, 20);
            assert_eq!(code, 1, "{printed}");
            assert_says(&printed, &["step-000020: DIFFERS", "checksum", "\ndiffers\n"]);
            let mut without = json(&manifest);
            without.remove("files");
            fs::write(&manifest, Value::from(without).to_string()).unwrap();
            let (printed, _, code) = replay(&home, 20);
            assert_eq!(code, 1, "{printed}");
            let value = "(1 of ";
            assert_says(&printed, &["step-000020: DIFFERS", what, "the first is `", value]);
            flip_a_bit(&path);
            fs::write(&manifest, &whole).unwrap();
        }
        // A damaged state is found by the steps that follow from it.
        flip_a_bit(&home.run().join("checkpoints/step-000010/model.safetensors"));
        let manifest = home.run().join("checkpoints/step-000010/genir.json");
        let (printed, errors, _) = replay(&home, 20);
        assert_says(&errors, &["passed over", "step-000010"]);
        let result = "checkpoints/step-000020: same";
        let damaged = "checkpoints/step-000010: DIFFERS";
        assert_says(&printed, &["from the model before the first step", damaged, result]);
        if more.iter().any(|key| key.starts_with("trainable")) {
            // The tensor belongs to the frozen prefix, whose stored outputs are used.
            continue;
        }
        let mut without = json(&manifest);
        without.remove("files");
        fs::write(&manifest, Value::from(without).to_string()).unwrap();
        let (printed, _, code) = replay(&home, 20);
        assert_eq!(code, 1, "{printed}");
        assert_says(&printed, &["checkpoints/step-000020: DIFFERS"]);
    }
}

#[test]
fn replay_refuses_a_step_that_the_run_does_not_have_and_a_directory_of_no_run() {
    let home = TempDir::new().unwrap();
    let home = Home::new(home.path(), &[]);
    home.train();
    for step in [0, 31] {
        let (_, errors, code) = replay(&home, step);
        assert_eq!(code, 1);
        assert_says(&errors, &["expected a step from 1 to 30"]);
    }
    fs::remove_file(home.run().join("environment.json")).unwrap();
    assert_says(&replay(&home, 3).1, &["is not a run directory"]);
}

const SPIKES: [&str; 8] = [
    "optimizer.learning_rate=3e-1",
    "schedule.warmup_steps=20",
    "evaluate.memorisation=0",
    "save.every_steps=1",
    "save.keep_last=100",
    "watch.spike_factor=1.01",
    "watch.spike_window=4",
    "watch.spike_patience=2",
];

/// The step of the first warning that the losses of a run should give.
fn first_spike(run: &Path) -> u64 {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let losses: Vec<f64> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["loss/train"].as_f64())
        .collect();
    let is_spike =
        |at: usize| at >= 4 && losses[at] > 1.01 * losses[at - 4..at].iter().sum::<f64>() / 4.0;
    let at = (1..losses.len()).find(|&at| is_spike(at) && is_spike(at - 1));
    at.unwrap_or_else(|| panic!("no spike in {losses:?}")) as u64 + 1
}

#[test]
fn a_loss_spike_warns_or_stops_at_its_update_also_across_a_resume() {
    let directory = TempDir::new().unwrap();
    let warned = Home::new(&directory.path().join("warned"), &SPIKES);
    let said = stderr(&warned.train());
    let step = first_spike(&warned.run());
    assert_says(&said, &[&format!("step {step}: loss spike"), "2 updates in a row"]);
    assert_eq!(json(&warned.run().join("summary.json"))["steps"], 30);

    let stopped = Home::new(
        &directory.path().join("stopped"),
        &[&SPIKES[..], &["watch.on_spike=stop"]].concat(),
    );
    let said = stderr(&stopped.train());
    assert_says(&said, &[&format!("stopped after step {step}: loss spike")]);
    let summary = json(&stopped.run().join("summary.json"));
    assert_eq!((&summary["steps"], &summary["ended"]), (&step.into(), &"stopped".into()));

    // From the update before: the window and the first spike are in the checkpoint.
    let before = format!("step-{:06}", step - 1);
    let continued =
        warned.command().args(["watch.on_spike=stop", "--resume", &before]).output().unwrap();
    assert_says(&stderr(&continued), &[&format!("stopped after step {step}: loss spike")]);
    // Without the watch, it goes on.
    let mut onward = stopped.command();
    let onward = onward.args(["watch.on_spike=warn", "--resume", "latest"]).output().unwrap();
    assert!(onward.status.success(), "{}", stderr(&onward));
    assert_eq!(json(&stopped.run().join("summary.json"))["steps"], 30);
}

#[test]
fn keys_of_the_spike_watch_need_its_factor() {
    let home = TempDir::new().unwrap();
    let overrides = ["watch.on_spike=stop", "watch.spike_window=20000"];
    let home = Home::new(home.path(), &overrides);
    let said = stderr(&home.command().output().unwrap());
    assert_says(&said, &["watch.on_spike", "watch.spike_factor", "from 1 to 10000"]);
}
