//! LoRA: trained as `peft` trains it, with states of the factors alone, exported merged and as an adapter that `peft`
//! loads, and refused in words where it cannot be applied.
//!
//! The fixture is made by `tests/python/make_lora_fixtures.py`. The adapter is loaded by a Python with
//! `tests/python/requirements.txt`, named by `GENIR_PYTHON`; skipped without.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use genir::checkpoint::Checkpoint;
use genir::component::{Trainable, freeze_all_but};
use genir::recipe::{OptimizerSection, OptimizerSettings};
use genir::t5::weights::{self, StoredTensors};
use genir::t5::{Dropout, GenirModel, NoTap, Pass, T5Config, Tokens, initial_factor};
use genir::train::{Optimizer, StepInput, StepOptions, forward_backward};
use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

use crate::command::{assert_says, genir_with_input, succeeds, text};
use crate::parameter_bits;
use crate::parameter_bits::bits;
use crate::tiny_corpus;
use crate::tiny_run;
use crate::tiny_run::{logged, plan, train, try_plan};

fn package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// PEFT's name of a factor: `t5.decoder.layers.1.mlp.gate.lora.a`.
fn peft_name(factor: &str) -> String {
    let words: Vec<&str> = factor.split('.').collect();
    let [_, stack, _, layer, component, matrix, _, side] = words[..] else {
        panic!("{factor}");
    };
    let (index, module) = match (stack, component) {
        (_, "self_attention") => (0, "SelfAttention"),
        (_, "cross_attention") => (1, "EncDecAttention"),
        ("encoder", _) => (1, "DenseReluDense"),
        _ => (2, "DenseReluDense"),
    };
    let matrix = match (component, matrix) {
        ("mlp", "gate") => "wi_0",
        ("mlp", "input") => "wi_1",
        ("mlp", _) => "wo",
        (_, attention) => &attention[..1],
    };
    let side = side.to_uppercase();
    format!(
        "base_model.model.{stack}.block.{layer}.layer.{index}.{module}.{matrix}.lora_{side}.weight"
    )
}

/// The transpose of a matrix in a file, row after row.
fn transposed(file: &SafeTensors, name: &str, shape: &[usize]) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap_or_else(|_| panic!("no {name}"));
    assert!(tensor.shape().iter().eq(shape.iter().rev()), "{name}");
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    let values: Vec<f32> = tensor.data().chunks(4).map(number).collect();
    let [rows, columns] = [shape[0], shape[1]];
    (0..rows * columns).map(|at| values[at % columns * rows + at / columns]).collect()
}

