//! Docid rows that are divided among processes: the bits of one process that has all rows.

use super::*;

const SHARD: [&str; 1] = ["docids.shard=true"];

/// Trains with divided rows on 1, 2 and 4 processes, and with all rows in one process, to the same results.
#[track_caller]
fn assert_same_divided(more: &[&str]) {
    let home = TempDir::new().unwrap();
    let overrides = [&FOUR_BATCHES[..], more].concat();
    let whole = Home::new(&home.path().join("whole"), &overrides);
    whole.train();
    for count in [1, 2, 4] {
        let overrides = [&overrides[..], &SHARD].concat();
        let divided = Home::new(&home.path().join(format!("of-{count}")), &overrides);
        train(&divided, count);
        divided.results().assert_same(&whole.results(), &format!("{more:?}, {count} processes"));
    }
}

#[test]
fn divided_rows_have_the_bits_of_all_rows_in_a_full_run() {
    // Logits of text tokens are compared too, and gradients are clipped by the norm of all rows.
    assert_same_divided(&[
        "train.epochs=3",
        "evaluate.at_start=true",
        "evaluate.vocabulary=all",
        "evaluate.run_depth=3",
        "optimizer.clip_norm=0.05",
        "docids.rows=text",
    ]);
}

#[test]
fn divided_rows_have_the_bits_of_all_rows_with_gradients_in_bfloat16() {
    assert_same_divided(&["train.epochs=3", "train.gradient_dtype=bfloat16"]);
}

#[test]
fn divided_rows_have_the_bits_of_all_rows_with_label_smoothing_and_restricted_training() {
    let select = "trainable.select=[\"restricted\",\"docids\"]";
    assert_same_divided(&["train.epochs=3", "train.label_smoothing=0.1", select]);
}

#[test]
fn divided_rows_have_the_bits_of_all_rows_where_nothing_else_is_trained() {
    assert_same_divided(&["train.epochs=2", "trainable.select=[\"docids\"]"]);
}

#[test]
fn divided_rows_have_the_bits_of_all_rows_with_lora() {
    let select = "trainable.select=[\"lora(decoder.layers[1,2], rank=3, alpha=8)\", \"docids\"]";
    assert_same_divided(&["train.epochs=2", select]);
}

#[test]
fn divided_rows_have_the_bits_of_all_rows_with_denoising() {
    // Some updates, and some processes' batches, have no docids at all.
    let bases = TempDir::new().unwrap();
    sentinels::write_base(bases.path(), 10);
    let base = format!("model.base={}", bases.path().display());
    let tasks = "task.tasks=[\"indexing\", \"retrieval\", \"denoising\"]";
    assert_same_divided(&["train.epochs=2", tasks, "task.denoising_held_out=0.25", &base]);
}

#[test]
fn each_process_has_its_own_rows() {
    let home = TempDir::new().unwrap();
    let overrides = [&SHARD[..], &["train.accumulate=4", "train.steps=1"]].concat();
    let run = Home::new(home.path(), &overrides);
    for (process, said) in said(&run, 4, "has docid rows").iter().enumerate() {
        assert_eq!(*said, [format!("{}..{} of 8", 2 * process, 2 * process + 2)]);
    }
}

#[test]
fn a_run_with_divided_rows_that_is_killed_continues_with_fewer_processes_to_the_same_bits() {
    let (output, took) = interrupt(2, "-KILL", &SHARD);
    assert!(!output.status.success());
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_loss_that_is_not_finite_stores_all_divided_rows() {
    let home = TempDir::new().unwrap();
    let wrong = ["train.accumulate=2", "optimizer.learning_rate=1e30"];
    let whole = Home::new(&home.path().join("whole"), &wrong);
    let divided = Home::new(&home.path().join("divided"), &[&SHARD[..], &wrong].concat());
    refused(&mut whole.command());
    let found = refused(&mut processes(2, &divided.command()));
    assert_eq!(found.matches("error: ").count(), 1, "{found}");
    let stored = |home: &Home, name: &str| {
        let mut found = fs::read_dir(home.run().join("failed-step")).unwrap();
        let state = found.find(|entry| entry.as_ref().unwrap().path().is_dir());
        fs::read(state.unwrap().unwrap().path().join(name)).unwrap()
    };
    for name in ["model.safetensors", "optimizer.safetensors"] {
        assert!(stored(&divided, name) == stored(&whole, name), "{name} differs");
    }
}

#[test]
fn more_processes_than_tasks_of_rows_are_refused_once() {
    let home = TempDir::new().unwrap();
    let run = Home::new(home.path(), &[&SHARD[..], &["train.accumulate=16"]].concat());
    let found = refused(&mut processes(16, &run.command()));
    let expected = "8 docid rows cannot be divided among 16 processes: start at most 8";
    assert!(found.contains(expected), "{found}");
    assert_eq!(found.matches("error: ").count(), 1, "{found}");
    assert!(!run.run().exists(), "nothing is written");
}

#[test]
fn a_run_continues_with_divided_rows_and_with_all_of_them() {
    let home = TempDir::new().unwrap();
    let whole = [&FOUR_BATCHES[..], &["train.epochs=3"]].concat();
    let whole = Home::new(&home.path().join("whole"), &whole);
    whole.train();
    let changed = home.path().join("changed");
    let steps = |count: &str, more: &[&str]| {
        let overrides = [&FOUR_BATCHES[..], &[count], more].concat();
        Home::new(&changed, &overrides)
    };
    steps("train.epochs=1", &[]).train();
    let mut longer = steps("train.epochs=2", &SHARD).command();
    let divided = output(&mut processes(2, longer.args(["--resume", "latest"])));
    assert!(divided.status.success(), "{}", String::from_utf8_lossy(&divided.stderr));
    let last = steps("train.epochs=3", &[]);
    let whole_again = output(last.command().args(["--resume", "latest"]));
    assert!(whole_again.status.success(), "{}", String::from_utf8_lossy(&whole_again.stderr));
    let weights = |home: &Home| fs::read(home.run().join("checkpoints/latest/model.safetensors"));
    assert!(weights(&last).unwrap() == weights(&whole).unwrap());
}

#[test]
fn what_divided_rows_cannot_do_is_refused_all_at_once() {
    let home = TempDir::new().unwrap();
    let wrong = [
        "optimizer.name=adafactor",
        "docids.rows=encoder",
        "trainable.select=[\"restricted\"]",
        "probes.run=[\"logit_lens\"]",
        "watch.parameters_every_steps=2",
    ];
    let run = Home::new(home.path(), &[&SHARD[..], &wrong].concat());
    let found = refused(&mut processes(1, &run.command()));
    assert_eq!(found.matches("docids.shard: ").count(), wrong.len(), "{found}");
    assert!(!run.run().exists(), "nothing is written");
}
