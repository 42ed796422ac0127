//! `genir eval --baseline bm25`: without a checkpoint, beside runs, with the metrics, splits and files of an evaluation.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use genir::retrieval::run_files::{read_qrels, read_run};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::collections::collections;
use crate::command::{assert_says, genir_with_input, is_refused, succeeds, text};
use crate::tiny_corpus;

/// The tiny recipe, whose run does not exist yet.
fn recipe(home: &Path) -> String {
    let file = home.join("tiny.toml");
    fs::write(&file, tiny_corpus::recipe(home)).unwrap();
    text(file)
}

fn json_of(arguments: &[&str]) -> Value {
    let all = [&["eval", "--baseline", "bm25", "--format", "json"], arguments].concat();
    serde_json::from_str(&succeeds(&all).stdout).unwrap()
}

#[test]
fn a_recipe_without_a_run_is_enough_and_results_have_the_form_of_a_models() {
    let home = TempDir::new().unwrap();
    let recipe = recipe(home.path());
    let found = json_of(&[&recipe]);
    let parts: Vec<&String> = found.as_object().unwrap().keys().collect();
    assert_eq!(parts, ["all", "baseline", "seen", "unseen"]);
    assert_eq!(found["all"]["hits@1"], 1.0, "queries repeat four words of their document: {found}");
    assert_eq!([&found["all"], &found["unseen"]].map(|part| &part["queries"]), [8, 1]);
    let expected = json!({
        "name": "bm25", "library": "bm25 2.3.2", "k1": 0.9, "b": 0.4, "language": "english",
        "stemming": true, "remove_stop_words": true,
    });
    assert_eq!(found["baseline"], expected);

    // A corpus alone, another split, a sample, other metrics, other options.
    let corpus = text(home.path().join("corpus"));
    let options =
        ["--bm25-k1", "1.2", "--bm25-b", "0.75", "--bm25-no-stemming", "--bm25-keep-stop-words"];
    let of_corpus =
        ["--corpus", &corpus, "--split", "test", "--queries", "5", "--metrics", "RR AP"];
    let found = json_of(&[&of_corpus[..], &options[..]].concat());
    assert_eq!(found["all"]["queries"], 5);
    assert!(found["all"]["RR"].is_f64() && found["all"].get("hits@1").is_none(), "{found}");
    assert_eq!([&found["baseline"]["k1"], &found["baseline"]["b"]], [1.2, 0.75]);
    assert_eq!(found["baseline"]["stemming"], false);

    let table = succeeds(&["eval", &recipe, "--baseline", "bm25", "--bm25-language", "french"]);
    let said = "bm25: k1 0.9, b 0.4, french stems, without stop words, full texts of documents";
    assert_says(&table.stdout, &["| part ", "| hits@1 ", "seen:", said]);
    assert!(!table.stdout.contains("Candidate set"), "{}", table.stdout);
    assert!(!home.path().join("run").exists(), "nothing is trained");
    // A recipe that comes with genir, by its name.
    let shipped = json_of(&["quickstart"]);
    assert!(shipped["all"]["hits@10"].as_f64().unwrap() > 0.8, "{shipped}");
}

#[test]
fn beside_runs_it_is_a_row_of_the_table_and_of_the_values_of_each_query() {
    let home = TempDir::new().unwrap();
    let recipe = recipe(home.path());
    succeeds(&["train", &recipe, "train.steps=1"]);
    let [run, file] = ["run", "queries.csv"].map(|name| text(home.path().join(name)));
    let found = json_of(&[&run, "--per-query", &file, "--unmasked-padding", "40"]);
    let alone = json_of(&[&recipe]);
    assert_eq!([&found[0]["run"], &found[1]["run"]], [&json!(run), &json!("bm25")]);
    assert_eq!(found[1]["all"], alone["all"]);
    assert_eq!(found[1]["baseline"], alone["baseline"]);
    assert!(found[0].get("baseline").is_none() && found[1].get("unmasked_padding").is_none());
    let text = fs::read_to_string(&file).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("bm25,")).collect();
    assert_eq!((rows.len(), text.lines().count()), (8, 17));
    assert!(rows[0].starts_with("bm25,val-0,seen,7,1,1,"), "{}", rows[0]);
    let table = succeeds(&["eval", &run, "--baseline", "bm25"]).stdout;
    assert_says(&table, &["| run ", "| bm25 ", "Candidate set", "bm25: k1 0.9"]);

    is_refused(
        &["eval", &run, "--baseline", "bm25", "--run", &file, "--correct", "c.json"],
        &["--run and --correct: one run per file", "on a recipe or with --corpus"],
    );
    is_refused(
        &["eval", &run, &recipe, "--baseline", "bm25"],
        &["tiny.toml is a recipe: give it alone"],
    );
    is_refused(&["eval", &recipe], &["is a recipe, not a checkpoint", "--baseline bm25"]);
    is_refused(&["eval", "quickstart"], &["quickstart is a recipe"]);
}

