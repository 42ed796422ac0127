//! `genir eval`: ties as in trec_eval, several runs, selected metrics, metrics of each query, the paper's unmasked
//! evaluation.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use genir::retrieval::run_files::{read_correct_queries, read_qrels, read_run};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command::{assert_says, genir_with_input, is_refused, succeeds, text};
use crate::tiny_corpus;

/// Trains one step on the tiny corpus with recipe overrides. Returns standard error.
fn train(home: &Path, keys: &[&str]) -> String {
    let file = home.join("tiny.toml");
    fs::write(&file, tiny_corpus::recipe(home)).unwrap();
    let recipe = text(file);
    succeeds(&[&["train", &recipe, "train.steps=1"], keys].concat()).stderr
}

/// The tiny run.
fn tiny_run() -> (TempDir, String) {
    let home = TempDir::new().unwrap();
    train(home.path(), &[]);
    let run = text(home.path().join("run"));
    (home, run)
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The lines of a CSV file without quotes, by column.
fn table(file: &Path) -> Vec<BTreeMap<String, String>> {
    let text = fs::read_to_string(file).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned));
    let header: Vec<String> = lines.next().unwrap().collect();
    lines.map(|line| header.iter().cloned().zip(line).collect()).collect()
}

#[test]
fn a_constant_scorer_has_the_metrics_that_ir_measures_computes_from_its_run_file() {
    let home = TempDir::new().unwrap();
    let corpus = home.path().join("corpus");
    fs::create_dir_all(&corpus).unwrap();
    let put = |name: &str, values: Vec<Value>| {
        fs::write(corpus.join(name), json!(values).to_string()).unwrap();
    };
    let document = |row| json!({"id": format!("d{row}"), "text": "the same text"});
    let query = |row| json!({"id": format!("q{row}"), "query": "a metal", "relevant_docs": [format!("d{row}")]});
    put("documents.json", (0..10).map(document).collect());
    for name in ["train_queries.json", "val_queries.json"] {
        put(name, (0..10).map(query).collect());
    }
    let said = train(home.path(), &["docids.rows=text", "optimizer.learning_rate=1e-30"]);
    assert_says(&said, &["validation: 10 of 10 relevant documents (100.0%)", "trec_eval"]);

    let [run_file, qrels] = ["a.run", "a.qrels"].map(|name| text(home.path().join(name)));
    let run = text(home.path().join("run"));
    let found = succeeds(&[
        "eval",
        &run,
        "--run",
        &run_file,
        "--qrels",
        &qrels,
        "--format",
        "json",
        "--metrics",
        "hits@1 RR nDCG",
    ]);
    assert_says(
        &found.stderr,
        &["10 of 10 relevant documents (100.0%)", "exactly the score of another"],
    );
    // The values of ir_measures: each document is first for one query of ten, and 1/1 + .. + 1/10 is 2.929.
    let all = &json_of(&found.stdout)["all"];
    assert_eq!(all["hits@1"], 0.1);
    assert!((all["RR"].as_f64().unwrap() - 0.292_896_825_396_825_4).abs() < 1e-12);
    assert!((all["nDCG"].as_f64().unwrap() - 0.454_355_933_808_834_6).abs() < 1e-12, "{all}");
    // All scores are equal, and the ranks in the file are in trec_eval's order.
    let lines = read_run(Path::new(&run_file)).unwrap();
    for lines in lines.chunk_by(|a, b| a.query == b.query) {
        assert!(lines.iter().all(|line| line.score == lines[0].score));
        assert!(lines.is_sorted_by(|a, b| a.document > b.document));
    }
    assert_eq!(read_qrels(Path::new(&qrels)).unwrap().len(), 10);
}