#[test]
fn twenty_updates_have_the_losses_of_peft() {
    let directory = package("tests/fixtures/lora");
    let expected: Value =
        serde_json::from_slice(&fs::read(directory.join("expected.json")).unwrap()).unwrap();
    let count = |key: &str| expected[key].as_u64().unwrap() as usize;
    let (words, documents) = (count("words"), count("documents"));
    let device = Device::flex().autodiff();
    let config = T5Config::read(&directory).unwrap().with_words(words);
    let tensors = StoredTensors::open(&directory).unwrap();
    let rows: Vec<u32> = (words as u32..(words + documents) as u32).collect();
    let model = GenirModel {
        t5: weights::load(&tensors, &config, words, &device).unwrap(),
        docids: weights::load_docids(&tensors, &config, &rows, &device).unwrap(),
    };
    let of = |part: &str, key: &str| &expected[part][key];
    let (rank, alpha) = (of("attention", "rank"), of("attention", "alpha"));
    let attention = |component: &str| format!("lora({component}, rank={rank}, alpha={alpha})");
    let (rank, alpha) = (of("mlp", "rank"), of("mlp", "alpha"));
    let mlp = |component: &str| format!("lora({component}, rank={rank}, alpha={alpha})");
    let selectors = [
        attention("encoder.self_attention"),
        attention("decoder.self_attention"),
        attention("decoder.cross_attention"),
        mlp("encoder.mlp"),
        mlp("decoder.mlp"),
        "docids".to_owned(),
    ];
    let parameters = GenirModel::parameter_shapes(&config, true, documents);
    let trainable = Trainable::of(&selectors, None, &parameters).unwrap();
    assert_eq!(trainable.lora.len(), 2 * 7 + 3 * 11);
    let bytes = fs::read(directory.join("initial.safetensors")).unwrap();
    let initial = SafeTensors::deserialize(&bytes).unwrap();
    let Ok(model) = model.with_lora(&trainable.lora, |name, shape| {
        Ok::<_, Infallible>(transposed(&initial, &peft_name(name), shape))
    });
    let mut model = freeze_all_but(model, &trainable.trained);
    let mut optimizer = Optimizer::new(&OptimizerSection {
        optimizer: OptimizerSettings::AdamW {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: expected["weight_decay"].as_f64().unwrap(),
        },
        learning_rate: 0.0,
        clip_norm: None,
    });
    let options = StepOptions {
        dropout: Dropout { probability: 0.0, key: 0 },
        label_smoothing: 0.0,
        weight: 1.0,
    };
    let integers = |value: &Value| -> Vec<i32> {
        value.as_array().unwrap().iter().map(|value| value.as_i64().unwrap() as i32).collect()
    };
    let source = |batch: &Value, device: &Device| {
        let rows = batch["input_ids"].as_array().unwrap();
        let ids: Vec<i32> = rows.iter().flat_map(integers).collect();
        let lengths: Vec<u32> =
            integers(&batch["lengths"]).into_iter().map(|length| length as u32).collect();
        Tokens::new(&ids, &lengths, device)
    };
    let batches = expected["batches"].as_array().unwrap();
    for (step, batch) in batches.iter().enumerate() {
        let targets = integers(&batch["targets"]);
        let targets = TensorData::new(targets.clone(), [targets.len()]);
        let targets = Tensor::<1, Int>::from_data(targets, &device);
        let input = StepInput::Tokens(source(batch, &device));
        let (loss, gradients) = forward_backward(&model, input, targets, options);
        let of_peft = expected["losses"][step].as_f64().unwrap();
        assert!((loss - of_peft).abs() <= 1e-4, "step {}: {loss}, not {of_peft}", step + 1);
        let rate = expected["learning_rate"].as_f64().unwrap();
        let updated;
        (model, updated) = optimizer.step(model, gradients, rate);
        updated.unwrap();
    }
    // One token attends to itself whatever its query and key are: they have no gradient.
    let is_used = |name: &&str| {
        let of = |matrix: &str| name.contains(&format!(".self_attention.{matrix}."));
        !name.starts_with("t5.decoder") || !(of("query") || of("key"))
    };
    let used: Vec<&str> = trainable.trained.iter().map(String::as_str).filter(is_used).collect();
    assert!(optimizer.names().eq(used));

    let last: Vec<f64> = expected["logits"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()))
        .collect();
    let adapted = model.valid();
    for (model, how) in [(adapted.merged(), "merged"), (adapted, "with its factors")] {
        let source = source(&batches[batches.len() - 1], &Device::flex());
        let mut tap = NoTap;
        let mut pass = Pass::evaluate(&mut tap);
        let states = model.t5.encode(&source, &mut pass);
        let logits = model.logits(model.t5.decode_start(&states, &mut pass));
        let logits = Tensor::cat(vec![logits.text, logits.docids], 1);
        let found: Vec<f32> = logits.into_data().try_to_vec().unwrap();
        assert_eq!(found.len(), last.len());
        for (found, expected) in found.iter().zip(&last) {
            assert!((f64::from(*found) - expected).abs() < 1e-3, "{how}: {found}, not {expected}");
        }
    }
}

const LORA: &str =
    "trainable.select=[\"lora(decoder.cross_attention[II,III], rank=2, alpha=4)\", \"docids\"]";

/// The adapted matrices of [`LORA`] in the tiny model, whose three layers are one a stage.
fn adapted() -> BTreeSet<String> {
    let matrices = ["query", "key", "value", "output"];
    let of_layer = |layer: usize| {
        matrices.map(|name| format!("t5.decoder.layers.{layer}.cross_attention.{name}.weight"))
    };
    [1, 2].into_iter().flat_map(of_layer).collect()
}

#[test]
fn factors_and_docids_are_trained_and_matrices_stay_frozen() {
    for optimizer in ["optimizer.name=adamw", "optimizer.name=adafactor"] {
        let home = TempDir::new().unwrap();
        let plan = plan(home.path(), &[LORA, optimizer]);
        assert!(plan.lora.keys().eq(&adapted()), "{:?}", plan.lora);
        let before = bits(&plan.model(&Device::flex()).unwrap());
        let trained = train(&plan);
        let factors = adapted().into_iter().flat_map(|name| {
            let of = name.trim_end_matches(".weight").to_owned();
            [format!("{of}.lora.a"), format!("{of}.lora.b")]
        });
        let expected: BTreeSet<String> = factors.chain(["docids.weight".to_owned()]).collect();
        assert_eq!(trained.optimized, expected, "states of the optimizer");
        assert_eq!(trained.outcome.steps, 30);
        // In the merged model nothing else has changed.
        let after = bits(&trained.model);
        let changed: BTreeSet<String> =
            after.keys().filter(|&name| before[name] != after[name]).cloned().collect();
        let mut may_change = adapted();
        may_change.insert("docids.weight".to_owned());
        assert_eq!(changed, may_change);
        assert_eq!(plan.table.total.trained, 8 * 16 + 8 * 2 * (16 + 16));
    }
}

