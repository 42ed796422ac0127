//! Training from a recipe to a run directory: what a run promises, on a corpus of eight documents.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use genir::checkpoint::Checkpoint;
use genir::component::freeze_all_but;
use genir::retrieval::run_files::{read_correct_queries, read_qrels, read_run};
use genir::t5::weights::docids_from;
use genir::t5::{NoTap, Pass, Tokens};
use genir::task::Task;
use genir::train::{MemoryEstimate, NonFinite, Outcome, TrainError};
use serde_json::json;
use tempfile::TempDir;

use crate::parameter_bits::{assert_same, bits};
use crate::tiny_corpus::{self, DOCUMENTS};
use crate::tiny_run;
use crate::tiny_run::{Trained, logged, plan, train, train_from, try_plan};

/// Trains in a directory of its own.
fn train_apart(overrides: &[&str]) -> Trained {
    let home = TempDir::new().unwrap();
    train(&plan(home.path(), overrides))
}

fn checkpoints(home: &Path) -> PathBuf {
    home.join("run/checkpoints")
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

fn open(checkpoint: &Path) -> Checkpoint {
    Checkpoint::open(checkpoint, &Device::flex()).unwrap_or_else(|error| panic!("{error}"))
}

fn leads_to(link: &Path) -> String {
    fs::read_link(link).unwrap().to_str().unwrap().to_owned()
}

#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn a_seed_gives_the_same_weights_to_the_last_bit_and_another_gives_others() {
    let one = bits(&train_apart(&[]).model);
    assert_same(&bits(&train_apart(&[]).model), &one, "the same seed");
    assert!(one != bits(&train_apart(&["model.dropout=0"]).model), "dropout is on");

    // From the same weights: only order and dropout differ.
    let home = TempDir::new().unwrap();
    train(&plan(home.path(), &["train.steps=1"]));
    let base = format!("model.base={}", checkpoints(home.path()).join("latest").display());
    let from_base = |more: &[&str]| {
        let overrides = [&[&base, "~model.config", "model.init=pretrained"], more].concat();
        bits(&train_apart(&overrides).model)
    };
    let one = from_base(&["run.seed=5"]);
    assert_same(&from_base(&["run.seed=5"]), &one, "the same seed and base");
    assert!(one != from_base(&["run.seed=6"]));
}

#[test]
fn the_corpus_is_learnt_and_the_saved_model_is_the_trained_one() {
    let home = TempDir::new().unwrap();
    let plan =
        plan(home.path(), &["train.steps=200", "optimizer.learning_rate=2e-2", "model.dropout=0"]);
    let trained = train(&plan);
    assert_eq!(trained.outcome, Outcome { steps: 200, stopped: None, signal: None });

    let losses: Vec<f64> = logged(home.path(), "loss/train").into_values().collect();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..10]), mean(&losses[190..]));
    assert!(last < first / 4.0, "the loss went from {first} to {last}");
    let memorised = &logged(home.path(), "memorisation/indexing/hits@1")[&200];
    assert!(*memorised >= 0.75, "memorised are {memorised}");

    let saved = open(&checkpoints(home.path()).join("best"));
    assert_same(&bits(&saved.model), &bits(&trained.model), "saved");
    assert_eq!(saved.encoding(), plan.recipe.task.encoding());
    let ids: Vec<&str> = saved.docids.ids().collect();
    assert_eq!(ids, DOCUMENTS.map(|(id, _)| id));
    let manifest = saved.manifest.unwrap();
    assert_eq!(manifest.step, 200);
    assert_eq!(manifest.metrics["memorisation/indexing/hits@1"], *memorised);
}

#[test]
fn restricted_training_changes_its_parameters_and_nothing_else() {
    for optimizer in ["adamw", "adafactor"] {
        let home = TempDir::new().unwrap();
        let optimizer = format!("optimizer.name={optimizer}");
        let plan = plan(home.path(), &["trainable.select=[\"restricted\"]", &optimizer]);
        let before = bits(&plan.model(&Device::flex()).unwrap());
        let trained = train(&plan);
        let after = bits(&trained.model);
        // Three layers: one a stage.
        let is_restricted = |name: &&String| {
            ["1.cross_attention.", "2.cross_attention.", "2.mlp."]
                .iter()
                .any(|part| name.starts_with(&format!("t5.decoder.layers.{part}")))
        };
        let expected: BTreeSet<String> = before.keys().filter(is_restricted).cloned().collect();
        assert_eq!(plan.trained, expected);
        assert_eq!(trained.optimized, expected, "states of the optimizer");
        let changed: BTreeSet<String> =
            before.keys().filter(|&name| before[name] != after[name]).cloned().collect();
        assert_eq!(changed, expected);
    }
}