#[test]
fn selected_metrics_replace_the_default_ones() {
    let (_home, run) = tiny_run();
    let names = "nDCG@3 RR, Success@1\thits@1 P(rel=2)@5 nDCG@3";
    let chosen = json_of(&succeeds(&["eval", &run, "--metrics", names, "--format", "json"]).stdout);
    let keys: Vec<&String> = chosen["all"].as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 6, "each once, and the queries: {keys:?}");
    assert_eq!(chosen["all"]["Success@1"], chosen["all"]["hits@1"]);
    assert_eq!(chosen["all"]["P(rel=2)@5"], 0.0, "all grades are 1");
    let usual = json_of(&succeeds(&["eval", &run, "--format", "json"]).stdout);
    assert_eq!(usual["all"]["hits@1"], chosen["all"]["hits@1"]);
    assert_eq!(usual["all"].as_object().unwrap().len(), 8);

    let table = succeeds(&["eval", &run, "--metrics", "nDCG@3 AP nDCG@3"]).stdout;
    assert_eq!(table.matches("| nDCG@3 ").count(), 1, "one column: {table}");
    assert_says(&table, &["| part ", "| nDCG@3 ", "| AP ", "grade 1 or higher"]);
    let refused = genir_with_input(&["eval", &run, "--metrics", "nDCG@3 ndgc@10"], "");
    assert_eq!(refused.code, 2);
    assert_says(
        &refused.stderr,
        &["\"ndgc@10\" is not a known metric, did you mean nDCG@10?", "Rprec"],
    );
}

#[test]
fn several_runs_are_rows_of_one_table() {
    let (home, run) = tiny_run();
    train(
        home.path(),
        &["run.seed=9", &format!("run.directory={}", text(home.path().join("other")))],
    );
    let other = text(home.path().join("other"));
    let checkpoint = text(home.path().join("run/checkpoints/step-000001"));
    let all = [run.as_str(), &other, &checkpoint];

    let of =
        |runs: &[&str]| json_of(&succeeds(&[&["eval", "--format", "json"], runs].concat()).stdout);
    let several = of(&all);
    assert_eq!(several.as_array().unwrap().len(), 3);
    for (found, name) in several.as_array().unwrap().iter().zip(all) {
        assert_eq!(found["run"], name);
        let alone = of(&[name]);
        assert_eq!((&found["all"], &found["seen"]), (&alone["all"], &alone["seen"]));
    }
    let table = succeeds(&["eval", &run, &other]).stdout;
    assert_says(&table, &["| run ", "| part ", &run, &other]);

    let file = text(home.path().join("one.run"));
    is_refused(
        &["eval", &run, &other, "--run", &file],
        &["--run: one checkpoint per file", "--per-query"],
    );
    is_refused(&["eval", &run, &run], &["is given twice"]);
    let absent = ["eval", &run, "no/such/run", "nor/such"];
    is_refused(&absent, &["no/such/run: neither a checkpoint", "nor/such: neither a checkpoint"]);
    assert!(!Path::new(&file).exists());
}

#[test]
fn the_means_of_the_per_query_metrics_are_the_printed_ones() {
    let (home, run) = tiny_run();
    let file = home.path().join("queries.csv");
    let checkpoint = text(home.path().join("run/checkpoints/step-000001"));
    let names = "hits@1 RR nDCG@10";
    let path = text(file.clone());
    let printed = succeeds(&[
        "eval",
        &run,
        &checkpoint,
        "--metrics",
        names,
        "--per-query",
        &path,
        "--format",
        "json",
    ]);
    let printed = json_of(&printed.stdout);
    let rows = table(&file);
    assert_eq!(rows.len(), 2 * 8);
    let header = fs::read_to_string(&file).unwrap();
    assert!(header.starts_with("run,query,part,docid,rank,hits@1,RR,nDCG@10\n"), "{header}");
    for (index, name) in [&run, &checkpoint].into_iter().enumerate() {
        for part in ["all", "seen", "unseen"] {
            let of = |row: &&BTreeMap<String, String>| {
                row["run"] == *name && (part == "all" || row["part"] == part)
            };
            let rows: Vec<_> = rows.iter().filter(of).collect();
            let expected = &printed[index][part];
            assert_eq!(expected["queries"], rows.len(), "{part}");
            for measure in ["hits@1", "RR", "nDCG@10"] {
                let sum: f64 = rows.iter().map(|row| row[measure].parse::<f64>().unwrap()).sum();
                let mean = sum / rows.len() as f64;
                assert!((mean - expected[measure].as_f64().unwrap()).abs() < 1e-12, "{measure}");
            }
        }
    }
    // In the order of the corpus, independent of the order of computation, each with its document and rank.
    for (row, (document, _)) in rows.iter().zip(tiny_corpus::DOCUMENTS) {
        assert_eq!(row["docid"], document);
        let rank: f64 = row["rank"].parse().unwrap();
        assert_eq!(row["RR"], (1.0 / rank).to_string());
    }
    assert!(rows.iter().map(|row| &row["query"]).take(3).eq(["val-0", "val-1", "val-2"]));
}

