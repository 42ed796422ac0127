//! Tokenizers: files that are none, another model's, and parts that the tokenizers library would panic at.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::{Case, refused, warned};
use crate::home::Home;

const FILE: &str = "base/tokenizer.json";

/// A checkpoint with this `tokenizer.json`; searched.
fn with_text(home: &Home, text: impl AsRef<[u8]>) -> Vec<String> {
    home.base();
    home.write(FILE, text);
    home.search_base()
}

/// A checkpoint with a changed `tokenizer.json`; searched.
fn changed(home: &Home, change: impl FnOnce(&mut Value)) -> Vec<String> {
    home.base();
    home.json(FILE, change);
    home.search_base()
}

/// A checkpoint whose normalizer has these bytes as its map of characters; searched.
fn with_charsmap(home: &Home, bytes: &[u8]) -> Vec<String> {
    let map = STANDARD.encode(bytes);
    changed(home, |tokenizer| {
        tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": map}
        ]});
    })
}

/// The bytes of a map of characters: a double array of these units and the texts that replace characters.
fn charsmap(units: &[u32], texts: &[u8]) -> Vec<u8> {
    let size = (units.len() * 4) as u32;
    let units = units.iter().flat_map(|unit| unit.to_le_bytes());
    size.to_le_bytes().into_iter().chain(units).chain(texts.iter().copied()).collect()
}

/// An added token of the tokenizer.
fn added<'a>(tokenizer: &'a mut Value, content: &str) -> &'a mut Value {
    let tokens = tokenizer["added_tokens"].as_array_mut().unwrap();
    tokens.iter_mut().find(|token| token["content"] == content).unwrap()
}

