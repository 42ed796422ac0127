//! `genir probe` measures what a plain reference in Python measures: PyTorch hooks on transformers' T5, in double
//! precision, one query at a time (`tests/python/probe_reference.py`). Ranks agree exactly, all else to 1e-4.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::near;

/// Differences that are shown when a test fails.
const SHOWN: usize = 12;
/// In f32, contributions add up to what the model computed within this part of it.
const LARGEST_DEVIATION: f64 = 1e-5;

/// Fixtures: ReLU and tied in 3 layers; gated, untied, with docids in another order than documents, in 8.
const SHALLOW: &str = "shallow";
const DEEP: &str = "deep";

#[test]
fn a_shallow_tied_relu_model_shows_what_the_reference_shows() {
    agrees_with_the_reference(SHALLOW, GENIRS);
}

#[test]
fn decoders_too_shallow_for_stages_show_what_the_reference_shows() {
    for layers in [1, 2] {
        let cut = cut_to(&fixture(SHALLOW), layers);
        let exact = Definitions { variant: "exact", ..RELEASED };
        for definitions in [GENIRS, exact] {
            directory_agrees_with_the_reference(cut.path(), definitions);
        }
    }
}

#[test]
fn the_definitions_of_the_released_code_agree_in_a_shallow_model() {
    agrees_with_the_reference(SHALLOW, RELEASED);
}

#[test]
fn contributions_with_the_norm_folded_in_agree_in_a_shallow_model() {
    agrees_with_the_reference(SHALLOW, Definitions { variant: "exact", ..GENIRS });
    agrees_with_the_reference(SHALLOW, Definitions { variant: "exact", ..RELEASED });
}

#[test]
fn a_deep_untied_gated_model_shows_what_the_reference_shows() {
    agrees_with_the_reference(DEEP, GENIRS);
}

#[test]
fn the_definitions_of_the_released_code_agree_in_a_deep_model() {
    agrees_with_the_reference(DEEP, RELEASED);
}

#[test]
fn contributions_with_the_norm_folded_in_agree_in_a_deep_model() {
    agrees_with_the_reference(DEEP, Definitions { variant: "exact", ..GENIRS });
    agrees_with_the_reference(DEEP, Definitions { variant: "exact", ..RELEASED });
}

/// Which of several definitions a probe goes by.
#[derive(Clone, Copy)]
struct Definitions {
    variant: &'static str,
    average_first: &'static str,
    encoder_norm: &'static str,
}

/// Those that genir goes by unless asked otherwise.
const GENIRS: Definitions =
    Definitions { variant: "paper", average_first: "readers", encoder_norm: "other" };
/// Those of the paper's released code.
const RELEASED: Definitions =
    Definitions { variant: "paper", average_first: "queries", encoder_norm: "own" };

impl Definitions {
    /// Whether `record` was measured by these.
    fn are_of(&self, record: &Value) -> bool {
        let result = &record["result"];
        let is = |key: &str, word: &str| result[key].is_null() || result[key] == word;
        is("variant", self.variant)
            && is("average_first", self.average_first)
            && is("encoder_norm", self.encoder_norm)
    }
}

fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/probes").join(model)
}

/// The fixture with the first `layers` layers of its decoders, and with the queries that the reference measured there.
fn cut_to(fixture: &Path, layers: usize) -> TempDir {
    let cut = TempDir::new().unwrap();
    let json =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let expected = json(fixture.join(format!("expected_cut_to_{layers}.json")));
    fs::write(cut.path().join("expected.json"), expected.to_string()).unwrap();
    for name in ["base", "checkpoint", "other", "corpus"] {
        fs::create_dir(cut.path().join(name)).unwrap();
        for entry in fs::read_dir(fixture.join(name)).unwrap() {
            let file = entry.unwrap().path();
            let to = cut.path().join(name).join(file.file_name().unwrap());
            match file.file_name().unwrap().to_str().unwrap() {
                "config.json" => {
                    let mut config = json(file);
                    config["num_decoder_layers"] = layers.into();
                    fs::write(to, config.to_string()).unwrap();
                }
                "model.safetensors" => {
                    let bytes = fs::read(file).unwrap();
                    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter();
                    let stays = |name: &str| match name.strip_prefix("decoder.block.") {
                        Some(rest) => {
                            rest.split('.').next().unwrap().parse::<usize>().unwrap() < layers
                        }
                        None => true,
                    };
                    let kept = tensors.filter(|(name, _)| stays(name));
                    safetensors::serialize_to_file(kept, None, &to).unwrap();
                }
                name => {
                    let split = match name {
                        "val_queries.json" => "validation",
                        "test_queries.json" => "test",
                        _ => {
                            fs::copy(file, to).unwrap();
                            continue;
                        }
                    };
                    let safe = expected["options"]["queries"][split].as_array().unwrap();
                    let mut queries = json(file);
                    let of = queries.as_array_mut().unwrap();
                    of.retain(|query| safe.contains(&query["id"]));
                    fs::write(to, queries.to_string()).unwrap();
                }
            }
        }
    }
    cut
}

