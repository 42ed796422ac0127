//! Scalars reach both sinks unchanged, and the console stays readable where there is no terminal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use genir::monitor::{Console, Monitor, Verbosity};
use genir::retrieval::{JudgedRanks, MetricSums, Metrics};
use genir::run::{Environment, Overwrite, RunDirectory};
use protobuf::Message;
use serde_json::{Map, Value};
use tensorboard_proto::event::Event;
use tensorboard_rs::masked_crc32c::masked_crc32c;

fn new_run(path: &Path) -> RunDirectory {
    let environment = Environment::capture("cpu");
    RunDirectory::create(path, Overwrite::Refuse, "", &environment).unwrap()
}

fn some_metrics() -> Metrics {
    let mut sums = MetricSums::default();
    for rank in [1, 2, 30, 400] {
        let relevant = vec![(rank, 1)];
        sums.add(&JudgedRanks { relevant });
    }
    sums.means().unwrap()
}

/// A short run with every kind of value, in `path`.
fn monitor_a_run(path: &Path, verbosity: Verbosity) {
    let run = new_run(path);
    let console = Console::stderr(verbosity);
    console.log_to(&run.log()).unwrap();
    let log = tracing_subscriber::fmt().with_writer(console.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(log, || {
        let mut monitor = Monitor::open(&run, 4, &console).unwrap();
        tracing::info!("training begins");
        for step in 1..=4 {
            let loss = 1.0 / step as f64;
            monitor.step(step, loss, 32 * step);
            let values = [("train/loss", loss), ("train/learning_rate", 1e-3)];
            monitor.scalars(step, step as f64 / 2.0, &values).unwrap();
        }
        tracing::warn!("the gradient grows");
        let strange = [
            ("train/loss", f64::NAN),
            ("train/gradient_norm", f64::INFINITY),
            ("train/lowest", f64::NEG_INFINITY),
        ];
        monitor.scalars(4, 2.0, &strange).unwrap();
        let metrics = some_metrics();
        monitor.evaluation(4, 2.0, "validation", &metrics).unwrap();
        monitor.message("the best checkpoint is of step 4");
        monitor.finish().unwrap();
    });
}

fn lines(path: &Path) -> Vec<Map<String, Value>> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The events of every file in a directory, in order, with the checksums of their frames checked.
fn events(directory: &Path) -> Vec<Event> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut events = Vec::new();
    for path in paths {
        let bytes = fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (length, tail) = rest.split_at(8);
            let size = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            let (length_sum, tail) = tail.split_at(4);
            let (record, tail) = tail.split_at(size);
            let (record_sum, tail) = tail.split_at(4);
            assert_eq!(length_sum, masked_crc32c(length).to_le_bytes());
            assert_eq!(record_sum, masked_crc32c(record).to_le_bytes());
            events.push(Event::parse_from_bytes(record).unwrap());
            rest = tail;
        }
    }
    events
}

/// `(step, wall time, tag, value)` of all scalars in `metrics.jsonl`.
fn scalars_of_lines(run: &RunDirectory) -> Vec<(u64, f64, String, f64)> {
    let mut scalars = Vec::new();
    for line in lines(&run.metrics()) {
        for (tag, value) in &line {
            if !tag.contains('/') {
                continue;
            }
            let value = match value {
                Value::String(text) => text.parse().unwrap(),
                number => number.as_f64().unwrap(),
            };
            let step = line["step"].as_u64().unwrap();
            let wall_time = line["wall_time"].as_f64().unwrap();
            scalars.push((step, wall_time, tag.clone(), value));
        }
    }
    scalars
}

#[test]
fn metrics_are_lines_of_json_that_keep_what_is_not_finite() {
    let temporary = tempfile::tempdir().unwrap();
    monitor_a_run(temporary.path(), Verbosity::Quiet);
    let lines = lines(&temporary.path().join("metrics.jsonl"));

    assert_eq!(lines.len(), 6);
    assert_eq!(lines[1]["step"], 2);
    assert_eq!(lines[1]["epoch"], 1.0);
    assert_eq!(lines[1]["train/loss"], 0.5);
    assert_eq!(lines[4]["train/loss"], "NaN");
    assert_eq!(lines[4]["train/gradient_norm"], "inf");
    assert_eq!(lines[4]["train/lowest"], "-inf");
    assert_eq!(lines[5]["validation/hits@1"], 0.25);
    assert_eq!(lines[5]["validation/queries"], 4.0);
}

#[test]
fn tensorboard_holds_every_scalar_with_step_and_time() {
    let temporary = tempfile::tempdir().unwrap();
    monitor_a_run(temporary.path(), Verbosity::Quiet);
    let run = RunDirectory::open(temporary.path()).unwrap();
    let events = events(&run.tensorboard());
    let expected = scalars_of_lines(&run);

    assert_eq!(events[0].get_file_version(), "brain.Event:2");
    assert_eq!(events.len() - 1, expected.len());
    for (step, wall_time, tag, value) in expected {
        let same = events.iter().filter(|event| {
            let values = event.get_summary().get_value();
            let value = value as f32;
            event.get_step() as u64 == step
                // serde_json may read a number wrong by its last bit: 0.2 microseconds.
                && (event.get_wall_time() - wall_time).abs() < 1e-6
                && values.len() == 1
                && values[0].get_tag() == tag
                && values[0].get_simple_value().to_bits() == value.to_bits()
        });
        assert_eq!(same.count(), 1, "{tag} at step {step}: {value}");
    }
}