/// A tokenizer of a model of this kind, with the special tokens that T5 needs.
fn of_model(model: Value) -> Value {
    let token = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({"version": "1.0", "added_tokens": [token(0, "<pad>"), token(1, "</s>"), token(2, "<unk>")],
           "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model})
}

const MAP: &str = "precompiled_charsmap";

pub const CASES: &[Case] = &[
    refused(
        "a tokenizer that is not JSON",
        |home| with_text(home, "{\"added_tokens\": [], "),
        &["tokenizer.json: "],
    ),
    refused(
        "an empty tokenizer",
        |home| with_text(home, ""),
        &["tokenizer.json: has no array `added_tokens`"],
    ),
    refused(
        "JSON that is no tokenizer",
        |home| with_text(home, "{}"),
        &["tokenizer.json: has no array `added_tokens` at its top level"],
    ),
    refused(
        "a checkpoint without `tokenizer.json`",
        |home| {
            home.base();
            fs::remove_file(home.at(FILE)).unwrap();
            home.search_base()
        },
        &["tokenizer.json does not exist", "save_pretrained"],
    ),
    refused(
        "a Git LFS pointer in place of the tokenizer",
        |home| {
            with_text(home, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
        },
        &["tokenizer.json: a Git LFS pointer", "git lfs pull"],
    ),
    refused(
        "a tokenizer that is not UTF-8",
        |home| with_text(home, b"{\"added_tokens\": [\"\xff\"]}"),
        &["tokenizer.json", "UTF-8"],
    ),
    refused(
        "a tokenizer of 1 TiB",
        |home| {
            home.base();
            home.sparse(FILE, 1 << 40);
            home.search_base()
        },
        &["tokenizer.json", "1048576 MiB"],
    ),
    refused(
        "a device in place of the tokenizer",
        |home| {
            home.base();
            home.link(FILE, "/dev/zero");
            home.check_base()
        },
        &["tokenizer.json", "it is a device; expected a regular file"],
    ),
    refused(
        "a pipe in place of `tokenizer_config.json`",
        |home| {
            home.base();
            home.fifo("base/tokenizer_config.json");
            home.search_base()
        },
        &["tokenizer_config.json", "it is a named pipe; expected a regular file"],
    ),
    refused(
        "`tokenizer_config.json` that is not JSON",
        |home| {
            home.base();
            home.write("base/tokenizer_config.json", "{");
            home.search_base()
        },
        &["tokenizer_config.json: EOF while parsing"],
    ),
    refused(
        "`special_tokens_map.json` that is not JSON",
        |home| {
            home.base();
            home.write("base/special_tokens_map.json", "[1,]");
            home.search_base()
        },
        &["special_tokens_map.json: trailing comma"],
    ),
    refused(
        "100,000 nested brackets in a tokenizer",
        |home| with_text(home, format!("{{\"added_tokens\": [], \"a\": {}", "[".repeat(100_000))),
        &["tokenizer.json: "],
    ),
    refused(
        "a model of an unknown kind",
        |home| changed(home, |tokenizer| tokenizer["model"] = json!({"type": "Oracle"})),
        &["tokenizer.json: "],
    ),
    refused(
        "a vocabulary that is larger than the embedding",
        |home| {
            changed(home, |tokenizer| {
                let words: serde_json::Map<String, Value> = ["<pad>", "</s>", "<unk>"]
                    .iter()
                    .map(|&word| word.to_owned())
                    .chain((3..9000).map(|id| format!("w{id}")))
                    .enumerate()
                    .map(|(id, word)| (word, json!(id)))
                    .collect();
                let docids = tokenizer["added_tokens"].as_array().unwrap().clone();
                *tokenizer =
                    of_model(json!({"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}));
                let docids = docids
                    .into_iter()
                    .filter(|token| token["content"].as_str().unwrap().starts_with("@DOC_ID_"));
                let docids = docids.zip(9000..).map(|(mut token, id)| {
                    token["id"] = json!(id);
                    token
                });
                tokenizer["added_tokens"]
                    .as_array_mut()
                    .unwrap()
                    .extend(docids.collect::<Vec<_>>());
            })
        },
        &["the tensor `shared.weight` is [3251, 16], expected [9008, 16]"],
    ),
    warned(
        "a vocabulary that is much smaller than the embedding",
        |home| {
            home.base();
            let words = json!({"<pad>": 0, "</s>": 1, "<unk>": 2, "iron": 3});
            home.write(
                FILE,
                of_model(json!({"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}))
                    .to_string(),
            );
            fs::remove_file(home.at("base/docids.json")).unwrap();
            home.check_base()
        },
        &["the embedding has 3251 rows and the tokenizer 4 tokens", "another model"],
    ),
    refused(
        "a token with an id beyond any vocabulary",
        |home| {
            changed(home, |tokenizer| {
                *tokenizer = of_model(
                    json!({"type": "WordLevel", "vocab": {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": u32::MAX}, "unk_token": "<unk>"}),
                )
            })
        },
        &["tokenizer.json: the token `a` has id 4294967295, expected at most"],
    ),
    refused(
        "a docid with the row of a word",
        |home| changed(home, |tokenizer| added(tokenizer, "@DOC_ID_oxygen@")["id"] = json!(5)),
        &["tokenizer.json: docid `@DOC_ID_oxygen@` has id 5, which is the id of"],
    ),
    refused(
        "two docids with the same row",
        |home| changed(home, |tokenizer| added(tokenizer, "@DOC_ID_oxygen@")["id"] = json!(3244)),
        &["tokenizer.json: docids ", "both have token id 3244; token ids must differ"],
    ),
    refused(
        "a docid with a row beyond the embedding",
        |home| changed(home, |tokenizer| added(tokenizer, "@DOC_ID_oxygen@")["id"] = json!(6000)),
        &["the tensor `shared.weight` is [3251, 16], expected [6001, 16]"],
    ),
    refused(
        "an id of a docid that is no number",
        |home| changed(home, |tokenizer| added(tokenizer, "@DOC_ID_oxygen@")["id"] = json!(-1)),
        &["tokenizer.json: field `added_tokens`: invalid value: integer `-1`"],
    ),
    refused(
        "no padding token",
        |home| {
            home.base();
            home.json("base/tokenizer_config.json", |config| config["pad_token"] = json!("[PAD]"));
            home.search_base()
        },
        &["tokenizer.json: the tokenizer has no token `[PAD]`, which is its pad_token"],
    ),
    refused(
        "a map of characters that is empty",
        |home| with_charsmap(home, b""),
        &["tokenizer.json: ", MAP, "0 bytes"],
    ),
    refused(
        "a map of characters that is garbage",
        |home| with_charsmap(home, &[0xab; 100]),
        &["tokenizer.json: ", MAP, "100 bytes"],
    ),
    refused(
        "a map of characters that lies about its length",
        |home| with_charsmap(home, &[0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]),
        &["tokenizer.json: ", MAP, "4294967295 bytes", "8 bytes"],
    ),
    refused(
        "a map of characters without units",
        |home| with_charsmap(home, &charsmap(&[], b"a\0")),
        &["tokenizer.json: ", MAP, "no units"],
    ),
    refused(
        "a map of characters that leaves its array",
        |home| with_charsmap(home, &charsmap(&[0x0fff_fc00], b"a\0")),
        &["tokenizer.json: ", MAP, "unit "],
    ),
    refused(
        "a map of characters that leaves its texts",
        |home| {
            // Every unit 256 has a leaf for the letter of its place; the leaves lead to byte 9.
            let mut units: Vec<u32> = vec![256 << 10; 1];
            units.resize(256, 0);
            units.extend((0..256u32).map(|letter| letter | 1 << 8 | 512 << 10));
            units.resize(1024, 9 | 1 << 31);
            with_charsmap(home, &charsmap(&units, b"a\0"))
        },
        &["tokenizer.json: ", MAP, "byte "],
    ),
    refused(
        "a map of characters whose texts are not UTF-8",
        |home| with_charsmap(home, &charsmap(&[0], b"\xff\xfe\0")),
        &["tokenizer.json: ", MAP, "UTF-8"],
    ),
    refused(
        "a map of characters that is not base64",
        |home| {
            changed(home, |tokenizer| {
                tokenizer["normalizer"] =
                    json!({"type": "Precompiled", "precompiled_charsmap": "?!"})
            })
        },
        &["tokenizer.json: ", MAP, "base64"],
    ),
    refused(
        "a unigram model without words",
        |home| {
            with_text(
                home,
                of_model(json!({"type": "Unigram", "vocab": [], "unk_id": 0})).to_string(),
            )
        },
        &["tokenizer.json: "],
    ),
    refused(
        "a unigram model whose unknown token is beyond its words",
        |home| {
            with_text(home, of_model(json!({"type": "Unigram", "vocab": [["<pad>", 0.0], ["</s>", 0.0]], "unk_id": 77})).to_string())
        },
        &["tokenizer.json: "],
    ),
    refused(
        "a unigram model with an empty word",
        |home| {
            with_text(home, of_model(json!({"type": "Unigram", "vocab": [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["", -1.0]], "unk_id": 2})).to_string())
        },
        &["tokenizer.json: the word 3 of the vocabulary is empty"],
    ),
    refused(
        "a map of characters that is missing",
        |home| changed(home, |tokenizer| tokenizer["normalizer"] = json!({"type": "Precompiled"})),
        &[
            "tokenizer.json: a normalizer of type `Precompiled` without a text `precompiled_charsmap`",
        ],
    ),
    refused(
        "a merge of words that are not in the vocabulary",
        |home| {
            with_text(home, of_model(json!({"type": "BPE", "vocab": {"<pad>": 0, "</s>": 1, "<unk>": 2}, "merges": ["a b"]})).to_string())
        },
        &["tokenizer.json: ", "`a`"],
    ),
    refused(
        "a regular expression that is not closed",
        |home| {
            changed(
                home,
                |tokenizer| tokenizer["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated", "invert": false}),
            )
        },
        &["tokenizer.json: "],
    ),
];
