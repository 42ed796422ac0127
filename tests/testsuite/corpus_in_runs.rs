//! Skipped and unusual data of a corpus are reported when a run is planned, trained and evaluated.

use std::fs;
use std::path::Path;

use genir::corpus::OnProblem;
use genir::recipe::Recipe;
use genir::retrieval::evaluation::QuerySet;
use genir::run::RunDirectory;
use genir::train::Plan;
use serde_json::json;
use tempfile::TempDir;

use crate::command::{assert_says, is_refused, succeeds, text};
use crate::tiny_corpus;

/// Writes the tiny recipe to `home`, with a corpus that has two documents without text and a judgement of an absent
/// one.
fn recipe_of_problems(home: &Path) -> String {
    let recipe = home.join("tiny.toml");
    fs::write(&recipe, tiny_corpus::recipe(home)).unwrap();
    let documents = tiny_corpus::DOCUMENTS.map(|(id, text)| {
        let text = if ["neon", "lima"].contains(&id) { "" } else { text };
        json!({"id": id, "text": text})
    });
    fs::write(home.join("corpus/documents.json"), json!(documents).to_string()).unwrap();
    let query = json!([
        {"id": "a", "query": "which metal", "relevant_docs": ["0", "gone"]},
        {"id": "b", "query": "which gas", "relevant_docs": ["neon"]},
    ]);
    fs::write(home.join("corpus/test_queries.json"), query.to_string()).unwrap();
    text(recipe)
}

/// Returns the plan for a DSI corpus in one file.
fn plan(home: &Path, lines: &[(u32, &str)], overrides: &[&str]) -> Plan {
    let recipe = tiny_corpus::recipe(home);
    let file = home.join("train.jsonl");
    let line = |&(id, text): &(u32, &str)| json!({"text_id": id, "text": text}).to_string() + "\n";
    fs::write(&file, lines.iter().map(line).collect::<String>()).unwrap();
    let path = format!("corpus.path={}", text(file));
    let overrides: Vec<String> =
        overrides.iter().map(|&text| text.to_owned()).chain([path]).collect();
    Plan::new(Recipe::from_text("tiny.toml", &recipe, &overrides).unwrap())
        .unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn skipped_data_are_reported_by_check_log_and_environment_and_eval_skips_the_same() {
    let home = TempDir::new().unwrap();
    let recipe = recipe_of_problems(home.path());
    is_refused(
        &["check", &recipe],
        &[
            "2 problems with this run",
            "corpus: 2 documents have no text; corpus.on_problem = \"skip\"",
            "corpus: 1 judgement is of a document that is not in the corpus",
            "test_queries.json, element [0], line 1: query `a`, document `gone`",
        ],
    );
    let skip = "corpus.on_problem=skip";
    let told = ["2 documents have no text", "document `lima`", "query `a`, document `gone`"];
    assert_says(&succeeds(&["check", &recipe, skip]).stdout, &told);

    // Warnings are shown even with `--quiet`.
    let done = succeeds(&["-q", "train", &recipe, "train.steps=1", skip]);
    assert_says(&done.stderr, &told);
    let run = RunDirectory::open(&home.path().join("run")).unwrap();
    assert_says(&fs::read_to_string(run.log()).unwrap(), &told);
    let counts = run.environment().unwrap().corpus;
    assert_eq!((counts["empty_documents"], counts["judgements_of_absent_documents"]), (2, 1));
    let resolved = Recipe::from_file(&run.recipe(), &[]).unwrap();
    assert_eq!(resolved.corpus.on_problem, OnProblem::Skip);

    let run = text(run.path().to_path_buf());
    let done = succeeds(&["eval", &run, "--split", "test", "--format", "json"]);
    assert_says(&done.stdout, &["\"queries\": 2"]);
    assert_says(&done.stderr, &told);
    assert_says(
        &succeeds(&["search", &run, "which gas", "-k", "8"]).stdout,
        &["neon", "Oxygen is"],
    );
    // For a checkpoint outside of a run, the message names the option.
    let copy = home.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(home.path().join("run/checkpoints/latest")).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, copy.join(from.file_name().unwrap())).unwrap();
    }
    let (copy, corpus) = (text(copy), text(home.path().join("corpus")));
    let eval = ["eval", &copy, "--corpus", &corpus, "--split", "test"];
    is_refused(&eval, &["2 documents have no text", "--on-problem skip"]);
    succeeds(&[&eval[..], &["--on-problem", "skip"]].concat());
}

#[test]
fn documents_with_the_same_tokens_are_named_before_training() {
    let home = TempDir::new().unwrap();
    let lines: Vec<(u32, &str)> = (0..7)
        .map(|id| (id, "document: the same text"))
        .chain([(7, "document: of its own"), (8, "document: two"), (9, "document: two")])
        .chain([(0, "question: which")])
        .collect();
    let plan = plan(home.path(), &lines, &["evaluate={splits=[], memorisation=4}"]);
    let warnings = plan.warnings();
    let [alike] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert_says(
        alike,
        &[
            "9 documents have the same tokens as another",
            "2 groups",
            "\n    `0`, `1`, `2`, `3`, `4` and 2 more",
            "\n    `8`, `9`",
        ],
    );
    assert_eq!(plan.warning_counts()["documents_with_the_same_tokens"], 9);
}

#[test]
fn a_row_is_the_mean_over_all_texts_of_its_document_and_memorisation_ranks_each_text() {
    let home = TempDir::new().unwrap();
    let (first, second) =
        ("document: iron is a metal", "document: it rusts in wet air and in water");
    let question = (0, "question: which");
    let overrides = ["docids.rows=text", "evaluate={splits=[], memorisation=9}"];
    let of = |lines: &[(u32, &str)]| plan(home.path(), lines, &overrides);
    let one = of(&[(0, first), (1, second), question]);
    let both = of(&[(0, first), (1, second), (0, second), question]);
    let rows = |plan: &Plan| {
        let model = plan.model(&plan.device).unwrap();
        model.docids.weight.val().into_data().try_to_vec::<f32>().unwrap()
    };
    let (of_one, of_both) = (rows(&one), rows(&both));
    let lengths = [0, 1].map(|example| one.examples.tokens(example).len() as f32);
    let width = of_one.len() / 2;
    for at in 0..width {
        let mean =
            (of_one[at] * lengths[0] + of_one[width + at] * lengths[1]) / (lengths[0] + lengths[1]);
        assert!((of_both[at] - mean).abs() < 1e-6, "{at}: {} for {mean}", of_both[at]);
        assert_eq!(of_both[width + at], of_one[width + at]);
    }

    let encoding = both.recipe.task.encoding().documents();
    let how = (&both.tokenizer, &encoding);
    let set = QuerySet::of_documents("all", &both.corpus, &[0, 1], 9, 1, how).unwrap();
    assert_eq!(set.ids, ["0", "0", "1"]);
    let relevant: Vec<&Vec<u32>> = set.queries.iter().map(|query| &query.relevant).collect();
    assert_eq!(relevant, [&vec![0], &vec![0], &vec![1]]);
}
