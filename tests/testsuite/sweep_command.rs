//! `genir sweep`: every run is checked before the first one starts, what is done is not done again, and the arms are compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::command::{Done, assert_says, genir_with_input, is_refused, succeeds};
use crate::tiny_recipe::tiny_recipe;

/// A directory with the tiny recipe, and the sweep in it.
struct Home {
    directory: TempDir,
    recipe: String,
}

impl Home {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let recipe = tiny_recipe(&directory);
        Self { directory, recipe }
    }

    fn sweep(&self) -> PathBuf {
        self.directory.path().join("sweep")
    }

    /// The arguments of a sweep of the tiny recipe.
    fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<String> {
        let directory = format!("--directory={}", self.sweep().display());
        let mut arguments = vec!["sweep".to_owned(), self.recipe.clone(), directory];
        arguments.extend(more.iter().map(|&text| text.to_owned()));
        arguments
    }

    fn run(&self, more: &[&str]) -> Done {
        let arguments = self.arguments(more);
        genir_with_input(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), "")
    }

    fn start(&self, more: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_genir"))
            .args(self.arguments(more))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn record(&self) -> Value {
        json(&self.sweep().join("sweep.json"))
    }

    /// The status of each run in `sweep.json`.
    fn statuses(&self) -> BTreeMap<String, String> {
        let of = |run: &Value| {
            let name = Path::new(run["directory"].as_str().unwrap()).file_name().unwrap();
            (name.to_str().unwrap().to_owned(), run["status"].as_str().unwrap().to_owned())
        };
        self.record()["runs"].as_array().unwrap().iter().map(of).collect()
    }

    fn environment(&self, run: &str) -> Value {
        json(&self.sweep().join(run).join("environment.json"))
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Waits until `is_so`, for a minute at most.
#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        sleep(Duration::from_millis(20));
    }
}

