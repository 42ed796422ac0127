//! What `check` passes, `train` starts: all that would stop a run later is a problem of its plan, told at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use genir::run::Overwrite;
use genir::train::{Cadence, Callback, Plan, TrainError, TrainerState, Verdict};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command::{assert_says, genir_with_input, is_refused, succeeds, text};
use crate::everything::everything;
use crate::tiny_corpus;
use crate::tiny_recipe::tiny_recipe;
use crate::tiny_run::{logged, plan, train, train_beside, try_plan};

#[track_caller]
fn problems(home: &Path, overrides: &[&str], parts: &[&str]) {
    match try_plan(home, overrides) {
        Ok(_) => panic!("{overrides:?} is accepted"),
        Err(message) => assert_says(&message, parts),
    }
}

/// The corpus without the queries of these files.
fn without(home: &TempDir, files: &[&str]) {
    let corpus = home.path().join("corpus");
    tiny_corpus::write(&corpus);
    for file in files {
        fs::remove_file(corpus.join(file)).unwrap();
    }
}

#[test]
fn splits_without_queries_are_problems_of_the_plan_all_at_once() {
    let home = TempDir::new().unwrap();
    without(&home, &["val_queries.json", "test_queries.json"]);
    let both = "evaluate.splits=[\"validation\", \"train\", \"test\"]";
    problems(
        home.path(),
        &[both, "save.best_metric=validation/hits@1", "trainable.select=decoder.mlp[7]"],
        &[
            "3 problems",
            "evaluate.splits: the corpus has no validation queries; it has train queries",
            "evaluate.splits: the corpus has no test queries",
            "trainable.select: ",
        ],
    );
    let none = ["evaluate.splits=[]", "evaluate.memorisation=4"];
    train(&plan(home.path(), &[&none[..], &["train.steps=1"]].concat()));
}

#[test]
fn a_metric_that_no_evaluation_gives_is_a_problem_of_the_plan() {
    let home = TempDir::new().unwrap();
    // Every document but one has training queries, and all are validated.
    let kinds = "validation/seen, validation/unseen, validation";
    problems(
        home.path(),
        &["task.tasks=indexing", "save.best_metric=memorisation/retrieval/hits@1"],
        &["1 problem with", "save.best_metric: no evaluation of this run gives", kinds],
    );
    let corpus = home.path().join("corpus");
    let seen = json!([{"id": "v", "query": "iron", "relevant_docs": [7]}]);
    fs::write(corpus.join("val_queries.json"), seen.to_string()).unwrap();
    problems(
        home.path(),
        &[
            "evaluate.every_steps=5",
            "save.best_metric=validation/unseen/hits@1",
            "stop.metric=validation/unseen/mrr@10",
            "stop.patience=1",
        ],
        &[
            "2 problems",
            "save.best_metric: no evaluation of this run gives `validation/unseen/hits@1`",
            "stop.metric: no evaluation of this run gives `validation/unseen/mrr@10`",
            "there are metrics of memorisation/indexing, memorisation/retrieval, validation/seen, validation",
        ],
    );
    // Without the training queries of the one document, none is seen.
    problems(
        home.path(),
        &["corpus.leave_out.ids=[\"7\"]", "save.best_metric=validation/seen/hits@1"],
        &["1 problem with", "validation/unseen, validation"],
    );
}

/// Notes the names of all metrics that an evaluation gives.
struct Names(Rc<RefCell<Vec<String>>>);

impl Callback for Names {
    fn cadence(&self) -> Cadence {
        Cadence { every: None, at_start: false, at_end: true }
    }

    fn call(&mut self, state: &mut TrainerState) -> Result<Verdict, TrainError> {
        self.0.borrow_mut().extend(state.metrics.keys().cloned());
        Ok(Verdict::Continue)
    }
}

