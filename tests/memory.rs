//! `genir check` says what a run will need: held against what processes of whole runs have really held, with their
//! evaluations, checkpoints and probes.

#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "support/small_tokenizer.rs"]
mod small_tokenizer;

/// Of the tokenizer, as many as T5's has: an output matrix is then the largest part of a small model, as it is.
const WORDS: usize = 32_000;
const DOCUMENTS: usize = 300;

/// d_model, d_ff, heads (of 64), layers of each stack, examples of a batch.
type Shape = [usize; 5];

/// Of processes that hold little more than themselves.
const TINY: Shape = [16, 32, 2, 3, 8];
const SMALL: Shape = [64, 128, 2, 3, 16];
const NARROW: Shape = [256, 1024, 4, 4, 32];
const MIDDLE: Shape = [384, 1024, 6, 3, 64];
const WIDE: Shape = [512, 2048, 8, 3, 16];

/// Of large activations in a small model.
const LONG_MLP: Shape = [128, 4096, 4, 3, 32];

/// How far the prediction may be from what was measured, as a share of it.
const ALLOWED: f64 = 0.25;

/// Every run evaluates twice, with what it was trained on, and writes a checkpoint each time.
const WHOLE: [&str; 15] = [
    "run.device=cpu",
    "model.config.d_kv=64",
    "~train.epochs",
    "train.steps=8",
    "schedule.warmup_steps=1",
    "~evaluate.every_epochs",
    "evaluate.every_steps=4",
    "evaluate.queries=64",
    "evaluate.memorisation=64",
    "task.max_tokens=32",
    "~probes.every_epochs",
    "probes.every_steps=4",
    "probes.over=all",
    "probes.queries=64",
    "probes.max_share=0",
];

const FULL: &[&str] = &["trainable.select=[\"full\"]"];
const RESTRICTED: &[&str] = &["trainable.select=[\"restricted\", \"docids\"]"];
const LORA: &[&str] = &["trainable.select=[\"lora(restricted, rank=8, alpha=16)\", \"docids\"]"];
const LORA_OF_ALL: &[&str] = &["trainable.select=[\"lora(full, rank=8, alpha=16)\"]"];
/// So many steps that texts are read more than once: their prefix is stored.
const STORED: &[&str] = &["train.steps=60", "evaluate.every_steps=30", "probes.every_steps=30"];
const NOT_STORED: &[&str] = &["cache.enabled=false"];
const NOT_PROBED: &[&str] = &["~probes"];
/// So many queries at once that probes are a large part of the peak.
const MUCH_PROBED: &[&str] = &["probes.queries=128"];
/// Probes measure over the correct queries only.
const OF_CORRECT: &[&str] = &["probes.over=correct", "probes.batch_size=64"];
/// Evaluations read queries again, training reads no text twice.
const QUERIES_STORED: &[&str] = &["train.steps=4", "evaluate.every_steps=2"];

/// A base model's tokenizer and configuration, and a corpus.
fn collection() -> TempDir {
    let home = TempDir::new().unwrap();
    small_tokenizer::write(home.path(), &[]);
    let path = home.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let words = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    for id in words.len()..WORDS {
        words.insert(format!("w{id}"), json!(id));
    }
    fs::write(path, tokenizer.to_string()).unwrap();
    let config = json!({
        "d_model": 64, "d_kv": 64, "d_ff": 64, "num_heads": 1, "num_layers": 3, "vocab_size": WORDS,
        "feed_forward_proj": "relu",
    });
    put(home.path(), "config.json", &config);

    let text = |first: usize, count: usize| {
        let words = (first..first + count).map(|at| format!("w{}", 9 + at * 7919 % (WORDS - 9)));
        words.collect::<Vec<_>>().join(" ")
    };
    let documents = (0..DOCUMENTS).map(|at| json!({"id": at, "text": text(40 * at, 31)}));
    put(home.path(), "documents.json", &documents.collect());
    for (name, each, offset) in [("train", 2, 0), ("val", 1, 20), ("test", 1, 25)] {
        let queries = (0..each * DOCUMENTS).map(|at| {
            let document = at / each;
            let query = text(40 * document + offset + 10 * (at % each), 9);
            json!({"id": format!("{name}-{at}"), "query": query, "relevant_docs": [document]})
        });
        put(home.path(), &format!("{name}_queries.json"), &queries.collect());
    }
    home
}

fn put(directory: &Path, name: &str, value: &Value) {
    fs::write(directory.join(name), value.to_string()).unwrap();
}

fn overrides(home: &Path, collection: &Path, shape: Shape, more: &[&str]) -> Vec<String> {
    let [d_model, d_ff, heads, layers, batch] = shape;
    let given = [
        format!("run.directory={}", home.join("run").display()),
        format!("corpus.path={}", collection.display()),
        format!("model.base={}", collection.display()),
        format!("model.config.d_model={d_model}"),
        format!("model.config.d_ff={d_ff}"),
        format!("model.config.num_heads={heads}"),
        format!("model.config.num_layers={layers}"),
        format!("model.config.num_decoder_layers={layers}"),
        format!("train.batch_size={batch}"),
        format!("cache.directory={}", home.join("cache").display()),
    ];
    let rest = WHOLE.iter().chain(more).map(|&text| text.to_owned());
    given.into_iter().chain(rest).collect()
}

