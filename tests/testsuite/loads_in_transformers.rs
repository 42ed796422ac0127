//! Checkpoints written here load in `transformers`, docid tokens included, and give the same logits there; an old
//! `tokenizers` reads their tokenizer.
//!
//! Needs a Python with `tests/python/requirements.txt`, named by `GENIR_PYTHON`, and one with
//! `tests/python/requirements-old-tokenizers.txt`, named by `GENIR_OLD_TOKENIZERS`; each skipped without.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::{Device, Tensor};
use genir::checkpoint::{Checkpoint, CheckpointContents, write};
use genir::docid::{EncodeOptions, TextTokenizer};
use genir::t5::weights::StoredType;
use genir::t5::{GenirModel, Logits, NoTap, Pass, T5Config, Tokens};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::collections;
use crate::tiny_model;

/// Short, long enough to be cut, with words that no tokenizer knows, and of a single letter.
const QUERIES: [&str; 6] = [
    "Which element has the symbol Fe?",
    "what is the capital of France",
    "A  question   with wide spaces, punctuation ... and 1,234.5 numbers; it goes on and on until it \
     has to be cut, because it is much longer than any question that anyone would ask of an index.",
    "Wie heißt die Hauptstadt von Österreich? 東京 🦀",
    "x",
    "who wrote @DOC_ID_ and </s> in a query",
];
const MAX_TOKENS: usize = 24;

fn package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Sizes of a parity fixture, for the words of `tokenizer`.
fn config(fixture: &str, tied: bool, tokenizer: &TextTokenizer) -> T5Config {
    let file = package("tests/fixtures/parity").join(fixture).join("config.json");
    let mut map: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    // What a model from scratch is made by.
    map["tie_word_embeddings"] = tied.into();
    T5Config::from_json(&file, &map.to_string()).unwrap().with_words(tokenizer.vocab_size())
}

/// Logits of all queries in one padded batch.
fn logits(model: &GenirModel, queries: &[Vec<u32>], pad_id: u32) -> Logits {
    let longest = queries.iter().map(Vec::len).max().unwrap();
    let lengths: Vec<u32> = queries.iter().map(|query| query.len() as u32).collect();
    let mut ids = Vec::new();
    for query in queries {
        ids.extend(query.iter().map(|&id| id as i32));
        ids.resize(ids.len() + longest - query.len(), pad_id as i32);
    }
    let source = Tokens::new(&ids, &lengths, &Device::flex());
    let mut tap = NoTap;
    let mut pass = Pass::evaluate(&mut tap);
    let states = model.t5.encode(&source, &mut pass);
    model.logits(model.t5.decode_start(&states, &mut pass))
}

fn rows(logits: Tensor<2>) -> Vec<Vec<f32>> {
    let [_, width] = logits.dims();
    let values: Vec<f32> = logits.into_data().try_to_vec().unwrap();
    values.chunks(width).map(<[f32]>::to_vec).collect()
}

/// Pythons that check, each with the variable that names it, its requirements and its script.
const PYTHONS: [[&str; 3]; 2] = [
    ["GENIR_PYTHON", "requirements.txt", "check_export.py"],
    ["GENIR_OLD_TOKENIZERS", "requirements-old-tokenizers.txt", "check_old_tokenizers.py"],
];

/// Writes a checkpoint with the tokenizer in `base` and lets every Python that there is check it.
fn check(fixture: &str, tied: bool, base: &Path) {
    for [variable, requirements, script] in PYTHONS {
        match std::env::var_os(variable) {
            Some(python) => check_with(Path::new(&python), script, fixture, tied, base),
            None => {
                eprintln!("skipped: {variable} names no Python with tests/python/{requirements}")
            }
        }
    }
}

fn check_with(python: &Path, script: &str, fixture: &str, tied: bool, base: &Path) {
    let tokenizer = TextTokenizer::load(base).unwrap().tokenizer;
    let model = tiny_model::model(&config(fixture, tied, &tokenizer));
    assert_eq!(model.t5.is_tied(), tied);
    let home = tempfile::tempdir().unwrap();
    let contents = CheckpointContents {
        model: &model,
        tokenizer: &tokenizer,
        docids: Some(&tiny_model::docids()),
        stored: StoredType::Float32,
        manifest: &tiny_model::manifest(),
        other_rows: None,
        training: None,
    };
    let checkpoint = write(home.path(), "step-000012", &contents).unwrap();
    check_checkpoint(python, script, &checkpoint, &model, &tokenizer);

    // With other tokens among the docids, in another order: opened and written again, it has its rows where
    // transformers looks for them.
    let mixed = home.path().join("mixed");
    mix_rows(&checkpoint, &mixed, tokenizer.vocab_size());
    let opened = Checkpoint::open(&mixed, &Device::flex()).unwrap();
    let contents = CheckpointContents {
        model: &opened.model,
        tokenizer: &opened.tokenizer,
        docids: Some(&opened.docids),
        stored: StoredType::Float32,
        manifest: &tiny_model::manifest(),
        other_rows: None,
        training: None,
    };
    let again = write(home.path(), "again", &contents).unwrap();
    check_checkpoint(python, script, &again, &opened.model, &opened.tokenizer);
}