#[test]
fn a_plan_knows_the_names_of_all_metrics_that_its_run_gives() {
    for (name, changes) in [
        ("all", &["evaluate.splits=[\"train\", \"validation\", \"test\"]"][..]),
        ("indexing", &["task.tasks=indexing"]),
        ("few", &["evaluate.queries=1", "evaluate.memorisation=0"]),
        ("left out", &["corpus.leave_out.ids=[\"7\", \"0\"]", "evaluate.queries=3"]),
    ] {
        let home = TempDir::new().unwrap();
        let plan = plan(home.path(), &[changes, &["train.steps=1"]].concat());
        let given = Rc::new(RefCell::new(Vec::new()));
        let trained = train_beside(&plan, None, vec![Box::new(Names(given.clone()))]).unwrap();
        assert_eq!((trained.outcome.steps, trained.model.documents()), (1, 8));
        assert!(trained.optimized.contains("docids.weight"));
        assert_eq!(logged(home.path(), "validation/hits@1").len(), 1);
        let mut given = given.take();
        given.retain(|metric| !metric.ends_with("/queries"));
        let mut known = plan.metrics();
        known.sort();
        assert_eq!(given, known, "{name}");
    }
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A checkpoint of the tiny model in `home/base`, with its weights changed.
fn base(home: &Path, change: impl FnOnce(&mut Tensors)) -> PathBuf {
    train(&plan(home, &["train.steps=1"]));
    let base = home.join("base");
    fs::rename(home.join("run/checkpoints/step-000001"), &base).unwrap();
    fs::remove_dir_all(home.join("run")).unwrap();
    let file = base.join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter();
    let stored = stored
        .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())));
    let mut tensors: Tensors = stored.collect();
    change(&mut tensors);
    write(&file, &tensors);
    base
}

fn write(file: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, file).unwrap();
}

fn overrides(base: &Path) -> [String; 3] {
    let base = format!("model.base={}", base.display());
    [base, "model.init=pretrained".to_owned(), "~model.config".to_owned()]
}

#[track_caller]
fn weights_are_refused(home: &Path, base: &Path, parts: &[&str]) {
    let overrides = overrides(base);
    let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
    problems(home, &overrides, parts);
}

#[test]
fn every_tensor_that_does_not_fit_is_told_from_the_headers_of_the_base() {
    let home = TempDir::new().unwrap();
    let base = base(home.path(), |tensors| {
        tensors.remove("decoder.block.1.layer.1.EncDecAttention.q.weight").unwrap();
        tensors.get_mut("encoder.block.0.layer.1.DenseReluDense.wi.weight").unwrap().1.reverse();
        let norm = tensors.get_mut("decoder.final_layer_norm.weight").unwrap();
        norm.0 = Dtype::I32;
        let layer = tensors["decoder.block.2.layer.2.DenseReluDense.wi.weight"].clone();
        tensors.insert("decoder.block.3.layer.2.DenseReluDense.wi.weight".to_owned(), layer);
        let table = tensors.get_mut("shared.weight").unwrap();
        table.1[0] -= 1;
        table.2.truncate(table.1[0] * table.1[1] * 4);
    });
    let file = base.join("model.safetensors").display().to_string();
    weights_are_refused(
        home.path(),
        &base,
        &[
            "5 problems",
            "the tensor `decoder.block.1.layer.1.EncDecAttention.q.weight` is missing, expected [16, 16]",
            "the tensor `encoder.block.0.layer.1.DenseReluDense.wi.weight` is [16, 32], expected [32, 16]",
            "the tensor `decoder.final_layer_norm.weight` is I32, expected F32, F16 or BF16",
            "the tensor `decoder.block.3.layer.2.DenseReluDense.wi.weight` ([32, 16]) is not expected",
            "the tensor `shared.weight` is [3250, 16], expected [3251, 16]",
            &file,
        ],
    );
}

