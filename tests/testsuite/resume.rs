//! A run that is killed at any moment goes on by the same command, to the same bytes as a run that was never disturbed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::interrupted_run::{Home, Results};
use crate::sentinels;

/// Numbers that look random and are the same in each run of the tests.
struct Moments(u64);

impl Moments {
    /// A time of at most `longest`.
    fn next(&mut self, longest: Duration) -> Duration {
        // Numerical Recipes' generator; its upper bits are good enough here.
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        longest.mul_f64((self.0 >> 33) as f64 / (1_u64 << 31) as f64)
    }
}

/// Trains undisturbed, then again in another directory with kills at random moments until the run has ended.
/// Returns the number of kills.
fn kill_and_compare(overrides: &[&str], kills: usize, seed: u64) -> usize {
    let home = TempDir::new().unwrap();
    let undisturbed = Home::new(&home.path().join("undisturbed"), overrides);
    let begun = Instant::now();
    undisturbed.train();
    let whole = begun.elapsed();

    let disturbed = Home::new(&home.path().join("disturbed"), overrides);
    let (mut moments, mut killed) = (Moments(seed), 0);
    for _ in 0..kills {
        let mut child = disturbed.command().stderr(Stdio::null()).spawn().unwrap();
        // After the next checkpoint, so that each process gets on; how long after is left to chance.
        let latest = || fs::read_link(disturbed.run().join("checkpoints/latest")).ok();
        let before = latest();
        while latest() == before && child.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_micros(200));
        }
        thread::sleep(moments.next(whole / 12));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        killed += 1;
    }
    if !disturbed.run().join("summary.json").exists() {
        disturbed.train();
    }
    disturbed.results().assert_same(&undisturbed.results(), &format!("{overrides:?}"));
    let log = fs::read_to_string(disturbed.run().join("log.txt")).unwrap();
    let continued = log.matches("the run continues from").count();
    assert!(killed > 0 && continued > 0, "{killed} kills, {continued} continued: too fast?");
    killed
}

const OFTEN: [&str; 4] =
    ["train.steps=120", "save.every_steps=7", "evaluate.every_steps=10", "save.keep_last=3"];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    OFTEN.iter().copied().chain(more.iter().copied()).collect()
}

#[test]
fn a_killed_full_run_continues_to_the_same_bytes() {
    kill_and_compare(&with(&["log.every_steps=4"]), 6, 1);
}

#[test]
fn a_killed_run_with_denoising_continues_to_the_same_bytes() {
    let bases = TempDir::new().unwrap();
    sentinels::write_base(bases.path(), 10);
    let base = format!("model.base={}", bases.path().display());
    let tasks = "task.tasks=[\"indexing\", \"retrieval\", \"denoising\"]";
    let more = [tasks, "task.denoising_held_out=0.25", "train.accumulate=2", "train.batch_size=5"];
    let overrides = [&with(&more)[..], &[&base]].concat();
    kill_and_compare(&overrides, 6, 6);
}

#[test]
fn a_killed_run_with_accumulation_and_adafactor_continues_to_the_same_bytes() {
    let more = ["train.accumulate=2", "train.batch_size=3", "optimizer.name=adafactor"];
    kill_and_compare(&with(&more), 6, 2);
}

#[test]
fn a_killed_restricted_run_continues_with_and_without_its_cache() {
    for (seed, enabled) in [(3, "cache.enabled=true"), (4, "cache.enabled=false")] {
        let more = ["trainable.select=[\"restricted\"]", enabled];
        kill_and_compare(&with(&more), 6, seed);
    }
}

#[test]
fn a_killed_lora_run_continues_with_and_without_its_cache() {
    for (seed, enabled) in [(6, "cache.enabled=true"), (7, "cache.enabled=false")] {
        let lora = "trainable.select=[\"lora(decoder.layers[1,2], rank=3, alpha=8)\", \"docids\"]";
        kill_and_compare(&with(&[lora, enabled]), 6, seed);
    }
}

#[test]
fn a_killed_run_with_probes_and_early_stopping_continues_to_the_same_results() {
    let more = [
        "probes.run=[\"logit_lens\", \"stage_patching\"]",
        "probes.every_evaluations=2",
        "stop.patience=4",
        "stop.metric=memorisation/indexing/hits@1",
        "optimizer.learning_rate=1e-2",
    ];
    kill_and_compare(&with(&more), 6, 5);
}

