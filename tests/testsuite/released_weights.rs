//! A run that releases the weights of its frozen prefix gives the same results as one that does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use genir::t5::weights::{self, Origin, StoredTensors, StoredType, initialise, parameters};
use genir::t5::{GenirModel, NoTap, Pass, T5Config, Tokens};
use genir::train::{Cadence, Callback, MemoryEstimate, Plan, TrainError, TrainerState, Verdict};
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::parameter_bits::{Bits, assert_same, bits};
use crate::tiny_run::{logged, plan, train, train_beside};

const RELEASES: &str = "are released";
/// All that is evaluated is read again and again.
const EVALUATED: [&str; 3] =
    ["evaluate.every_steps=10", "save.every_steps=10", "trainable.select=[\"restricted\"]"];

/// A callback that may compute with any weight.
struct NeedsAll;

impl Callback for NeedsAll {
    fn cadence(&self) -> Cadence {
        Cadence { every: None, at_start: false, at_end: false }
    }

    fn call(&mut self, _: &mut TrainerState) -> Result<Verdict, TrainError> {
        Ok(Verdict::Continue)
    }
}

/// All that a finished run gives.
struct Run {
    home: TempDir,
    weights: Bits,
    /// Names of the parameters with an optimizer state.
    optimized: BTreeSet<String>,
}

fn run_from(overrides: &[&str], model: Option<GenirModel>, keeps_all: bool) -> Run {
    let home = TempDir::new().unwrap();
    let plan = plan(home.path(), overrides);
    let more: Vec<Box<dyn Callback>> =
        if keeps_all { vec![Box::new(NeedsAll)] } else { Vec::new() };
    let trained = train_beside(&plan, model, more).unwrap_or_else(|error| panic!("{error}"));
    assert!(trained.model.t5.released().is_none(), "{overrides:?}: the model is given back whole");
    assert!(trained.outcome.stopped.is_none(), "{overrides:?}");
    Run { weights: bits(&trained.model), optimized: trained.optimized, home }
}

impl Run {
    fn releases_weights(&self) -> bool {
        fs::read_to_string(self.home.path().join("run/log.txt")).unwrap().contains(RELEASES)
    }

    /// What was logged, but for times and what was found stored.
    fn metrics(&self) -> Vec<Map<String, Value>> {
        let text = fs::read_to_string(self.home.path().join("run/metrics.jsonl")).unwrap();
        let parse = |line| {
            let mut values = serde_json::from_str::<Map<String, Value>>(line).unwrap();
            let costs = ["second", "time", "memory/peak"];
            values.retain(|name, _| costs.iter().all(|cost| !name.contains(cost)));
            values
        };
        text.lines().map(parse).collect()
    }

    /// Bytes of the weights of all checkpoints.
    fn checkpoints(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.home.path().join("run/checkpoints")).unwrap();
        let read = |directory: &Path| {
            let name = directory.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(directory.join("model.safetensors")).unwrap())
        };
        entries.map(|entry| read(&entry.unwrap().path())).collect()
    }
}

#[track_caller]
fn assert_nothing_differs(overrides: &[&str]) {
    let overrides = [&EVALUATED[..], overrides].concat();
    let [run, kept] = [false, true].map(|keeps_all| run_from(&overrides, None, keeps_all));
    assert!(run.releases_weights() && !kept.releases_weights(), "{overrides:?}");
    assert_same(&run.weights, &kept.weights, &format!("{overrides:?}"));
    assert_eq!(run.optimized, kept.optimized, "{overrides:?}");
    assert_eq!(logged(run.home.path(), "loss/train").len(), 30, "{overrides:?}");
    for (found, expected) in run.metrics().iter().zip(&kept.metrics()) {
        assert_eq!(found, expected, "{overrides:?}");
    }
    assert_eq!(run.metrics().len(), kept.metrics().len(), "{overrides:?}");
    let (found, expected) = (run.checkpoints(), kept.checkpoints());
    assert!(found.len() >= 3 && found == expected, "{overrides:?}: checkpoints");
}

