//! Scalars are written unchanged to TensorBoard and `metrics.jsonl`, and console output is readable without a terminal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use genir::component::Stage;
use genir::monitor::{Console, Histogram, Hyperparameter, Image, Line, Monitor, Point, Verbosity};
use genir::retrieval::{JudgedRanks, MetricSums, Metrics};
use genir::run::{Environment, Overwrite, RunDirectory, RunOutcome};
use protobuf::Message;
use serde_json::{Map, Value};
use tensorboard_proto::api::Status;
use tensorboard_proto::event::Event;
use tensorboard_proto::layout::Layout;
use tensorboard_proto::plugin_hparams::HParamsPluginData;
use tensorboard_proto::summary::Summary_Value;
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
            let values = [("loss/train", loss), ("optimizer/learning_rate", 1e-3)];
            monitor.scalars(step, step as f64 / 2.0, &values);
        }
        tracing::warn!("the gradient grows");
        let strange = [
            ("loss/train", f64::NAN),
            ("optimizer/gradient_norm", f64::INFINITY),
            ("loss/lowest", f64::NEG_INFINITY),
        ];
        monitor.scalars(4, 2.0, &strange);
        let metrics = some_metrics();
        monitor.evaluation(4, 2.0, "validation", &metrics);
        monitor.message("the best checkpoint is of step 4");
        monitor.finish().unwrap();
    });
}