#[test]
fn a_query_that_matches_nothing_has_an_empty_ranking_and_counts_zero() {
    let home = TempDir::new().unwrap();
    let recipe = recipe(home.path());
    let queries = json!([
        {"id": "gold", "query": "golden gold", "relevant_docs": [0]},
        {"id": "none", "query": "qwertz 🦀", "relevant_docs": ["neon"]},
        {"id": "stop", "query": "with the", "relevant_docs": ["neon"]},
        {"id": "other", "query": "gold", "relevant_docs": ["neon"]},
    ]);
    fs::write(home.path().join("corpus/val_queries.json"), queries.to_string()).unwrap();
    let [run, qrels, correct, csv] =
        ["a.run", "a.qrels", "c.json", "q.csv"].map(|name| text(home.path().join(name)));
    let arguments = ["--run", &run, "--qrels", &qrels, "--correct", &correct, "--per-query", &csv];
    let found =
        json_of(&[&[recipe.as_str(), "--metrics", "hits@100 RR nDCG@10"], &arguments[..]].concat());
    assert_eq!(found["all"], json!({"queries": 4, "hits@100": 0.25, "RR": 0.25, "nDCG@10": 0.25}));
    let lines = read_run(Path::new(&run)).unwrap();
    let asked: Vec<(&str, &str)> =
        lines.iter().map(|line| (line.query.as_str(), line.document.as_str())).collect();
    assert_eq!(asked, [("gold", "0"), ("other", "0")]);
    assert!(lines.iter().all(|line| line.tag == "bm25" && line.score > 0.0));
    assert_eq!(read_qrels(Path::new(&qrels)).unwrap().len(), 4);
    assert_eq!(fs::read_to_string(&correct).unwrap(), r#"[["@DOC_ID_0@","gold"]]"#);
    let rows = fs::read_to_string(&csv).unwrap();
    assert_says(&rows, &["bm25,none,seen,neon,,0,0,0\n", "bm25,gold,seen,0,1,1,1,1\n"]);
}

#[test]
fn run_files_are_the_same_each_time_and_their_ties_are_in_trec_evals_order() {
    let home = TempDir::new().unwrap();
    let corpus = home.path().join("corpus");
    fs::create_dir_all(&corpus).unwrap();
    let document =
        |row: usize| json!({"id": format!("d{row}"), "text": format!("a metal {}", row % 3)});
    let query = json!({"id": "q", "query": "metal 1 gas", "relevant_docs": ["d4"]});
    let documents: Vec<Value> = (0..30).map(document).collect();
    fs::write(corpus.join("documents.json"), json!(documents).to_string()).unwrap();
    for name in ["train_queries.json", "val_queries.json"] {
        fs::write(corpus.join(name), json!([query]).to_string()).unwrap();
    }
    let corpus = text(corpus);
    let written = |name: &str, depth: &str| {
        let file = text(home.path().join(name));
        let done = succeeds(&[
            "eval",
            "--baseline",
            "bm25",
            "--corpus",
            &corpus,
            "--run",
            &file,
            "--depth",
            depth,
            "--metrics",
            "RR",
        ]);
        assert_says(&done.stderr, &["bm25: 1 of 1 relevant documents (100.0%)", "trec_eval"]);
        fs::read_to_string(file).unwrap()
    };
    let (one, again, short) = (written("a", "30"), written("b", "30"), written("c", "12"));
    assert_eq!(one, again);
    assert!(one.starts_with(&short) && short.lines().count() == 12);
    let lines = read_run(&home.path().join("a")).unwrap();
    assert_eq!(lines.len(), 30);
    assert!(lines.is_sorted_by(|a, b| {
        a.score > b.score || (a.score == b.score && a.document > b.document)
    }));
    // Ten documents have the `1`; d4 is the fifth of d7, d4 in descending order of strings.
    let place = lines.iter().position(|line| line.document == "d4").unwrap();
    let found = json_of(&["--corpus", &corpus, "--metrics", "RR"]);
    assert_eq!(found["all"]["RR"].as_f64(), Some(1.0 / (place as f64 + 1.0)));
}

#[test]
fn wrong_options_are_refused() {
    let home = TempDir::new().unwrap();
    let recipe = recipe(home.path());
    let usage = |arguments: &[&str], parts: &[&str]| {
        let done = genir_with_input(&[&["eval"], arguments].concat(), "");
        assert_eq!(done.code, 2, "{arguments:?}");
        assert_says(&done.stderr, parts);
    };
    usage(&[&recipe, "--baseline", "bm25", "--bm25-b", "1.1"], &["a number from 0 to 1"]);
    usage(&[&recipe, "--baseline", "bm25", "--bm25-k1", "NaN"], &["a number from 0 to 1000"]);
    usage(&[&recipe, "--baseline", "tfidf"], &["\"bm25\""]);
    usage(&[&recipe, "--baseline", "bm25", "--bm25-language", "klingon"], &["\"english\""]);
    usage(&[&recipe, "--bm25-k1", "1.2"], &["--baseline <NAME>"]);
    usage(&[], &["<CHECKPOINT>"]);
    is_refused(&["eval", "--baseline", "bm25"], &["needs a corpus", "--corpus"]);
    is_refused(
        &["eval", &recipe, "--baseline", "bm25", "--vocabulary", "all"],
        &["BM25 ranks documents by their texts"],
    );
    is_refused(&["eval", "no.toml", "--baseline", "bm25"], &["no.toml", "cannot be read"]);
    is_refused(
        &["eval", &recipe, "--baseline", "bm25", "--run", &recipe],
        &["an input file of the recipe"],
    );
    fs::write(home.path().join("corpus/val_queries.json"), "[]").unwrap();
    is_refused(&["eval", &recipe, "--baseline", "bm25"], &["no validation queries"]);
}

/// The figures of the test collections, from plain words, and those that the defaults give: Hits@1 and Hits@10 on
/// validation queries, or nDCG@10 on SciFact's test queries. Pyserini has 0.679 on SciFact.
#[test]
fn figures_of_real_collections_are_reproduced() {
    let Some(directory) = collections() else { return };
    let plain = ["--bm25-no-stemming", "--bm25-keep-stop-words"];
    let figures: BTreeMap<&str, [&[f64]; 2]> = BTreeMap::from([
        ("squad-100", [&[0.90, 1.0][..], &[0.95, 1.0]]),
        ("squad-1000", [&[0.805, 0.956], &[0.850, 0.975]]),
        ("scifact", [&[0.662], &[0.679]]),
    ]);
    for (name, [plain_figures, default_figures]) in figures {
        let corpus = text(directory.join("data").join(name));
        let (split, metrics) = match name {
            "scifact" => ("test", "nDCG@10"),
            _ => ("validation", "hits@1 hits@10"),
        };
        for (options, figures, tolerance) in
            [(&plain[..], plain_figures, 0.0201), (&[], default_figures, 0.003)]
        {
            let start = Instant::now();
            let arguments =
                ["--corpus", &corpus, "--layout", "paper", "--split", split, "--metrics", metrics];
            let found = json_of(&[&arguments[..], options].concat());
            let seconds = start.elapsed().as_secs_f64();
            assert!(seconds < 60.0, "{name} takes {seconds} s");
            for (metric, expected) in metrics.split(' ').zip(figures) {
                let value = found["all"][metric].as_f64().unwrap();
                assert!(
                    (value - expected).abs() < tolerance,
                    "{name} {metric}: {value}, not {expected}"
                );
            }
        }
    }
}