#[test]
fn nothing_that_a_run_gives_differs() {
    assert_nothing_differs(&[]);
    assert_nothing_differs(&["trainable.select=[\"docids\"]", "train.accumulate=2"]);
    assert_nothing_differs(&["trainable.select=[\"decoder\"]", "optimizer.clip_norm=0.5"]);
}

#[test]
fn nothing_differs_for_a_pretrained_base() {
    let home = TempDir::new().unwrap();
    train(&plan(home.path(), &["trainable.select=[\"full\"]"]));
    let directory = home.path().join("run/checkpoints/latest");
    let base = format!("model.base={}", directory.display());
    assert_nothing_differs(&["model.init=pretrained", "~model.config", &base]);
}

#[test]
fn weights_that_something_may_ask_for_are_kept() {
    for more in [
        &["cache.enabled=false"][..],
        // Not stored, because it is read once.
        &["~evaluate.every_steps"],
        &["probes.over=all", "probes.queries=5"],
        &["trainable.select=[\"full\"]"],
    ] {
        let run = run_from(&[&EVALUATED[..], more].concat(), None, false);
        assert!(!run.releases_weights(), "{more:?}");
    }
}

#[test]
fn weights_that_are_not_those_of_the_base_are_kept() {
    let home = TempDir::new().unwrap();
    let plan = plan(home.path(), &EVALUATED);
    let model = |device: &Device| {
        let mut model = plan.model(device).unwrap();
        model.t5.encoder = initialise(plan.config(), 77, device).encoder;
        genir::component::freeze_all_but(model, &plan.trained)
    };
    let run = run_from(&EVALUATED, Some(model(&Device::flex().autodiff())), false);
    assert!(!run.releases_weights());
    let before = bits(&model(&Device::flex()));
    let name = "t5.encoder.layers.0.mlp.input.weight";
    assert_eq!(run.weights[name], before[name]);
}

#[test]
fn what_is_predicted_to_go_is_what_goes() {
    let goes = |overrides: &[&str]| {
        let home = TempDir::new().unwrap();
        let plan: Plan = plan(home.path(), &[&EVALUATED[..], overrides].concat());
        let origin = Arc::new(plan.origin().unwrap());
        let layer = plan.frozen_prefix().unwrap().layer();
        let (_, bytes) = plan.base(&plan.device).unwrap().release_before(layer, &origin).unwrap();
        (MemoryEstimate::of(&plan).released, bytes)
    };
    for select in ["restricted", "docids", "decoder"] {
        let (predicted, gone) = goes(&[&format!("trainable.select=[\"{select}\"]")]);
        assert!(predicted == gone && gone > 0, "{select}: {predicted} predicted, {gone}");
    }
    for kept in ["~evaluate.every_steps", "probes.over=all", "cache.enabled=false"] {
        assert_eq!(goes(&[kept]).0, 0, "{kept}");
    }
}

#[test]
fn a_base_beside_a_trained_model_has_the_weights_that_training_began_with() {
    for select in ["trainable.select=[\"restricted\"]", "trainable.select=[\"full\"]"] {
        let home = TempDir::new().unwrap();
        let plan = plan(home.path(), &[select]);
        let trained =
            train_beside(&plan, None, Vec::new()).unwrap_or_else(|error| panic!("{error}"));
        let model = trained.model.valid();
        let docids = || model.docids.clone();
        let beside =
            GenirModel { t5: plan.base_sharing_frozen(&model.t5).unwrap(), docids: docids() };
        let base = GenirModel { t5: plan.base(&plan.device).unwrap(), docids: docids() };
        assert_same(&bits(&beside), &bits(&base), select);
        assert!(bits(&model) != bits(&base), "{select}: nothing was trained");
    }
}

