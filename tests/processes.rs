//! Several processes train one run: to the bits of one process, and all of them or none. Needs a build with `--features mpi`
//! and `mpirun`.

#[path = "support/everything.rs"]
mod everything;
#[path = "support/interrupted_run.rs"]
mod interrupted_run;
#[path = "processes/kills.rs"]
mod kills;
#[path = "support/planted_stages.rs"]
mod planted_stages;
#[path = "support/preloaded.rs"]
mod preloaded;
#[path = "processes/ranking.rs"]
mod ranking;
#[path = "support/sentinels.rs"]
mod sentinels;
#[path = "processes/shards.rs"]
mod shards;
#[path = "support/tiny_corpus.rs"]
mod tiny_corpus;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::interrupted_run::Home;

/// Starts `command` as `count` processes.
fn processes(count: usize, command: &Command) -> Command {
    started_together(&[(count, command)])
}

/// Starts each command as that many processes, of which those of the first command have the first ranks.
fn started_together(parts: &[(usize, &Command)]) -> Command {
    let mut started = Command::new("mpirun");
    started.arg("--oversubscribe");
    for (at, (count, command)) in parts.iter().enumerate() {
        started.args((at > 0).then_some(":")).args(["-np", &count.to_string()]);
        if let Some(directory) = command.get_current_dir() {
            started.arg("-wdir").arg(directory);
        }
        started.arg(command.get_program()).args(command.get_args());
    }
    started
        .env_remove("RUST_LOG")
        // Containers run tests as root.
        .envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")])
        .env("RAYON_NUM_THREADS", "1")
        .stdin(Stdio::null());
    started
}

fn output(command: &mut Command) -> Output {
    command.output().expect("mpirun, of Debian's package openmpi-bin")
}

/// Trains the run of `home` with `count` processes.
#[track_caller]
fn train(home: &Home, count: usize) {
    let output = output(&mut processes(count, &home.command()));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{count} processes: {text}");
}

/// Trains with one process without MPI, then with 1, 2 and 4 by MPI, to the same checkpoints and metrics.
#[track_caller]
fn assert_same_with_any_number(overrides: &[&str]) {
    let home = TempDir::new().unwrap();
    let alone = Home::new(&home.path().join("alone"), overrides);
    alone.train();
    for count in [1, 2, 4] {
        let together = Home::new(&home.path().join(format!("of-{count}")), overrides);
        train(&together, count);
        together
            .results()
            .assert_same(&alone.results(), &format!("{overrides:?}, {count} processes"));
        let environment = fs::read_to_string(together.run().join("environment.json")).unwrap();
        let environment: Value = serde_json::from_str(&environment).unwrap();
        let several = (count > 1).then_some(count as u64);
        assert_eq!(environment.get("processes").and_then(Value::as_u64), several);
    }
}

/// 22 examples an epoch: the last update of each has two batches of four, the second of them with two examples. The four
/// sets of eight queries are evaluated in three batches each, the last of them with two queries.
const FOUR_BATCHES: [&str; 6] = [
    "train.batch_size=4",
    "train.accumulate=4",
    "~train.steps",
    "evaluate.batch_size=3",
    "evaluate.every_epochs=1",
    "evaluate.splits=[\"validation\", \"test\"]",
];

#[test]
fn a_full_run_has_the_same_bits_with_any_number_of_processes() {
    let more = ["train.epochs=4", "evaluate.at_start=true", "evaluate.vocabulary=all"];
    assert_same_with_any_number(&[&FOUR_BATCHES[..], &more].concat());
}

#[test]
fn gradients_in_bfloat16_have_the_same_bits_with_any_number_of_processes() {
    let lora = "trainable.select=[\"lora(decoder.layers[1,2], rank=3, alpha=8)\", \"docids\"]";
    for select in ["trainable.select=[\"full\"]", lora] {
        let more = ["train.epochs=3", "train.gradient_dtype=bfloat16", select];
        assert_same_with_any_number(&[&FOUR_BATCHES[..], &more].concat());
    }
}

