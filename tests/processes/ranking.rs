//! `genir eval`, `genir search` and `genir probe` by several processes: what one process writes and prints.

use super::*;
use crate::planted_stages::{CLEAR, plant};

/// A trained run of the tiny corpus.
fn trained(path: &Path) -> Home {
    let run = Home::new(path, &["train.epochs=3", "~train.steps"]);
    run.train();
    run
}

/// A command of the program on the run of `home`.
fn command(home: &Home, name: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_genir"));
    command.arg(name).arg(home.run()).args(more).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

#[track_caller]
fn printed(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn several_processes_evaluate_to_the_same_files_and_metrics() {
    let home = TempDir::new().unwrap();
    let run = trained(home.path());
    for more in [&["--vocabulary", "all", "--format", "json"][..], &["--baseline", "bm25"]] {
        let evaluate = |count: Option<usize>| {
            let files = ["run", "qrels", "correct", "per-query"].map(|name| {
                let name = if more.contains(&"bm25") { "per-query" } else { name };
                (format!("--{name}"), home.path().join(format!("{name}-{count:?}")))
            });
            let mut alone = command(&run, "eval", &["--batch-size", "3", "--depth", "5"]);
            alone.args(more);
            let files: BTreeMap<String, _> = files.into_iter().collect();
            files.iter().for_each(|(option, path)| _ = alone.arg(option).arg(path));
            let text = match count {
                None => printed(&mut alone),
                Some(count) => printed(&mut processes(count, &alone)),
            };
            let files = files.values().map(|path| fs::read_to_string(path).unwrap());
            (text, files.collect::<Vec<_>>())
        };
        let alone = evaluate(None);
        assert!(alone.0.len() > 50 && alone.1.iter().all(|file| !file.is_empty()), "{alone:?}");
        for count in [1, 2, 4] {
            assert_eq!(evaluate(Some(count)), alone, "{more:?}, {count} processes");
        }
    }
}

#[test]
fn each_process_ranks_other_queries_by_bm25() {
    let home = TempDir::new().unwrap();
    write_long_corpus(&home.path().join("corpus"), false);
    let run = |count: Option<usize>| {
        let file = home.path().join(format!("run-{count:?}"));
        let mut alone = Command::new(env!("CARGO_BIN_EXE_genir"));
        alone.args(["eval", "--baseline", "bm25", "--depth", "7", "--corpus"]);
        alone.arg(home.path().join("corpus")).arg("--run").arg(&file);
        let mut command = match count {
            None => alone,
            Some(count) => processes(count, &alone),
        };
        let output = output(command.env("RUST_LOG", "genir=debug"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        (String::from_utf8(output.stdout).unwrap(), fs::read_to_string(file).unwrap(), said)
    };
    let (printed, file, _) = run(None);
    assert!(file.lines().count() > 1000, "{file}");
    let (of_two, file_of_two, said) = run(Some(2));
    assert_eq!((of_two, file_of_two), (printed, file));
    for ranked in ["process 0 of 2 has ranked 128 queries", "process 1 of 2 has ranked 112 queries"]
    {
        assert!(said.contains(&format!("{ranked} by BM25")), "{said}");
    }
}

#[test]
fn several_processes_probe_to_the_same_files() {
    let home = TempDir::new().unwrap();
    let run = trained(home.path());
    let swapped = Home::new(&home.path().join("swapped"), &["train.epochs=2", "~train.steps"]);
    swapped.train();
    let pairs = home.path().join("pairs.json");
    printed(
        command(&run, "probe", &["--probe=logit_lens", "--vocabulary=docids"])
            .arg("--write-correct")
            .arg(&pairs),
    );
    let [swapped, pairs] = [swapped.run(), pairs].map(|path| path.display().to_string());
    for more in [
        &["--encoder-from", &swapped, "--left-out-ids=7,neon,Oslo,lima", "--average-first=queries"]
            [..],
        &["--correct", &pairs, "--circuit=decoder.mlp[0]=mean", "--variant=exact"],
    ] {
        assert_same_probes(&home, &run, more);
    }
}

#[test]
fn the_first_process_detects_the_stages_of_all() {
    let home = TempDir::new().unwrap();
    let layers = format!("model.config.num_decoder_layers={}", CLEAR.len());
    let run = Home::new(home.path(), &["train.steps=1", &layers]);
    run.train();
    plant(&run.run().join("checkpoints/latest").canonicalize().unwrap(), &CLEAR);
    // The first process has states of the encoder then, which the others do not have.
    assert_same_probes(&home, &run, &["--stages=detect", "--over=all", "--base=none"]);
}

fn assert_same_probes(home: &TempDir, run: &Home, more: &[&str]) {
    let probe = |count: Option<usize>| {
        let [ranks, correct] =
            ["ranks", "correct"].map(|name| home.path().join(format!("{name}-{count:?}")));
        let mut alone =
            command(run, "probe", &["--batch-size=3", "--format=json", "--vocabulary=docids"]);
        alone.args(more);
        alone.arg("--per-query").arg(&ranks).arg("--write-correct").arg(&correct);
        let text = match count {
            None => printed(&mut alone),
            Some(count) => printed(&mut processes(count, &alone)),
        };
        let mut records: Value = serde_json::from_str(&text).unwrap();
        for record in records.as_array_mut().unwrap() {
            assert!(record.as_object_mut().unwrap().remove("seconds").is_some());
        }
        (records.to_string(), [ranks, correct].map(|path| fs::read_to_string(path).unwrap()))
    };
    let alone = probe(None);
    assert!(alone.0.contains("attention_writes") && alone.1[0].lines().count() > 50, "{alone:?}");
    for count in [2, 4] {
        assert_eq!(probe(Some(count)), alone, "{more:?}, {count} processes");
    }
}

#[test]
fn each_process_has_its_own_rows_in_an_evaluation_and_a_search() {
    let home = TempDir::new().unwrap();
    let run = trained(home.path());
    for command in [command(&run, "eval", &[]), command(&run, "search", &["a noble gas"])] {
        let output = output(processes(4, &command).env("RUST_LOG", "genir=debug"));
        let text = String::from_utf8_lossy(&output.stderr);
        for process in 0..4 {
            let (first, end) = (2 * process, 2 * process + 2);
            let expected = format!("process {process} of 4 has docid rows {first}..{end} of 8");
            assert!(text.contains(&expected), "{text}");
        }
    }
    // Eight rows cannot be divided among nine processes: each has all of them, and ranks other queries.
    let all = processes(9, &command(&run, "eval", &["--batch-size", "2"]));
    assert_eq!(printed(&mut { all }), printed(&mut command(&run, "eval", &["--batch-size", "2"])));
}

#[test]
fn several_processes_search_to_the_same_hits() {
    let home = TempDir::new().unwrap();
    let run = trained(home.path());
    let arguments = ["which metal has the symbol Au", "--json", "-k", "6"];
    let alone = printed(&mut command(&run, "search", &arguments));
    assert_eq!(alone.lines().count(), 6);
    for count in [2, 4] {
        let found = printed(&mut processes(count, &command(&run, "search", &arguments)));
        assert_eq!(found, alone, "{count} processes");
    }
    // Queries from the standard input, of which one is empty.
    let file = home.path().join("queries");
    fs::write(&file, "a noble gas\n\na city on a lake\n").unwrap();
    let input = || Stdio::from(fs::File::open(&file).unwrap());
    let alone = printed(command(&run, "search", &[]).stdin(input()));
    assert!(alone.contains("query: a city on a lake"));
    assert_eq!(printed(processes(2, &command(&run, "search", &[])).stdin(input())), alone);
}

#[test]
fn an_error_of_a_command_ends_all_processes_and_is_said_once() {
    let home = TempDir::new().unwrap();
    let run = trained(home.path());
    let missing = home.path().join("missing");
    let mut wrong = Command::new(env!("CARGO_BIN_EXE_genir"));
    wrong.arg("eval").arg(&missing);
    let found = refused(&mut processes(2, &wrong));
    assert!(found.contains("neither a checkpoint"), "{found}");
    assert_eq!(found.matches("error: ").count(), 1, "{found}");

    let found = refused(&mut processes(2, &command(&run, "search", &[" "])));
    assert!(found.contains("the query is empty"), "{found}");
    assert_eq!(found.matches("error: ").count(), 1, "{found}");

    for (wrong, words) in [
        // No query is correct among text tokens and docids.
        ("--vocabulary=all", "relevant docid at rank 1"),
        // The first process finds the stages.
        ("--stages=detect", "there is no Stage II"),
    ] {
        let found = refused(&mut processes(2, &command(&run, "probe", &[wrong])));
        assert!(found.contains(words), "{found}");
        assert_eq!(found.matches("error: ").count(), 1, "{found}");
    }

    // The first process alone cannot write.
    let file = missing.join("test.run");
    let file = file.to_str().unwrap();
    for wrong in [
        command(&run, "eval", &["--run", file]),
        command(&run, "probe", &["--over=all", "--output", file]),
    ] {
        let found = refused(&mut processes(2, &wrong));
        assert!(found.contains("test.run: cannot be written"), "{found}");
        assert_eq!(found.matches("error: ").count(), 1, "{found}");
    }
}

#[test]
fn processes_that_would_rank_other_things_are_refused_once() {
    let home = TempDir::new().unwrap();
    let run = trained(&home.path().join("one"));
    let other = Home::new(&home.path().join("other"), &["train.epochs=2", "~train.steps"]);
    other.train();
    let second = other.run();
    let second = second.to_str().unwrap();
    for (words, this, that) in [
        ("their checkpoint", command(&run, "eval", &[]), command(&other, "eval", &[])),
        ("their options", command(&run, "eval", &[]), command(&run, "eval", &["--split=test"])),
        ("their options", command(&run, "eval", &[]), command(&run, "eval", &["--batch-size=3"])),
        (
            "the queries and options of their probes",
            command(&run, "probe", &["--over=all"]),
            command(&run, "probe", &["--over=all", "--batch-size=3"]),
        ),
        (
            "the queries and options of their probes",
            command(&run, "probe", &["--over=all"]),
            command(&run, "probe", &["--over=all", "--split=test"]),
        ),
        (
            "the base model of their probes",
            command(&run, "probe", &["--over=all"]),
            command(&run, "probe", &["--over=all", "--base", second]),
        ),
        (
            "their options",
            command(&run, "eval", &["--baseline=bm25"]),
            command(&run, "eval", &["--baseline=bm25", "--bm25-k1=1.2"]),
        ),
        ("their baseline", command(&run, "eval", &["--baseline=bm25"]), command(&run, "eval", &[])),
        (
            "their number of checkpoints",
            command(&run, "eval", &[]),
            command(&run, "eval", &[second]),
        ),
        (
            "their checkpoint",
            command(&run, "search", &["gold"]),
            command(&other, "search", &["gold"]),
        ),
        (
            "their options",
            command(&run, "search", &["gold"]),
            command(&run, "search", &["gold", "-k2"]),
        ),
    ] {
        let found = refused(&mut started_together(&[(1, &this), (1, &that)]));
        assert!(found.contains(&format!("the processes differ in {words}")), "{found}");
        assert_eq!(found.matches("error: ").count(), 1, "{found}");
    }
}

#[test]
fn a_reader_that_closes_its_pipe_ends_an_evaluation_of_several_processes() {
    let home = TempDir::new().unwrap();
    write_long_corpus(&home.path().join("corpus"), false);
    let run = Home::new(home.path(), &["train.steps=1"]);
    run.train();
    let pipe = home.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = thread::spawn({
        let pipe = pipe.clone();
        // It opens the pipe, and closes it.
        move || drop(fs::File::open(pipe).unwrap())
    });
    // More than is buffered, so that writing fails in the middle of the ranking.
    let many = ["--batch-size=1", "--depth=100", "--run", pipe.to_str().unwrap()];
    let mut eval = processes(2, &command(&run, "eval", &many));
    let started = eval.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    let output = started.wait_with_output().unwrap();
    reader.join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("panicked") && !text.contains("error: "), "{text}");
}
