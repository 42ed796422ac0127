//! Checkpoints and base models: configuration, docids, manifest, and directories that are none.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Case, refused};
use crate::home::{Home, path};

/// A checkpoint whose `config.json` has this value; searched.
fn configured(home: &Home, key: &str, value: Value) -> Vec<String> {
    home.base();
    home.json("base/config.json", |config| config[key] = value);
    home.search_base()
}

/// A checkpoint with this file; searched.
fn with_file(home: &Home, name: &str, content: impl AsRef<[u8]>) -> Vec<String> {
    home.base();
    home.write(&format!("base/{name}"), content);
    home.search_base()
}

pub const CONFIG: &[Case] = &[
    refused(
        "a path that is neither a checkpoint nor a run",
        |home| {
            home.directory("base");
            home.search_base()
        },
        &["base: neither a checkpoint (no config.json) nor a run with one"],
    ),
    refused(
        "a base model without docids in place of a checkpoint",
        |_| ["search", "checkpoints/atlas-base", "iron"].map(str::to_owned).to_vec(),
        &["checkpoints/atlas-base: no docids", "fine-tune it first"],
    ),
    refused(
        "a checkpoint directory that is a loop of symbolic links",
        |home| {
            home.link("base", "base");
            home.check_base()
        },
        &["model.base: ", "base is not a directory"],
    ),
    refused(
        "`config.json` that is not JSON",
        |home| with_file(home, "config.json", "{\"d_model\": }"),
        &["config.json: not a JSON object", "line 1 column 13"],
    ),
    refused(
        "`config.json` that is an array",
        |home| with_file(home, "config.json", "[]"),
        &["config.json: not a JSON object"],
    ),
    refused(
        "`config.json` that is empty",
        |home| with_file(home, "config.json", ""),
        &["config.json: not a JSON object", "EOF"],
    ),
    refused(
        "`config.json` with 100,000 nested brackets",
        |home| with_file(home, "config.json", format!("{{\"a\": {}}}", "[".repeat(100_000))),
        &["config.json: not a JSON object", "recursion limit exceeded"],
    ),
    refused(
        "`config.json` of 1 TiB",
        |home| {
            home.base();
            home.sparse("base/config.json", 1 << 40);
            home.search_base()
        },
        &["config.json", "1048576 MiB"],
    ),
    refused(
        "a device in place of `config.json`",
        |home| {
            home.base();
            home.link("base/config.json", "/dev/zero");
            home.search_base()
        },
        &["config.json", "it is a device; expected a regular file"],
    ),
    refused(
        "a pipe in place of `config.json`",
        |home| {
            home.base();
            home.fifo("base/config.json");
            home.check_base()
        },
        &["model.base: ", "config.json", "it is a named pipe; expected a regular file"],
    ),
    refused(
        "a Git LFS pointer in place of `config.json`",
        |home| {
            with_file(
                home,
                "config.json",
                "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            )
        },
        &["config.json: a Git LFS pointer", "git lfs pull"],
    ),
    refused(
        "`d_model` that is missing",
        |home| configured(home, "d_model", Value::Null),
        &["config.json: key `d_model`: found null, expected a whole number"],
    ),
    refused(
        "`d_model` = 2^63 - 1",
        |home| configured(home, "d_model", json!(i64::MAX)),
        &["config.json: key `d_model`: found 9223372036854775807"],
    ),
    refused(
        "`d_model` that is a text",
        |home| configured(home, "d_model", json!("16")),
        &["config.json: key `d_model`: found \"16\", expected a whole number"],
    ),
    refused(
        "`d_ff` = 10^9",
        |home| configured(home, "d_ff", json!(1_000_000_000)),
        &["key `d_ff`: found 1000000000, expected a whole number from 1 to 1048576"],
    ),
    refused(
        "`d_kv` = 10^9",
        |home| configured(home, "d_kv", json!(1_000_000_000)),
        &["key `d_kv`: found 1000000000, expected a whole number from 1 to 4096"],
    ),
    refused(
        "no attention heads",
        |home| configured(home, "num_heads", json!(0)),
        &["key `num_heads`: found 0, expected a whole number of at least 1"],
    ),
    refused(
        "10^9 layers",
        |home| configured(home, "num_layers", json!(1_000_000_000)),
        &["key `num_layers`: found 1000000000, expected a whole number from 1 to 1000"],
    ),
    refused(
        "`dropout_rate` = 2",
        |home| configured(home, "dropout_rate", json!(2)),
        &["key `dropout_rate`: found 2, expected a number from 0 to below 1"],
    ),
    refused(
        "`layer_norm_epsilon` below 0",
        |home| configured(home, "layer_norm_epsilon", json!(-1)),
        &["key `layer_norm_epsilon`: found -1"],
    ),
    refused(
        "an unknown MLP",
        |home| configured(home, "feed_forward_proj", json!("gated-silu")),
        &["key `feed_forward_proj`: found \"gated-silu\", expected \"relu\" or \"gated-gelu\""],
    ),
    refused(
        "a single position bucket",
        |home| configured(home, "relative_attention_num_buckets", json!(1)),
        &["key `relative_attention_num_buckets`: found 1, expected a whole number from 4"],
    ),
    refused(
        "4 x 10^9 position buckets",
        |home| configured(home, "relative_attention_num_buckets", json!(4_000_000_000u32)),
        &["key `relative_attention_num_buckets`: found 4000000000, expected a whole number from 4"],
    ),
    refused(
        "position buckets that reach beyond the largest distance",
        |home| configured(home, "relative_attention_max_distance", json!(1)),
        &[
            "key `relative_attention_max_distance`: found 1, expected ",
            "half of relative_attention_num_buckets",
        ],
    ),
    refused(
        "a start token beyond the vocabulary",
        |home| configured(home, "decoder_start_token_id", json!(123_456)),
        &[
            "config.json: key `decoder_start_token_id`: found 123456, expected the id of one of the tokenizer's tokens",
        ],
    ),
    refused(
        "a padding token beyond the vocabulary",
        |home| configured(home, "pad_token_id", json!(99_999)),
        &[
            "config.json: key `pad_token_id`: found 99999, expected the id of one of the tokenizer's tokens",
        ],
    ),
    refused(
        "an end token beyond the vocabulary, in a base model",
        |home| {
            configured(home, "eos_token_id", json!(99_999));
            home.check_base()
        },
        &[
            "model.base: ",
            "config.json: key `eos_token_id`: found 99999, expected the id of one of the tokenizer's tokens",
        ],
    ),
    refused(
        "`docids.json` in another order than the rows",
        |home| {
            home.base();
            home.json("base/docids.json", |docids| docids.as_array_mut().unwrap().swap(0, 1));
            home.search_base()
        },
        &["docids.json: row 0 is `0`, and `7` in tokenizer.json"],
    ),
    refused(
        "`docids.json` with fewer docids than rows, in a base model",
        |home| {
            home.base();
            home.json("base/docids.json", |docids| drop(docids.as_array_mut().unwrap().pop()));
            home.check_base()
        },
        &["model.base: ", "docids.json: 7 docids, and 8 in tokenizer.json"],
    ),
    refused(
        "`docids.json` that is not a list of texts",
        |home| with_file(home, "docids.json", "[1, 2]"),
        &["docids.json: invalid type: integer `1`", "expected a JSON array of docids as strings"],
    ),
    refused(
        "a docid twice in `docids.json`",
        |home| with_file(home, "docids.json", "[\"7\", \"7\"]"),
        &["docids.json: docid `7` is used for row 0 and row 1"],
    ),
    refused(
        "`genir.json` that is not JSON",
        |home| with_file(home, "genir.json", "{"),
        &["genir.json: ", "expected a manifest written by genir"],
    ),
    refused(
        "files that are not those that were written",
        |home| {
            let base = home.whole_base();
            // All are still read without an error.
            let mut weights = fs::read(base.join("model.safetensors")).unwrap();
            let last = weights.len() - 4;
            weights[last] ^= 1;
            fs::write(base.join("model.safetensors"), weights).unwrap();
            let docids = fs::read_to_string(base.join("docids.json")).unwrap();
            fs::write(base.join("docids.json"), docids + " ").unwrap();
            fs::remove_file(base.join("generation_config.json")).unwrap();
            home.search_base()
        },
        &[
            "docids.json has ",
            "generation_config.json cannot be read",
            "model.safetensors has another checksum than when it was written",
        ],
    ),
    refused(
        "`genir.json` of a later format",
        |home| {
            home.base();
            home.json("base/genir.json", |manifest| manifest["format"] = json!(99));
            home.search_base()
        },
        &["genir.json: format 99"],
    ),
    refused(
        "a pipe in place of `docids.json`",
        |home| {
            home.base();
            home.fifo("base/docids.json");
            home.search_base()
        },
        &["docids.json", "it is a named pipe; expected a regular file"],
    ),
    refused(
        "a query of more tokens than the machine can hold",
        |home| {
            home.base();
            home.json("base/genir.json", |manifest| {
                manifest["encoding"]["query_tokens"] = json!(1_000_000_000)
            });
            let query = home.write("query.txt", "iron ".repeat(200_000) + "\n");
            ["search", &path(&home.at("base")), &format!("<{}", path(&query))]
                .map(str::to_owned)
                .to_vec()
        },
        &[
            "a batch of 1 of the longest queries, of up to 2",
            "tokens, needs about ",
            "MiB, and the process can have ",
        ],
    ),
];