fn genir(verb: &str, overrides: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_genir"));
    command.args([verb, "recipes/quickstart.toml"]).args(overrides);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// The line of `genir check` about memory, and the peak that it says, in MiB: `about 300 MiB`, or the first number of
/// `about 300 to 500 MiB`, where the second is for queries that are all correct. After so few steps none is.
fn predicted(overrides: &[String]) -> (String, f64) {
    let output = genir("check", overrides).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find(|line| line.starts_with("memory"));
    let number = line.and_then(|line| line.split_whitespace().nth(2)?.parse().ok());
    let number =
        number.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    (line.unwrap_or_default().to_owned(), number)
}

/// The most that `genir train` has held, in MiB.
fn measured(overrides: &[String]) -> f64 {
    let mut child =
        genir("train", overrides).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut highest = 0.0;
    let done = loop {
        // It only ever rises; when the process has ended it cannot be read any more.
        let peak = fs::read_to_string(&status).ok().and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        });
        highest = peak.unwrap_or(highest);
        if let Some(done) = child.try_wait().unwrap() {
            break done;
        }
        sleep(Duration::from_millis(2));
    };
    assert!(done.success(), "{overrides:?}: {done}");
    highest / 1024.0
}

/// That `genir check` says what `runs` hold at their peak.
fn compare(runs: &[(Shape, &[&[&str]])]) {
    let collection = collection();
    let mut wrong = Vec::new();
    for (shape, more) in runs {
        let home = TempDir::new().unwrap();
        let more = more.concat();
        let overrides = overrides(home.path(), collection.path(), *shape, &more);
        let ((said, predicted), measured) = (predicted(&overrides), measured(&overrides));
        let ratio = predicted / measured;
        let line =
            format!("{shape:?} {more:?}: {measured:.0} MiB, predicted {ratio:.2} of it: {said}");
        println!("{line}");
        if (ratio - 1.0).abs() > ALLOWED {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_predicted_peak_of_a_full_run_is_near_the_measured_one() {
    compare(&[
        (NARROW, &[FULL]),
        (MIDDLE, &[FULL, &["model.dropout=0.1"], NOT_PROBED]),
        (WIDE, &[FULL, &["train.accumulate=2"], NOT_PROBED]),
    ]);
}

#[test]
fn the_predicted_peak_of_a_restricted_run_is_near_the_measured_one() {
    compare(&[
        (MIDDLE, &[RESTRICTED, NOT_STORED, MUCH_PROBED]),
        (WIDE, &[RESTRICTED, NOT_STORED, &["evaluate.vocabulary=all"], NOT_PROBED]),
    ]);
}

#[test]
fn the_predicted_peak_of_a_run_from_a_stored_prefix_is_near_the_measured_one() {
    compare(&[
        (NARROW, &[RESTRICTED, STORED, MUCH_PROBED]),
        // The encoder is released.
        (WIDE, &[RESTRICTED, STORED, NOT_PROBED]),
    ]);
}

#[test]
fn the_predicted_peak_of_a_lora_run_is_near_the_measured_one() {
    compare(&[
        (MIDDLE, &[LORA, NOT_STORED, MUCH_PROBED]),
        (WIDE, &[LORA, STORED, NOT_PROBED]),
        (MIDDLE, &[LORA_OF_ALL, NOT_PROBED]),
    ]);
}

#[test]
fn the_predicted_peak_of_a_small_process_is_near_the_measured_one() {
    compare(&[
        (TINY, &[FULL, NOT_PROBED]),
        (TINY, &[FULL]),
        (SMALL, &[FULL, NOT_PROBED]),
        (SMALL, &[RESTRICTED, NOT_STORED, NOT_PROBED]),
        (SMALL, &[RESTRICTED, STORED, NOT_PROBED]),
        (TINY, &[RESTRICTED, STORED, NOT_PROBED]),
    ]);
}

#[test]
fn the_predicted_peak_where_only_queries_are_stored_is_near_the_measured_one() {
    compare(&[
        (NARROW, &[RESTRICTED, QUERIES_STORED, NOT_PROBED]),
        // Much for a full batch of the prefix, and there are fewer texts.
        (LONG_MLP, &[RESTRICTED, QUERIES_STORED, NOT_PROBED]),
    ]);
}

#[test]
fn the_predicted_peak_with_probes_of_correct_queries_says_what_it_is_if_none_is_correct_or_all() {
    compare(&[(NARROW, &[FULL, OF_CORRECT]), (MIDDLE, &[RESTRICTED, NOT_STORED, OF_CORRECT])]);

    let (collection, home) = (collection(), TempDir::new().unwrap());
    let said = |more: &[&str]| {
        let more = [RESTRICTED, NOT_STORED, more].concat();
        predicted(&overrides(home.path(), collection.path(), MIDDLE, &more))
    };
    let (of_correct, least) = said(OF_CORRECT);
    let (of_all, most) = said(&["probes.batch_size=64"]);
    let when = "while probes are measured if all queries that they rank are correct";
    assert!(least < most && !of_all.contains("if all"), "{of_correct}; {of_all}");
    let near =
        |number: &str| number.parse::<f64>().is_ok_and(|number| (number - most).abs() <= 8.0);
    assert!(of_correct.split(' ').any(near), "{most} is not in {of_correct}");
    assert!(of_correct.contains(when) && of_correct.contains("if none is"), "{of_correct}");
}
