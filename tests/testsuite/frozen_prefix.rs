//! The frozen prefix: stored or computed for each batch, training, evaluation and probes are the same; a run says
//! what it stores.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use genir::component::freeze_all_but;
use genir::corpus::Split;
use genir::prefix::{FrozenModel, Prefix};
use genir::probe::{ComparisonModel, ComparisonModels, Probe, ProbeQueries, Subject, Suite, files};
use genir::retrieval::evaluation::QuerySet;
use genir::retrieval::ranking::{RankOptions, rank};
use genir::retrieval::{CandidateSet, DocidOrder};
use genir::t5::weights::initialise;
use genir::t5::{Dropout, GenirModel, Tokens};
use genir::train::{Optimizer, Plan, StepInput, StepOptions, forward_backward};
use serde_json::Value;
use tempfile::TempDir;

use crate::parameter_bits::{Bits, assert_same, bits};
use crate::tiny_run::{logged, plan, train};

/// What is trained, and the decoder layer that the rest of the model begins with.
const SELECTIONS: [(&str, usize); 4] = [
    ("trainable.select=[\"restricted\"]", 1),
    ("trainable.select=[\"decoder.mlp[III]\", \"docids\"]", 2),
    ("trainable.select=[\"decoder\", \"docids\"]", 0),
    ("trainable.select=[\"docids\"]", 3),
];
const UNCACHED: &str = "cache.enabled=false";

/// A finished run.
struct Run {
    home: TempDir,
    plan: Plan,
    weights: Bits,
}

fn run(overrides: &[&str]) -> Run {
    let home = TempDir::new().unwrap();
    let plan = plan(home.path(), overrides);
    let trained = train(&plan);
    assert!(trained.outcome.stopped.is_none() && trained.optimized.is_subset(&plan.trained));
    Run { home, plan, weights: bits(&trained.model) }
}

impl Run {
    fn losses(&self) -> Vec<f64> {
        logged(self.home.path(), "loss/train").into_values().collect()
    }

    fn said(&self, part: &str) -> Vec<String> {
        let log = fs::read_to_string(self.home.path().join("run/log.txt")).unwrap();
        log.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }

    fn files(&self) -> usize {
        fs::read_dir(self.home.path().join("cache")).map_or(0, |entries| entries.count())
    }
}

#[track_caller]
fn assert_near(found: &[f64], expected: &[f64], near: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(difference <= near * expected.abs(), "{what}, {step}: {found}, not {expected}");
    }
}

#[test]
fn stored_and_uncached_training_give_the_same_losses() {
    for (select, layer) in SELECTIONS {
        for how in [&["model.dropout=0"][..], &["model.dropout=0.3", "train.accumulate=2"]] {
            let what = format!("{select} {how:?}");
            let overrides = [&[select], how].concat();
            let stored = run(&overrides);
            assert_eq!(stored.plan.frozen_prefix().unwrap().layer(), layer, "{what}");
            assert_eq!(stored.files(), 1, "{what}: the training texts");
            let uncached = run(&[&overrides[..], &[UNCACHED]].concat());
            assert_eq!(uncached.files(), 0, "{what}");
            assert_near(&stored.losses(), &uncached.losses(), 2e-5, &what);

            let before = bits(&stored.plan.model(&Device::flex()).unwrap());
            let frozen = |weights: &Bits| -> Bits {
                let is_frozen = |name: &String| !stored.plan.trained.contains(name);
                let kept = weights.iter().filter(|(name, _)| is_frozen(name));
                kept.map(|(name, values)| (name.clone(), values.clone())).collect()
            };
            assert_same(&frozen(&stored.weights), &frozen(&before), &what);
            assert_same(&frozen(&uncached.weights), &frozen(&before), &what);
        }
    }
}