#[test]
fn a_lora_run_has_the_frozen_prefix_of_its_components_in_full() {
    let home = TempDir::new().unwrap();
    for component in
        ["decoder.cross_attention[II,III]", "decoder.mlp[III]", "encoder.mlp", "restricted"]
    {
        let layer = |select: &str| {
            let plan = plan(home.path(), &[&format!("trainable.select=[\"{select}\"]")]);
            plan.frozen_prefix().map(|prefix| prefix.layer())
        };
        let lora = format!("lora({component}, rank=2, alpha=4)");
        assert_eq!(layer(&lora), layer(component), "{component}");
    }
}

#[test]
fn a_checkpoint_is_the_merged_model_and_a_base_for_other_runs() {
    let home = TempDir::new().unwrap();
    let trained = train(&plan(home.path(), &[LORA, "train.steps=6"]));
    let checkpoint = home.path().join("run/checkpoints/latest");
    let opened = Checkpoint::open(&checkpoint, &Device::flex()).unwrap();
    parameter_bits::assert_same(&bits(&opened.model), &bits(&trained.model), "merged");
    // The factors and docid rows alone.
    let bytes = fs::read(checkpoint.join("adapter/adapter_model.safetensors")).unwrap();
    let adapter = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(adapter.len(), 2 * 8 + 1, "{:?}", adapter.names());
    assert!(!checkpoint.join("adapter/adapter_config.json").exists(), "peft has no such base");

    let run = format!("model.base={}", home.path().join("run").display());
    let second = format!("run.directory={}", home.path().join("second").display());
    let more = ["model.init=pretrained", "~model.config", "train.steps=4", LORA];
    let plan = plan(home.path(), &[&[run.as_str(), second.as_str()], &more[..]].concat());
    let model = plan.model(&Device::flex()).unwrap();
    parameter_bits::assert_same(&bits(&model.merged()), &bits(&trained.model), "B is zero");
    train(&plan);
    let checkpoint = home.path().join("second/checkpoints/latest");
    let config = fs::read(checkpoint.join("adapter/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!((config["r"].as_u64(), config["lora_alpha"].as_u64()), (Some(2), Some(4)));
    assert_eq!(config["base_model_name_or_path"], plan.recipe.model.base.as_str());
    assert_eq!(config["target_modules"].as_array().unwrap().len(), 8);
    assert_eq!(config["modules_to_save"], Value::Null);

    let Some(python) = std::env::var_os("GENIR_PYTHON") else {
        return eprintln!(
            "skipped: GENIR_PYTHON names no Python with tests/python/requirements.txt"
        );
    };
    // More than one rank, a norm in full beside it, and every kind of matrix.
    let third = format!("run.directory={}", home.path().join("third").display());
    let mixed = "trainable.select=[\"lora(decoder.layers, rank=2, alpha=3)\", \
                 \"lora(encoder.mlp, rank=4, alpha=8.5)\", \"decoder.final_norm\", \
                 \"encoder.self_attention[0]\", \"docids\"]";
    let more = ["model.init=pretrained", "~model.config", "train.steps=20", mixed];
    train(&tiny_run::plan(home.path(), &[&[run.as_str(), third.as_str()], &more[..]].concat()));
    for name in ["second", "third"] {
        let output = Command::new(&python)
            .arg(package("tests/python/check_adapter.py"))
            .arg(home.path().join(name).join("checkpoints/latest"))
            .arg(home.path().join("run/checkpoints/latest"))
            .env("HF_HUB_OFFLINE", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert_says(&said, &["OK merged model", "OK logits", "OK adapter"]);
    }
}

#[test]
fn evaluations_of_a_lora_run_are_those_of_its_checkpoints() {
    let home = TempDir::new().unwrap();
    let recipe = text(home.path().join("tiny.toml"));
    fs::write(&recipe, tiny_corpus::recipe(home.path())).unwrap();
    succeeds(&["train", &recipe, LORA, "optimizer.learning_rate=3e-2"]);
    let run = text(home.path().join("run"));
    let told = succeeds(&["eval", &run, "--split", "validation", "--format", "json"]).stdout;
    let found: Value = serde_json::from_str(&told).unwrap();
    let of_run = logged(home.path(), "validation/mrr@10");
    let (_, last) = of_run.last_key_value().unwrap();
    assert!(told.contains(&last.to_string()), "{last} is not in {found}");
}

/// All numbers in a value, in order.
fn numbers(value: &Value, found: &mut Vec<f64>) {
    match value {
        Value::Number(number) => found.extend(number.as_f64()),
        Value::Array(values) => values.iter().for_each(|value| numbers(value, found)),
        Value::Object(values) => values.values().for_each(|value| numbers(value, found)),
        _ => {}
    }
}

#[test]
fn probes_of_a_lora_run_see_the_adapted_model() {
    let home = TempDir::new().unwrap();
    let recipe = text(home.path().join("tiny.toml"));
    fs::write(&recipe, tiny_corpus::recipe(home.path())).unwrap();
    // They read matrices themselves.
    let names = ["attention_reads", "attention_writes", "neuron_reads", "stage_patching"];
    let probes = format!("probes={{at_end=true, over=\"all\", run={names:?}}}");
    let lora = "trainable.select=[\"lora(decoder.layers, rank=4, alpha=16)\", \"docids\"]";
    succeeds(&["train", &recipe, lora, &probes, "optimizer.learning_rate=3e-2"]);
    let run = text(home.path().join("run"));
    for name in names {
        let file = home.path().join(format!("run/probes/{name}.jsonl"));
        let lines = fs::read_to_string(&file).unwrap();
        let of_run: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        let told =
            succeeds(&["probe", &run, "--probe", name, "--over", "all", "--format", "json"]).stdout;
        let of_checkpoint: Value = serde_json::from_str(&told).unwrap();
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        numbers(&of_run["result"], &mut found);
        numbers(&of_checkpoint[0]["result"], &mut expected);
        assert!(found.len() == expected.len() && found.len() > 3, "{name}: {of_run}");
        for (found, expected) in found.iter().zip(&expected) {
            let near = (found - expected).abs() <= 1e-3 * expected.abs().max(1.0);
            assert!(near, "{name}: {found}, {expected} of the checkpoint");
        }
    }
}

#[test]
fn a_run_continues_from_its_factors_and_refuses_another_base() {
    let home = TempDir::new().unwrap();
    let recipe = text(home.path().join("tiny.toml"));
    fs::write(&recipe, tiny_corpus::recipe(home.path())).unwrap();
    let base = home.path().join("base");
    let directory = format!("run.directory={}", base.display());
    succeeds(&["train", &recipe, &directory, "train.steps=2"]);
    let from = format!("model.base={}", base.display());
    let keys = ["train", &recipe, &from, "model.init=pretrained", "~model.config", LORA];
    let continued = |steps: &'static str| [&keys[..], &[steps, "--resume", "latest"]].concat();
    succeeds(&[&keys[..], &["train.steps=3"]].concat());
    // Another base of the same sizes, in the same place.
    fs::rename(&base, home.path().join("old")).unwrap();
    succeeds(&["train", &recipe, &directory, "train.steps=2", "run.seed=8"]);
    // After the summary of the run: the weights are compared when they are read.
    let refused = genir_with_input(&continued("train.steps=5"), "");
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert_says(&refused.stderr, &["error: ", "adapter", "the base model has changed", "query"]);
    fs::remove_dir_all(&base).unwrap();
    fs::rename(home.path().join("old"), &base).unwrap();
    let done = succeeds(&continued("train.steps=5"));
    assert_says(&done.stderr, &["continues from"]);
}

#[test]
fn check_shows_what_lora_trains() {
    let home = TempDir::new().unwrap();
    let recipe = text(home.path().join("tiny.toml"));
    fs::write(&recipe, tiny_corpus::recipe(home.path())).unwrap();
    let told = succeeds(&["check", &recipe, LORA]).stdout;
    assert_says(
        &told,
        &[
            "lora      8 matrices with rank 2, alpha 4",
            "no adapter that peft loads: the run starts from a random initialisation",
            "decoder Stage II cross-attention",
        ],
    );
    let words = "trainable.select=[\"lora(decoder.mlp, rank=2, alpha=4)\", \"words\"]";
    let plan = plan(home.path(), &[words]);
    assert!(plan.frozen_prefix().is_none());
    // Nothing of LoRA where nothing is adapted.
    let told = succeeds(&["check", &recipe]).stdout;
    assert!(!told.contains("\nlora ") && !told.contains("peft"), "{told}");
}

#[test]
fn an_operator_that_cannot_be_applied_is_refused_in_words() {
    let home = TempDir::new().unwrap();
    let cases: [(&[&str], &[&str]); 20] = [
        (&["lora(decoder.mlp, rank=0, alpha=1)"], &["rank=0", "a whole number from 1"]),
        (&["lora(decoder.mlp, rank=1.5, alpha=1)"], &["rank=1.5", "a whole number from 1"]),
        (
            &["lora(decoder.mlp, rank=17, alpha=1)"],
            &["rank=17 is larger", "layers.0.mlp", "16 x 32"],
        ),
        (&["lora(decoder.mlp, rank=2, alpha=0)"], &["alpha=0", "finite number above 0"]),
        (&["lora(decoder.mlp, rank=2, alpha=nan)"], &["alpha=nan", "finite number above 0"]),
        (&["lora(decoder.mlp, rank=2, alpha=inf)"], &["alpha=inf", "finite number above 0"]),
        (&["lora(decoder.final_norm, rank=2, alpha=1)"], &["decoder.final_norm", "norms"]),
        (&["lora(docids, rank=2, alpha=1)"], &["`docids` names none", "docid rows"]),
        (&["lora(words, rank=2, alpha=1)"], &["`words` names none", "embeddings"]),
        (&["lora(decoder.relative_bias, rank=2, alpha=1)"], &["position biases"]),
        (
            &["decoder", "lora(decoder.mlp, rank=2, alpha=1)"],
            &["overlaps with `decoder`", "decoder.layers.0.mlp", "adapted and trained in full"],
        ),
        (
            &["lora(decoder.mlp, rank=2, alpha=1)", "lora(decoder.layers[1], rank=2, alpha=1)"],
            &["overlaps with `lora(decoder.mlp", "decoder.layers.1.mlp", "adapted twice"],
        ),
        (
            &["lora(decoder.mlp, rank=2, alpha=1, dropout=0.1)"],
            &["unknown argument `dropout`", "lora(SELECTOR, rank=8, alpha=16)"],
        ),
        (&["lora(decoder.mlp, rnak=2, alpha=1)"], &["`rnak`", "did you mean `rank`?"]),
        (&["lora(decoder.mlp, rank=2)"], &["no `alpha`"]),
        (&["lora(decoder.mlp, rank=2, rank=2, alpha=1)"], &["`rank` is given twice"]),
        (&["lora(decoder.mlp, rank=2, alpha=1"], &["no closing bracket"]),
        (&["lora(decoder.mlp[1, rank=2, alpha=1)"], &["no closing bracket"]),
        (&["full", "-lora(decoder.mlp, rank=2, alpha=1)"], &["LoRA cannot exclude"]),
        (&["lroa(decoder.mlp, rank=2, alpha=1)"], &["operator `lroa`", "did you mean `lora`?"]),
    ];
    for (select, parts) in cases {
        let list: Vec<String> = select.iter().map(|text| format!("\"{text}\"")).collect();
        let key = format!("trainable.select=[{}]", list.join(", "));
        let Err(error) = try_plan(home.path(), &[&key]) else { panic!("{key} is accepted") };
        assert_says(&error, parts);
        assert_says(&error, &["trainable.select"]);
    }
    // The selector within has its own errors.
    let key = "trainable.select=[\"lora(decoder.mpl, rank=2, alpha=1)\"]";
    let Err(error) = try_plan(home.path(), &[key]) else { panic!("accepted") };
    assert_says(&error, &["`decoder.mpl` is not known", "did you mean `decoder.mlp`?"]);
}

#[test]
fn factors_begin_as_those_of_peft_by_seed_and_name() {
    let name = "t5.decoder.layers.1.mlp.gate.lora.a";
    let shape = [64, 8];
    let first = initial_factor(1, name, &shape);
    assert_eq!(first, initial_factor(1, name, &shape));
    assert_ne!(first, initial_factor(2, name, &shape));
    assert_ne!(first, initial_factor(1, "t5.decoder.layers.2.mlp.gate.lora.a", &shape));
    // Kaiming's uniform distribution with a = sqrt(5) reaches to 1 / sqrt(in).
    let largest = first.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    assert!(largest <= 0.125 && largest > 0.12, "{largest}");
    let mean_square = first.iter().map(|value| value * value).sum::<f32>() / first.len() as f32;
    assert!((mean_square - 0.125 * 0.125 / 3.0).abs() < 5e-4, "{mean_square}");
    assert_eq!(initial_factor(1, "t5.decoder.layers.1.mlp.gate.lora.b", &[8, 64]), vec![0.0; 512]);
}