/// Trains with `signal` sent once there is a checkpoint; returns its exit code and what it printed.
fn signalled(home: &Home, signal: &str) -> (Option<i32>, String) {
    let latest = home.run().join("checkpoints/latest");
    signalled_when(home, &[signal], Duration::ZERO, || latest.exists())
}

/// Trains with `signals` sent from when `is_time`, with a `pause` after each.
fn signalled_when(
    home: &Home,
    signals: &[&str],
    pause: Duration,
    is_time: impl Fn() -> bool,
) -> (Option<i32>, String) {
    // A shell in the background ignores SIGINT, and so would the training.
    let training = home.command();
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP,INT,TERM,USR1");
    command.arg(training.get_program()).args(training.get_args());
    command.env("RAYON_NUM_THREADS", "2").stdin(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    while !is_time() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it was signalled");
        thread::sleep(Duration::from_millis(2));
    }
    for &signal in signals {
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        thread::sleep(pause);
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_signal_saves_and_exits_and_the_run_continues_to_the_same_bytes() {
    let home = TempDir::new().unwrap();
    let overrides = ["train.steps=400", "evaluate.every_steps=90"];
    let undisturbed = Home::new(&home.path().join("undisturbed"), &overrides);
    undisturbed.train();
    for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let disturbed = Home::new(&home.path().join(signal), &overrides);
        let (found, text) = signalled(&disturbed, signal);
        assert_eq!(found, Some(code), "{text}");
        assert!(text.contains("the same command continues the run"), "{text}");
        let summary = fs::read_to_string(disturbed.run().join("summary.json")).unwrap();
        assert!(summary.contains("\"ended\": \"interrupted\""), "{summary}");
        let text = String::from_utf8(disturbed.train().stderr).unwrap();
        assert!(text.contains("the run continues from"), "{text}");
        // A checkpoint more was written, so that other ones were removed.
        disturbed.results().assert_same_history(&undisturbed.results(), signal);
        let last = |home: &Home| {
            let last = home.run().join("checkpoints/step-000400");
            fs::read(last.join("model.safetensors")).unwrap()
        };
        assert!(last(&disturbed) == last(&undisturbed), "{signal}");
    }
}

/// Repeats the queries of a file of the corpus so many times.
fn repeat_queries(home: &Home, file: &str, times: usize) {
    let file = home.path.join("corpus").join(file);
    let queries: Vec<Value> = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let mut many = Vec::new();
    for number in 0..times {
        for query in &queries {
            let mut query = query.clone();
            query["id"] = format!("{}-{number}", query["id"].as_str().unwrap()).into();
            many.push(query);
        }
    }
    fs::write(file, serde_json::to_string(&many).unwrap()).unwrap();
}

#[test]
fn a_signal_interrupts_an_evaluation_or_a_probe_and_the_run_repeats_it() {
    let home = TempDir::new().unwrap();
    let overrides = [
        "train.steps=16",
        "evaluate.every_steps=8",
        "evaluate.batch_size=4",
        "stop.patience=9",
        "probes.run=[\"logit_lens\"]",
        "probes.every_evaluations=1",
        "probes.queries=4000",
        "probes.over=all",
        "probes.batch_size=4",
    ];
    let new = |name: &str| {
        let new = Home::new(&home.path().join(name), &overrides);
        repeat_queries(&new, "val_queries.json", 500);
        new
    };
    let undisturbed = new("undisturbed");
    undisturbed.train();
    for (what, step, called) in [
        ("evaluation", 8, "\"some\""),
        ("evaluation", 16, "\"some\""),
        ("probe", 8, "\"before\""),
        ("probe", 16, "\"before\""),
    ] {
        let when = format!("{what} of step {step}");
        let disturbed = new(&when);
        let run = disturbed.run();
        let is_time = || match what {
            // The rankings are written to a file of another name until they are complete.
            "evaluation" => {
                let logged = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
                let is_trained = logged.contains(&format!("\"step\":{step},"));
                let files = fs::read_dir(run.join("retrieval")).into_iter().flatten().flatten();
                let names = files.map(|file| file.file_name().into_string().unwrap());
                is_trained && names.into_iter().any(|name| name.starts_with('.'))
            }
            _ => run.join(format!("checkpoints/step-{step:06}")).exists(),
        };
        let (code, text) = signalled_when(&disturbed, &["-TERM"], Duration::ZERO, is_time);
        assert_eq!(code, Some(143), "{when}: {text}");
        assert!(text.contains(&format!("by signal 15 after step {step};")), "{when}: {text}");
        let checkpoint = run.join(format!("checkpoints/step-{step:06}"));
        let state = fs::read_to_string(checkpoint.join("trainer_state.json")).unwrap();
        let state: Value = serde_json::from_str(&state).unwrap();
        assert!(state["called"].to_string().contains(called), "{when}: {}", state["called"]);

        disturbed.train();
        disturbed.results().assert_same(&undisturbed.results(), &when);
        let metrics = |home: &Home| {
            let manifest = home.run().join("checkpoints/best/genir.json");
            let manifest = fs::read_to_string(manifest).unwrap();
            serde_json::from_str::<Value>(&manifest).unwrap()["metrics"].clone()
        };
        assert_eq!(metrics(&disturbed), metrics(&undisturbed), "{when}");
    }
}

#[test]
fn a_signal_a_second_after_another_exits_at_once() {
    let home = TempDir::new().unwrap();
    // An update takes seconds.
    let overrides = ["train.steps=3", "train.accumulate=4000", "save.every_steps=1"];
    let home = Home::new(home.path(), &overrides);
    repeat_queries(&home, "train_queries.json", 3000);
    let latest = home.run().join("checkpoints/latest");
    let in_the_next_update = || {
        let exists = latest.exists();
        if exists {
            thread::sleep(Duration::from_millis(500));
        }
        exists
    };
    let pause = Duration::from_millis(1300);
    let (code, text) = signalled_when(&home, &["-INT", "-TERM"], pause, in_the_next_update);
    assert_eq!(code, Some(143), "{text}");
    assert_eq!(checkpoints(&home.run()), ["step-000001"]);
}

#[test]
fn a_signal_that_is_sent_twice_at_a_time_saves() {
    // As SLURM sends SIGTERM at the time limit of a job.
    let home = TempDir::new().unwrap();
    let home = Home::new(home.path(), &["train.steps=100000", "save.every_steps=5"]);
    let latest = home.run().join("checkpoints/latest");
    let pause = Duration::from_millis(16);
    let (code, text) = signalled_when(&home, &["-TERM", "-TERM"], pause, || latest.exists());
    assert_eq!(code, Some(143), "{text}");
    assert!(text.contains("interrupted by signal 15 after step "), "{text}");
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // Large enough that products are divided among threads, in parts of different sizes.
    let wide = ["train.steps=3", "train.batch_size=60", "model.config.d_model=144"];
    for more in [
        ["model.config.d_ff=700", "trainable.select=[\"full\"]"],
        ["model.config.d_ff=1300", "trainable.select=[\"restricted\"]"],
    ] {
        let weights = ["1", "2", "3", "16"].map(|threads| {
            let home = TempDir::new().unwrap();
            let home = Home::new(home.path(), &[&wide[..], &more].concat());
            let output = home.command().env("RAYON_NUM_THREADS", threads).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            fs::read(home.run().join("checkpoints/latest/model.safetensors")).unwrap()
        });
        assert!(weights.iter().all(|other| *other == weights[0]), "{more:?}");
    }
}

#[test]
fn usr1_saves_and_the_run_goes_on() {
    let home = TempDir::new().unwrap();
    let home =
        Home::new(home.path(), &["train.steps=400", "evaluate.every_steps=90", "save.keep_last=9"]);
    let (code, text) = signalled(&home, "-USR1");
    assert_eq!(code, Some(0), "{text}");
    let names = checkpoints(&home.run());
    let extra = names.iter().filter(|name| {
        let step: u64 = name["step-".len()..].parse().unwrap();
        !step.is_multiple_of(90) && step != 400
    });
    assert_eq!(extra.count(), 1, "{names:?}");
}

fn checkpoints(run: &Path) -> Vec<String> {
    let entries = fs::read_dir(run.join("checkpoints")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("step-")).collect();
    names.sort();
    names
}

/// A run that was interrupted after its checkpoint of step 14, as a template to copy.
fn interrupted(home: &Home) {
    let (code, text) = signalled(home, "-TERM");
    assert_eq!(code, Some(143), "{text}");
}

#[track_caller]
fn refuses(command: &mut Command, words: &[&str]) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

#[test]
fn a_changed_recipe_is_refused_with_its_keys_unless_the_change_is_harmless() {
    let home = TempDir::new().unwrap();
    let home = Home::new(home.path(), &["train.steps=400", "evaluate.every_steps=20"]);
    interrupted(&home);
    let before = Results::of(&home.run());
    refuses(
        home.command().args(["optimizer.learning_rate=1e-2", "run.seed=9", "log.every_steps=3"]),
        &[
            "holds an unfinished run of another recipe",
            "optimizer.learning_rate: 0.003 in the run, 0.01 now",
            "run.seed: 3 in the run, 9 now",
        ],
    );
    refuses(home.command().args(["--resume", "never"]), &["already holds a run", "--overwrite"]);
    refuses(home.command().args(["--resume", "step-999999"]), &["--resume step-999999"]);
    refuses(
        home.command().args(["--resume", "/"]),
        &["--resume /", "not a checkpoint of this run"],
    );
    Results::of(&home.run()).assert_same(&before, "a refusal changes nothing");

    let output = home.command().args(["train.steps=401", "log.every_steps=3"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("changed since the run was started: log.every_steps, train.steps"),
        "{text}"
    );
    let recipe = fs::read_to_string(home.run().join("recipe.toml")).unwrap();
    assert!(recipe.contains("steps = 401"), "{recipe}");
    // A finished run is not trained again, unless it gets longer.
    refuses(
        home.command().args(["train.steps=401", "log.every_steps=3"]),
        &["already holds a run"],
    );
    refuses(home.command().arg("train.steps=410"), &["already holds a run", "--resume latest"]);
    let longer = ["train.steps=410", "--resume", "latest"];
    let output = home.command().args(longer).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(checkpoints(&home.run()).contains(&"step-000410".to_owned()));
    let environment = fs::read_to_string(home.run().join("environment.json")).unwrap();
    assert_eq!(environment.matches("\"step\"").count(), 2, "{environment}");
}

#[test]
fn a_run_of_a_version_without_a_key_continues_with_its_default_alone() {
    let home = TempDir::new().unwrap();
    let home = Home::new(home.path(), &["train.steps=4"]);
    home.train();
    let recipe = home.run().join("recipe.toml");
    let text = fs::read_to_string(&recipe).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("gradient_dtype"));
    let without: String = lines.flat_map(|line| [line, "\n"]).collect();
    assert!(without.len() < text.len());
    fs::write(&recipe, without).unwrap();
    let more = ["train.steps=6", "--resume", "latest"];
    refuses(
        home.command().args(more).arg("train.gradient_dtype=bfloat16"),
        &["train.gradient_dtype: \"float32\" in the run, \"bfloat16\" now"],
    );
    let output = home.command().args(more).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_changed_corpus_is_refused() {
    let home = TempDir::new().unwrap();
    let home = Home::new(home.path(), &["train.steps=400", "evaluate.every_steps=20"]);
    interrupted(&home);
    let file = home.path.join("corpus/documents.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("Iron is a metal", "Iron is the metal")).unwrap();
    refuses(
        &mut home.command(),
        &["the training examples are not those of the run", "corpus.path"],
    );
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let home = TempDir::new().unwrap();
    let overrides = ["train.steps=120", "save.every_steps=7", "save.keep_last=3"];
    let undisturbed = Home::new(&home.path().join("undisturbed"), &overrides);
    undisturbed.train();
    let disturbed = Home::new(&home.path().join("disturbed"), &overrides);
    let mut child = disturbed.command().stderr(Stdio::null()).spawn().unwrap();
    while !disturbed.run().join("checkpoints/step-000021/genir.json").exists() {
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let names = checkpoints(&disturbed.run());
    let newest = disturbed.run().join("checkpoints").join(names.last().unwrap());
    let weights = newest.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let at = bytes.len() - 3;
    bytes[at] ^= 1;
    fs::write(&weights, bytes).unwrap();
    // The reader of a single checkpoint refuses it as well.
    let mut search = Command::new(env!("CARGO_BIN_EXE_genir"));
    search
        .arg("search")
        .arg(&newest)
        .arg("iron")
        .arg("--corpus")
        .arg(disturbed.path.join("corpus"));
    refuses(&mut search, &["model.safetensors has another checksum"]);

    let text = String::from_utf8(disturbed.train().stderr).unwrap();
    assert!(text.contains("passed over") && text.contains("another checksum"), "{text}");
    disturbed.results().assert_same(&undisturbed.results(), "damaged");
}

#[test]
fn a_renamed_run_continues_in_its_new_place() {
    let home = TempDir::new().unwrap();
    let home = Home::new(home.path(), &["train.steps=400", "evaluate.every_steps=20"]);
    interrupted(&home);
    let moved = home.path.join("moved");
    fs::rename(home.run(), &moved).unwrap();
    let output = home.command().arg(format!("run.directory={}", moved.display())).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && text.contains("the run continues from"), "{text}");
}

#[test]
fn a_run_without_a_checkpoint_starts_anew() {
    let home = TempDir::new().unwrap();
    let home = Home::new(home.path(), &["train.steps=40"]);
    let mut child = home.command().stderr(Stdio::null()).spawn().unwrap();
    // From its first step on, it is no longer a start that was interrupted.
    let is_logged =
        || fs::metadata(home.run().join("metrics.jsonl")).is_ok_and(|file| file.len() > 0);
    while !is_logged() {
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(checkpoints(&home.run()).is_empty(), "the run was too fast");
    home.train();
    assert_eq!(checkpoints(&home.run()), ["step-000040"]);
}

/// The recipe of `tests/fixtures/interrupted_run.tar.gz`, a small run of version 0.1.0.
const FIXTURE: [&str; 4] = [
    "train.steps=6",
    "trainable.select=[\"restricted\"]",
    "model.config.d_model=8",
    "save.keep_last=1",
];

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/interrupted_run.tar.gz")
}

#[test]
fn a_run_of_version_0_1_0_continues() {
    let home = TempDir::new().unwrap();
    let home = Home::new(home.path(), &FIXTURE);
    fs::create_dir(home.run()).unwrap();
    let mut unpack = Command::new("tar");
    let unpacked = unpack.arg("-xzf").arg(fixture()).arg("-C").arg(home.run()).status().unwrap();
    assert!(unpacked.success());
    // Its tokenizer; that of `bundled:atlas-base` is another one since.
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/base_of_0_1_0");
    let base = format!("model.base={}", base.display());
    let more = ["train.steps=12", &base, "--resume", "latest"];
    let output = home.command().args(more).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && text.contains("step-000006"), "{text}");
    assert_eq!(checkpoints(&home.run()).last().unwrap(), "step-000012");
}

#[test]
#[ignore = "writes the fixture anew, which shall stay as version 0.1.0 wrote it"]
fn make_the_fixture() {
    let home = TempDir::new().unwrap();
    let home = Home::new(home.path(), &FIXTURE);
    home.train();
    let mut pack = Command::new("tar");
    pack.arg("-czf").arg(fixture()).arg("-C").arg(home.run()).arg(".");
    assert!(pack.status().unwrap().success());
}

#[test]
fn the_slurm_script_requeues_an_interrupted_training_and_no_finished_one() {
    let home = TempDir::new().unwrap();
    let tools = home.path().join("tools");
    let overrides = ["train.steps=400", "evaluate.every_steps=20"];
    let training = Home::new(&home.path().join("training"), &overrides);
    fs::create_dir(&tools).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_genir"), tools.join("genir")).unwrap();
    let requeued = home.path().join("requeued");
    let scontrol = tools.join("scontrol");
    fs::write(&scontrol, format!("#!/bin/sh\necho \"$@\" > {}\n", requeued.display())).unwrap();
    fs::set_permissions(&scontrol, fs::Permissions::from_mode(0o755)).unwrap();
    let job = || {
        let path = std::env::var("PATH").unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/slurm_train.sh");
        let mut job = Command::new("bash");
        job.arg(script).arg(training.path.join("recipe.toml")).args(overrides);
        job.env("PATH", format!("{}:{path}", tools.display())).env("SLURM_JOB_ID", "17");
        job.stdin(Stdio::null()).stderr(Stdio::null());
        job
    };
    let mut first = job().spawn().unwrap();
    while !training.run().join("checkpoints/latest").exists() {
        thread::sleep(Duration::from_millis(2));
    }
    Command::new("kill").args(["-TERM", &first.id().to_string()]).status().unwrap();
    first.wait().unwrap();
    assert_eq!(fs::read_to_string(&requeued).unwrap(), "requeue 17\n");
    fs::remove_file(&requeued).unwrap();

    assert!(job().status().unwrap().success());
    assert!(!requeued.exists());
    let log = fs::read_to_string(training.run().join("log.txt")).unwrap();
    assert!(log.contains("the run continues from"), "{log}");
    assert_eq!(checkpoints(&training.run()).last().unwrap(), "step-000400");
}