/// One step of `plan` on its first eight examples, from their tokens or from their prefix.
fn one_step(plan: &Plan, from_tokens: bool, dropout: f64) -> (f64, GenirModel) {
    let device = Device::flex().autodiff();
    let model = freeze_all_but(plan.model(&device).unwrap(), &plan.trained);
    let texts: Vec<&[u32]> = (0..8).map(|example| plan.examples.tokens(example)).collect();
    let input = if from_tokens {
        let longest = texts.iter().map(|tokens| tokens.len()).max().unwrap();
        let lengths: Vec<u32> = texts.iter().map(|tokens| tokens.len() as u32).collect();
        let padded = |tokens: &&[u32]| {
            let mut ids: Vec<i32> = tokens.iter().map(|&id| id as i32).collect();
            ids.resize(longest, 0);
            ids
        };
        let ids: Vec<i32> = texts.iter().flat_map(padded).collect();
        StepInput::Tokens(Tokens::new(&ids, &lengths, &device))
    } else {
        let (t5, prefix) = (&model.t5.valid(), plan.frozen_prefix().unwrap());
        let frozen = FrozenModel { t5, prefix, device: &Device::flex(), pad_id: 0 };
        StepInput::Prefix(frozen.compute(&texts))
    };
    let targets = (0..8).map(|example| plan.examples.target(example) as i32).collect();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [8]), &device);
    let dropout = Dropout { probability: dropout, key: 4 };
    let options = StepOptions { dropout, label_smoothing: 0.1, weight: 1.0 };
    let (loss, gradients) = forward_backward(&model, input, targets, options);
    let (model, updated) = Optimizer::new(&plan.recipe.optimizer).step(model, gradients, 1e-3);
    assert!(updated.is_ok());
    (loss, model.valid())
}

#[test]
fn a_step_from_the_prefix_is_the_step_from_the_tokens() {
    for (select, _) in SELECTIONS {
        let home = TempDir::new().unwrap();
        // A large epsilon keeps AdamW from blowing up rounding.
        let plan = plan(home.path(), &[select, "optimizer.eps=1.0"]);
        let (loss, model) = one_step(&plan, true, 0.0);
        let (found, other) = one_step(&plan, false, 0.0);
        assert_near(&[found], &[loss], 1e-6, select);
        let other = bits(&other);
        for (name, (_, values)) in bits(&model) {
            for (&value, &other) in values.iter().zip(&other[&name].1) {
                let (value, other) = (f32::from_bits(value), f32::from_bits(other));
                assert!((value - other).abs() < 1e-6, "{select} {name}: {other}, not {value}");
            }
        }
    }
}

#[test]
fn dropout_acts_on_what_comes_after_the_prefix_alone() {
    let home = TempDir::new().unwrap();
    // All that comes after the prefix is the decoder's last norm.
    let plan = plan(home.path(), &["trainable.select=[\"docids\"]"]);
    let (whole, _) = one_step(&plan, false, 0.0);
    let (dropped, _) = one_step(&plan, false, 0.5);
    assert_ne!(dropped, whole);
    // Uncached as in training: the same masks on the same values.
    let losses =
        |more: &[&str]| run(&[&["model.dropout=0.5", SELECTIONS[0].0], more].concat()).losses();
    let (stored, uncached) = (losses(&[]), losses(&[UNCACHED]));
    assert_near(&stored, &uncached, 2e-5, "dropout");
    let without = run(&["model.dropout=0", SELECTIONS[0].0]).losses();
    assert!((stored[0] - without[0]).abs() > 1e-4, "{} and {}", stored[0], without[0]);
}

#[test]
fn full_training_has_no_prefix() {
    for select in ["trainable.select=[\"full\"]", "trainable.select=[\"restricted\", \"words\"]"] {
        let run = run(&[select]);
        assert!(run.plan.frozen_prefix().is_none());
        assert_eq!((run.files(), run.said("frozen prefix").len()), (0, 0));
        assert!(logged(run.home.path(), "prefix/mebibytes").is_empty());
    }
}

#[test]
fn evaluations_are_the_same_from_stored_states() {
    let learns = ["optimizer.learning_rate=2e-2", "train.steps=60", "evaluate.every_steps=20"];
    let overrides = [&learns[..], &["trainable.select=[\"decoder\", \"docids\"]"]].concat();
    let stored = run(&overrides);
    assert_eq!(stored.files(), 2, "training and validation texts");
    let uncached = run(&[&overrides[..], &[UNCACHED]].concat());
    for tag in ["validation/hits@1", "validation/mrr@10", "memorisation/indexing/mrr@10"] {
        let found = logged(stored.home.path(), tag);
        assert_eq!(found.len(), 3, "{tag}");
        assert_eq!(found, logged(uncached.home.path(), tag), "{tag}");
    }
}