#[test]
fn docid_rows_can_be_trained_alone() {
    let home = TempDir::new().unwrap();
    let plan = plan(home.path(), &["trainable.select=[\"docids\"]", "train.steps=3"]);
    let before = bits(&plan.model(&Device::flex()).unwrap());
    let trained = train(&plan);
    let after = bits(&trained.model);
    let changed: Vec<&str> =
        before.keys().filter(|&name| before[name] != after[name]).map(String::as_str).collect();
    assert_eq!(changed, ["docids.weight"]);
    assert!(trained.optimized.iter().eq(["docids.weight"]));
}

#[test]
fn the_last_checkpoints_and_the_best_are_kept() {
    let home = TempDir::new().unwrap();
    let overrides = ["train.steps=12", "evaluate.every_steps=1", "save.keep_last=2"];
    train(&plan(home.path(), &overrides));
    let checkpoints = checkpoints(home.path());
    let metric = logged(home.path(), "validation/hits@1");
    assert_eq!(metric.len(), 12);
    // The first of equals.
    let best =
        metric.iter().rev().max_by(|a, b| a.1.total_cmp(b.1)).map(|(step, _)| *step).unwrap();
    let name = |step: u64| format!("step-{step:06}");
    assert_eq!(leads_to(&checkpoints.join("latest")), name(12));
    assert_eq!(leads_to(&checkpoints.join("best")), name(best));
    let mut kept = BTreeSet::from(["best".to_owned(), "latest".to_owned()]);
    kept.extend([best, 11, 12].map(name));
    assert!(names(&checkpoints).iter().eq(&kept), "{:?}", names(&checkpoints));
    let manifest = open(&checkpoints.join("best")).manifest.unwrap();
    assert_eq!((manifest.step, manifest.metrics["validation/hits@1"]), (best, metric[&best]));
}

#[test]
fn a_run_that_no_longer_improves_stops_and_is_saved() {
    let home = TempDir::new().unwrap();
    let overrides = [
        "evaluate.every_steps=2",
        "save.every_steps=1000",
        "stop.patience=2",
        "stop.min_delta=10",
        "stop.metric=validation/mrr@10",
    ];
    let outcome = train(&plan(home.path(), &overrides)).outcome;
    // Step 2 sets the mark, steps 4 and 6 are not above it.
    assert_eq!(outcome.steps, 6);
    assert_says(&outcome.stopped.unwrap(), &["validation/mrr@10", "not risen", "2 evaluations"]);
    let checkpoints = checkpoints(home.path());
    assert_eq!(leads_to(&checkpoints.join("latest")), "step-000006");
    assert_eq!(open(&checkpoints.join("latest")).manifest.unwrap().step, 6);
    assert_eq!(logged(home.path(), "loss/train").len(), 6);
}

#[test]
fn numbers_that_are_not_finite_stop_the_run_and_the_checkpoint_before_stays() {
    let home = TempDir::new().unwrap();
    let overrides = ["optimizer.learning_rate=1e20", "save.every_steps=1", "train.batch_size=4"];
    let plan = plan(home.path(), &overrides);
    let Err(error) = train_from(&plan, None) else { panic!("it went on") };
    let message = error.to_string();
    let TrainError::NotFinite { what, value, step, learning_rate, examples, .. } = error else {
        panic!("{message}");
    };
    assert!(!value.is_finite());
    assert_eq!((what, step, learning_rate), (NonFinite::GradientNorm, 2, 1e20));
    assert_eq!(examples.len(), 4);
    let known: BTreeSet<String> =
        (0..plan.examples.len()).map(|index| plan.examples.source_id(index)).collect();
    assert!(examples.iter().all(|id| known.contains(id)), "{examples:?}");
    assert_says(
        &message,
        &["the gradient norm is NaN at step 2", "learning rate 1e20", &examples[3]],
    );
    let checkpoints = checkpoints(home.path());
    assert_eq!(names(&checkpoints), ["latest", "step-000001"]);
    assert_eq!(open(&checkpoints.join("latest")).manifest.unwrap().step, 1);
}

