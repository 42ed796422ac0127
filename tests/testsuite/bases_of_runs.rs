//! Runs as base models of other runs: found by their directory, with their docid rows, and with a message if sizes
//! conflict.

use std::fs;

use burn::tensor::Device;
use genir::checkpoint::Checkpoint;
use genir::docid::TextTokenizer;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command::{assert_says, is_refused, succeeds, text};
use crate::parameter_bits::{assert_same, bits};
use crate::tiny_corpus;
use crate::tiny_run::{logged, plan, train, try_plan};

#[test]
fn a_run_directory_is_a_base_model_and_reused_docid_rows_are_reported() {
    let home = TempDir::new().unwrap();
    let recipe = text(home.path().join("tiny.toml"));
    fs::write(&recipe, tiny_corpus::recipe(home.path())).unwrap();
    let keeps_both = ["save.every_steps=1", "save.keep_last=2"];
    let first = succeeds(&[&["train", &recipe, "train.steps=2"], &keeps_both[..]].concat());
    assert_says(&first.stderr, &["docids    8 rows, all new"]);

    // Seven of the eight documents, and two new ones.
    let corpus = home.path().join("grown");
    tiny_corpus::write(&corpus);
    let file = corpus.join("documents.json");
    let mut documents: Vec<Value> = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    documents.pop();
    documents.push(json!({"id": "copper", "text": "Copper conducts heat."}));
    documents.push(json!({"id": "zinc", "text": "Zinc is a metal."}));
    fs::write(&file, json!(documents).to_string()).unwrap();
    for name in ["val", "test"] {
        let file = corpus.join(format!("{name}_queries.json"));
        let mut queries: Vec<Value> = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        queries.pop();
        fs::write(&file, json!(queries).to_string()).unwrap();
    }
    let keys = |more: &[&str]| {
        let keys = ["check", &recipe, "model.init=pretrained", "~model.config"].map(str::to_owned);
        let places = ["base", "corpus"].map(|place| match place {
            "base" => format!("model.base={}", home.path().join("run").display()),
            _ => format!("corpus.path={}", corpus.display()),
        });
        let more = more.iter().map(|&text| text.to_owned());
        keys.into_iter().chain(places).chain(more).collect::<Vec<String>>()
    };
    let directory = format!("run.directory={}", home.path().join("second").display());
    let run = |keys: Vec<String>| {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        succeeds(&keys).stdout
    };
    let shown = run(keys(&[&directory]));
    assert_says(&shown, &["7 rows kept, 2 new, 1 of the base unused", "docids.rows = \"random\""]);
    let shown = run(keys(&[&directory, "model.init=scratch"]));
    assert_says(
        &shown,
        &[
            "9 rows, all new",
            "scratch: random initialisation; the weights of the base are not used",
        ],
    );

    // The best checkpoint of the run is used, as by `search`, although there is a later one, with the rows of its
    // docids.
    let checkpoints = home.path().join("run/checkpoints");
    fs::remove_file(checkpoints.join("best")).unwrap();
    std::os::unix::fs::symlink("step-000001", checkpoints.join("best")).unwrap();
    let of_run = format!("model.base={}", home.path().join("run").display());
    let model = |base: &str| {
        let plan = plan(home.path(), &[base, "model.init=pretrained", "~model.config"]);
        bits(&plan.model(&Device::flex()).unwrap())
    };
    let best = Checkpoint::open(&checkpoints.join("step-000001"), &Device::flex()).unwrap().model;
    assert_same(&model(&of_run), &bits(&best), "the run's best checkpoint");
}

#[test]
fn sizes_for_a_pretrained_base_model_are_refused_with_the_keys_to_remove() {
    let home = TempDir::new().unwrap();
    let Err(message) = try_plan(home.path(), &["model.init=pretrained"]) else {
        panic!("accepted")
    };
    assert_says(&message, &["model.config", "remove [model.config]", "`~model.config`", "scratch"]);
}

#[test]
fn a_bundled_base_model_needs_no_file_and_gives_the_same_model() {
    let home = TempDir::new().unwrap();
    let inside = plan(home.path(), &["model.base=bundled:atlas-base"]);
    let on_disk = plan(home.path(), &[]);
    let model = |plan: &genir::train::Plan| bits(&plan.model(&Device::flex()).unwrap());
    assert_same(&model(&inside), &model(&on_disk), "the base of the repository");
    let exported = TempDir::new().unwrap();
    inside.tokenizer.export(exported.path(), None).unwrap();
    assert_eq!(TextTokenizer::load(exported.path()).unwrap().tokenizer.vocab_size(), 3243);
    let trained = train(&plan(home.path(), &["model.base=bundled:atlas-base", "train.steps=1"]));
    assert_eq!((trained.outcome.steps, trained.model.documents()), (1, 8));
    assert!(trained.optimized.contains("t5.shared.weight"));
    assert_eq!(logged(home.path(), "validation/queries")[&1], 8.0);

    let recipe = text(home.path().join("tiny.toml"));
    fs::write(&recipe, tiny_corpus::recipe(home.path())).unwrap();
    for (keys, parts) in [
        (&["model.base=bundled:atlas"][..], &["did you mean `bundled:atlas-base`?"][..]),
        (
            &["model.base=bundled:t5"],
            &["there is no such bundled base model", "did you mean `bundled:tiny`?"],
        ),
        (
            &["model.base=bundled:atlas-base", "model.init=pretrained", "~model.config"],
            &["no weights", "model.init = \"scratch\""],
        ),
        (
            &["model.base=bundled:atlas-base", "model.revision=main"],
            &["`main` applies only to models of the hub"],
        ),
    ] {
        is_refused(&[&["check", &recipe, "--overwrite"], keys].concat(), parts);
    }
}