fn kill(signal: &str, process: &Child) {
    let status = Command::new("kill").args([signal, &process.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn statuses<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(run, status)| (run.to_owned(), status.to_owned())).into()
}

#[test]
fn all_arms_and_seeds_are_trained_and_compared_and_what_is_done_is_not_done_again() {
    let home = Home::new();
    let arguments = ["--arms", "full,restricted,bm25", "--seeds", "1-2"];
    let done = home.run(&arguments);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let finished =
        ["full-seed-1", "restricted-seed-1", "full-seed-2", "restricted-seed-2", "bm25.run"]
            .map(|run| (run, "finished"));
    assert_eq!(home.statuses(), statuses(finished));
    let run = |name: &str| home.sweep().join(name).display().to_string();
    for seed in ["1", "2"] {
        let recipe =
            fs::read_to_string(run(&format!("restricted-seed-{seed}/recipe.toml"))).unwrap();
        assert_says(
            &recipe,
            &["select = [\"restricted\", \"docids\"]", &format!("seed = {seed}\n")],
        );
    }
    // The command of a run trains it alone.
    let command = home.environment("full-seed-1")["command"].clone();
    let arguments_of_run: Vec<&str> =
        command.as_array().unwrap()[1..].iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(arguments_of_run, ["train", &run("recipes/full-seed-1.toml")]);
    // The comparison is that of `genir compare`.
    let inputs = ["full=full-seed-1", "full=full-seed-2", "restricted=restricted-seed-1"]
        .into_iter()
        .chain(["restricted=restricted-seed-2", "bm25=bm25.run"])
        .map(|text| {
            let (arm, name) = text.split_once('=').unwrap();
            format!("{arm}={}", run(name))
        });
    let inputs: Vec<String> = inputs.collect();
    let compared = |format: &str| {
        let words = ["compare", "--format", format].into_iter();
        succeeds(&words.chain(inputs.iter().map(String::as_str)).collect::<Vec<_>>()).stdout
    };
    let table = compared("table");
    assert_eq!(done.stdout, table);
    assert_eq!(
        fs::read_to_string(home.sweep().join("comparison.md")).unwrap().trim_end(),
        table.trim_end()
    );
    let page = fs::read_to_string(home.sweep().join("report.html")).unwrap();
    for part in ["<section id=\"comparison\"", "restricted", "bm25"] {
        assert!(page.contains(part), "{part}");
    }
    let written = json(&home.sweep().join("comparison.json"));
    assert_eq!(written, serde_json::from_str::<Value>(&compared("json")).unwrap());

    let before: Vec<Value> =
        ["full-seed-1", "restricted-seed-2"].map(|run| home.environment(run)).into();
    let again = home.run(&arguments);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(!again.stderr.contains("starts"), "{}", again.stderr);
    let after: Vec<Value> =
        ["full-seed-1", "restricted-seed-2"].map(|run| home.environment(run)).into();
    assert_eq!(after, before);
    assert_eq!(again.stdout, done.stdout);

    // More arms are added to what is there.
    let more = home.run(&["--arms", "full,docids", "--seeds", "1"]);
    assert_eq!(more.code, 0, "{}", more.stderr);
    assert_says(&more.stderr, &["docids-seed-1 starts", "full-seed-1    finished"]);

    // Another recipe in the same directory is refused, with what differs.
    let other =
        home.run(&["--arms", "full,restricted", "--seeds", "1", "optimizer.learning_rate=0.5"]);
    assert_eq!(other.code, 1);
    assert_says(
        &other.stderr,
        &[
            "arm full: ",
            "arm restricted: ",
            "full-seed-1 holds a finished run of another recipe",
            "optimizer.learning_rate: 0.003 in the run, 0.5 now",
        ],
    );
}

/// An arm that is done in a moment, and one that takes seconds.
const SHORT_AND_LONG: [&str; 5] = [
    "--arm",
    "short: trainable.select=[\"docids\"] train.steps=3",
    "--arm",
    "long: trainable.select=[\"full\"] train.steps=6000",
    "save.every_steps=20",
];

/// Waits until the long run has a checkpoint.
fn wait_for_checkpoint(home: &Home) {
    let latest = home.sweep().join("long-seed-3/checkpoints/latest");
    wait_until("the second run has a checkpoint", || latest.exists());
}

#[test]
fn a_killed_sweep_continues_where_it_was() {
    let home = Home::new();
    let mut sweep = home.start(&SHORT_AND_LONG);
    wait_for_checkpoint(&home);
    sweep.kill().unwrap();
    sweep.wait().unwrap();
    // The run saves and ends when nobody waits for it any more.
    let lock = home.sweep().join("long-seed-3/.genir.lock");
    wait_until("the run of a killed sweep ends", || !lock.exists());
    let summary = json(&home.sweep().join("long-seed-3/summary.json"));
    assert_eq!(summary["ended"], "interrupted", "{summary}");
    let stopped_at = summary["steps"].as_u64().unwrap();
    assert!(stopped_at < 6000);
    let short = home.environment("short-seed-3");

    let done = home.run(&SHORT_AND_LONG);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_says(&done.stderr, &[&format!("continues after step {stopped_at} of 6000")]);
    assert_eq!(
        home.statuses(),
        statuses([("short-seed-3", "finished"), ("long-seed-3", "finished")])
    );
    assert_eq!(home.environment("short-seed-3"), short, "it was not trained again");
    let resumed = home.environment("long-seed-3")["resumed"].clone();
    assert_eq!(resumed[0]["step"], stopped_at, "{resumed}");
    assert!(home.sweep().join("comparison.json").exists());
}

#[test]
fn signals_save_or_end_the_current_run_and_a_second_sweep_of_the_directory_is_refused() {
    let home = Home::new();
    let arguments = [&["--seeds", "3,4"], &SHORT_AND_LONG[..]].concat();
    let mut sweep = home.start(&arguments);
    wait_for_checkpoint(&home);
    let second = home.run(&arguments);
    assert_eq!(second.code, 1, "{}", second.stderr);
    let in_use = format!("{} is in use by process {}", home.sweep().display(), sweep.id());
    assert_says(&second.stderr, &[&in_use, "choose another directory"]);
    let checkpoints = home.sweep().join("long-seed-3/checkpoints");
    wait_until("SIGUSR1 saves the current run", || {
        kill("-USR1", &sweep);
        let names = fs::read_dir(&checkpoints).unwrap().map(|entry| entry.unwrap().file_name());
        let step = |name: &str| name.strip_prefix("step-")?.parse().ok();
        // Without the signal, checkpoints are written every 20 steps.
        let mut steps = names.filter_map(|name| step(name.to_str()?));
        steps.any(|step: u64| !step.is_multiple_of(20))
    });
    assert_eq!(home.statuses()["long-seed-3"], "running");
    // Not SIGINT, which a shell's background jobs ignore, and the sweep with them.
    kill("-TERM", &sweep);
    assert_eq!(sweep.wait().unwrap().code(), Some(143));
    let expected = [
        ("short-seed-3", "finished"),
        ("long-seed-3", "interrupted"),
        ("short-seed-4", "waiting"),
        ("long-seed-4", "waiting"),
    ];
    assert_eq!(home.statuses(), statuses(expected));
    let summary = json(&home.sweep().join("long-seed-3/summary.json"));
    assert_eq!(summary["ended"], "interrupted");
    let shown = home.run(&[&["--dry-run"], &arguments[..]].concat());
    let continues = format!("continues after step {} of 6000", summary["steps"]);
    assert_says(&shown.stdout, &[&continues, "short-seed-3  finished"]);
}

#[test]
fn an_arm_that_fails_does_not_stop_the_others() {
    let home = Home::new();
    let arguments = [
        "--arms",
        "full,docids",
        "--arm",
        "broken: trainable.select=[\"full\"] optimizer.learning_rate=1e30 optimizer.clip_norm=0",
    ];
    let done = home.run(&arguments);
    assert_eq!(done.code, 1, "{}", done.stderr);
    let error = done.stderr.rsplit("error: ").next().unwrap();
    let broken = home.sweep().join("broken-seed-3").display().to_string();
    assert_says(
        error,
        &["1 of 3 runs did not finish", &format!("{broken}: the "), " is NaN at step "],
    );
    let expected =
        [("broken-seed-3", "failed"), ("full-seed-3", "finished"), ("docids-seed-3", "finished")];
    assert_eq!(home.statuses(), statuses(expected));
    let record = home.record();
    let reason = record["runs"][0]["reason"].as_str().unwrap();
    assert!(reason.contains(" is NaN at step "), "{reason}");
    assert_says(&done.stdout, &["| full ", "| docids "]);
    assert!(!done.stdout.contains("broken"), "{}", done.stdout);
    let again = home.run(&arguments);
    assert_eq!(again.code, 1);
    let started: Vec<&str> =
        again.stderr.lines().filter(|line| line.contains(" starts  (")).collect();
    assert_eq!(started.len(), 1, "{started:?}");
    assert!(started[0].contains("broken-seed-3"), "{started:?}");
}

#[test]
fn all_problems_of_all_arms_are_reported_before_anything_is_written() {
    let home = Home::new();
    let done = home.run(&[
        "--arms",
        "full,restrictd",
        "--arm",
        "one: trainable.select=[\"decoder.mlp[99]\"]",
        "--arm",
        "two: optimizer.learning_rate=-1 trainable.select=[\"full\"]",
        "--arm",
        "three: trainable.select=[\"docids\"] run.seed=4",
        "--arm",
        "four: trainable.select=[\"docids\"] evaluate.splits=[\"test\"]",
        "--arm",
        "five: trainable.select=[\"docids\"] evaluate.vocabulary=\"all\"",
        "--arm",
        "bm25: k2=1",
        "train.epoch=3",
    ]);
    assert_eq!(done.code, 1);
    assert_eq!(done.stdout, "");
    assert_says(&done.stderr, &["--arms: there is no arm `restrictd`; did you mean `restricted`?"]);
    assert_says(&done.stderr, &["all arms: command line: train.epoch = 3: unknown key"]);
    assert_says(&done.stderr, &["arm two: command line: optimizer.learning_rate = -1"]);
    assert_says(&done.stderr, &["arm three: command line: run.seed cannot be set: --seeds"]);
    assert_says(&done.stderr, &["arm bm25: command line: `k2` is not a key of BM25"]);
    assert!(!home.sweep().exists());
    let done = home.run(&[
        "--arm",
        "one: trainable.select=[\"decoder.mlp[99]\"]",
        "--arm",
        "four: trainable.select=[\"docids\"] evaluate.splits=[\"test\"] save.best_metric=\"test/hits@1\"",
        "--arm",
        "five: trainable.select=[\"docids\"] evaluate.vocabulary=\"all\"",
    ]);
    assert_eq!(done.code, 1);
    assert_says(&done.stderr, &["arm one: trainable.select: selector `decoder.mlp[99]`"]);
    assert_says(&done.stderr, &["arm four: evaluate.splits = [\"test\"]: the sweep compares"]);
    assert_says(
        &done.stderr,
        &["evaluate.vocabulary is \"docids\" in the arm one and \"all\" in the arm five"],
    );
    assert!(!home.sweep().exists());
}

#[test]
fn a_file_holds_a_whole_experiment() {
    let home = Home::new();
    let path = home.directory.path();
    let (file, sweep) = (path.join("sweep.toml"), path.join("own"));
    let text = |more: &str| {
        format!(
            "[sweep]\nrecipe = {:?}\ndirectory = {sweep:?}\nseeds = [5]\n\
             [sweep.arms.docids]\n\
             [sweep.arms.slow]\ntrainable.select = [\"full\"]\noptimizer.learning_rate = 1e-4\n\
             [train]\nsteps = 4\n{more}",
            home.recipe
        )
    };
    fs::write(&file, text("")).unwrap();
    let file = file.to_str().unwrap();
    let shown = succeeds(&["sweep", file, "--dry-run"]).stdout;
    assert_says(
        &shown,
        &[
            "docids-seed-5  4 steps",
            "slow-seed-5    4 steps",
            "  optimizer.learning_rate\n    0.003: docids\n    0.0001: slow\n",
        ],
    );
    assert!(!sweep.exists());
    let done = succeeds(&["sweep", file, "--metrics", "Success@1"]);
    assert_says(&done.stdout, &["| docids ", "| slow ", "Success@1"]);
    assert_says(
        &fs::read_to_string(sweep.join("slow-seed-5/recipe.toml")).unwrap(),
        &["learning_rate = 0.0001", "steps = 4\n"],
    );
    // A subset of its arms.
    let shown = succeeds(&["sweep", file, "--dry-run", "--arms", "slow"]).stdout;
    assert!(shown.contains("slow-seed-5  finished") && !shown.contains("docids-seed"), "{shown}");
    // Problems have the line of the file.
    fs::write(file, text("stepz = 3\n[sweep.arms.bad]\noptimizer.learning_rate = \"high\"\n"))
        .unwrap();
    is_refused(
        &["sweep", file],
        &[
            "all arms: ",
            "sweep.toml line 11: train.stepz = 3: unknown key",
            "arm bad: ",
            "sweep.toml line 13: optimizer.learning_rate = \"high\"",
        ],
    );
    is_refused(&["train", file], &["`genir sweep FILE` runs it"]);
}

#[test]
fn runs_with_the_same_frozen_encoder_share_its_outputs() {
    let home = Home::new();
    succeeds(&["train", &home.recipe, "train.steps=2"]);
    let base = format!("model.base={}", home.directory.path().join("run").display());
    let more = ["--arms", "restricted,lora", "--seeds", "1,2", "train.steps=10", &base];
    let done = home.run(&[&more[..], &["model.init=pretrained", "~model.config"]].concat());
    assert_eq!(done.code, 0, "{}", done.stderr);
    let cached = fs::read_dir(home.directory.path().join("cache")).unwrap();
    let names = cached.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned());
    let files: Vec<String> = names.filter(|name| name.ends_with(".prefix")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
}

#[test]
fn a_directory_of_anything_else_is_not_made_a_sweep() {
    let home = Home::new();
    fs::create_dir(home.sweep()).unwrap();
    fs::write(home.sweep().join("notes.txt"), "mine").unwrap();
    let done = home.run(&["--arms", "full,docids"]);
    assert_eq!(done.code, 1);
    assert_says(&done.stderr, &["not the directory of a sweep", "notes.txt"]);
    assert_eq!(fs::read_dir(home.sweep()).unwrap().count(), 1);
}