fn config() -> T5Config {
    let config = r#"{"d_model": 8, "d_kv": 4, "d_ff": 12, "num_heads": 2, "num_layers": 2, "vocab_size": 30,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false}"#;
    T5Config::from_json(Path::new("config.json"), config).unwrap()
}

#[test]
fn what_went_comes_back_from_files_that_were_removed_since() {
    let (home, device) = (TempDir::new().unwrap(), Device::flex());
    let docids = weights::docids_from(weights::random_rows(&config(), 0..3, 5), 8, &device);
    let whole = GenirModel { t5: initialise(&config(), 1, &device), docids };
    weights::write(&whole, home.path(), StoredType::Float32, true, None).unwrap();
    let tensors = StoredTensors::open(home.path()).unwrap();
    let origin = Arc::new(Origin::files(config(), tensors));
    let expected = fs::read(home.path().join("model.safetensors")).unwrap();
    fs::remove_file(home.path().join("model.safetensors")).unwrap();

    let (t5, bytes) = whole.t5.clone().release_before(1, &origin).unwrap();
    let (count, of_decoder) = parameters(&t5).iter().fold((0, 0), |(all, decoder), parameter| {
        let values = parameter.values.clone().into_data();
        let gone = values.as_slice::<f32>().unwrap().iter().filter(|value| value.is_nan()).count();
        (all + gone, decoder + if parameter.name.starts_with("decoder") { gone } else { 0 })
    });
    assert!(4 * count == bytes && of_decoder > 0, "{count} values, {bytes} bytes");
    let part = GenirModel { t5, docids: whole.docids.clone() };
    weights::write(&part, home.path(), StoredType::Float32, true, None).unwrap();
    assert!(fs::read(home.path().join("model.safetensors")).unwrap() == expected);
    let again = GenirModel { t5: part.t5.restored().unwrap(), docids: part.docids };
    assert_same(&bits(&again), &bits(&whole), "whole again");
}

#[test]
fn a_part_never_encodes_and_never_computes_what_it_has_let_go_of() {
    let device = Device::flex();
    let whole = initialise(&config(), 1, &device);
    let origin = Arc::new(Origin::seed(config(), 1));
    let (part, _) = whole.clone().release_before(1, &origin).unwrap();
    let tokens = Tokens::new(&[4, 5, 1], &[3], &device);
    let mut tap = NoTap;
    let states = whole.encode(&tokens, &mut Pass::evaluate(&mut tap));
    let start = whole.residual_before(1, &states, &mut Pass::evaluate(&mut NoTap));
    let panics = |compute: &dyn Fn(&mut Pass)| {
        let compute = || compute(&mut Pass::evaluate(&mut NoTap));
        catch_unwind(AssertUnwindSafe(compute)).is_err()
    };
    assert!(panics(&|pass| drop(part.encode(&tokens, pass))));
    let embeddings = whole.shared.forward(whole.input_tokens(&tokens));
    assert!(panics(&|pass| {
        drop(part.encode_and_decode_start(embeddings.clone(), &tokens, pass))
    }));
    assert!(panics(&|pass| drop(part.decode(&tokens, &states, pass))));
    assert!(panics(&|pass| drop(part.decode_start(&states, pass))));
    assert!(panics(&|pass| drop(part.residual_before(1, &states, pass))));
    assert!(panics(&|pass| drop(part.decode_from(0, start.clone(), &states, pass))));
    assert!(!panics(&|pass| drop(part.decode_from(1, start.clone(), &states, pass))));
    assert!(!panics(&|pass| drop(part.clone().valid().decode_from(
        1,
        start.clone(),
        &states,
        pass
    ))));
    // Nor is it taken from where something else comes from.
    let other = Arc::new(Origin::seed(config(), 2));
    let (kept, bytes) = whole.release_before(1, &other).unwrap();
    assert!(kept.released().is_none() && bytes == 0);
}