/// Writes probe results at step 5, from a second process of the run in `path`.
fn show_probes(path: &Path) {
    let run = RunDirectory::open(path).unwrap();
    let mut monitor = Monitor::open(&run, 8, &Console::stderr(Verbosity::Quiet)).unwrap();
    let point = |line, value| Point { chart: "probe/a/b".to_owned(), line, value };
    let points = [
        point(Line::Model, 0.5),
        point(Line::Layer(3), 3.0),
        point(Line::Stage(Stage::Second), 2.0),
        point(Line::Layer(12), 12.0),
    ];
    monitor.points(5, 2.5, &points);
    let histogram = |line, counts: [u64; 4]| Histogram {
        chart: "probe/a/log2_rank".to_owned(),
        line,
        start: 0.0,
        buckets: [1.0, 2.0, 3.0, 4.0].into_iter().zip(counts).collect(),
    };
    let histograms = [histogram(Line::Layer(3), [0, 7, 3, 0]), histogram(Line::Model, [0; 4])];
    monitor.histograms(5, &histograms);
    let image = |chart: &str, width, height, bytes| Image {
        chart: chart.to_owned(),
        width,
        height,
        pixels: (0..bytes).map(|byte| byte as u8).collect(),
    };
    let images = [image("probe/a/picture", 5, 2, 30), image("probe/a/wrong", 5, 2, 29)];
    monitor.images(5, &images);
    monitor.finish().unwrap();
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
    paths.retain(|path| path.is_file());
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
fn metrics_are_json_lines_with_values_that_are_not_finite() {
    let temporary = tempfile::tempdir().unwrap();
    monitor_a_run(temporary.path(), Verbosity::Quiet);
    let lines = lines(&temporary.path().join("metrics.jsonl"));

    assert_eq!(lines.len(), 6);
    assert_eq!(lines[1]["step"], 2);
    assert_eq!(lines[1]["epoch"], 1.0);
    assert_eq!(lines[1]["loss/train"], 0.5);
    assert_eq!(lines[4]["loss/train"], "NaN");
    assert_eq!(lines[4]["optimizer/gradient_norm"], "inf");
    assert_eq!(lines[4]["loss/lowest"], "-inf");
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
    let scalars = events.iter().flat_map(|event| event.get_summary().get_value());
    assert_eq!(scalars.filter(|value| value.has_simple_value()).count(), expected.len());
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
fn scalars_are_written_before_the_run_ends() {
    let temporary = tempfile::tempdir().unwrap();
    let run = new_run(temporary.path());
    let mut monitor = Monitor::open(&run, 10, &Console::stderr(Verbosity::Quiet)).unwrap();
    monitor.scalars(1, 0.1, &[("loss/train", 2.0)]);
    assert_eq!(lines(&run.metrics()).len(), 1);
    // The version, the layout and the scalar.
    assert_eq!(events(&run.tensorboard()).len(), 3);
}

#[test]
fn a_second_process_adds_to_the_scalars_of_the_first() {
    let temporary = tempfile::tempdir().unwrap();
    let run = new_run(temporary.path());
    let console = Console::stderr(Verbosity::Quiet);
    for step in 1..=2 {
        let mut monitor = Monitor::open(&run, 2, &console).unwrap();
        monitor.scalars(step, 0.0, &[("loss/train", 1.0)]);
        monitor.finish().unwrap();
    }
    assert_eq!(lines(&run.metrics()).len(), 2);
    let steps: Vec<i64> = events(&run.tensorboard())
        .iter()
        .filter(|event| event.get_summary().get_value().iter().any(Summary_Value::has_simple_value))
        .map(Event::get_step)
        .collect();
    assert_eq!(steps, [1, 2]);
}

/// All values of events of step 5.
fn shown_at_5(run: &RunDirectory) -> Vec<Summary_Value> {
    let events = events(&run.tensorboard()).into_iter();
    let at_5 = events.filter(|event| event.get_step() == 5);
    at_5.flat_map(|event| event.get_summary().get_value().to_vec()).collect()
}

#[test]
fn a_run_with_probes_is_one_entry_of_tensorboard() {
    let temporary = tempfile::tempdir().unwrap();
    let run = new_run(temporary.path());
    show_probes(temporary.path());
    let entries = fs::read_dir(run.tensorboard()).unwrap().map(|entry| entry.unwrap());
    assert!(entries.into_iter().all(|entry| entry.file_type().unwrap().is_file()));
}

#[test]
fn each_line_of_a_chart_is_a_scalar_in_both_files() {
    let temporary = tempfile::tempdir().unwrap();
    let run = new_run(temporary.path());
    show_probes(temporary.path());
    let expected = [
        ("probe/a/b", 0.5),
        ("probe/a/b/layer_03", 3.0),
        ("probe/a/b/stage_II", 2.0),
        ("probe/a/b/layer_12", 12.0),
    ];
    let values = shown_at_5(&run);
    let scalars = values.iter().filter(|value| value.has_simple_value());
    let scalars: Vec<(&str, f32)> =
        scalars.map(|value| (value.get_tag(), value.get_simple_value())).collect();
    assert_eq!(scalars, expected);
    let lines = lines(&run.metrics());
    assert_eq!(lines.len(), 1);
    assert_eq!((&lines[0]["step"], &lines[0]["epoch"]), (&5.into(), &2.5.into()));
    for (tag, value) in expected {
        assert_eq!(lines[0][tag], f64::from(value));
    }
}

/// The newest layout of the *Custom Scalars* tab: titles of categories, and title and pattern of their charts.
fn newest_layout(run: &RunDirectory) -> Vec<(String, Vec<(String, String)>)> {
    let events = events(&run.tensorboard());
    let values = events.iter().flat_map(|event| event.get_summary().get_value());
    let newest =
        values.filter(|value| value.get_tag() == "custom_scalars__config__").last().unwrap();
    assert_eq!(newest.get_metadata().get_plugin_data().get_plugin_name(), "custom_scalars");
    let layout = Layout::parse_from_bytes(&newest.get_tensor().get_string_val()[0]).unwrap();
    let categories = layout.get_category().iter().map(|category| {
        let charts = category
            .get_chart()
            .iter()
            .map(|chart| (chart.get_title().to_owned(), chart.get_multiline().get_tag().concat()));
        (category.get_title().to_owned(), charts.collect())
    });
    categories.collect()
}

#[test]
fn the_layout_shows_the_loss_first_and_the_lines_of_a_chart_together() {
    let temporary = tempfile::tempdir().unwrap();
    let run = new_run(temporary.path());
    let mut monitor = Monitor::open(&run, 1, &Console::stderr(Verbosity::Quiet)).unwrap();
    let titles = |layout: &[(String, Vec<(String, String)>)]| {
        layout.iter().map(|(title, _)| title.clone()).collect::<Vec<_>>()
    };
    let before = newest_layout(&run);
    assert_eq!(titles(&before), ["overview"]);
    assert_eq!(before[0].1[0], ("loss".to_owned(), "loss/[^/]+$".to_owned()));
    monitor.scalars(1, 1.0, &[("loss/train", 1.0)]);
    show_probes(temporary.path());
    let after = newest_layout(&run);
    assert_eq!(titles(&after), ["overview", "probe/a"]);
    assert_eq!(after[1].1, [("b".to_owned(), "probe/a/b/(stage|layer)_[^/]+$".to_owned())]);
}

#[test]
fn hyperparameters_and_end_status_are_written_for_the_hparams_plugin() {
    let temporary = tempfile::tempdir().unwrap();
    let run = new_run(temporary.path());
    let mut monitor = Monitor::open(&run, 1, &Console::stderr(Verbosity::Quiet)).unwrap();
    let values = [
        ("optimizer.learning_rate", Hyperparameter::Number(0.5)),
        ("model.base", Hyperparameter::Text("t5-small".to_owned())),
    ];
    monitor.hyperparameters(&values, &["loss/train".to_owned()]);
    monitor.ended(RunOutcome::Failed);
    let events = events(&run.tensorboard());
    let values = events.iter().flat_map(|event| event.get_summary().get_value());
    let data: Vec<(&str, HParamsPluginData)> = values
        .filter(|value| value.get_tag().starts_with("_hparams_/"))
        .map(|value| {
            let plugin = value.get_metadata().get_plugin_data();
            assert_eq!(plugin.get_plugin_name(), "hparams");
            (value.get_tag(), HParamsPluginData::parse_from_bytes(plugin.get_content()).unwrap())
        })
        .collect();
    let tags: Vec<&str> = data.iter().map(|(tag, _)| *tag).collect();
    assert_eq!(
        tags,
        ["experiment", "session_start_info", "session_end_info"]
            .map(|tag| format!("_hparams_/{tag}"))
    );
    let experiment = data[0].1.get_experiment();
    let names: Vec<&str> =
        experiment.get_hparam_infos().iter().map(|info| info.get_name()).collect();
    assert_eq!(names, ["optimizer.learning_rate", "model.base"]);
    assert_eq!(experiment.get_metric_infos()[0].get_name().get_tag(), "loss/train");
    let hparams = data[1].1.get_session_start_info().get_hparams();
    assert_eq!(hparams["optimizer.learning_rate"].get_number_value(), 0.5);
    assert_eq!(hparams["model.base"].get_string_value(), "t5-small");
    assert_eq!(data[2].1.get_session_end_info().get_status(), Status::STATUS_FAILURE);
}

#[test]
fn histograms_have_buckets_counts_and_the_edges_of_the_non_empty_buckets() {
    let temporary = tempfile::tempdir().unwrap();
    let run = new_run(temporary.path());
    show_probes(temporary.path());
    let values = shown_at_5(&run);
    let mut histograms = values.iter().filter(|value| value.has_histo());
    let histogram = histograms.next().unwrap();
    assert!(histograms.next().is_none(), "one that counts nothing is left out");
    assert_eq!(histogram.get_tag(), "probe/a/log2_rank/layer_03");
    let histogram = histogram.get_histo();
    assert_eq!(histogram.get_bucket_limit(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(histogram.get_bucket(), [0.0, 7.0, 3.0, 0.0]);
    assert_eq!((histogram.get_min(), histogram.get_max()), (1.0, 3.0));
    assert_eq!((histogram.get_num(), histogram.get_sum()), (10.0, 18.0));
    assert_eq!(histogram.get_sum_squares(), 7.0 * 1.5 * 1.5 + 3.0 * 2.5 * 2.5);
}

#[test]
fn images_are_png_and_those_of_a_wrong_size_are_skipped() {
    let temporary = tempfile::tempdir().unwrap();
    let run = new_run(temporary.path());
    show_probes(temporary.path());
    let values = shown_at_5(&run);
    let images: Vec<_> = values.iter().filter(|value| value.has_image()).collect();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].get_tag(), "probe/a/picture");
    let image = images[0].get_image();
    assert_eq!((image.get_width(), image.get_height()), (5, 2));
    let png = image.get_encoded_image_string();
    assert_eq!(png[..8], *b"\x89PNG\r\n\x1a\n");
    // The first chunk of a PNG starts with width and height.
    assert_eq!(png[16..24], [0, 0, 0, 5, 0, 0, 0, 2]);
}

#[test]
fn files_that_cannot_be_written_are_errors_with_the_path() {
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
fn a_full_disk_is_a_problem_and_no_panic() {
    let temporary = tempfile::tempdir().unwrap();
    let run = new_run(temporary.path());
    std::os::unix::fs::symlink("/dev/full", run.metrics()).unwrap();
    let mut monitor = Monitor::open(&run, 1, &Console::stderr(Verbosity::Quiet)).unwrap();
    monitor.scalars(1, 0.0, &[("loss/train", 1.0)]);
    let error = monitor.problem().unwrap();
    assert!(error.to_string().contains("metrics.jsonl"), "{error}");
    monitor.scalars(2, 0.0, &[("loss/train", 0.5)]);
    let error = monitor.finish().unwrap_err();
    assert!(error.to_string().contains("metrics.jsonl"), "{error}");
}

/// Not a test: the run whose standard error other tests read. Run by hand in a terminal, and for
/// `tests/python/check_tensorboard.py`:
/// `MONITORED_RUN=/tmp/run cargo test --release --test testsuite monitoring -- --ignored --nocapture`
#[test]
#[ignore = "run by other tests, with its standard error caught"]
fn a_run_in_a_process_of_its_own() {
    let path = std::env::var_os("MONITORED_RUN").expect("MONITORED_RUN names a new directory");
    let verbosity = match std::env::var_os("MONITORED_QUIET") {
        Some(_) => Verbosity::Quiet,
        None => Verbosity::Normal,
    };
    monitor_a_run(Path::new(&path), verbosity);
    show_probes(Path::new(&path));
}

fn run_in_a_process_of_its_own(path: &Path, quiet: bool) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "monitoring::a_run_in_a_process_of_its_own"])
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