/// Numbers may differ by rounding: by it, ranks among thousands of words by a place.
#[track_caller]
fn assert_alike(found: &Value, expected: &Value, path: &str) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            assert!(found.keys().eq(expected.keys()), "{path}");
            let both = expected.iter().map(|(key, value)| (key, &found[key], value));
            both.for_each(|(key, found, value)| {
                assert_alike(found, value, &format!("{path}.{key}"))
            });
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{path}");
            found.iter().zip(expected).for_each(|(found, value)| assert_alike(found, value, path));
        }
        (Value::Number(found), Value::Number(expected)) => {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            let near = 1e-3 * expected.abs() + 1e-6;
            assert!((found - expected).abs() <= near, "{path}: {found}, not {expected}");
        }
        _ => assert_eq!(found, expected, "{path}"),
    }
}

#[test]
fn probes_are_the_same_from_stored_states() {
    let overrides = [
        SELECTIONS[0].0,
        "probes.over=all",
        "probes.every_steps=10",
        "probes.max_share=0",
        "probes.queries=5",
        "evaluate.every_steps=10",
        "evaluate.splits=[\"validation\", \"test\"]",
    ];
    let stored = run(&overrides);
    // Their queries are among those of the splits.
    assert_eq!(stored.files(), 3);
    let uncached = run(&[&overrides[..], &[UNCACHED]].concat());
    for &probe in Probe::ALL {
        let records = |run: &Run| -> Vec<Value> {
            let path = run.home.path().join(format!("run/probes/{probe}.jsonl"));
            let records = files::read(&path).unwrap();
            records.iter().map(|record| serde_json::to_value(&record.result).unwrap()).collect()
        };
        let (found, expected) = (records(&stored), records(&uncached));
        assert_eq!(found.len(), 3, "{probe}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_alike(found, expected, &probe.to_string());
        }
    }
}

/// The validation queries of a plan.
fn validation(plan: &Plan) -> QuerySet {
    let encoding = plan.recipe.task.encoding().queries();
    let (corpus, how) = (&plan.corpus, (&plan.tokenizer, &encoding));
    let split = corpus.split(Split::Validation);
    QuerySet::of_queries("validation", corpus, split, &plan.left_out, None, 1, how).unwrap()
}

#[test]
fn what_is_stored_is_not_encoded_again() {
    let home = TempDir::new().unwrap();
    let plan = plan(home.path(), &[SELECTIONS[0].0, "probes.over=all"]);
    let model = plan.model(&plan.device).unwrap();
    // Its encoder shows where it is used.
    let mut other = model.clone();
    other.t5.encoder = initialise(plan.config(), 77, &plan.device).encoder;
    let frozen = FrozenModel {
        t5: &model.t5,
        prefix: plan.frozen_prefix().unwrap(),
        device: &plan.device,
        pad_id: 0,
    };
    let (set, settings) = (validation(&plan), plan.recipe.cache.settings());
    let asked = vec![set.text_set(2)];
    let prefix =
        Prefix::prepare(&frozen, &settings, plan.training_texts(), asked, &mut |_, _, _| {});
    let prefix = Arc::new(prefix);

    let ranked = |model: &GenirModel, prefix: Option<&Prefix>| {
        let candidates = CandidateSet::Docids;
        let order = &DocidOrder::new(&plan.docids);
        let options = RankOptions { order, candidates, depth: 8, batch_size: 3, pad_id: 0, prefix };
        let mut all = Vec::new();
        let each = |index, ranking| {
            all.push((index, ranking));
            Ok::<(), ()>(())
        };
        rank(model, &plan.device, &set.queries, options, each).unwrap();
        all
    };
    assert_eq!(ranked(&other, Some(&prefix)), ranked(&model, Some(&prefix)));
    assert_ne!(ranked(&other, None), ranked(&model, None));

    let probed = |model: &GenirModel, prefix: Option<&Arc<Prefix>>, base: &GenirModel| {
        let mut queries = ProbeQueries::new(validation(&plan));
        queries.use_stored_prefix(prefix, None).unwrap();
        let subject = Subject {
            model,
            device: &plan.device,
            tokenizer: &plan.tokenizer,
            docids: &plan.docids,
            checkpoint: String::new(),
            step: None,
            encoder_is_frozen: true,
        };
        let options = plan.recipe.probes.as_ref().unwrap().options(plan.stages.as_ref());
        let probes = [Probe::StagePatching, Probe::EncoderSwap];
        let suite = Suite::new(&probes, options, plan.config()).unwrap();
        let (name, t5) = (String::new(), base.t5.clone());
        let others = ComparisonModels {
            base: Some(ComparisonModel {
                name,
                t5,
                has_same_encoder: true,
                left_out: Default::default(),
            }),
            encoder: None,
        };
        let records = suite
            .measure(&subject, &mut queries, None, &others, &mut |_, _| ControlFlow::Continue(()))
            .unwrap();
        serde_json::to_value(records.iter().map(|record| &record.result).collect::<Vec<_>>())
            .unwrap()
    };
    assert_eq!(probed(&other, Some(&prefix), &model), probed(&model, Some(&prefix), &model));
    assert_ne!(probed(&other, None, &model), probed(&model, None, &model));
    // What is frozen is the base's: nor does that encode again.
    for prefix in [Some(&prefix), None] {
        assert_eq!(probed(&model, prefix, &other), probed(&model, prefix, &model));
    }
}