#[test]
fn poisoned_weights_stop_the_run_before_the_first_update() {
    let home = TempDir::new().unwrap();
    let plan = plan(home.path(), &["train.accumulate=3"]);
    let device = plan.device.clone().autodiff();
    let mut model = plan.model(&device).unwrap();
    model.docids = docids_from(vec![f32::NAN; 8 * 16], 16, &device);
    let model = freeze_all_but(model, &plan.trained);
    let Err(error) = train_from(&plan, Some(model)) else { panic!("it went on") };
    let TrainError::NotFinite { what: NonFinite::Loss, step: 1, examples, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(examples.len(), 22, "three batches of an epoch of 22: 8, 8 and 6");
    assert!(names(&checkpoints(home.path())).is_empty());
}

#[test]
fn broken_weights_are_an_error_at_evaluation_too() {
    let home = TempDir::new().unwrap();
    let overrides = ["optimizer.learning_rate=1e300", "evaluate.every_steps=1"];
    let Err(error) = train_from(&plan(home.path(), &overrides), None) else { panic!("it went on") };
    assert_says(&error.to_string(), &["validation.run", "score", "finite"]);
    assert_eq!(names(&home.path().join("run/retrieval")), ["validation.qrels"]);
}

#[test]
fn a_docid_that_trec_files_cannot_hold_costs_the_files_and_not_the_run() {
    let home = TempDir::new().unwrap();
    let corpus = home.path().join("corpus");
    tiny_corpus::write(&corpus);
    // No validation query asks for it, but it is ranked.
    let documents = fs::read_to_string(corpus.join("documents.json")).unwrap();
    fs::write(corpus.join("documents.json"), documents.replace("\"nile\"", "\"the nile\""))
        .unwrap();
    fs::remove_file(corpus.join("test_queries.json")).unwrap();
    let queries = json!([{"id": "v", "query": "a metal", "relevant_docs": [7]}]);
    fs::write(corpus.join("val_queries.json"), queries.to_string()).unwrap();
    train(&plan(home.path(), &["train.steps=2"]));
    assert_eq!(logged(home.path(), "validation/hits@1").len(), 1);
    assert!(names(&home.path().join("run/retrieval")).is_empty());
}

#[test]
fn the_files_of_an_evaluation_agree_with_its_metrics() {
    let home = TempDir::new().unwrap();
    let overrides = ["train.steps=60", "evaluate.splits=[\"validation\", \"test\"]"];
    train(&plan(home.path(), &overrides));
    let retrieval = home.path().join("run/retrieval");
    let expected = ["validation", "test"].map(|split| {
        let run = format!("{split}.run");
        let metadata = format!("{run}.ir_metadata.yaml");
        [format!("correct_{split}.json"), format!("{split}.qrels"), run, metadata]
    });
    let expected: BTreeSet<String> = expected.into_iter().flatten().collect();
    assert!(names(&retrieval).iter().eq(&expected), "{:?}", names(&retrieval));

    for split in ["validation", "test"] {
        let run = read_run(&retrieval.join(format!("{split}.run"))).unwrap();
        let qrels = read_qrels(&retrieval.join(format!("{split}.qrels"))).unwrap();
        let correct =
            read_correct_queries(&retrieval.join(format!("correct_{split}.json"))).unwrap();
        assert_eq!((run.len(), qrels.len()), (64, 8), "every query with every document");
        let prefix = if split == "test" { "test" } else { "val" };
        let mut first = Vec::new();
        let mut reciprocal = 0.0;
        for (row, judged) in qrels.iter().enumerate() {
            assert_eq!(judged.query, format!("{prefix}-{row}"));
            assert_eq!((judged.document.as_str(), judged.grade), (DOCUMENTS[row].0, 1));
            let mut lines = run.iter().filter(|line| line.query == judged.query);
            let line = lines.find(|line| line.document == judged.document).unwrap();
            reciprocal += 1.0 / f64::from(line.rank);
            if line.rank == 1 {
                first.push((format!("@DOC_ID_{}@", judged.document), judged.query.clone()));
            }
        }
        assert_eq!(correct, first);
        let last = |metric: &str| logged(home.path(), &format!("{split}/{metric}"))[&60];
        assert_eq!(last("queries"), 8.0);
        assert!((last("hits@1") - first.len() as f64 / 8.0).abs() < 1e-12);
        assert!((last("mrr@10") - reciprocal / 8.0).abs() < 1e-12);
        // The last document has no training query.
        assert_eq!(last("seen/queries"), 7.0);
        assert_eq!(last("unseen/queries"), 1.0);
    }
}

#[test]
fn documents_left_out_keep_their_row_and_give_no_example() {
    let home = TempDir::new().unwrap();
    let plan = plan(home.path(), &["corpus.leave_out.ids=[\"7\", \"Oslo\"]", "train.steps=2"]);
    let examples = &plan.examples;
    let count = |task| (0..examples.len()).filter(|&index| examples.task(index) == task).count();
    assert_eq!((count(Task::Indexing), count(Task::Retrieval)), (6, 10));
    for index in 0..examples.len() {
        let (target, source) = (examples.target(index), examples.source_id(index));
        assert!(![0, 5].contains(&target), "{source} has row {target}");
        assert!(!["doc:7", "doc:Oslo"].contains(&source.as_str()), "{source}");
    }
    train(&plan);
    let saved = open(&checkpoints(home.path()).join("latest"));
    assert_eq!((saved.docids.len(), saved.model.documents()), (8, 8));
    assert_eq!(logged(home.path(), "validation/queries")[&2], 8.0);
    assert_eq!(logged(home.path(), "validation/unseen/queries")[&2], 3.0);
    assert_eq!(logged(home.path(), "memorisation/indexing/queries")[&2], 6.0);
}

#[test]
fn docids_that_the_base_knows_keep_their_rows() {
    let first = TempDir::new().unwrap();
    let base = train(&plan(first.path(), &[])).model;
    let second = TempDir::new().unwrap();
    let corpus = second.path().join("corpus");
    tiny_corpus::write(&corpus);
    // In another order, with a new document in front.
    let mut documents = vec![json!({"id": "new", "text": "Copper conducts heat."})];
    documents.extend(DOCUMENTS.iter().rev().map(|(id, text)| json!({"id": id, "text": text})));
    fs::write(corpus.join("documents.json"), json!(documents).to_string()).unwrap();

    let checkpoint = checkpoints(first.path()).join("latest");
    let base_key = format!("model.base={}", checkpoint.display());
    for rows in ["docids.rows=random", "docids.rows=text", "docids.rows=encoder"] {
        let overrides = [&base_key, "model.init=pretrained", "~model.config", rows];
        let plan = plan(second.path(), &overrides);
        let (mut before, mut after) = (bits(&base), bits(&plan.model(&Device::flex()).unwrap()));
        let (_, before_rows) = before.remove("docids.weight").unwrap();
        let (shape, after_rows) = after.remove("docids.weight").unwrap();
        assert_same(&after, &before, "the T5 is the base's");
        assert_eq!(shape, [9, 16]);
        let before_rows: Vec<&[u32]> = before_rows.chunks(16).collect();
        let after_rows: Vec<&[u32]> = after_rows.chunks(16).collect();
        for (old, new) in before_rows.iter().rev().zip(&after_rows[1..]) {
            assert_eq!(old, new);
        }
        assert!(!before_rows.contains(&after_rows[0]));
    }
    let overrides = [&base_key, "model.init=pretrained", "~model.config", "train.steps=2"];
    assert_eq!(train(&plan(second.path(), &overrides)).model.documents(), 9);
}

#[test]
fn rows_from_text_are_the_means_of_the_documents_word_rows() {
    let home = TempDir::new().unwrap();
    let plan = plan(home.path(), &["docids.rows=text", "task.document_tokens=6"]);
    let model = bits(&plan.model(&Device::flex()).unwrap());
    let words: Vec<&[u32]> = model["t5.shared.weight"].1.chunks(16).collect();
    let encoding = plan.recipe.task.encoding().documents();
    for (row, found) in model["docids.weight"].1.chunks(16).enumerate() {
        let tokens = plan.tokenizer.encode_batch(&[DOCUMENTS[row].1], &encoding).unwrap().remove(0);
        assert_eq!(tokens.len(), 6);
        for (column, &found) in found.iter().enumerate() {
            let values = tokens.iter().map(|&token| words[token as usize][column]);
            let mean = values.map(f32::from_bits).sum::<f32>() / 6.0;
            assert!((f32::from_bits(found) - mean).abs() < 1e-6, "row {row}, column {column}");
        }
    }
}

#[test]
fn rows_from_the_encoder_are_means_of_its_states_in_the_size_of_word_rows() {
    let home = TempDir::new().unwrap();
    let device = Device::flex();
    let plan = plan(home.path(), &["docids.rows=encoder", "task.document_tokens=12"]);
    let model = plan.model(&device).unwrap();
    assert_same(&bits(&plan.model(&device).unwrap()), &bits(&model), "the same rows each time");
    let of_training = plan.model(&device.clone().autodiff()).unwrap();
    assert_same(&bits(&of_training.valid()), &bits(&model), "with and without autodiff");
    let values = |name: &str| -> Vec<f64> {
        bits(&model)[name].1.iter().map(|&bits| f64::from(f32::from_bits(bits))).collect()
    };
    let (rows, words) = (values("docids.weight"), values("t5.shared.weight"));
    let encoding = plan.recipe.task.encoding().documents();
    let means: Vec<f64> = DOCUMENTS
        .iter()
        .flat_map(|(_, text)| {
            let tokens = plan.tokenizer.encode_batch(&[*text], &encoding).unwrap().remove(0);
            let (mut tap, tokens) = (NoTap, Tokens::padded(&[&tokens], 0, &device));
            let states = model.t5.encode(&tokens, &mut Pass::evaluate(&mut tap)).rows;
            states.mean_dim(0).into_data().iter::<f64>().collect::<Vec<f64>>()
        })
        .collect();
    let size = |values: &[f64]| {
        (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt()
    };
    let factor = size(&words) / size(&means);
    assert!((factor - 1.0).abs() > 0.01, "scaling changes something: {factor}");
    for (row, mean) in rows.iter().zip(&means) {
        assert!((row - factor * mean).abs() < 1e-4 * size(&words), "{row} {mean}");
    }
    assert!(MemoryEstimate::of(&plan).docid_rows > 0);
    assert!(plan.warnings().iter().any(|text| text.contains("encoder with random weights")));
    let by_text = tiny_run::plan(home.path(), &["docids.rows=text"]);
    assert_eq!(MemoryEstimate::of(&by_text).docid_rows, 0);
    assert!(by_text.warnings().iter().all(|text| !text.contains("random weights")));
    train(&plan);
}

#[test]
fn a_plan_tells_all_that_stands_in_its_way() {
    let home = TempDir::new().unwrap();
    let refused = |overrides: &[&str], parts: &[&str]| match try_plan(home.path(), overrides) {
        Ok(_) => panic!("{overrides:?} is accepted"),
        Err(message) => assert_says(&message, parts),
    };
    let no_corpus = "corpus.path=./no/such/corpus";
    refused(
        &[no_corpus, "model.base=./no/such/base"],
        &["2 problems", "corpus: cannot read ./no/such/corpus", "model.base: ", "./no/such/base"],
    );
    refused(
        &[no_corpus, "~model.config", "stages={ I = \"0..1\", II = \"1..2\", III = \"2..7\" }"],
        &["2 problems", "corpus: ", "stages: ", "layer 6", "last layer is 2"],
    );
    refused(
        &[no_corpus, "trainable.select=[\"decoder.mlp[5]\"]"],
        &["2 problems", "corpus: ", "trainable.select: ", "decoder.mlp[5]", "matches nothing"],
    );
    refused(
        &["model.init=pretrained", "~model.config", "corpus.leave_out.ids=[\"8\"]"],
        &[
            "2 problems",
            "model.base: ",
            "no weights",
            "corpus: ",
            "belong to no document, the first: 8",
        ],
    );
    #[cfg(not(feature = "cuda"))]
    refused(
        &[no_corpus, "model.base=./no/such/base", "run.device=cuda:1"],
        &["3 problems", "run.device: device `cuda:1`", "no CUDA"],
    );
    fs::write(home.path().join("corpus/train_queries.json"), "[]").unwrap();
    refused(&["task.tasks=[\"retrieval\"]"], &["1 problem with", "task: "]);
    assert!(!home.path().join("run").exists(), "nothing is written");
}