#[test]
fn a_size_that_no_layer_has_is_told_with_a_few_tensors_and_their_number() {
    let home = TempDir::new().unwrap();
    let base = base(home.path(), |_| {});
    let config = base.join("config.json");
    let mut sizes: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    sizes["d_ff"] = 48.into();
    fs::write(&config, sizes.to_string()).unwrap();
    // 2 matrices of each of the 4 MLPs.
    weights_are_refused(
        home.path(),
        &base,
        &[
            "6 problems",
            "wi.weight` is [32, 16], expected [48, 16]",
            "the same goes for 3 more tensors",
        ],
    );
    sizes["d_ff"] = 32.into();
    sizes["decoder_start_token_id"] = 123_456.into();
    fs::write(&config, sizes.to_string()).unwrap();
    weights_are_refused(
        home.path(),
        &base,
        &[
            "config.json",
            "`decoder_start_token_id`",
            "found 123456",
            "one of the tokenizer's tokens",
        ],
    );
}

#[test]
fn shards_that_nobody_holds_are_all_named() {
    let home = TempDir::new().unwrap();
    let mut shared = None;
    let base = base(home.path(), |tensors| shared = tensors.remove("shared.weight"));
    fs::rename(base.join("model.safetensors"), base.join("model-1.safetensors")).unwrap();
    let index = json!({"weight_map": {
        "encoder.final_layer_norm.weight": "model-1.safetensors",
        "shared.weight": "model-2.safetensors",
        "lm_head.weight": "model-3.safetensors",
    }});
    fs::write(base.join("model.safetensors.index.json"), index.to_string()).unwrap();
    weights_are_refused(
        home.path(),
        &base,
        &[
            "1 problem with",
            "model.safetensors.index.json: names files",
            "model-2.safetensors, model-3.safetensors",
        ],
    );
    let shared = Tensors::from([("shared.weight".to_owned(), shared.unwrap())]);
    write(&base.join("model-2.safetensors"), &shared);
    write(&base.join("model-3.safetensors"), &Tensors::new());
    let overrides = overrides(&base);
    let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
    plan(home.path(), &overrides);
}

#[test]
fn docids_without_rows_of_their_own_are_a_problem_of_the_plan() {
    let home = TempDir::new().unwrap();
    let base = base(home.path(), |_| {});
    let file = base.join("tokenizer.json");
    let tokenizer: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for (id, words) in [
        (5, "docid `@DOC_ID_oxygen@` has id 5, which is the id of"),
        (3246, "both have token id 3246"),
        (6000, "the tensor `shared.weight` is [3251, 16], expected [6001, 16]"),
    ] {
        let mut wrong = tokenizer.clone();
        let added = wrong["added_tokens"].as_array_mut().unwrap();
        let oxygen = |token: &&mut Value| token["content"] == "@DOC_ID_oxygen@";
        added.iter_mut().find(oxygen).unwrap()["id"] = id.into();
        fs::write(&file, wrong.to_string()).unwrap();
        weights_are_refused(home.path(), &base, &["1 problem with", words]);
    }
}

#[test]
fn a_run_directory_that_cannot_be_started_in_is_a_problem_beside_the_others() {
    let home = TempDir::new().unwrap();
    let recipe = tiny_recipe(&home);
    succeeds(&["check", &recipe]);
    succeeds(&["train", &recipe, "train.steps=1"]);
    let wrong = "model.base=./no/such/base";
    for verb in ["check", "train"] {
        is_refused(
            &[verb, &recipe, wrong],
            &[
                "2 problems",
                "run.directory: ",
                "already holds a run",
                "--overwrite",
                "model.base: ",
            ],
        );
        let file = format!("run.directory={recipe}/run");
        is_refused(&[verb, &recipe, &file], &["1 problem with", "tiny.toml is not a directory"]);
        let corpus = format!("run.directory={}", home.path().join("corpus").display());
        is_refused(&[verb, &recipe, &corpus, "--overwrite"], &["not a run directory of genir"]);
    }
    is_refused(&["check", &recipe, wrong, "--overwrite"], &["1 problem with", "model.base: "]);
    succeeds(&["check", &recipe, "--overwrite"]);
    let other = format!("run.directory={}", home.path().join("other").display());
    let passed = succeeds(&["check", &recipe, &other]);
    assert_says(&passed.stdout, &["no problems found"]);
    assert!(!home.path().join("other").exists(), "check writes nothing");
}

