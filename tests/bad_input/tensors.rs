//! Weights: files that are no safetensors, tensors that do not fit the configuration, values that are not finite.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::harness::{Case, refused};
use crate::home::{Home, path};

const FILE: &str = "base/model.safetensors";
const INDEX: &str = "base/model.safetensors.index.json";
const NORM: &str = "decoder.final_layer_norm.weight";

/// The header and the values of a safetensors file.
struct Stored {
    header: Map<String, Value>,
    values: Vec<u8>,
}

impl Stored {
    fn read(file: &Path) -> Self {
        let bytes = fs::read(file).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        Self { header, values: bytes[8 + length..].to_vec() }
    }

    fn bytes(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).unwrap();
        [&(header.len() as u64).to_le_bytes()[..], &header, &self.values].concat()
    }

    /// Adds a tensor behind the others.
    fn add(&mut self, name: &str, dtype: &str, shape: &[usize], values: &[u8]) {
        let start = self.values.len();
        self.values.extend(values);
        let info =
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, self.values.len()]});
        self.header.insert(name.to_owned(), info);
    }

    /// The values of a tensor.
    fn of(&mut self, name: &str) -> &mut [u8] {
        let offsets = &self.header[name]["data_offsets"];
        let at = |index: usize| offsets[index].as_u64().unwrap() as usize;
        let (from, to) = (at(0), at(1));
        &mut self.values[from..to]
    }

    fn put_f32(&mut self, name: &str, at: usize, value: f32) {
        self.of(name)[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// A checkpoint with changed tensors; searched.
fn changed(home: &Home, change: impl FnOnce(&mut Stored)) -> Vec<String> {
    home.base();
    let mut stored = Stored::read(&home.at(FILE));
    change(&mut stored);
    home.write(FILE, stored.bytes());
    home.search_base()
}

/// A checkpoint with other bytes in its file of weights; searched.
fn damaged(home: &Home, change: impl FnOnce(&mut Vec<u8>)) -> Vec<String> {
    home.base();
    let mut bytes = fs::read(home.at(FILE)).unwrap();
    change(&mut bytes);
    home.write(FILE, bytes);
    home.search_base()
}

/// A checkpoint in two shards: the second has the tensor `moved`. Both also have `both`.
fn sharded(home: &Home, both: Option<&str>) {
    home.base();
    let mut first = Stored::read(&home.at(FILE));
    let mut second = Stored { header: Map::new(), values: Vec::new() };
    let shape = first.header[NORM]["shape"][0].as_u64().unwrap() as usize;
    for name in [Some("encoder.final_layer_norm.weight"), both].into_iter().flatten() {
        let values = first.of(name).to_vec();
        second.add(name, "F32", &[shape], &values);
    }
    // What is left of the first file: without gaps between its tensors.
    let mut rest = Stored { header: Map::new(), values: Vec::new() };
    let mut names: Vec<String> = first.header.keys().cloned().collect();
    names.retain(|name| name != "__metadata__" && name != "encoder.final_layer_norm.weight");
    for name in names {
        let shape: Vec<usize> =
            serde_json::from_value(first.header[&name]["shape"].clone()).unwrap();
        let values = first.of(&name).to_vec();
        rest.add(&name, "F32", &shape, &values);
    }
    fs::remove_file(home.at(FILE)).unwrap();
    home.write("base/one.safetensors", rest.bytes());
    home.write("base/two.safetensors", second.bytes());
    index(home, json!({"a": "one.safetensors", "b": "two.safetensors"}));
}

fn index(home: &Home, map: Value) {
    home.write(INDEX, json!({ "weight_map": map }).to_string());
}

/// A checkpoint with an index in place of the file of weights; searched.
fn indexed(home: &Home, text: &str) -> Vec<String> {
    home.base();
    fs::remove_file(home.at(FILE)).unwrap();
    home.write(INDEX, text);
    home.search_base()
}

/// A checkpoint with a value that is not finite; the checkpoint is also the base of the run in `run`.
fn not_finite(home: &Home, value: f32) {
    changed(home, |stored| {
        stored.put_f32(NORM, 3, value);
        stored.put_f32(NORM, 5, value);
        stored.put_f32("encoder.final_layer_norm.weight", 0, value);
    });
}

const NOT_FINITE: &[&str] = &[
    "model.safetensors: the tensor `encoder.final_layer_norm.weight` has 1 value of 16 that is not finite",
    "2 tensors of the checkpoint have such values",
];

pub const CASES: &[Case] = &[
    refused(
        "weights that are missing",
        |home| {
            home.base();
            fs::remove_file(home.at(FILE)).unwrap();
            home.search_base()
        },
        &["base: no weights: expected model.safetensors"],
    ),
    refused(
        "an empty file of weights",
        |home| damaged(home, |bytes| bytes.clear()),
        &["model.safetensors: damaged"],
    ),
    refused(
        "a truncated file of weights",
        |home| damaged(home, |bytes| bytes.truncate(bytes.len() - 5)),
        &["model.safetensors: damaged"],
    ),
    refused(
        "weights that are no safetensors",
        |home| damaged(home, |bytes| bytes[..8].fill(b'x')),
        &["model.safetensors: damaged"],
    ),
    refused(
        "a header that is longer than the file",
        |home| damaged(home, |bytes| bytes[..8].copy_from_slice(&(1u64 << 24).to_le_bytes())),
        &["model.safetensors: damaged", "header"],
    ),
    refused(
        "a header of 2^64 - 1 bytes",
        |home| damaged(home, |bytes| bytes[..8].fill(0xff)),
        &["model.safetensors: damaged", "header"],
    ),
    refused(
        "a header that is not JSON",
        |home| damaged(home, |bytes| bytes[8] = b'['),
        &["model.safetensors: damaged", "header"],
    ),
    refused(
        "tensors that overlap",
        |home| {
            changed(home, |stored| {
                let offsets =
                    stored.header["encoder.final_layer_norm.weight"]["data_offsets"].clone();
                stored.header[NORM]["data_offsets"] = offsets;
            })
        },
        &["model.safetensors: damaged"],
    ),
    refused(
        "tensors beyond the end of the file",
        |home| {
            changed(home, |stored| {
                stored.header[NORM]["data_offsets"] = json!([1u64 << 40, (1u64 << 40) + 64])
            })
        },
        &["model.safetensors: damaged"],
    ),
    refused(
        "offsets that overflow",
        |home| {
            changed(home, |stored| {
                stored.header[NORM]["data_offsets"] = json!([u64::MAX - 7, u64::MAX])
            })
        },
        &["model.safetensors: damaged"],
    ),
    refused(
        "sizes that multiply beyond 64 bits",
        |home| {
            changed(home, |stored| stored.header[NORM]["shape"] = json!([1u64 << 40, 1u64 << 40]))
        },
        &["model.safetensors: damaged"],
    ),
    refused(
        "a device in place of the weights",
        |home| {
            home.base();
            home.link(FILE, "/dev/zero");
            home.search_base()
        },
        &["model.safetensors", "it is a device; expected a regular file"],
    ),
    refused(
        "a pipe in place of a shard",
        |home| {
            sharded(home, None);
            home.fifo("base/two.safetensors");
            home.search_base()
        },
        &["two.safetensors", "it is a named pipe; expected a regular file"],
    ),
    refused(
        "weights that are a loop of symbolic links",
        |home| {
            home.base();
            home.link(FILE, "model.safetensors");
            home.check_base()
        },
        &["model.base: ", "model.safetensors", "Too many levels of symbolic links"],
    ),
    refused(
        "an index that is not JSON",
        |home| indexed(home, "{"),
        &["model.safetensors.index.json: damaged: EOF"],
    ),
    refused(
        "an index without `weight_map`",
        |home| indexed(home, "{}"),
        &["model.safetensors.index.json: damaged: missing field `weight_map`"],
    ),
    refused(
        "an index that names a missing shard",
        |home| indexed(home, r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#),
        &[
            "model.safetensors.index.json: names files that are not beside it: one.safetensors, two.safetensors",
        ],
    ),
    refused(
        "an index that leaves its directory",
        |home| indexed(home, r#"{"weight_map": {"a": "../../etc/passwd"}}"#),
        &["model.safetensors.index.json: damaged: the shard `../../etc/passwd` is not a file name"],
    ),
    refused(
        "a truncated shard",
        |home| {
            sharded(home, None);
            let file = home.at("base/two.safetensors");
            let bytes = fs::read(&file).unwrap();
            fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
            home.search_base()
        },
        &["two.safetensors: damaged"],
    ),
    refused(
        "a tensor in two shards",
        |home| {
            sharded(home, Some(NORM));
            home.search_base()
        },
        &[
            "the tensor `decoder.final_layer_norm.weight` is in two files",
            "one.safetensors",
            "two.safetensors",
        ],
    ),
    refused(
        "a tensor that is missing",
        |home| {
            changed(home, |stored| {
                let info = stored.header.remove(NORM).unwrap();
                stored.header.insert("other".to_owned(), info);
            })
        },
        &["the tensor `decoder.final_layer_norm.weight` is missing, expected [16]"],
    ),
    refused(
        "a tensor of integers",
        |home| changed(home, |stored| stored.header[NORM]["dtype"] = json!("I32")),
        &["the tensor `decoder.final_layer_norm.weight` is I32, expected F32, F16 or BF16"],
    ),
    refused(
        "a tensor of another shape",
        |home| changed(home, |stored| stored.header[NORM]["shape"] = json!([4, 4])),
        &["the tensor `decoder.final_layer_norm.weight` is [4, 4], expected [16]"],
    ),
    refused(
        "a tensor that the model has no place for",
        |home| {
            changed(home, |stored| {
                stored.add("decoder.block.1.layer.3.Adapter.weight", "F32", &[2], &[0; 8])
            })
        },
        &["the tensor `decoder.block.1.layer.3.Adapter.weight` ([2]) is not expected"],
    ),
    refused(
        "one layer in `config.json` beside two in the weights",
        |home| {
            home.base();
            home.json("base/config.json", |config| config["num_layers"] = json!(1));
            home.search_base()
        },
        &[
            "the tensor `encoder.block.1.layer.",
            "is not expected: config.json describes a model without it",
            "more tensors",
        ],
    ),
    refused(
        "nine layers in `config.json` beside three in the weights, in a base model",
        |home| {
            home.base();
            home.json("base/config.json", |config| config["num_decoder_layers"] = json!(9));
            home.check_base()
        },
        &[
            "model.base: ",
            "the tensor `decoder.block.3.layer.",
            "is missing, expected ",
            "more tensors",
        ],
    ),
    refused(
        "one layer in `config.json` beside two in the weights, in `probes.base`",
        |home| {
            home.base();
            home.json("base/config.json", |config| config["num_layers"] = json!(1));
            let base = format!("probes.base={}", home.at("base").display());
            home.check(&[&base, "probes.run=stage_patching"])
        },
        &["probes.base: ", "the tensor `encoder.block.1.layer.", "is not expected"],
    ),
    refused(
        "`d_ff` of another model",
        |home| {
            home.base();
            home.json("base/config.json", |config| config["d_ff"] = json!(48));
            home.search_base()
        },
        &["wi.weight` is [32, 16], expected [48, 16] (see config.json)", "more tensors"],
    ),
    refused(
        "weights that the machine cannot hold",
        |home| {
            home.base();
            home.json("base/config.json", |config| {
                config["d_ff"] = json!(1 << 20);
                config["d_model"] = json!(1 << 17);
            });
            // A file of the sizes that its configuration says, which takes no space.
            let mut stored = Stored::read(&home.at(FILE));
            let mut end = 0u64;
            for (name, info) in &mut stored.header {
                if name == "__metadata__" {
                    continue;
                }
                let sizes = info["shape"].as_array_mut().unwrap();
                let last = sizes.len() - 1;
                if name.ends_with(".o.weight") {
                    sizes[0] = json!(1 << 17);
                } else if name.contains("Attention") && !name.contains("bias") {
                    // `num_heads * d_kv` is 16 as well: it stays.
                    sizes[last] = json!(1 << 17);
                } else if !name.contains("bias") {
                    for size in sizes.iter_mut() {
                        *size = match size.as_u64().unwrap() {
                            16 => json!(1 << 17),
                            32 => json!(1 << 20),
                            other => json!(other),
                        };
                    }
                }
                let count: u64 = sizes.iter().map(|size| size.as_u64().unwrap()).product();
                info["data_offsets"] = json!([end, end + 4 * count]);
                end += 4 * count;
            }
            stored.values.clear();
            let file = home.write(FILE, stored.bytes());
            let header = fs::metadata(&file).unwrap().len();
            fs::File::options().write(true).open(&file).unwrap().set_len(header + end).unwrap();
            home.search_base()
        },
        &["base: the weights take ", "MiB in memory, and the process can have "],
    ),
    refused(
        "NaN among the weights, in `search`",
        |home| {
            not_finite(home, f32::NAN);
            home.search_base()
        },
        NOT_FINITE,
    ),
    refused(
        "infinity among the weights, in `eval`",
        |home| {
            let run = home.run();
            not_finite(home, f32::INFINITY);
            home.directory("run/checkpoints");
            fs::remove_dir_all(home.at("run/checkpoints")).unwrap();
            home.directory("run/checkpoints");
            fs::rename(home.at("base"), home.at("run/checkpoints/latest")).unwrap();
            ["eval", &run].map(str::to_owned).to_vec()
        },
        NOT_FINITE,
    ),
    refused(
        "NaN among the weights, in `probe`",
        |home| {
            home.run();
            not_finite(home, f32::NAN);
            let (base, corpus) = (path(&home.at("base")), path(&home.at("corpus")));
            ["probe", &base, "--probe", "logit_lens", "--corpus", &corpus]
                .map(str::to_owned)
                .to_vec()
        },
        NOT_FINITE,
    ),
    refused(
        "NaN among the weights of `model.base`, in `check`",
        |home| {
            not_finite(home, f32::NAN);
            home.check_base()
        },
        NOT_FINITE,
    ),
    refused(
        "NaN among the weights of `model.base`, in `train`",
        |home| {
            not_finite(home, f32::NAN);
            let mut arguments = home.check_base();
            arguments[0] = "train".to_owned();
            arguments
        },
        NOT_FINITE,
    ),
    refused(
        "NaN in the row of a docid",
        |home| {
            home.base();
            let mut stored = Stored::read(&home.at(FILE));
            let at = stored.of("shared.weight").len() / 4 - 2;
            stored.put_f32("shared.weight", at, f32::NAN);
            home.write(FILE, stored.bytes());
            home.search_base()
        },
        &["model.safetensors: the tensor `shared.weight` has 1 value"],
    ),
];
