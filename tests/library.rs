//! Programs that use genir as a library: callbacks with metrics, evaluation in a callback, search and taps.

use std::convert::Infallible;
use std::fs;
use std::path::Path;

use burn::tensor::Tensor;
use genir::checkpoint::{Checkpoint, checkpoint_at};
use genir::corpus::{self, Split};
use genir::device::device;
use genir::monitor::{Console, Verbosity};
use genir::recipe::Recipe;
use genir::retrieval::{DocidOrder, RankOptions, evaluate, rank};
use genir::run::Overwrite;
use genir::t5::{Hook, Pass, Site, Tap, Tokens};
use genir::train::{Cadence, Callback, Plan, TrainError, TrainerState, Training, Verdict};
use genir::{Retriever, Searcher};
use serde_json::Value;
use tempfile::TempDir;

#[path = "support/tiny_corpus.rs"]
mod tiny_corpus;

fn plan(home: &Path, overrides: &[&str]) -> Plan {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    let recipe = Recipe::from_text("tiny.toml", &tiny_corpus::recipe(home), &overrides).unwrap();
    Plan::to_start(recipe, Overwrite::Refuse).unwrap()
}

/// The last value of a tag in the run's metrics.
fn last(home: &Path, tag: &str) -> f64 {
    let text = fs::read_to_string(home.join("run/metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line[tag].as_f64()).next_back().unwrap()
}

/// Records a metric at every step, and ranks the first query of the plan with the model as training has it.
struct OwnMetric<'a> {
    plan: &'a Plan,
    calls: &'a mut usize,
}

impl Callback for OwnMetric<'_> {
    fn cadence(&self) -> Cadence {
        Cadence { every: Some(1), at_start: true, at_end: true }
    }

    fn call(&mut self, state: &mut TrainerState) -> Result<Verdict, TrainError> {
        let order = DocidOrder::new(&self.plan.docids);
        let options = RankOptions::new(&order, self.plan.tokenizer.pad_id());
        let queries = &self.plan.query_sets[0].0.queries[..1];
        let Ok(()) = rank(state.model, &self.plan.device, queries, options, |_, ranking| {
            state.metrics.insert("own/rank".to_owned(), ranking.relevant[0].rank.into());
            Ok::<(), Infallible>(())
        });
        *self.calls += 1;
        Ok(Verdict::Continue)
    }
}

fn train(home: &Path) -> (Plan, usize) {
    let plan = plan(home, &["train.steps=4"]);
    let mut calls = 0;
    let training = Training::claim(&plan, Overwrite::Refuse).unwrap();
    let training = training.callback(OwnMetric { plan: &plan, calls: &mut calls });
    let outcome = training.run(&Console::stderr(Verbosity::Quiet)).unwrap();
    assert_eq!((outcome.steps, outcome.stopped), (4, None));
    (plan, calls)
}

#[test]
fn a_callback_with_a_metric_of_its_own_leaves_evaluations_and_checkpoints_as_they_are() {
    let home = TempDir::new().unwrap();
    let (_, calls) = train(home.path());
    assert_eq!(calls, 5, "before the first update and after each");
    assert!(checkpoint_at(&home.path().join("run")).is_some());
    assert!((0.0..=1.0).contains(&last(home.path(), "validation/hits@1")));
}

#[test]
fn a_checkpoint_is_searched_and_evaluated() {
    let home = TempDir::new().unwrap();
    let (plan, _) = train(home.path());
    let device = device("cpu").unwrap();
    let directory = checkpoint_at(&home.path().join("run")).unwrap();
    let checkpoint = Checkpoint::open(&directory, &device).unwrap();
    let hits = Searcher::new(&checkpoint).search("iron", 3).unwrap();
    assert_eq!(hits.len(), 3);
    assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score));

    let loaded = corpus::load(&plan.recipe.corpus.options()).unwrap();
    let retriever = Retriever::new(checkpoint, loaded, device).unwrap();
    let queries = retriever.queries(Split::Validation, None, 0).unwrap();
    let order = DocidOrder::new(&retriever.checkpoint.docids);
    let options = RankOptions::new(&order, retriever.checkpoint.tokenizer.pad_id());
    let (model, device) = (&retriever.checkpoint.model, &retriever.device.device);
    let found = evaluate(model, device, &queries, options, None).unwrap().all.unwrap();
    let logged = last(home.path(), "validation/hits@1");
    assert!(found.values().any(|(name, value)| name == "hits@1" && value == logged));
}

/// Returns MLP outputs with batch and width exchanged: as many values, in another shape.
struct OtherShape;

impl Tap for OtherShape {
    fn wants(&self, site: Site) -> bool {
        site.hook == Hook::MlpOut
    }

    fn stream(&mut self, _site: Site, value: Tensor<3>) -> Tensor<3> {
        value.swap_dims(0, 2)
    }
}

#[test]
#[should_panic(expected = "shape of the tensor that a tap returned at encoder.0.hook_mlp_out")]
fn a_tap_that_returns_another_shape_is_an_error_and_no_wrong_number() {
    let home = TempDir::new().unwrap();
    let plan = plan(home.path(), &[]);
    let model = plan.model(&plan.device).unwrap();
    let mut tap = OtherShape;
    let source = Tokens::padded(&[&[4, 5, 1], &[6, 1]], 0, &plan.device);
    model.t5.encode(&source, &mut Pass::evaluate(&mut tap));
}

#[test]
fn a_cadence_without_an_interval_is_due_at_the_start_and_at_the_end_only() {
    for every in [None, Some(0)] {
        let cadence = Cadence { every, at_start: true, at_end: true };
        assert_eq!(cadence.times(10), 2);
        assert!(cadence.is_due(0, false) && !cadence.is_due(5, false) && cadence.is_due(10, true));
    }
}
