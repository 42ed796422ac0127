//! Invalid recipes are refused with all problems at once, each with its key and origin.

use std::path::Path;

use crate::small_recipe::{SMALL, problem, problems, read, small};
use genir::recipe::{KeyOrigin, Recipe};

#[test]
fn five_mistakes_are_shown_at_once_each_with_its_key() {
    let text = r#"
[run]
directory = 7
sed = 3

[model]
base = "google-t5/t5-small"

[corpus]
path = "bundled:atlas"

[optimizer]
name = "adam"
learning_rate = 1e-3

[train]
steps = 100
batch_size = 0

[trian]
epochs = 1
"#;
    let shown = read(text, &[]).unwrap_err().to_string();
    let expected = r#"recipe small.toml: 5 problems
  line 3: run.directory = 7: expected a string
  line 4: run.sed = 3: unknown key; did you mean `seed`?
  line 13: optimizer.name = "adam": expected one of "adamw", "adafactor"
  line 18: train.batch_size = 0: expected an integer of at least 1
  line 20: trian: unknown section; did you mean `train`?"#;
    assert_eq!(shown, expected);
}

#[test]
fn missing_keys_are_named_with_what_is_expected() {
    let problems = problems("", &[]);
    assert_eq!(
        problems,
        [
            "run.directory: missing: expected a string",
            "model.base: missing: expected a string",
            "corpus.path: missing: expected a string",
            "optimizer.learning_rate: missing: expected a number above 0",
            "train.steps: missing: expected `steps` or `epochs`",
            "train.batch_size: missing: expected an integer of at least 1",
        ]
    );
}

#[test]
fn unknown_keys_show_the_nearest_known_one() {
    assert!(problem(&["train.batchsize=3"]).ends_with("did you mean `batch_size`?"));
    assert!(problem(&["schedule.warmup=3"]).ends_with("did you mean `warmup_steps`?"));
    assert!(
        problem(&["stop.patiance=3", "stop.patience=1", "evaluate.every_steps=5"])
            .ends_with("did you mean `patience`?")
    );
    assert!(problem(&["model.config.d_mode=8"]).ends_with("did you mean `d_model`?"));
    // A key that exists in other sections is shown with them.
    assert!(
        problem(&["batch_size=3"])
            .ends_with("`evaluate.batch_size` or `train.batch_size` or `probes.batch_size`?")
    );
    assert!(problem(&["probes.logit_lense.queries=3"]).ends_with("did you mean `logit_lens`?"));
    assert!(problem(&["docids.zzz=3"]).ends_with("known here are rows, shard"));
}

#[test]
fn overrides_that_cannot_be_applied_are_refused() {
    assert!(problem(&["train.steps"]).contains("an override is key=value"));
    assert!(problem(&["train..steps=1"]).contains("section.key"));
    assert!(problem(&["=1"]).contains("section.key"));
    assert!(problem(&["train.steps.x=1"]).contains("`steps` is a value, not a section"));
    assert!(problem(&["~train.step"]).ends_with("did you mean `steps`?"));
    assert_eq!(
        problem(&["train.steps=many"]),
        "command line: train.steps = \"many\": expected an integer of at least 1"
    );
    // A value may contain what looks like a second key.
    let path = small(&["corpus.path=1\nrun.seed=2"]);
    assert_eq!((path.run.seed, path.corpus.path.as_str()), (1, "1\nrun.seed=2"));
}

#[test]
fn conflicts_between_keys_are_refused() {
    for (overrides, key, message) in [
        (&["train.epochs=3"][..], "train.epochs", "found both"),
        (&["~train.steps"], "train.steps", "missing: expected `steps` or `epochs`"),
        (&["schedule.warmup_steps=101"], "schedule.warmup_steps", "train.steps = 100"),
        (&["model.config.d_ff=9"], "model.config", "init = \"scratch\""),
        (&["optimizer.clip_threshold=1"], "optimizer.clip_threshold", "a key of adafactor"),
        (
            &["optimizer.name=adafactor", "optimizer.betas=[0.9, 0.99]"],
            "optimizer.betas",
            "a key of adamw",
        ),
        (&["task.ratio=32", "task.tasks=[\"retrieval\"]"], "task.ratio", "does not have both"),
        (
            &["corpus.generated_queries=x", "task.tasks=indexing"],
            "corpus.generated_queries",
            "retrieval examples",
        ),
        (&["corpus.leave_out={count=1, ids=[2]}"], "corpus.leave_out.count", "found both"),
        (&["corpus.leave_out={}"], "corpus.leave_out.ids", "missing"),
        (&["corpus.leave_out={seed=1, ids=[2]}"], "corpus.leave_out.seed", "applies to `count`"),
        (&["save.best_metric=test/hits@1"], "save.best_metric", "no evaluation computes"),
        (
            &["evaluate.every_steps=5", "stop.metric=validation/hits@2", "stop.patience=1"],
            "stop.metric",
            "did you mean `validation/hits@1`?",
        ),
        (&["stop.patience=1"], "stop", "give evaluate.every_steps"),
        (&["evaluate.splits=[]"], "evaluate.splits", "at least one split"),
        (
            &["evaluate.every_steps=5", "evaluate.every_epochs=5"],
            "evaluate.every_epochs",
            "found both",
        ),
        (
            &["probes.run=[\"logit_lens\"]", "probes.circuit.every_steps=3"],
            "probes.circuit",
            "`circuit` is not among the probes",
        ),
        (
            &["probes.run=circuit", "probes.patches=decoder.mlp"],
            "probes.patches",
            "`stage_patching` is not among the probes",
        ),
        (
            &["probes.run=logit_lens", "probes.test_split=test"],
            "probes.test_split",
            "`circuit` is not among the probes",
        ),
        (&["probes.at_end=false"], "probes.at_end", "`residual_contribution` is never measured"),
        (&["probes.every_steps=5", "probes.every_epochs=5"], "probes.every_epochs", "found both"),
        (
            &["probes.every_steps=5", "probes.every_evaluations=5"],
            "probes.every_evaluations",
            "expected one of",
        ),
        (
            &["probes.circuit.every_evaluations=5"],
            "probes.circuit.every_evaluations",
            "no evaluations during training",
        ),
        (&["stages={I=\"0..2\", II=\"1..4\", III=\"4\"}"], "stages.II", "an overlap"),
        (
            &[
                "model.init=scratch",
                "model.config.num_decoder_layers=4",
                "stages={I=\"0..2\", II=\"2..4\", III=\"4\"}",
            ],
            "model.config.num_decoder_layers",
            "last layer is 3",
        ),
        (
            &[
                "model.init=scratch",
                "model.config.num_decoder_layers=2",
                "stages={I=\"0\", II=\"1\", III=\"2\"}",
            ],
            "model.config.num_decoder_layers",
            "3 are the least",
        ),
    ] {
        let problems = read(SMALL, overrides).expect_err(key).problems;
        let [problem] = problems.as_slice() else {
            panic!("{key}: {problems:#?}");
        };
        assert_eq!(problem.key, key);
        assert!(problem.message.contains(message), "{key}: {problem}");
    }
}

