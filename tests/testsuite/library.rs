//! Programs that use genir as a library: callbacks with metrics, evaluation in a callback, search and taps.

use std::convert::Infallible;
use std::fs;
use std::path::Path;

use burn::tensor::Tensor;
use genir::checkpoint::{Checkpoint, checkpoint_at};
use genir::corpus::{self, Layout, Split};
use genir::device::device;
use genir::monitor::{Console, Verbosity, read_scalars};
use genir::recipe::Recipe;
use genir::retrieval::{CandidateSet, DocidOrder, RankOptions, evaluate, rank, rank_with_tap};
use genir::run::{Overwrite, RunDirectory, RunOutcome, Summary};
use genir::t5::{Hook, NoTap, Pass, Site, Stack, Tap, Tokens};
use genir::train::{Cadence, Callback, Plan, TrainError, TrainerState, Training, Verdict};
use genir::{Retriever, RetrieverError, Searcher};
use serde_json::Value;
use tempfile::TempDir;

use crate::tiny_corpus;

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

/// Zero ablation of all cross-attention; counts the passes through the encoder, too.
#[derive(Default)]
struct WithoutCrossAttention {
    passes: usize,
}

impl Tap for WithoutCrossAttention {
    fn wants(&self, site: Site) -> bool {
        site.hook == Hook::CrossAttentionOut
            || site.stack == Stack::Encoder && site.layer == 0 && site.hook == Hook::MlpOut
    }

    fn stream(&mut self, site: Site, value: Tensor<3>) -> Tensor<3> {
        match site.stack {
            Stack::Encoder => {
                self.passes += 1;
                value
            }
            Stack::Decoder => value.zeros_like(),
        }
    }
}

#[test]
fn the_checkpoint_of_a_run_is_opened_by_name_and_evaluated_with_and_without_a_tap() {
    let home = TempDir::new().unwrap();
    train(home.path());
    let run = home.path().join("run");
    let open = |name: &str| Retriever::open(&run, name, device("cpu").unwrap());
    let retriever = open("best").unwrap();
    let queries = retriever.queries(Split::Validation, None, 0).unwrap();
    let metrics = |found: genir::retrieval::EvaluationResult| found.all.unwrap();
    let plain = metrics(retriever.evaluate(&queries));
    let logged = last(home.path(), "validation/hits@1");
    assert!(plain.values().any(|(name, value)| name == "hits@1" && value == logged));

    // A tap that wants nothing changes nothing; one that replaces an activation changes ranks, in every ranking alike.
    assert_eq!(metrics(retriever.evaluate_with_tap(&queries, &mut NoTap)), plain);
    let mut tap = WithoutCrossAttention::default();
    let ablated = retriever.evaluate_with_tap(&queries, &mut tap);
    assert_eq!(tap.passes, 1, "one batch");
    let ranks = |tap: &mut dyn Tap| {
        let mut ranks = vec![Vec::new(); queries.queries.len()];
        let model = &retriever.checkpoint.model;
        let device = &retriever.device.device;
        let options = RankOptions { candidates: CandidateSet::Docids, ..retriever.rank_options() };
        let Ok(()) =
            rank_with_tap(model, device, &queries.queries, options, tap, |index, ranking| {
                ranks[index] = ranking.relevant.iter().map(|found| found.rank).collect();
                Ok::<(), Infallible>(())
            });
        ranks
    };
    let judged: Vec<Vec<u32>> = ablated
        .judged
        .iter()
        .map(|judged| judged.relevant.iter().map(|(rank, _)| *rank).collect())
        .collect();
    assert_eq!(ranks(&mut WithoutCrossAttention::default()), judged);
    assert_ne!(ranks(&mut NoTap), judged);

    let Err(error) = open("step-9") else { panic!("there is no such checkpoint") };
    assert!(matches!(error, RetrieverError::NoCheckpoint { .. }));
    assert!(
        error.to_string().ends_with("checkpoints of the run: best, latest, step-000004"),
        "{error}"
    );
    let corpus = home.path().join("corpus");
    let Err(error) = Retriever::open(&corpus, "best", device("cpu").unwrap()) else {
        panic!("it is no run")
    };
    assert!(error.to_string().contains("is not a run directory"), "{error}");
}

#[test]
fn the_summary_and_the_metrics_of_a_run_are_read_as_they_were_written() {
    let home = TempDir::new().unwrap();
    train(home.path());
    let run = RunDirectory::open(&home.path().join("run")).unwrap();
    let scalars = read_scalars(&run.metrics()).unwrap();
    let hits = scalars.iter().filter_map(|line| line.values.get("validation/hits@1")).next_back();
    assert_eq!(hits, Some(&last(home.path(), "validation/hits@1")));
    let text = fs::read_to_string(run.metrics()).unwrap();
    let written: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(serde_json::to_value(&scalars).unwrap(), Value::from(written));

    let summary = Summary::read(&run.summary()).unwrap();
    assert_eq!((summary.ended, summary.steps, summary.total_steps), (RunOutcome::Finished, 4, 4));
    assert_eq!(summary.last.as_ref().unwrap().metrics["validation/hits@1"], *hits.unwrap());
    let text = fs::read_to_string(run.summary()).unwrap();
    let written: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_value(&summary).unwrap(), written);
    fs::write(run.summary(), "{\"genir\": 3}").unwrap();
    let error = Summary::read(&run.summary()).unwrap_err().to_string();
    assert!(error.contains("summary.json: invalid type: integer `3`"), "{error}");
}

#[test]
fn options_are_parsed_from_their_names() {
    assert_eq!("beir".parse(), Ok(Layout::Beir));
    for name in ["validation", "val", "valid", "dev"] {
        assert_eq!(name.parse(), Ok(Split::Validation));
    }
    for layout in Layout::ALL {
        assert_eq!(layout.to_string().parse(), Ok(*layout));
    }
    let error = "valdiation".parse::<Split>().unwrap_err();
    let expected =
        "unknown Split `valdiation`; expected one of \"train\", \"validation\", \"test\"";
    assert_eq!(error.to_string(), expected);
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
