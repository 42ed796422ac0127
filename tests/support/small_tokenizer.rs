//! A tokenizer of a few words, in Hugging Face's files.

use std::path::Path;

use serde_json::{Value, json};

/// The words, with the ids from 3 on.
pub const WORDS: [&str; 6] = ["one", "two", "three", "four", "five", "to:"];

/// Writes `tokenizer.json` and `tokenizer_config.json`; `more` go behind the three special added tokens.
pub fn write(directory: &Path, more: &[Value]) {
    let mut vocabulary = serde_json::Map::new();
    for (id, word) in ["<pad>", "</s>", "<unk>"].iter().chain(&WORDS).enumerate() {
        vocabulary.insert((*word).to_owned(), json!(id));
    }
    let mut added: Vec<Value> = [(0, "<pad>"), (1, "</s>"), (2, "<unk>")]
        .into_iter()
        .map(|(id, content)| added_token(id, content, true))
        .collect();
    added.extend_from_slice(more);
    let tokenizer = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": {"content": "</s>"},
        "pad_token": "<pad>",
        "added_tokens_decoder": {"0": {"content": "<pad>"}},
        "model_max_length": 512,
    });
    for (name, value) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)] {
        std::fs::write(directory.join(name), value.to_string()).expect("the file is written");
    }
}

/// One element of `added_tokens`.
pub fn added_token(id: u32, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": special})
}