#[test]
fn keys_of_an_inline_table_have_the_origin_of_the_table() {
    let wrong = "corpus.leave_out={count=0}";
    assert!(problem(&[wrong]).starts_with("command line: corpus.leave_out.count = 0: expected"));
    let text = format!("{SMALL}\n[corpus.leave_out]\ncount = 0\n");
    assert!(problems(&text, &[])[0].starts_with("line 15: corpus.leave_out.count = 0"));
}

#[test]
fn a_conflict_with_an_invalid_value_is_not_reported() {
    let told = problem(&["train.steps=0", "schedule.warmup_steps=5"]);
    assert!(told.starts_with("command line: train.steps = 0"), "{told}");
}

#[test]
fn invalid_values_are_refused_in_every_section() {
    for (wrong, expected) in [
        ("run.seed=-1", "at least 0"),
        ("run.device=gpu", "\"cuda:N\""),
        ("run.device=cuda:x", "\"cuda:N\""),
        ("model.dropout=1", "less than 1"),
        ("corpus.layout=csv", "\"beir\""),
        ("docids.rows=zero", "\"text\""),
        ("task.tasks=[\"indexing\", \"indexing\"]", "without duplicates"),
        ("task.tasks=[]", "at least one task"),
        ("task.max_tokens=1", "at least 2"),
        ("task.ratio=nan", "above 0"),
        ("trainable.select=[]", "at least one selector"),
        ("trainable.select=decoder.mpl", "did you mean `decoder.mlp`?"),
        ("optimizer.betas=[0.9]", "two numbers"),
        ("optimizer.clip_norm=off", "\"none\" for off"),
        ("optimizer.learning_rate=inf", "above 0"),
        ("schedule.name=step", "\"cosine\""),
        ("train.label_smoothing=1.0", "less than 1"),
        ("train.gradient_dtype=bf16", "\"bfloat16\""),
        ("evaluate.vocabulary=words", "\"all\""),
        ("save.keep_last=0", "at least 1"),
        ("task.lowercase=yes", "true or false"),
        ("probes.run=lens", "\"logit_lens\""),
        ("probes.run=[]", "at least one probe"),
        ("probes.queries=0", "at least 1"),
        ("probes.over=some", "\"correct\""),
        ("probes.max_share=-1", "\"none\" for off"),
        ("probes.average_first=heads", "\"queries\""),
        ("probes.encoder_norm=none", "\"own\""),
        ("probes.base=none", "`encoder_swap`"),
        ("probes.circuit.queries=0", "at least 1"),
    ] {
        let problem = problem(&[wrong]);
        let key = wrong.split_once('=').unwrap().0;
        assert!(problem.starts_with(&format!("command line: {key} = ")), "{problem}");
        assert!(problem.ends_with(expected) || problem.contains(expected), "{problem}");
    }
    assert_eq!(problem(&["log=3"]), "command line: log = 3: expected a section, [log]");
}

#[test]
fn invalid_toml_is_refused_with_its_lines() {
    let errors = read("[run]\ndirectory = \nseed = 1\nseed = 2\n", &[]).unwrap_err();
    let places: Vec<_> = errors.problems.iter().map(|problem| problem.origin).collect();
    assert_eq!(places, [Some(KeyOrigin::Line(2)), Some(KeyOrigin::Line(4))], "{errors}");
    let absent = Recipe::from_file(Path::new("no/such/recipe.toml"), &[]).unwrap_err();
    let shown = absent.to_string();
    assert!(
        shown.starts_with("recipe no/such/recipe.toml: 1 problem\n  cannot be read"),
        "{shown}"
    );
}

#[test]
fn a_recipe_that_is_not_a_regular_file_is_refused_by_type_without_waiting() {
    let home = tempfile::tempdir().unwrap();
    let pipe = home.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (path, is) in [
        (pipe.as_path(), "it is a named pipe; expected a regular file"),
        (home.path(), "it is a directory"),
        (Path::new("/dev/zero"), "it is a device"),
    ] {
        let error = Recipe::from_file(path, &[]).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()) && error.contains(is), "{error}");
    }
}