#[test]
fn a_restricted_run_has_the_same_bits_with_any_number_of_processes() {
    for enabled in ["cache.enabled=true", "cache.enabled=false"] {
        let more = ["train.epochs=3", "trainable.select=[\"restricted\",\"docids\"]", enabled];
        assert_same_with_any_number(&[&FOUR_BATCHES[..], &more].concat());
    }
}

#[test]
fn a_run_with_lora_and_adafactor_has_the_same_bits_with_any_number_of_processes() {
    let more = [
        "train.epochs=3",
        "trainable.select=[\"lora(decoder.layers[1,2], rank=3, alpha=8)\", \"docids\"]",
        "optimizer.name=adafactor",
        "probes.run=[\"residual_contribution\", \"logit_lens\"]",
        "probes.over=all",
        "probes.at_end=true",
    ];
    assert_same_with_any_number(&[&FOUR_BATCHES[..], &more].concat());
}

/// All probes, of which one has other queries, in batches of three. At the start no text is retrieved among all tokens: the
/// probes are skipped.
const PROBES: [&str; 8] = [
    "train.epochs=2",
    "probes.batch_size=3",
    "probes.per_query=true",
    "probes.at_start=true",
    "probes.every_epochs=1",
    "probes.vocabulary=all",
    "probes.direct_effect.queries=5",
    "evaluate.memorisation=0",
];

#[test]
fn probes_have_the_same_results_with_any_number_of_processes() {
    let restricted = "trainable.select=[\"restricted\",\"docids\"]";
    for more in [&["probes.over=correct"][..], &["probes.over=all", restricted]] {
        assert_same_with_any_number(&[&FOUR_BATCHES[..], &PROBES, more].concat());
    }
}

/// Denoising too, with three documents held out, which are two batches; a base with sentinels must be given.
const DENOISING: [&str; 3] = [
    "task.tasks=[\"indexing\", \"retrieval\", \"denoising\"]",
    "task.denoising_held_out=0.4",
    "evaluate.batch_size=2",
];

#[test]
fn a_run_with_denoising_has_the_same_bits_with_any_number_of_processes() {
    // Batches of texts alone have no gradients of docid rows: a process may have none that another has.
    let bases = TempDir::new().unwrap();
    sentinels::write_base(bases.path(), 10);
    let base = format!("model.base={}", bases.path().display());
    let more = ["train.epochs=3", &base];
    assert_same_with_any_number(&[&FOUR_BATCHES[..], &DENOISING, &more].concat());
}

#[test]
fn each_process_computes_other_batches_of_the_loss_of_held_out_documents() {
    let home = TempDir::new().unwrap();
    sentinels::write_base(home.path(), 10);
    let base = format!("model.base={}", home.path().display());
    let overrides = [&FOUR_BATCHES[..], &DENOISING, &["train.steps=1", &base]].concat();
    let run = Home::new(&home.path().join("of-4"), &overrides);
    let computed = said(&run, 4, "has the loss of held-out documents:");
    assert_eq!(computed, [["1 batches"], ["1 batches"], ["0 batches"], ["0 batches"]]);
}