#[test]
#[cfg(unix)]
fn a_directory_that_cannot_be_written_to_is_a_problem_of_the_plan() {
    use std::os::unix::fs::PermissionsExt;
    let home = TempDir::new().unwrap();
    let closed = home.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(closed.join("x"), "").is_ok() {
        eprintln!("skipped: this user may write anywhere");
        return;
    }
    let directory = format!("run.directory={}", closed.join("run").display());
    let recipe = genir::recipe::Recipe::from_text(
        "tiny.toml",
        &tiny_corpus::recipe(home.path()),
        &[directory],
    );
    match Plan::to_start(recipe.unwrap(), Overwrite::Refuse) {
        Ok(_) => panic!("it is accepted"),
        Err(errors) => {
            assert_says(&errors.to_string(), &["run.directory: cannot create", "closed"])
        }
    }
}

#[test]
fn probes_without_queries_are_problems_of_the_plan_all_at_once() {
    let home = TempDir::new().unwrap();
    without(&home, &["val_queries.json", "test_queries.json"]);
    problems(
        home.path(),
        &["evaluate.splits=train", "probes.split=validation", "probes.test_split=test"],
        &[
            "2 problems",
            "probes.split: the corpus has no validation queries",
            "probes.test_split: the corpus has no test queries",
        ],
    );
}

#[test]
fn thousands_of_unknown_keys_are_told_in_a_moment() {
    let home = TempDir::new().unwrap();
    let recipe = text(home.path().join("tiny.toml"));
    let lines: String =
        (0..60_000).map(|number| format!("unknown_{number} = {number}\n")).collect();
    fs::write(&recipe, lines + &tiny_corpus::recipe(home.path())).unwrap();
    let begun = std::time::Instant::now();
    let done = genir_with_input(&["check", &recipe], "");
    assert_eq!(done.code, 1);
    assert_says(
        &done.stderr,
        &["60000 problems", "line 60000: unknown_59999 = 59999: unknown key"],
    );
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[test]
#[cfg(target_os = "linux")]
fn a_place_where_nobody_can_make_a_run_is_a_problem_for_root_too() {
    let home = TempDir::new().unwrap();
    let recipe = tiny_recipe(&home);
    std::os::unix::fs::symlink("no/such/place", home.path().join("nowhere")).unwrap();
    let before = everything(home.path());
    let at = |name: &str| text(home.path().join(name));
    let long_path = at(&vec!["name"; 800].join("/"));
    for (directory, words) in [
        ("/proc/x".to_owned(), "nothing can be created in /proc"),
        ("/sys/x/y".to_owned(), "nothing can be created in /sys"),
        ("/dev/null/run".to_owned(), "is not a directory"),
        (at("nowhere"), "nowhere is a dangling symbolic link"),
        (at("tiny.toml/runs/a"), "tiny.toml is not a directory"),
        (at(&format!("runs/{}", "n".repeat(300))), "File name too long"),
        (long_path, "that is more than the maximum of 4096"),
    ] {
        let directory = format!("run.directory={directory}");
        for verb in ["check", "train"] {
            let words = ["1 problem with", "run.directory: cannot create", words];
            is_refused(&[verb, &recipe, &directory], &words);
        }
    }
    let deep = format!("run.directory={}", at("runs/of/mine"));
    succeeds(&["check", &recipe, &deep]);
    assert!(everything(home.path()) == before, "nothing is left behind");
    // What a check that was killed leaves blocks nothing.
    fs::create_dir_all(home.path().join("run/.genir-trial-7-0")).unwrap();
    succeeds(&["check", &recipe]);
    succeeds(&["train", &recipe, "train.steps=1"]);
    assert!(!home.path().join("run/.genir-trial-7-0").exists());
}

#[test]
fn sizes_that_no_machine_holds_are_told_and_not_allocated() {
    let home = TempDir::new().unwrap();
    let recipe = tiny_recipe(&home);
    let key = |name: &str| format!("model.config.{name}=1000000000");
    let keys = ["d_model", "d_ff", "d_kv", "num_heads", "num_layers", "num_decoder_layers"];
    let mut arguments = vec!["check".to_owned(), recipe.clone()];
    arguments.extend(keys.map(key));
    arguments.push("evaluate.unmasked_padding=1000000000".to_owned());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    is_refused(
        &arguments,
        &[
            "7 problems",
            "model.config.d_model = 1000000000: expected a whole number from 1 to 131072",
            "model.config.num_layers = 1000000000: expected a whole number from 1 to 1000",
            "evaluate.unmasked_padding = 1000000000: expected an integer from 1 to 4096",
        ],
    );
    // The largest that are taken: 72 TB of parameters, of which nothing is made.
    let sizes = ["d_model=131072", "d_ff=1048576", "num_layers=60"];
    let sizes = sizes.map(|size| format!("model.config.{size}"));
    let sizes = sizes.each_ref().map(String::as_str);
    let words = ["1 problem with", "memory: the run needs about ", "MiB at its peak and can have"];
    is_refused(&[&["check", &recipe], &sizes[..]].concat(), &words);
    let many = ["train.steps=1000000000", "save.every_steps=1", "save.keep_last=1000000000"];
    let batches = ["train.batch_size=1000000000000000", "evaluate.batch_size=1000000000000000000"];
    let said = succeeds(&[&["check", &recipe], &many[..], &batches].concat()).stdout;
    assert_says(&said, &["a checkpoint takes about 0.", "up to 1000000001 at once", "MiB free"]);
}

#[test]
fn a_size_in_a_bases_configuration_that_no_t5_has_is_told() {
    let home = TempDir::new().unwrap();
    let base = base(home.path(), |_| {});
    let config = base.join("config.json");
    let sizes: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    for key in ["d_model", "d_ff", "d_kv", "num_heads", "num_layers", "num_decoder_layers"] {
        let mut wrong = sizes.clone();
        wrong[key] = 1_000_000_000.into();
        fs::write(&config, wrong.to_string()).unwrap();
        let found = format!("key `{key}`: found 1000000000, expected a whole number from 1 to ");
        weights_are_refused(home.path(), &base, &["1 problem", "config.json", &found]);
    }
}

#[test]
fn a_git_lfs_pointer_in_a_base_is_called_one() {
    let home = TempDir::new().unwrap();
    let base = base(home.path(), |_| {});
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        let file = base.join(name);
        let content = fs::read(&file).unwrap();
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
        fs::write(&file, pointer).unwrap();
        let words = ["1 problem", &text(file.clone()), "a Git LFS pointer", "`git lfs pull`"];
        weights_are_refused(home.path(), &base, &words);
        fs::write(&file, content).unwrap();
    }
}