#[track_caller]
fn agrees_with_the_reference(model: &str, definitions: Definitions) {
    directory_agrees_with_the_reference(&fixture(model), definitions);
}

#[track_caller]
fn directory_agrees_with_the_reference(directory: &Path, definitions: Definitions) {
    let file = directory.join("expected.json");
    let reference: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let records = probe(directory, &reference["options"], definitions);
    let all = reference["records"].as_array().unwrap().iter();
    let expected: Vec<&Value> = all.filter(|record| definitions.are_of(record)).collect();
    let names = |records: &[&Value]| -> Vec<String> {
        records.iter().map(|record| record["probe"].to_string()).collect()
    };
    let found: Vec<&Value> = records.as_array().unwrap().iter().collect();
    assert_eq!(
        in_order(names(&found)),
        in_order(names(&expected)),
        "the probes of {}",
        directory.display()
    );

    let mut differences = Vec::new();
    for expected in expected {
        let name = expected["probe"].as_str().unwrap();
        let record = found.iter().find(|record| record["probe"] == name).unwrap();
        let mut result = record["result"].clone();
        take_deviation(&mut result, definitions.variant);
        take_name_of_encoder(&mut result, directory);
        let measured_on = of_keys(&record["measured_on"], &reference["measured_on"]);
        // Of probes that rank the measured queries.
        let listed = &record["measured_on"]["measured_queries"];
        let right = if listed.is_null() { &Value::Null } else { &reference["measured_queries"] };
        let expected = json!({
            "measured_on": reference["measured_on"], "listed": right, "result": expected["result"],
        });
        let found = json!({"measured_on": measured_on, "listed": listed, "result": result});
        let of_probe = near::differences(&expected, &found).into_iter();
        differences.extend(of_probe.map(|difference| format!("{name}{difference}")));
    }
    let shown = differences.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        differences.is_empty(),
        "{}: {} differences\n{shown}",
        directory.display(),
        differences.len()
    );
}

/// What `genir probe` prints of all probes.
fn probe(directory: &Path, options: &Value, definitions: Definitions) -> Value {
    let texts = |key: &str| -> Vec<&str> {
        options[key].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_genir"));
    command.env_remove("RUST_LOG").arg("probe").arg(directory.join("checkpoint"));
    for (flag, name) in [("--corpus", "corpus"), ("--base", "base"), ("--encoder-from", "other")] {
        command.arg(flag).arg(directory.join(name));
    }
    command.args(["--left-out-ids", &texts("left_out").join(",")]);
    command.args(["--split", "validation", "--test-split", "test"]);
    command.args(["--over", options["over"].as_str().unwrap_or("correct")]);
    let Definitions { variant, average_first, encoder_norm } = definitions;
    command.args(["--variant", variant, "--average-first", average_first]);
    command.args(["--encoder-norm", encoder_norm, "--circuit", &texts("circuit").join(",")]);
    let ranks = TempDir::new().unwrap();
    command.arg("--per-query").arg(ranks.path().join("ranks.csv"));
    command.args(["--format", "json", "--device", "cpu"]);
    command.args(texts("patches").into_iter().flat_map(|selector| ["--patch", selector]));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Takes the deviation out of a result: the reference has no rounding errors to tell of.
#[track_caller]
fn take_deviation(result: &mut Value, variant: &str) {
    let Some(deviation) = result.get_mut("largest_deviation") else { return };
    match deviation.take().as_f64() {
        Some(deviation) => assert!(deviation <= LARGEST_DEVIATION, "{variant}: {deviation}"),
        None => assert_eq!(variant, "paper"),
    }
}

/// The other encoder is called by its directory, which is the fixture's name for it.
fn take_name_of_encoder(result: &mut Value, directory: &Path) {
    let swaps = result.get_mut("swaps").and_then(Value::as_array_mut);
    for swap in swaps.into_iter().flatten() {
        let encoder = Path::new(swap["encoder"].as_str().unwrap());
        if let Ok(name) = encoder.strip_prefix(directory) {
            swap["encoder"] = name.to_str().unwrap().into();
        }
    }
}

/// The fields of `object` that `like` has.
fn of_keys(object: &Value, like: &Value) -> Value {
    let fields = object.as_object().unwrap().iter();
    fields
        .filter(|(key, _)| like.get(key).is_some())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn in_order(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}