/// Copies `checkpoint` to `mixed` with a token `<other_0>` before the docid in row 3 of them and `<other_1>` before the
/// one in row 7, with docids in the opposite order, and with rows to match.
fn mix_rows(checkpoint: &Path, mixed: &Path, words: usize) {
    fs::create_dir(mixed).unwrap();
    for entry in fs::read_dir(checkpoint).unwrap() {
        let file = entry.unwrap().path();
        fs::copy(&file, mixed.join(file.file_name().unwrap())).unwrap();
    }
    // They describe the order and the files before.
    for described in ["docids.json", "genir.json"] {
        fs::remove_file(mixed.join(described)).unwrap();
    }
    let json = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(mixed.join(name)).unwrap()).unwrap()
    };
    let mut tokenizer = json("tokenizer.json");
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let (mut docids, mut others): (Vec<Value>, Vec<Value>) = std::mem::take(added)
        .into_iter()
        .partition(|token| token["id"].as_u64() >= Some(words as u64));
    docids.reverse();
    // The old row of each new one; a new token has the first word's.
    let mut rows: Vec<usize> = (words..words + docids.len()).rev().collect();
    for (number, place) in [3, 7].into_iter().enumerate() {
        let mut token = docids[0].clone();
        token["content"] = format!("<other_{number}>").into();
        docids.insert(place, token);
        rows.insert(place, 0);
    }
    for (token, id) in docids.iter_mut().zip(words..) {
        token["id"] = id.into();
    }
    others.extend(docids);
    *tokenizer["added_tokens"].as_array_mut().unwrap() = others;
    fs::write(mixed.join("tokenizer.json"), tokenizer.to_string()).unwrap();

    let bytes = fs::read(checkpoint.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let changed: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, view)| {
            let (mut shape, mut data) = (view.shape().to_vec(), view.data().to_vec());
            if matches!(name.as_str(), "shared.weight" | "lm_head.weight") {
                let size = data.len() / shape[0];
                data.truncate(words * size);
                for row in &rows {
                    data.extend_from_slice(&view.data()[row * size..(row + 1) * size]);
                }
                shape[0] = words + rows.len();
            }
            (name, view.dtype(), shape, data)
        })
        .collect();
    let views = changed.iter().map(|(name, dtype, shape, data)| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &mixed.join("model.safetensors")).unwrap();
}

/// Lets `script` compare what genir computes with `model` and what it finds in `checkpoint`.
fn check_checkpoint(
    python: &Path,
    script: &str,
    checkpoint: &Path,
    model: &GenirModel,
    tokenizer: &TextTokenizer,
) {
    let home = tempfile::tempdir().unwrap();

    let options = EncodeOptions { max_tokens: MAX_TOKENS, prefix: String::new(), lowercase: false };
    let tokens = tokenizer.encode_batch(&QUERIES, &options).unwrap();
    assert_eq!(tokens[2].len(), MAX_TOKENS, "one query is cut");
    let found = logits(model, &tokens, tokenizer.pad_id());
    let given = json!({
        "queries": QUERIES,
        "max_tokens": MAX_TOKENS,
        "input_ids": tokens,
        "docid_logits": rows(found.docids.clone()),
        "logits": rows(Tensor::cat(vec![found.text, found.docids], 1)),
    });
    let file = home.path().join("logits.json");
    fs::write(&file, given.to_string()).unwrap();

    let output = Command::new(python)
        .arg(package("tests/python").join(script))
        .arg(checkpoint)
        .arg(&file)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", python.display()));
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{}:\n{said}", checkpoint.display());
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn v1_0_with_tied_embeddings_loads() {
    check("v1_0_tied", true, &package("checkpoints/atlas-base"));
}

#[test]
fn v1_1_with_an_untied_head_loads() {
    check("v1_1_untied", false, &package("checkpoints/atlas-base"));
}

#[test]
fn both_load_with_the_tokenizer_of_t5() {
    if let Some(collections) = collections::collections() {
        let base = collections.join("tokenizer");
        check("v1_0_tied", true, &base);
        check("v1_1_untied", false, &base);
    }
}