/// The log lines of each of `count` processes that have `words` after its name: the rest of each line, in order.
fn said(home: &Home, count: usize, words: &str) -> Vec<Vec<String>> {
    let mut command = processes(count, &home.command());
    let output = output(command.env("RUST_LOG", "genir=debug"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let of_rank = |rank| {
        let words = format!("process {rank} of {count} {words} ");
        let said = text.lines().filter_map(|line| Some(line.split_once(&words)?.1.to_owned()));
        said.collect()
    };
    (0..count).map(of_rank).collect()
}

#[test]
fn each_process_ranks_other_queries_of_an_evaluation() {
    let home = TempDir::new().unwrap();
    let more = ["train.epochs=1", "evaluate.splits=[\"validation\"]", "evaluate.memorisation=0"];
    let overrides = [&FOUR_BATCHES[..], &more].concat();
    let ranked = |count: usize| {
        let run = Home::new(&home.path().join(format!("of-{count}")), &overrides);
        said(&run, count, "has ranked")
    };
    assert_eq!(ranked(2), [["3 queries", "2 queries"], ["3 queries", "0 queries"]]);
    assert_eq!(ranked(4), [["3 queries"], ["3 queries"], ["2 queries"], ["0 queries"]]);
}

#[test]
fn each_process_measures_probes_on_other_queries() {
    let home = TempDir::new().unwrap();
    let more = [
        "train.epochs=1",
        "probes.run=[\"logit_lens\", \"stage_patching\"]",
        "probes.over=all",
        "probes.batch_size=3",
    ];
    let run = Home::new(home.path(), &[&FOUR_BATCHES[..], &more].concat());
    let measured = said(&run, 2, "has computed the activations for");
    assert_eq!(measured, [["3 queries", "2 queries"], ["3 queries", "0 queries"]]);
}

#[test]
fn processes_with_other_queries_to_probe_are_refused_once() {
    let home = TempDir::new().unwrap();
    // The same recipe in two working directories, with another corpus in each.
    let places = ["one", "two"].map(|name| home.path().join(name));
    places.iter().for_each(|place| write_long_corpus(&place.join("corpus"), false));
    let file = places[1].join("corpus/test_queries.json");
    let mut queries: Vec<Value> =
        serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    queries.truncate(200);
    fs::write(&file, Value::from(queries).to_string()).unwrap();
    // Only the probes read the test queries.
    let overrides = [
        "corpus.path=corpus",
        "train.steps=1",
        "train.accumulate=2",
        "evaluate.splits=[\"validation\"]",
        "probes.run=[\"logit_lens\"]",
        "probes.over=all",
        "probes.queries=240",
        "probes.split=test",
    ];
    let run = Home::new(&home.path().join("run"), &overrides);
    let found = refused(&mut two_in([&places[0], &places[1]], &run));
    assert!(found.contains("differ in the queries and options of their probes"), "{found}");
    assert_eq!(found.matches("error: ").count(), 1, "{found}");
}

#[test]
fn processes_encode_long_queries_of_probes_together_to_the_same_results() {
    let home = TempDir::new().unwrap();
    let overrides = [
        "train.batch_size=32",
        "train.accumulate=2",
        "train.steps=2",
        "task.query_tokens=256",
        "~evaluate",
        "probes.run=[\"logit_lens\", \"encoder_swap\"]",
        "probes.queries=240",
        "probes.over=all",
    ];
    let run = |name: &str| {
        let path = home.path().join(name);
        write_long_corpus(&path.join("corpus"), true);
        Home::new(&path, &overrides)
    };
    let (alone, together) = (run("alone"), run("together"));
    alone.train();
    let encoded = said(&together, 2, "encodes");
    assert!(encoded.iter().all(|batches| batches.len() >= 2), "{encoded:?}");
    together.results().assert_same(&alone.results(), "2 processes");
}

/// Writes a corpus of 240 documents of several lengths, with a query each, which is `long` if it has the words of its
/// document: the encoder computes its texts in several batches.
fn write_long_corpus(directory: &Path, long: bool) {
    fs::create_dir_all(directory).unwrap();
    let put = |name: &str, values: Vec<Value>| {
        fs::write(directory.join(name), Value::from(values).to_string()).unwrap();
    };
    let text = |row: usize| {
        let words = (0..40 + row % 60).map(|word| format!("metal {}", row * 31 + word * 7));
        words.collect::<Vec<_>>().join(" ")
    };
    put("documents.json", (0..240).map(|row| json!({"id": row, "text": text(row)})).collect());
    for (name, words) in [("train", "which has"), ("val", "tell me of"), ("test", "what is")] {
        let query = |row: usize| {
            let what = if long { text(row) } else { format!("metal {}", row * 31) };
            let query = format!("{words} {what}");
            json!({"id": format!("{name}-{row}"), "query": query, "relevant_docs": [row]})
        };
        put(&format!("{name}_queries.json"), (0..240).map(query).collect());
    }
}

/// The files of the frozen prefix that are stored for a run.
fn stored(home: &Home) -> BTreeMap<OsString, Vec<u8>> {
    let entries = fs::read_dir(home.path.join("cache")).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn each_process_computes_other_batches_of_the_frozen_prefix_to_the_same_bytes() {
    let home = TempDir::new().unwrap();
    for select in ["\"decoder.mlp\", \"docids\"", "\"decoder.mlp[1,2]\", \"docids\""] {
        let select = format!("trainable.select=[{select}]");
        let overrides = [
            "train.batch_size=32",
            "train.accumulate=4",
            "~train.steps",
            "train.epochs=2",
            "evaluate.every_epochs=1",
            "evaluate.memorisation=60",
            "task.document_tokens=256",
            &select,
        ];
        let run = |name: String| {
            let path = home.path().join(name);
            write_long_corpus(&path.join("corpus"), false);
            Home::new(&path, &overrides)
        };
        let alone = run(format!("alone {}", select.len()));
        alone.train();
        for count in [2, 4] {
            let together = run(format!("of-{count} {}", select.len()));
            let computed = said(&together, count, "computes the frozen prefix of");
            assert!(computed.iter().all(|batches| !batches.is_empty()), "{computed:?}");
            assert!(computed[1].len().abs_diff(computed[0].len()) <= 2, "{computed:?}");
            assert!(stored(&together) == stored(&alone), "{count} processes: the cache differs");
            let when = format!("{select}, {count} processes");
            together.results().assert_same(&alone.results(), &when);
        }
    }
}

/// A process of a training, by its rank.
fn process_of_rank(mpirun: &Child, rank: usize) -> Option<String> {
    let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
    let children = format!("/proc/{0}/task/{0}/children", mpirun.id());
    let children = fs::read_to_string(children).ok()?;
    let of_rank = |id: &&str| {
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    children.split_whitespace().find(of_rank).map(str::to_owned)
}

fn signal(process: &str, signal: &str) {
    assert!(Command::new("kill").args([signal, process]).status().unwrap().success());
}

/// Waits until the run has a checkpoint.
fn wait_for_checkpoint(run: &Path) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::read_link(run.join("checkpoints/latest")).is_err() {
        assert!(Instant::now() < deadline, "no checkpoint within a minute");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Compares the history and the last weights of a run with those of one that was not interrupted. The checkpoints before
/// may be others: some were written for a signal, which mpirun sends, too, when a process was killed.
#[track_caller]
fn assert_same_end(run: &Home, expected: &Home, when: &str) {
    run.results().assert_same_history(&expected.results(), when);
    let weights =
        |home: &Home| fs::read(home.run().join("checkpoints/latest/model.safetensors")).unwrap();
    assert!(weights(run) == weights(expected), "{when}: the weights differ");
}

/// Starts a long run with four processes, sends one of them a signal after its first checkpoint, and continues with two;
/// returns what mpirun has printed, and after how long it ended.
fn interrupt(rank: usize, sent: &str, more: &[&str]) -> (Output, Duration) {
    let overrides = [
        "train.batch_size=4",
        "train.accumulate=4",
        "train.steps=120",
        "save.every_steps=7",
        "evaluate.every_steps=2",
        "evaluate.batch_size=1",
    ];
    let overrides = [&overrides[..], more].concat();
    let home = TempDir::new().unwrap();
    let alone = Home::new(&home.path().join("alone"), &overrides);
    alone.train();
    let disturbed = Home::new(&home.path().join("disturbed"), &overrides);
    let mut command = processes(4, &disturbed.command());
    let mpirun = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_checkpoint(&disturbed.run());
    signal(&process_of_rank(&mpirun, rank).unwrap(), sent);
    let begun = Instant::now();
    let output = mpirun.wait_with_output().unwrap();
    let took = begun.elapsed();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!disturbed.run().join("summary.json").exists() || sent == "-TERM", "too fast: {text}");
    train(&disturbed, 2);
    assert_same_end(&disturbed, &alone, &format!("{sent} to {rank}"));
    (output, took)
}

/// Most of the time is that of evaluations and probes, which a signal interrupts, also between two rounds of batches.
const PROBED: [&str; 4] = [
    "probes.run=[\"logit_lens\", \"direct_effect\"]",
    "probes.every_steps=2",
    "probes.over=all",
    "probes.batch_size=1",
];

#[test]
fn a_run_that_a_signal_stops_continues_with_fewer_processes_to_the_same_bits() {
    let (output, _) = interrupt(0, "-TERM", &PROBED);
    assert_eq!(output.status.code(), Some(128 + 15));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("the same command continues the run"), "{text}");
}

#[test]
fn a_killed_process_ends_all_and_the_run_continues_to_the_same_bits() {
    for rank in [0, 3] {
        let (output, took) = interrupt(rank, "-KILL", &PROBED);
        assert!(!output.status.success());
        assert!(took < Duration::from_secs(10), "{took:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("signal 9"), "{text}");
        assert!(text.contains(&format!("error: process {rank} of 4, on ")), "{text}");
    }
}

#[test]
fn a_process_that_gives_no_sign_of_life_ends_all_and_the_run_continues_to_the_same_bits() {
    // As one on a machine that is lost. mpirun takes a second or two to end after the others.
    for (rank, lost) in [(2, "process 2 of 4"), (0, "process 0 of 4")] {
        let (output, took) = interrupt(rank, "-STOP", &[]);
        assert!(!output.status.success());
        assert!(took < Duration::from_secs(16), "{took:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        let expected = "has given no sign of life for 7 seconds: the others end, too";
        assert!(text.contains(lost) && text.contains(expected), "{text}");
        assert_eq!(text.matches("error: ").count(), 1, "{text}");
    }
}

/// The error of a training that is refused.
#[track_caller]
fn refused(command: &mut Command) -> String {
    let output = output(command);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn batches_that_cannot_be_shared_equally_are_refused_with_the_nearest_number() {
    let home = TempDir::new().unwrap();
    let run = Home::new(home.path(), &["train.accumulate=5"]);
    for (count, nearest) in [(2, 4), (3, 6)] {
        let found = refused(&mut processes(count, &run.command()));
        let expected = format!("{count} processes cannot share the 5 batches of an update equally");
        assert!(found.contains(&expected), "{found}");
        assert!(found.contains(&format!("the nearest such value is {nearest}")), "{found}");
        assert_eq!(found.matches("error: ").count(), 1, "one process says it: {found}");
    }
    assert!(!run.run().exists(), "nothing is written");
}

/// Starts two processes, the second one with another recipe: that of `run` with `key` set.
fn two_with(run: &Home, key: &str) -> Command {
    let mut other = run.command();
    other.arg(key);
    started_together(&[(1, &run.command()), (1, &other)])
}

/// Starts two processes of `run`, each in a working directory of its own.
fn two_in(directories: [&Path; 2], run: &Home) -> Command {
    let [one, two] = directories.map(|directory| {
        let mut command = run.command();
        command.current_dir(directory);
        command
    });
    started_together(&[(1, &one), (1, &two)])
}

#[test]
fn processes_with_different_recipes_are_refused() {
    let home = TempDir::new().unwrap();
    let run = Home::new(home.path(), &["train.accumulate=2"]);
    let found = refused(&mut two_with(&run, "run.seed=4"));
    assert!(found.contains("the processes differ in their recipe"), "{found}");
    assert!(!run.run().exists(), "nothing is written");
}

#[test]
fn an_error_that_one_process_alone_has_ends_all_with_its_place() {
    let home = TempDir::new().unwrap();
    let run = Home::new(home.path(), &["train.accumulate=2"]);
    let found = refused(&mut two_with(&run, "nonsense=4"));
    assert!(found.contains("error: process 1 of 2: "), "{found}");
    assert!(found.contains("nonsense"), "{found}");
    assert!(!run.run().exists(), "nothing is written");
}

#[test]
fn a_panic_in_one_process_ends_all_with_its_place() {
    let home = TempDir::new().unwrap();
    let Some(library) = preloaded::build("failing_clock", home.path()) else { return };
    let overrides = ["train.accumulate=2", "train.steps=2000", "save.every_steps=3"];
    let run = Home::new(home.path(), &overrides);
    // The standard library panics where a clock cannot be read: here in the middle of the training.
    let (this, mut other) = (run.command(), Command::new("env"));
    let latest = run.run().join("checkpoints/latest");
    other.arg(format!("LD_PRELOAD={}", library.display()));
    other.arg(format!("CLOCK_FAILS_AFTER={}", latest.display()));
    other.arg(this.get_program()).args(this.get_args());
    let found = refused(&mut started_together(&[(1, &this), (1, &other)]));
    assert!(found.contains("error: genir has panicked: "), "{found}");
    assert!(found.contains("error: the panic is of process 1 of 2, on "), "{found}");
    assert!(latest.is_dir(), "the training has begun");
}

#[test]
fn a_loss_that_is_not_finite_ends_all_processes_and_is_reported_once() {
    let home = TempDir::new().unwrap();
    let run = Home::new(home.path(), &["train.accumulate=2", "optimizer.learning_rate=1e38"]);
    let found = refused(&mut processes(2, &run.command()));
    assert_eq!(found.matches("error: ").count(), 1, "{found}");
    assert!(found.contains("at step"), "{found}");
    assert!(run.run().join("failed-step").is_dir(), "the state before the step is stored");
}

#[test]
fn processes_with_different_base_models_are_refused_once() {
    let home = TempDir::new().unwrap();
    let base = home.path().join("pretrained");
    let trained = Home::new(&base, &["train.steps=2"]);
    trained.train();
    // The same recipe in two working directories, with another base model in each.
    for (name, step) in [("one", "train.steps=1"), ("two", "train.steps=3")] {
        let run = Home::new(&base.join(name), &[step]);
        run.train();
        let to = home.path().join(name).join("base");
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::rename(run.run().join("checkpoints/latest").canonicalize().unwrap(), to).unwrap();
    }
    let overrides =
        ["train.accumulate=2", "model.base=base", "model.init=pretrained", "~model.config"];
    let run = Home::new(&home.path().join("tuned"), &overrides);
    let found = refused(&mut two_in([&home.path().join("one"), &home.path().join("two")], &run));
    assert!(found.contains("the processes differ in the weights that they begin with"), "{found}");
    assert_eq!(found.matches("error: ").count(), 1, "{found}");
}

#[test]
fn processes_that_continue_from_different_checkpoints_are_refused() {
    let home = TempDir::new().unwrap();
    // The same command in two working directories, whose runs have been trained by other numbers of updates.
    let runs = [("one", 2), ("two", 3)].map(|(name, steps)| {
        let run = Home::new(
            &home.path().join(name),
            &[&format!("train.steps={steps}"), "train.accumulate=2"],
        );
        run.train();
        run
    });
    let overrides = ["run.directory=run", "train.accumulate=2", "train.steps=4", "--resume=latest"];
    let both = Home::new(&home.path().join("both"), &overrides);
    let before = runs.each_ref().map(|run| everything::everything(&run.run()));
    let found = refused(&mut two_in([&runs[0].path, &runs[1].path], &both));
    assert!(found.contains("the processes differ in what they start from"), "{found}");
    assert!(found.contains("process 0 has the checkpoint of step 2, "), "{found}");
    assert!(found.contains("process 1 has the checkpoint of step 3, "), "{found}");
    assert_eq!(found.matches("error: ").count(), 1, "one process says it: {found}");
    let after = runs.each_ref().map(|run| everything::everything(&run.run()));
    assert!(before == after, "nothing is written");
}

#[test]
fn processes_of_different_programs_are_refused() {
    let home = TempDir::new().unwrap();
    let run = Home::new(home.path(), &["train.accumulate=2"]);
    // It runs as the program itself does.
    let copy = home.path().join("genir");
    let this = run.command();
    fs::copy(this.get_program(), &copy).unwrap();
    fs::OpenOptions::new().append(true).open(&copy).unwrap().write_all(&[0]).unwrap();
    let mut other = Command::new(&copy);
    other.args(this.get_args());
    let found = refused(&mut started_together(&[(1, &this), (1, &other)]));
    assert!(found.contains("the processes differ in their program"), "{found}");
    assert_eq!(found.matches("error: ").count(), 1, "one process says it: {found}");
    assert!(!run.run().exists(), "nothing is written");
}

#[test]
fn a_launcher_of_another_mpi_is_refused() {
    let home = TempDir::new().unwrap();
    let run = Home::new(home.path(), &["train.accumulate=2"]);
    let found = refused(run.command().env("PMI_SIZE", "2").env("PMI_RANK", "0"));
    assert!(found.contains("MPI has started 2 processes (PMI_SIZE=2)"), "{found}");
    assert!(found.contains("knows of 1"), "{found}");
    assert!(!run.run().exists(), "nothing is written");
}