#[test]
fn metrics_go_to_standard_error_if_a_file_is_standard_output() {
    let (home, run) = tiny_run();
    let at = |name: &str| home.path().join(name);
    for (option, name) in [
        ("--run", "a.run"),
        ("--qrels", "a.qrels"),
        ("--correct", "a.json"),
        ("--per-query", "a.csv"),
    ] {
        let printed = succeeds(&["eval", &run, option, "-"]);
        let file = text(at(name));
        succeeds(&["eval", &run, option, &file]);
        assert_eq!(printed.stdout, fs::read_to_string(file).unwrap(), "{option}");
        assert_says(&printed.stderr, &["| all ", "hits@1"]);
    }
    is_refused(
        &["eval", &run, "--run", "-", "--qrels", "-"],
        &["--run and --qrels", "standard output"],
    );
}

#[test]
#[cfg(target_os = "linux")]
fn metrics_of_each_query_command_no_terminal_and_are_unchanged_in_a_file() {
    let home = TempDir::new().unwrap();
    tiny_corpus::write(&home.path().join("corpus"));
    let queries = home.path().join("corpus/val_queries.json");
    let renamed = fs::read_to_string(&queries).unwrap().replace("val-1", "val\\u001b[2J1");
    fs::write(&queries, renamed).unwrap();
    train(home.path(), &[]);
    let run = text(home.path().join("run"));
    let eval = ["eval", &run, "--per-query", "-"];
    let piped = succeeds(&eval).stdout;
    assert_says(&piped, &["val\u{1b}[2J1"]);

    // `script` of util-linux runs a command on a terminal.
    let command = [&[env!("CARGO_BIN_EXE_genir")], &eval[..]].concat().join(" ");
    let script = Command::new("script").args(["-qec", &command, "/dev/null"]).output();
    let Ok(shown) = script else { return eprintln!("skipped: there is no `script`") };
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert_says(&shown, &[r"val\u{1b}[2J1", "| all "]);
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}

#[test]
fn unmasked_evaluation_ranks_as_transformers_does_without_a_mask() {
    for model in ["shallow", "deep"] {
        let home = TempDir::new().unwrap();
        let directory =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/probes").join(model);
        let expected = json_of(&fs::read_to_string(directory.join("unmasked.json")).unwrap());
        let [checkpoint, corpus] = ["checkpoint", "corpus"].map(|name| text(directory.join(name)));
        let [csv, correct] =
            ["queries.csv", "correct_valid.json"].map(|name| home.path().join(name));
        let found = succeeds(&[
            "eval",
            &checkpoint,
            "--corpus",
            &corpus,
            "--vocabulary",
            "all",
            "--unmasked-padding",
            "128",
            "--per-query",
            &text(csv.clone()),
            "--correct",
            &text(correct.clone()),
            "--format",
            "json",
        ]);
        let found = json_of(&found.stdout);
        assert_eq!(found["unmasked_padding"], 128);
        let ranks = expected["ranks"].as_object().unwrap();
        let rows = table(&csv);
        assert_eq!(rows.len(), ranks.len());
        for row in &rows {
            let relevant = ranks[&row["query"]].as_object().unwrap();
            let best = relevant.values().map(|rank| rank.as_u64().unwrap()).min().unwrap();
            assert_eq!(row["rank"].parse::<u64>().unwrap(), best, "{model} {}", row["query"]);
            assert_eq!(relevant[&row["docid"]], best, "{model} {}", row["query"]);
        }
        let pairs: Vec<(String, String)> =
            serde_json::from_value(expected["correct"].clone()).unwrap();
        assert_eq!(read_correct_queries(&correct).unwrap(), pairs, "{model}");
        let hits = pairs.len() as f64 / ranks.len() as f64;
        assert!((found["all"]["hits@1"].as_f64().unwrap() - hits).abs() < 1e-12);
    }
}

