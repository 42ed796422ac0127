//! Each run file has its metadata beside it: machine, trainable set, hashes of the corpus; as comments only if asked for.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::command::succeeds;
use crate::tiny_recipe::tiny_recipe;

/// A trained run of the tiny recipe.
struct Home {
    directory: TempDir,
}

impl Home {
    fn train() -> Self {
        let directory = TempDir::new().unwrap();
        let recipe = tiny_recipe(&directory);
        succeeds(&[
            "train",
            &recipe,
            "trainable.select=[\"restricted\",\"docids\"]",
            "train.steps=3",
        ]);
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Evaluates the run into a run file; its name.
    fn evaluate(&self, name: &str, more: &[&str]) -> String {
        let (run, file) = (self.path("run"), self.path(name));
        let arguments = ["eval", run.to_str().unwrap(), "--run", file.to_str().unwrap()];
        succeeds(&[&arguments, more].concat());
        format!("{name}.ir_metadata.yaml")
    }
}

/// The value of the first line `"key": value`, at any depth; the file is YAML in the form of JSON.
#[track_caller]
fn value<'a>(yaml: &'a str, key: &str) -> &'a str {
    let start = format!("\"{key}\": ");
    let found = yaml.lines().find_map(|line| line.trim_start().strip_prefix(&start));
    let found = found.unwrap_or_else(|| panic!("{key} is not in:\n{yaml}"));
    found.trim_end_matches(',').trim_matches('"')
}

#[test]
fn the_run_files_of_a_training_and_of_eval_have_their_metadata_beside_them() {
    let home = Home::train();
    let trained = home.text("run/retrieval/validation.run.ir_metadata.yaml");
    let parsed: serde_json::Value = serde_json::from_str(&trained).unwrap();
    assert_eq!(parsed["schema-version"], 0.1);
    for section in ["platform", "research goal", "implementation", "data", "method", "resources"] {
        let keys = parsed[section].as_object();
        assert!(keys.is_some_and(|keys| !keys.is_empty()), "{section}: {trained}");
    }
    let select = &parsed["method"]["retrieval"][0]["trainable set"];
    assert_eq!(*select, serde_json::json!(["restricted", "docids"]));
    assert_eq!(parsed["research goal"]["evaluation"]["reported measures"][0], "hits@1");
    assert_eq!(value(&trained, "tag"), "genir");
    assert_eq!(value(&trained, "steps"), "3");
    assert_eq!(value(&trained, "seed"), "3");
    assert!(value(&trained, "cmd").contains(" train "), "{trained}");
    assert!(!home.text("run/retrieval/validation.run").contains('#'));

    let evaluated = home.text(&home.evaluate("own.run", &[]));
    for key in ["documents blake3", "topics and qrels blake3", "trained parameters"] {
        if key != "trained parameters" {
            assert_eq!(value(&evaluated, key), value(&trained, key), "{key}");
        }
        assert!(value(&trained, key).len() > 2, "{key}");
    }
    assert!(value(&evaluated, "checkpoint").contains("run/checkpoints/"), "{evaluated}");
    assert!(value(&evaluated, "cmd").contains(" eval "), "{evaluated}");

    // Another query is another hash; the documents are the same.
    let queries = home.path("corpus/val_queries.json");
    let text = fs::read_to_string(&queries).unwrap();
    fs::write(&queries, text.replacen("tell me about", "tell us about", 1)).unwrap();
    let changed = home.text(&home.evaluate("changed.run", &[]));
    let key = "topics and qrels blake3";
    assert_ne!(value(&changed, key), value(&evaluated, key));
    let key = "documents blake3";
    assert_eq!(value(&changed, key), value(&evaluated, key));
}

#[test]
fn comments_in_a_run_file_are_there_on_request_and_are_skipped_when_it_is_read() {
    let home = Home::train();
    home.evaluate("plain.run", &[]);
    home.evaluate("annotated.run", &["--run-header"]);
    let (plain, annotated) = (home.text("plain.run"), home.text("annotated.run"));
    assert!(
        annotated.starts_with("# ir_metadata.start\n# {\n#   \"schema-version\": 0.1,\n"),
        "{annotated:.200}"
    );
    let (header, rest) = annotated.split_once("# ir_metadata.end\n").unwrap();
    assert!(header.lines().all(|line| line.starts_with("# ")), "{header}");
    assert_eq!(rest, plain);
    let qrels = home.path("run/retrieval/validation.qrels");
    let files = ["plain.run", "annotated.run"].map(|name| home.path(name));
    let named = ["one", "two"].map(|name| name.to_owned());
    let inputs: Vec<String> =
        named.iter().zip(&files).map(|(name, file)| format!("{name}={}", file.display())).collect();
    let compared = succeeds(&[
        "compare",
        &inputs[0],
        &inputs[1],
        "--qrels",
        qrels.to_str().unwrap(),
        "--format",
        "json",
    ]);
    let compared: serde_json::Value = serde_json::from_str(&compared.stdout).unwrap();
    let arms = compared["arms"].as_array().unwrap();
    assert_eq!(arms[0]["means"], arms[1]["means"]);
}

#[test]
fn bm25_has_its_parameters_and_standard_output_has_no_file_beside_it() {
    let home = Home::train();
    let recipe = home.path("tiny.toml");
    let file = home.path("bm25.run");
    let arguments =
        ["eval", recipe.to_str().unwrap(), "--baseline", "bm25", "--bm25-k1", "0.9", "--run"];
    succeeds(&[&arguments[..], &[file.to_str().unwrap()]].concat());
    let metadata = home.text("bm25.run.ir_metadata.yaml");
    assert_eq!(value(&metadata, "tag"), "bm25");
    assert_eq!(value(&metadata, "k1"), "0.9");
    let parsed: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    assert_eq!(parsed["method"]["retrieval"][0]["method"], "BM25");
    let before = count(home.directory.path());
    let printed = succeeds(&[&arguments[..], &["-"]].concat());
    assert!(printed.stdout.lines().all(|line| line.split(' ').count() == 6), "{}", printed.stdout);
    assert_eq!(count(home.directory.path()), before);
    assert!(!Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/-.ir_metadata.yaml")).exists());
}

fn count(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}