#[test]
fn ids_that_trec_files_cannot_hold_are_told_once_before_the_run() {
    let home = TempDir::new().unwrap();
    let recipe = tiny_recipe(&home);
    for name in ["documents", "train_queries", "val_queries", "test_queries"] {
        let file = home.path().join(format!("corpus/{name}.json"));
        let text = fs::read_to_string(&file).unwrap();
        let text = text.replace("\"oxygen\"", "\"oxygen 8\"").replace("val-1", "val\\u001b1");
        fs::write(&file, text).unwrap();
    }
    let told =
        "corpus: 1 document ids (`oxygen 8`) and 1 query ids (`val\\u{1b}1`) hold white space";
    assert_says(&succeeds(&["check", &recipe]).stdout, &[told]);
    let done = succeeds(&["train", &recipe, "train.steps=1"]);
    assert_says(&done.stderr, &[told]);
    assert_eq!(done.stderr.matches("TREC").count(), 1, "{}", done.stderr);
    let run = text(home.path().join("run"));
    assert!(!home.path().join("run/retrieval/validation.run").exists());
    for option in ["--run", "--qrels"] {
        let file = text(home.path().join("new"));
        let words = ["TREC files cannot represent"];
        is_refused(&["eval", &run, "--split", "test", option, &file], &words);
        assert!(!Path::new(&file).exists());
    }
    succeeds(&["eval", &run, "--correct", &text(home.path().join("correct.json"))]);
}