#[test]
fn unmasked_evaluation_is_off_by_default_and_reported_if_it_is_on() {
    let home = TempDir::new().unwrap();
    let said = train(home.path(), &[]);
    assert!(!said.contains("mask"), "{said}");
    let run = text(home.path().join("run"));
    let masked = succeeds(&["eval", &run]).stdout;
    assert!(!masked.contains("mask"), "{masked}");
    let unmasked = succeeds(&["eval", &run, "--unmasked-padding", "40"]).stdout;
    assert_says(&unmasked, &["padded to 40 tokens without an attention mask", "eval.py"]);

    // The recipe's key gives what the option gives, also where the encoder is frozen and stored.
    let other = home.path().join("other");
    let keys = [
        &format!("run.directory={}", text(other.clone())),
        "trainable.select=restricted",
        "evaluate.unmasked_padding=40",
        "evaluate.at_start=true",
        "evaluate.vocabulary=all",
    ];
    let said = train(home.path(), &keys);
    assert_says(&said, &["padded to 40 tokens without a mask"]);
    let file = home.path().join("unmasked.run");
    let option = ["--unmasked-padding", "40", "--vocabulary", "all", "--run", &text(file.clone())];
    succeeds(&[&["eval", &text(other.clone())], &option[..]].concat());
    let of = |path: &Path| {
        let lines = read_run(path).unwrap();
        lines
            .into_iter()
            .map(|line| (line.query.clone(), line.rank, line.document))
            .collect::<Vec<_>>()
    };
    let assert_same = |found: &Path, expected: &Path| {
        let (mut found, mut expected) = (of(found), of(expected));
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    };
    assert_same(&other.join("retrieval/validation.run"), &file);
    // Without the option and the key, both mask the padding.
    let masked = home.path().join("masked.run");
    succeeds(&["eval", &run, "--run", &text(masked.clone())]);
    assert_same(&Path::new(&run).join("retrieval/validation.run"), &masked);
}

#[test]
fn unmasked_evaluation_truncates_queries_to_the_padded_length() {
    // All queries start with "tell me about": truncated to two tokens they are equal, and so are their scores.
    let home = TempDir::new().unwrap();
    train(home.path(), &["evaluate.unmasked_padding=2"]);
    let run = home.path().join("run");
    let [cut, whole] = ["cut.run", "whole.run"].map(|name| home.path().join(name));
    for (length, file) in [("2", &cut), ("40", &whole)] {
        succeeds(&[
            "eval",
            &text(run.clone()),
            "--unmasked-padding",
            length,
            "--run",
            &text(file.clone()),
        ]);
    }
    let of = |path: &Path| {
        let mut by_query = BTreeMap::<String, Vec<String>>::new();
        for line in read_run(path).unwrap() {
            by_query
                .entry(line.query)
                .or_default()
                .push(format!("{} {}", line.document, line.score));
        }
        by_query.into_values().collect::<Vec<_>>()
    };
    for (file, are_one) in
        [(cut, true), (run.join("retrieval/validation.run"), true), (whole, false)]
    {
        let ranked = of(&file);
        assert_eq!(ranked.len(), 8);
        assert_eq!(ranked.iter().all(|one| *one == ranked[0]), are_one, "{}", file.display());
    }
}