#[test]
fn a_run_says_what_it_stores_and_stores_what_is_read_again() {
    let first = run(&[SELECTIONS[0].0]);
    let [said] = &first.said("frozen prefix of training")[..] else { panic!("said otherwise") };
    assert!(said.contains("training: 22 texts, 0.0 MiB f32; computed once, in "), "{said}");
    let cache = first.home.path().join("cache");
    assert!(said.contains(cache.to_str().unwrap()), "{said}");
    // One evaluation: nothing to be gained.
    let [said] = &first.said("frozen prefix of validation")[..] else { panic!("said otherwise") };
    assert!(said.ends_with("computed for each batch: each text is read once"), "{said}");
    let values = |tag| logged(first.home.path(), tag).into_values().collect::<Vec<f64>>();
    assert_eq!(values("prefix/reused"), [0.0]);
    assert!(values("time/prefix_seconds")[0] > 0.0 && values("prefix/mebibytes")[0] > 0.0);

    let once = run(&[SELECTIONS[0].0, "train.epochs=1", "~train.steps"]);
    assert_eq!(once.files(), 0);
    let [said] = &once.said("frozen prefix of training")[..] else { panic!("said otherwise") };
    assert!(said.ends_with("each text is read once"), "{said}");
}

#[test]
fn smaller_types_store_nearly_the_same() {
    let uncached = run(&[SELECTIONS[0].0, UNCACHED, "train.steps=5"]).losses();
    for (element, near) in [("bf16", 2e-2), ("f16", 2e-3)] {
        let element = format!("cache.type={element}");
        let run = run(&[SELECTIONS[0].0, &element, "train.steps=5"]);
        assert_eq!(run.files(), 1);
        assert_ne!(run.losses(), uncached, "{element}");
        assert_near(&run.losses(), &uncached, near, &element);
    }
}

/// Keeps the home of a run that another shares.
fn shared(cache: &Path) -> String {
    format!("cache.directory={}", cache.display())
}

#[test]
fn stored_training_is_the_same_to_the_last_bit_from_memory_and_from_the_file() {
    let first = run(&[SELECTIONS[0].0]);
    let cache = shared(&first.home.path().join("cache"));
    let mapped = run(&[SELECTIONS[0].0, &cache, "cache.memory=0"]);
    assert_same(&mapped.weights, &first.weights, "mapped");
    assert_eq!(mapped.said("reused from").len(), 1);
    let in_memory = run(&[SELECTIONS[0].0, "cache.disk=0"]);
    assert_same(&in_memory.weights, &first.weights, "in memory");
    assert_eq!((in_memory.files(), in_memory.said("stored in memory").len()), (0, 1));
}
