//! What a run counts: examples, epochs, losses and costs, however its updates are cut into batches and however it ends.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use genir::checkpoint::Checkpoint;
use genir::run::{RunOutcome, Summary};
use genir::train::{Cadence, Callback, Outcome, TrainError, TrainerState, Verdict};
use safetensors::SafeTensors;
use tempfile::TempDir;

use crate::parameter_bits::{Bits, assert_same, bits};
use crate::tiny_run::{logged, plan, train, train_beside, train_from};

fn summary(home: &Path) -> Summary {
    let text = fs::read_to_string(home.join("run/summary.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Weights before and after a run, and its losses.
fn run_of(overrides: &[&str]) -> (Bits, Bits, BTreeMap<u64, f64>) {
    let home = TempDir::new().unwrap();
    let plan = plan(home.path(), overrides);
    let before = bits(&plan.model(&Device::flex()).unwrap());
    let trained = train(&plan);
    (before, bits(&trained.model), logged(home.path(), "loss/train"))
}

fn distance(one: &Bits, other: &Bits) -> f64 {
    let values = |bits: &Bits| -> Vec<f64> {
        bits.values().flat_map(|(_, bits)| bits).map(|&bit| f32::from_bits(bit).into()).collect()
    };
    let pairs = values(one).into_iter().zip(values(other));
    pairs.map(|(one, other)| (one - other).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn every_example_of_an_update_weighs_the_same_whichever_batch_it_is_in() {
    // 22 examples. Of 7: 7, 7, 7 and 1; of 5: 5, 5, 5, 5 and 2.
    for (select, smoothing) in
        [("full", "0"), ("full", "0.1"), ("restricted", "0.1"), ("docids", "0"), ("words", "0.1")]
    {
        let of = |batch_size: usize, accumulate: usize| {
            run_of(&[
                "train.steps=6",
                "model.dropout=0",
                &format!("trainable.select=[\"{select}\"]"),
                &format!("train.label_smoothing={smoothing}"),
                &format!("train.batch_size={batch_size}"),
                &format!("train.accumulate={accumulate}"),
            ])
        };
        let (before, whole, losses) = of(22, 1);
        let moved = distance(&whole, &before);
        assert!(moved > 1e-3, "{select}: moved by {moved}");
        assert_same(&of(22, 9).1, &whole, "all of an epoch is in one batch");
        for (batch_size, accumulate) in [(7, 4), (5, 6)] {
            let what = format!("{select}, smoothing {smoothing}, {batch_size} times {accumulate}");
            let (_, cut, other_losses) = of(batch_size, accumulate);
            let apart = distance(&cut, &whole);
            assert!(apart < 1e-3 * moved, "{what}: {apart} apart where all moved by {moved}");
            for (step, loss) in &losses {
                let other = other_losses[step];
                assert!((loss - other).abs() < 1e-5, "{what}, step {step}: {loss} and {other}");
            }
        }
    }
}

#[test]
fn batches_of_several_updates_an_epoch_are_those_of_one_larger_batch() {
    let of = |batch_size: &str, accumulate: &str| {
        run_of(&["train.epochs=3", "~train.steps", "model.dropout=0", batch_size, accumulate])
    };
    // 22 examples: 12 and 10, or 4, 4, 4 and 4, 4, 2.
    let (before, whole, losses) = of("train.batch_size=12", "train.accumulate=1");
    let (_, cut, other_losses) = of("train.batch_size=4", "train.accumulate=3");
    assert_eq!(losses.len(), 6);
    let (apart, moved) = (distance(&cut, &whole), distance(&whole, &before));
    assert!(apart < 1e-3 * moved, "{apart} apart where all moved by {moved}");
    for (step, loss) in losses {
        assert!((loss - other_losses[&step]).abs() < 1e-5, "step {step}");
    }
}

/// The first moments after one update, by parameter. They are the gradients where `betas[0]` is 0.
fn first_moments(dtype: &str) -> BTreeMap<String, Vec<f32>> {
    let home = TempDir::new().unwrap();
    train(&plan(
        home.path(),
        &[
            "train.steps=1",
            "train.batch_size=3",
            "train.accumulate=5",
            "optimizer.betas=[0, 0.999]",
            "optimizer.clip_norm=0",
            &format!("train.gradient_dtype={dtype}"),
        ],
    ));
    let file = fs::read(home.path().join("run/checkpoints/latest/optimizer.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let moments = tensors.tensors().into_iter().filter(|(name, _)| name.ends_with(".exp_avg"));
    let values =
        |bytes: &[u8]| bytes.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect();
    moments.map(|(name, tensor)| (name, values(tensor.data()))).collect()
}

#[test]
fn gradients_in_bfloat16_are_rounded() {
    let (exact, rounded) = (first_moments("float32"), first_moments("bfloat16"));
    assert!(!exact.is_empty() && exact.keys().eq(rounded.keys()));
    let (mut count, mut of_bfloat16) = (0, 0);
    for (name, values) in &exact {
        // A gradient has five parts that may cancel: a part of up to 2^-8 of each is lost, and of each of four sums.
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        for (value, found) in values.iter().zip(&rounded[name]) {
            assert_eq!(found.to_bits() & 0xffff, 0, "{name}: {found} is no bfloat16");
            let apart = (value - found).abs();
            assert!(apart <= largest / 32.0, "{name}: {found} instead of {value}");
            count += 1;
            of_bfloat16 += usize::from(value.to_bits() & 0xffff == 0);
        }
    }
    assert!(2 * of_bfloat16 < count, "{of_bfloat16} of {count} values are bfloat16 without it");
}

#[test]
fn a_run_of_epochs_sees_each_example_once_an_epoch_and_ends_at_a_whole_one() {
    // 22 examples; batches of an epoch: 3 a step and what is left, or one a step and what is left.
    for (sizes, epochs, steps) in [([3, 5], 10, 20), ([8, 1], 12, 36), ([3, 3], 2, 6)] {
        let home = TempDir::new().unwrap();
        let overrides = [
            "~train.steps".to_owned(),
            format!("train.epochs={epochs}"),
            format!("train.batch_size={}", sizes[0]),
            format!("train.accumulate={}", sizes[1]),
            "log.every_steps=7".to_owned(),
        ];
        let plan = plan(home.path(), &overrides.each_ref().map(String::as_str));
        assert_eq!(plan.total_steps(), steps, "{sizes:?}");
        assert_eq!(plan.training_texts().reads, 22 * epochs, "{sizes:?}");
        train(&plan);
        assert_eq!(logged(home.path(), "epoch")[&steps], epochs as f64, "{sizes:?}");
        let summary = summary(home.path());
        assert_eq!((summary.epochs, summary.examples), (epochs as f64, 22 * epochs), "{sizes:?}");
    }
    // Two steps an epoch: of 15 examples and of 7.
    let home = TempDir::new().unwrap();
    train(&plan(home.path(), &["train.steps=3", "train.batch_size=3", "train.accumulate=5"]));
    assert_eq!(logged(home.path(), "epoch")[&3], 1.0 + 15.0 / 22.0);
    assert_eq!(summary(home.path()).examples, 37);
}

#[test]
fn the_logged_loss_is_the_mean_over_examples() {
    // Updates of 15 and of 7 examples.
    let of = |every: &str| {
        run_of(&["train.steps=4", "train.batch_size=3", "train.accumulate=5", every]).2
    };
    let (each, together) = (of("log.every_steps=1"), of("log.every_steps=4"));
    let mean = (15.0 * (each[&1] + each[&3]) + 7.0 * (each[&2] + each[&4])) / 44.0;
    assert!((together[&4] - mean).abs() < 1e-9, "{} and {mean}", together[&4]);
    assert_eq!(together.len(), 1);
}

/// Stops a run after so many updates, as a callback of a user's does: behind all others.
struct StopAt(u64);

impl Callback for StopAt {
    fn cadence(&self) -> Cadence {
        Cadence { every: Some(1), at_start: true, at_end: false }
    }

    fn call(&mut self, state: &mut TrainerState) -> Result<Verdict, TrainError> {
        Ok(match state.step == self.0 {
            true => Verdict::Stop("enough".to_owned()),
            false => Verdict::Continue,
        })
    }
}

#[test]
fn a_callback_that_stops_a_run_is_heeded_before_the_first_update_and_at_any_step() {
    for step in [0, 7] {
        let home = TempDir::new().unwrap();
        let plan = plan(home.path(), &["log.every_steps=5", "probes.queries=4", "probes.over=all"]);
        let trained = train_beside(&plan, None, vec![Box::new(StopAt(step))]).unwrap();
        let reason = Some("enough".to_owned());
        assert_eq!(trained.outcome, Outcome { steps: step, stopped: reason.clone(), signal: None });

        // All that comes at the end of a run has come, though it was not known to be the end.
        let latest = home.path().join("run/checkpoints/latest");
        let manifest = Checkpoint::open(&latest, &Device::flex()).unwrap().manifest.unwrap();
        let metrics = manifest.metrics;
        assert_eq!(manifest.step, step);
        let hits = logged(home.path(), "validation/hits@1");
        assert_eq!(hits.into_iter().collect::<Vec<_>>(), [(step, metrics["validation/hits@1"])]);
        assert!(logged(home.path(), "time/probes_seconds").contains_key(&step));
        let losses: Vec<u64> = logged(home.path(), "loss/train").into_keys().collect();
        assert_eq!(losses, if step == 0 { vec![] } else { vec![5, 7] });
        let summary = summary(home.path());
        assert_eq!((summary.ended, summary.reason), (RunOutcome::Stopped, reason));
        assert_eq!(
            (summary.steps, summary.total_steps, summary.loss.is_some()),
            (step, 30, step > 0)
        );
        assert_eq!(summary.last.unwrap().metrics, metrics);
    }
}

#[test]
fn losses_since_the_last_line_are_their_mean_where_a_run_stops_early() {
    let losses = |every: &str| {
        let home = TempDir::new().unwrap();
        let plan = plan(home.path(), &[every]);
        train_beside(&plan, None, vec![Box::new(StopAt(7))]).unwrap();
        logged(home.path(), "loss/train")
    };
    let (each, some) = (losses("log.every_steps=1"), losses("log.every_steps=4"));
    // Of 22 examples, 8, 8 and 6 are in the updates of an epoch.
    let mean = (8.0 * each[&5] + 6.0 * each[&6] + 8.0 * each[&7]) / 22.0;
    assert!((some[&7] - mean).abs() < 1e-9);
    assert_eq!(some.len(), 2);
}

#[test]
fn the_summary_says_what_a_run_cost_and_what_came_of_it() {
    let home = TempDir::new().unwrap();
    let overrides =
        ["train.steps=12", "evaluate.every_steps=4", "trainable.select=[\"restricted\"]"];
    let plan = plan(home.path(), &overrides);
    let optimized = train(&plan).optimized;
    assert_eq!(optimized, plan.trained);
    let found = summary(home.path());
    let metric = logged(home.path(), "validation/hits@1");
    // The first of equals.
    let (&step, &value) = metric.iter().rev().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    let best = found.best.unwrap();
    assert_eq!((best.metric.as_str(), best.value, best.step), ("validation/hits@1", value, step));
    let last = found.last.unwrap();
    assert_eq!((last.step, last.metrics["validation/hits@1"]), (12, metric[&12]));
    assert_eq!((found.ended, found.reason), (RunOutcome::Finished, None));
    assert_eq!((found.steps, found.total_steps, found.examples), (12, 12, 88));
    assert_eq!(found.loss.unwrap(), logged(home.path(), "loss/train")[&12]);
    let total = &plan.table.total;
    assert_eq!(found.parameters.trained, total.trained);
    assert_eq!(found.parameters.frozen, total.parameters - total.trained);
    // Two moments of AdamW in f32.
    assert_eq!(found.optimizer_state_bytes, 8 * total.trained as u64);

    let seconds = found.seconds;
    let parts = [
        seconds.prefix,
        seconds.steps,
        seconds.evaluation,
        seconds.probes,
        seconds.saving,
        seconds.other,
    ];
    assert!((parts.iter().sum::<f64>() - seconds.total).abs() < 1e-9);
    assert!(seconds.steps > 0.0 && seconds.evaluation > 0.0 && seconds.saving > 0.0);
    assert!(seconds.prefix > 0.0 && seconds.probes == 0.0 && seconds.other > 0.0);
    // Added up as a `Duration` and read as a number: the last digit may differ.
    let prefix = logged(home.path(), "time/prefix_seconds")[&0];
    assert!((seconds.prefix - prefix).abs() < 1e-6, "{} and {prefix}", seconds.prefix);
    assert!(seconds.steps >= logged(home.path(), "time/steps_seconds")[&12]);
    let processors = found.processor_seconds.unwrap();
    let logged_processors = logged(home.path(), "time/processor_seconds");
    // The prefix is computed before step 0, all of it by this process.
    assert!(0.0 < logged_processors[&0] && logged_processors[&0] < logged_processors[&12]);
    assert!(processors >= logged_processors[&12]);
    if cfg!(target_os = "linux") {
        let peak = found.peak_memory_bytes.unwrap() as f64 / f64::from(1 << 20);
        // The kernel knows a peak only roughly.
        assert!(peak + 4.0 >= logged(home.path(), "memory/peak_mebibytes")[&1] && peak > 5.0);
    }
}

#[test]
fn a_run_that_breaks_down_logs_the_losses_before_and_says_so_in_its_summary() {
    let home = TempDir::new().unwrap();
    let overrides = ["optimizer.learning_rate=1e20", "train.batch_size=4", "log.every_steps=10"];
    let Err(error) = train_from(&plan(home.path(), &overrides), None) else { panic!("it went on") };
    let losses = logged(home.path(), "loss/train");
    assert!(losses[&1].is_finite() && losses.len() == 1, "{losses:?}");
    let summary = summary(home.path());
    assert_eq!((summary.ended, summary.steps, summary.examples), (RunOutcome::Failed, 1, 4));
    assert_eq!(summary.reason.unwrap(), error.to_string());
    assert!(summary.last.is_none(), "a broken model is not evaluated");
    assert!(logged(home.path(), "validation/hits@1").is_empty(), "nor is that logged");
}