#[test]
fn scalars_are_on_file_before_the_run_ends() {
    let temporary = tempfile::tempdir().unwrap();
    let run = new_run(temporary.path());
    let mut monitor = Monitor::open(&run, 10, &Console::stderr(Verbosity::Quiet)).unwrap();
    monitor.scalars(1, 0.1, &[("train/loss", 2.0)]).unwrap();
    assert_eq!(lines(&run.metrics()).len(), 1);
    assert_eq!(events(&run.tensorboard()).len(), 2);
}

#[test]
fn a_second_process_adds_to_the_scalars_of_the_first() {
    let temporary = tempfile::tempdir().unwrap();
    let run = new_run(temporary.path());
    let console = Console::stderr(Verbosity::Quiet);
    for step in 1..=2 {
        let mut monitor = Monitor::open(&run, 2, &console).unwrap();
        monitor.scalars(step, 0.0, &[("train/loss", 1.0)]).unwrap();
        monitor.finish().unwrap();
    }
    assert_eq!(lines(&run.metrics()).len(), 2);
    let steps: Vec<i64> = events(&run.tensorboard())
        .iter()
        .filter(|event| event.has_summary())
        .map(Event::get_step)
        .collect();
    assert_eq!(steps, [1, 2]);
}

#[test]
fn sinks_that_cannot_be_written_are_errors_that_name_the_path() {
    let temporary = tempfile::tempdir().unwrap();
    let run = new_run(temporary.path());
    let console = Console::stderr(Verbosity::Quiet);
    fs::remove_dir(run.tensorboard()).unwrap();
    let error = Monitor::open(&run, 1, &console).err().unwrap();
    assert!(error.to_string().contains("tensorboard"), "{error}");
    fs::remove_file(run.metrics()).unwrap();
    fs::create_dir(run.metrics()).unwrap();
    let error = Monitor::open(&run, 1, &console).err().unwrap();
    assert!(error.to_string().contains("metrics.jsonl"), "{error}");
}

/// The full disk of Linux: every write to it fails.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error_and_no_panic() {
    let temporary = tempfile::tempdir().unwrap();
    let run = new_run(temporary.path());
    std::os::unix::fs::symlink("/dev/full", run.metrics()).unwrap();
    let mut monitor = Monitor::open(&run, 1, &Console::stderr(Verbosity::Quiet)).unwrap();
    let error = monitor.scalars(1, 0.0, &[("train/loss", 1.0)]).unwrap_err();
    assert!(error.to_string().contains("metrics.jsonl"), "{error}");
}

/// Not a test by itself: the run whose standard error other tests read. By hand, in a terminal
/// and for `tests/python/check_tensorboard.py`:
/// `MONITORED_RUN=/tmp/run cargo test --release --test monitoring -- --ignored --nocapture`
#[test]
#[ignore = "run by other tests, with its standard error caught"]
fn a_run_in_a_process_of_its_own() {
    let path = std::env::var_os("MONITORED_RUN").expect("MONITORED_RUN names a new directory");
    let verbosity = match std::env::var_os("MONITORED_QUIET") {
        Some(_) => Verbosity::Quiet,
        None => Verbosity::Normal,
    };
    monitor_a_run(Path::new(&path), verbosity);
}

fn run_in_a_process_of_its_own(path: &Path, quiet: bool) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "a_run_in_a_process_of_its_own"])
        .args(["--ignored", "--nocapture"])
        .env("MONITORED_RUN", path);
    if quiet {
        command.env("MONITORED_QUIET", "1");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

#[test]
fn without_a_terminal_progress_is_plain_lines() {
    let temporary = tempfile::tempdir().unwrap();
    let output = run_in_a_process_of_its_own(temporary.path(), false);
    let text = String::from_utf8(output.stderr).unwrap();

    assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text:?}");
    let progress = text.lines().filter(|line| line.starts_with("step ")).count();
    // The first step, the evaluation and the end; the other steps came within seconds.
    assert_eq!(progress, 3, "{text}");
    assert!(text.contains("step 1/4  loss 1.0000"), "{text}");
    assert!(text.contains("step 4: validation  hits@1 0.250  hits@5 0.500"), "{text}");
    assert!(text.contains("step 4/4  loss 0.2500  validation/hits@1 0.250"), "{text}");
    assert!(text.contains("INFO") && text.contains("training begins"), "{text}");
}

#[test]
fn a_quiet_run_shows_warnings_only_and_logs_everything() {
    let temporary = tempfile::tempdir().unwrap();
    let output = run_in_a_process_of_its_own(temporary.path(), true);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("the gradient grows"), "{text}");

    let log = fs::read_to_string(temporary.path().join("log.txt")).unwrap();
    for expected in [
        "training begins",
        "the gradient grows",
        "step 4: validation  hits@1 0.250",
        "the best checkpoint is of step 4",
    ] {
        assert!(log.contains(expected), "{log}");
    }
}
