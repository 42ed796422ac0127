//! Probes during training: they change nothing, come when they are due, wait when they must, and say so.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use genir::corpus::Split;
use genir::probe::{
    ComparisonModels, Probe, ProbeError, ProbeQueries, ProbeResult, RankShift, Record, Replacement,
    SkipReason, SkippedAt, Subject, Suite, files,
};
use genir::retrieval::evaluation::QuerySet;
use genir::t5::GenirModel;
use genir::train::Plan;
use tempfile::TempDir;

use crate::parameter_bits::{assert_same, bits};
use crate::tiny_run::{logged, plan, train, train_from, try_plan};

/// The probes that look at no other model and no other set.
const ALONE: &str = "probes.run=[\"residual_contribution\", \"logit_lens\", \"direct_effect\", \
                     \"neuron_reads\", \"attention_reads\", \"attention_writes\"]";
/// Learns the tiny corpus; some validation queries become correct.
const LEARNS: [&str; 3] = ["train.steps=120", "optimizer.learning_rate=2e-2", "model.dropout=0"];

fn history(home: &Path, probe: Probe) -> Vec<Record> {
    files::read(&home.join(format!("run/probes/{probe}.jsonl"))).unwrap()
}

fn steps(home: &Path, probe: Probe) -> Vec<u64> {
    history(home, probe).iter().map(|record| record.measured_on.step.unwrap()).collect()
}

fn skipped(home: &Path, probe: Probe) -> Vec<SkippedAt> {
    let stored = files::read_all(&home.join(format!("run/probes/{probe}.jsonl"))).unwrap();
    stored.skipped.into_iter().map(|skipped| skipped.skipped).collect()
}

/// The lines of the log that hold `part`.
fn said(home: &Path, part: &str) -> Vec<String> {
    let log = fs::read_to_string(home.join("run/log.txt")).unwrap();
    log.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

#[test]
fn weights_are_bit_identical_with_and_without_probes() {
    for select in ["[\"full\"]", "[\"restricted\", \"docids\"]"] {
        let select = format!("trainable.select={select}");
        let without = TempDir::new().unwrap();
        let plain = train(&plan(without.path(), &[&select, "model.dropout=0.1"]));
        assert!(!without.path().join("run/probes").exists());

        let home = TempDir::new().unwrap();
        let probes = [
            &select,
            "model.dropout=0.1",
            "probes.every_steps=7",
            "probes.at_start=true",
            "probes.over=all",
            "probes.variant=exact",
            "probes.max_share=0",
            "probes.patches=[\"decoder.layers[1]\", \"decoder.cross_attention[2].heads[0]\"]",
            "probes.circuit_patches=[\"decoder.mlp[I,II]=base\"]",
        ];
        let probed = train(&plan(home.path(), &probes));
        assert_same(&bits(&probed.model), &bits(&plain.model), &select);
        assert_eq!((probed.outcome, probed.optimized), (plain.outcome, plain.optimized));
        for &probe in Probe::ALL {
            assert_eq!(steps(home.path(), probe), [0, 7, 14, 21, 28, 30], "{probe}");
        }
        assert_eq!(
            logged(home.path(), "loss/train"),
            logged(without.path(), "loss/train"),
            "{select}"
        );
    }
}

#[test]
fn each_probe_comes_at_its_own_cadence_with_its_own_queries() {
    let home = TempDir::new().unwrap();
    let overrides = [
        "train.steps=14",
        "probes.run=[\"logit_lens\", \"circuit\", \"direct_effect\"]",
        "probes.every_steps=4",
        "probes.over=all",
        "probes.max_share=none",
        "probes.circuit={every_steps=10, queries=3}",
        "probes.direct_effect.queries=3",
    ];
    train(&plan(home.path(), &overrides));
    assert_eq!(steps(home.path(), Probe::LogitLens), [4, 8, 12, 14]);
    assert_eq!(steps(home.path(), Probe::DirectEffect), [4, 8, 12, 14]);
    assert_eq!(steps(home.path(), Probe::Circuit), [10, 14]);
    assert!(!home.path().join("run/probes/stage_patching.jsonl").exists());
    let on = |probe| history(home.path(), probe)[0].measured_on.clone();
    assert_eq!((on(Probe::LogitLens).ranked, on(Probe::Circuit).ranked), (8, 3));
    assert_eq!(on(Probe::LogitLens).queries, "validation");
    assert_eq!(on(Probe::LogitLens).checkpoint, home.path().join("run").display().to_string());
    let ProbeResult::Circuit(circuit) = &history(home.path(), Probe::Circuit)[0].result else {
        panic!("no circuit")
    };
    assert_eq!((circuit.test_set.as_str(), circuit.test_queries), ("test", 3));

    let seconds = logged(home.path(), "time/probes_seconds");
    assert_eq!(seconds.keys().copied().collect::<Vec<u64>>(), [4, 8, 10, 12, 14]);
    assert!(seconds.values().is_sorted() && seconds[&4] > 0.0, "{seconds:?}");
    assert!(logged(home.path(), "time/probes_share").values().all(|share| *share > 0.0));
    assert_eq!(said(home.path(), "probes took").len(), 1);
}

#[test]
fn probes_can_leave_out_the_end_and_follow_an_early_stop() {
    let home = TempDir::new().unwrap();
    let every = ["train.steps=6", "probes.over=all", "probes.max_share=0"];
    let overrides = [&every[..], &[ALONE, "probes.every_steps=4", "probes.at_end=false"]].concat();
    train(&plan(home.path(), &overrides));
    assert_eq!(steps(home.path(), Probe::LogitLens), [4]);

    let home = TempDir::new().unwrap();
    let overrides = [
        ALONE,
        "probes.over=all",
        "evaluate.every_steps=2",
        "stop.patience=2",
        "stop.min_delta=10",
        "stop.metric=validation/mrr@10",
    ];
    assert_eq!(train(&plan(home.path(), &overrides)).outcome.steps, 6);
    assert_eq!(steps(home.path(), Probe::LogitLens), [6], "the last step is where it stopped");
}

#[test]
fn a_budget_stretches_the_cadence_and_says_so_once() {
    let over_all = ["probes.over=all", "probes.every_steps=2", "probes.max_share=1e-9"];
    let home = TempDir::new().unwrap();
    train(&plan(home.path(), &over_all));
    // What it costs is known after the first time only, and the end is exempt.
    for &probe in Probe::ALL {
        assert_eq!(steps(home.path(), probe), [2, 30], "{probe}");
    }
    let told = said(home.path(), "would take more than their share");
    let [line] = told.as_slice() else { panic!("{told:#?}") };
    assert!(line.starts_with("step 4: probes"), "{line}");
    assert!(line.contains("max_share = 0.000000001;"), "{line}");
    assert!(line.ends_with("none before the end"), "{line}");
    // Each time that one was due and had to wait is a line of its results.
    let skipped = skipped(home.path(), Probe::Circuit);
    let at: Vec<u64> = skipped.iter().map(|skipped| skipped.step).collect();
    assert_eq!(at, (2..15).map(|n| 2 * n).collect::<Vec<_>>());
    for skipped in skipped {
        assert_eq!(skipped.reason, SkipReason::MaxShare);
        assert!(skipped.message.contains("max_share = 0.000000001; "), "{}", skipped.message);
    }

    let home = TempDir::new().unwrap();
    train(&plan(home.path(), &[&over_all[..], &["probes.at_start=true"]].concat()));
    assert_eq!(steps(home.path(), Probe::LogitLens), [0, 30]);

    // A share that the probes stay within.
    let home = TempDir::new().unwrap();
    let overrides = ["probes.over=all", "probes.every_steps=10", "probes.max_share=1000"];
    train(&plan(home.path(), &overrides));
    assert_eq!(steps(home.path(), Probe::LogitLens), [10, 20, 30]);
    assert!(said(home.path(), "would take more than their share").is_empty());
}

#[test]
fn without_a_correct_query_probes_wait_and_say_how_far_it_is() {
    let home = TempDir::new().unwrap();
    let probes = [
        "probes.run=[\"stage_patching\", \"logit_lens\"]",
        "probes.every_steps=4",
        "probes.max_share=0",
    ];
    let overrides = [&LEARNS[..], &probes].concat();
    let plan = plan(home.path(), &overrides);
    train(&plan);
    let waits = said(home.path(), "probes skipped");
    assert!(
        waits[0].starts_with(
            "step 4: probes skipped: none of 8 validation queries has its relevant docid at rank 1, best rank "
        ),
        "{}",
        waits[0]
    );
    let steps = steps(home.path(), Probe::StagePatching);
    assert_eq!(steps.last(), Some(&120), "{waits:?}");
    assert_eq!(waits.len() + steps.len(), 30, "one or the other at each time");
    for probe in [Probe::StagePatching, Probe::LogitLens] {
        let skipped = skipped(home.path(), probe);
        assert!(skipped.iter().all(|skipped| skipped.reason == SkipReason::NoCorrectQuery));
        assert_eq!(skipped.len() + steps.len(), 30, "each time is a line: {skipped:?}");
        assert!(waits[0].ends_with(&skipped[0].message), "{}", skipped[0].message);
    }
    let newest = history(home.path(), Probe::LogitLens).pop().unwrap();
    let on = newest.measured_on;
    assert!(on.correct > 0 && on.correct == on.measured && on.ranked == 8, "{on:?}");
}

/// The validation queries of a plan.
fn queries(plan: &Plan) -> ProbeQueries {
    let encoding = plan.recipe.task.encoding().queries();
    let (corpus, how) = (&plan.corpus, (&plan.tokenizer, &encoding));
    let split = corpus.split(Split::Validation);
    let set =
        QuerySet::of_queries("validation", corpus, split, &plan.left_out, None, 1, how).unwrap();
    ProbeQueries::new(set)
}

/// The records that the plan's probes give on `model`, in the run in `home`.
fn measure(
    home: &Path,
    plan: &Plan,
    model: &GenirModel,
    queries: &mut ProbeQueries,
) -> Result<Vec<Record>, ProbeError> {
    let section = plan.recipe.probes.as_ref().unwrap();
    let subject = Subject {
        model,
        device: &plan.device,
        tokenizer: &plan.tokenizer,
        docids: &plan.docids,
        checkpoint: home.join("run").display().to_string(),
        step: Some(plan.total_steps()),
        encoder_is_frozen: false,
    };
    let suite =
        Suite::new(&section.run, section.options(plan.stages.as_ref()), plan.config()).unwrap();
    suite.measure(&subject, queries, None, &ComparisonModels::default(), &mut |_, _| {
        ControlFlow::Continue(())
    })
}

/// As what is stored reads, without the time; as text, since NaN is not equal to itself.
fn text(record: &Record) -> String {
    let text = |record: &Record| {
        serde_json::to_string(&Record { seconds: 0.0, ..record.clone() }).unwrap()
    };
    text(&Record::parse(&text(record), String::new).unwrap())
}

#[test]
fn states_of_an_encoder_that_changes_are_not_kept_even_where_nothing_was_correct() {
    let home = TempDir::new().unwrap();
    let plan = plan(home.path(), &[&LEARNS[..], &[ALONE]].concat());
    let (untrained, trained) = (plan.model(&plan.device).unwrap(), train(&plan).model);
    let mut seen = queries(&plan);
    let none = measure(home.path(), &plan, &untrained, &mut seen);
    assert!(matches!(none, Err(ProbeError::NoCorrect { ranked: 8, .. })));
    let again = measure(home.path(), &plan, &trained, &mut seen).unwrap();
    let fresh = measure(home.path(), &plan, &trained, &mut queries(&plan)).unwrap();
    assert!(again.iter().map(text).eq(fresh.iter().map(text)));
}

#[test]
fn kept_encoder_states_give_what_fresh_ones_give() {
    for (select, is_frozen) in [
        ("[\"full\"]", false),
        ("[\"restricted\", \"docids\"]", true),
        ("[\"decoder\", \"docids\"]", true),
        ("[\"restricted\", \"words\"]", false),
        ("[\"restricted\", \"encoder.relative_bias\"]", false),
    ] {
        let select = format!("trainable.select={select}");
        for over in ["probes.over=all", "probes.over=correct"] {
            let home = TempDir::new().unwrap();
            let overrides =
                [&LEARNS[..], &[&select, over, ALONE, "probes.every_steps=40"]].concat();
            let plan = plan(home.path(), &overrides);
            assert_eq!(plan.frozen_prefix().is_some(), is_frozen, "{select}");
            let trained = train(&plan).model;
            let waits = said(home.path(), "step 120: probes skipped");
            match measure(home.path(), &plan, &trained, &mut queries(&plan)) {
                Ok(fresh) => {
                    assert_eq!(waits, [""; 0], "{select} {over}");
                    for fresh in &fresh {
                        let kept = history(home.path(), fresh.result.probe()).pop().unwrap();
                        assert_eq!(text(&kept), text(fresh), "{select} {over}");
                    }
                }
                Err(ProbeError::NoCorrect { best_rank, .. }) => {
                    assert!(waits[0].ends_with(&format!("best rank {best_rank}")), "{waits:?}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// The name of the base, the ranks with it in place of each cell of the paper, and with its encoder.
fn with_base(home: &Path) -> (String, Vec<RankShift>, RankShift) {
    let record = history(home, Probe::StagePatching).remove(0);
    let name = record.measured_on.base.unwrap();
    let ProbeResult::StagePatching(patching) = record.result else { panic!("no patching") };
    let cells = patching.cells.into_iter().filter(|cell| cell.replacement == Replacement::Base);
    let swap = history(home, Probe::EncoderSwap).remove(0);
    let ProbeResult::EncoderSwap(swap) = swap.result else { panic!("no swap") };
    assert_eq!(swap.swaps[0].encoder, name);
    (name, cells.map(|cell| cell.ranks).collect(), swap.swaps[0].ranks.clone())
}

const BEFORE_THE_FIRST_STEP: [&str; 4] =
    ["train.steps=1", "probes.at_start=true", "probes.at_end=false", "probes.over=all"];

/// Overrides for a run that starts from a checkpoint.
fn from_checkpoint(checkpoint: &Path) -> [String; 3] {
    let base = format!("model.base={}", checkpoint.display());
    [base, "~model.config".to_owned(), "model.init=pretrained".to_owned()]
}

fn train_with(home: &Path, parts: &[&[String]], more: &[&str]) {
    let parts = parts.iter().flat_map(|part| part.iter().map(String::as_str));
    train(&plan(home, &parts.chain(more.iter().copied()).collect::<Vec<_>>()));
}

#[test]
fn the_base_is_what_the_run_started_from() {
    let home = TempDir::new().unwrap();
    train(&plan(home.path(), &BEFORE_THE_FIRST_STEP));
    let (name, cells, swapped) = with_base(home.path());
    assert_eq!(name, "initialisation by seed 3");
    // Before the first step, the base's outputs are the model's own.
    assert_eq!(cells.len(), 9);
    assert!(cells.iter().all(|ranks| *ranks == swapped), "{cells:#?}");
}

#[test]
fn a_run_from_a_checkpoint_has_the_base_that_the_chain_of_runs_began_with() {
    let homes = [(); 4].map(|()| TempDir::new().unwrap());
    let [first, second, third, alone] = homes.each_ref().map(TempDir::path);
    train(&plan(first, &LEARNS));
    let latest = |home: &Path| home.join("run/checkpoints/latest");
    // Restricted, so that the encoder's states are kept: they are the checkpoint's, not the base's.
    let restricted = ["trainable.select=[\"restricted\", \"docids\"]"];
    let more = [&BEFORE_THE_FIRST_STEP[..], &restricted].concat();
    train_with(second, &[&from_checkpoint(&latest(first))], &more);
    train_with(third, &[&from_checkpoint(&latest(second))], &more);
    for home in [second, third] {
        let (name, cells, swapped) = with_base(home);
        let run = first.canonicalize().unwrap().join("run");
        assert_eq!(name, format!("initialisation by seed 3 of {}", run.display()));
        assert!(cells.iter().any(|ranks| *ranks != swapped), "{cells:#?}");
        let told = said(home, "the base model of the probes is ");
        assert!(told.len() == 1 && told[0].contains(" started from it"), "{told:?}");
    }
    // What the recipes lead to and what they say by name are the same model.
    let scratch = ["train.steps=1", "optimizer.learning_rate=1e-30", "train.label_smoothing=0"];
    let seed = TempDir::new().unwrap();
    train(&plan(seed.path(), &scratch));
    let named = TempDir::new().unwrap();
    let base = format!("probes.base={}", latest(seed.path()).display());
    train_with(named.path(), &[&from_checkpoint(&latest(first))], &[&more[..], &[&base]].concat());
    let ((_, cells, swapped), (name, same_cells, same)) =
        (with_base(second), with_base(named.path()));
    assert_eq!(name, latest(seed.path()).display().to_string());
    assert_eq!((cells, swapped), (same_cells, same));

    // Outside of its run a checkpoint does not say what it started from.
    let copy = TempDir::new().unwrap();
    for entry in fs::read_dir(latest(first)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    train_with(alone, &[&from_checkpoint(copy.path())], &more);
    let (name, cells, swapped) = with_base(alone);
    assert_eq!(name, copy.path().display().to_string());
    assert!(cells.iter().all(|ranks| *ranks == swapped), "{cells:#?}");
    let told = said(alone, "which was itself trained to retrieve");
    assert!(told.len() == 1 && told[0].contains("is in no run"), "{told:?}");
}

#[test]
fn a_base_that_cannot_be_compared_is_a_problem_of_the_plan() {
    let [wide, home] = [(); 2].map(|()| TempDir::new().unwrap());
    train(&plan(wide.path(), &["train.steps=1", "model.config.d_model=24"]));
    let base = format!("probes.base={}", wide.path().join("run/checkpoints/latest").display());
    for (base, part) in [
        (base.as_str(), "another shape: `d_model` is 24, and 16 in the model that is trained"),
        ("probes.base=no/such/base", "probes.base: base model `no/such/base`"),
    ] {
        let Err(message) = try_plan(home.path(), &[base]) else { panic!("it is accepted") };
        assert!(message.contains("1 problem") && message.contains(part), "{message}");
    }
    // Where nothing looks at it, nothing is asked of it.
    assert!(try_plan(home.path(), &["probes.base=no/such/base", ALONE]).is_ok());
    let without = ["probes.base=none", "probes.run=[\"stage_patching\"]", "probes.over=all"];
    let plan = plan(home.path(), &[&without[..], &["train.steps=1"]].concat());
    assert!(plan.probe_base().is_none());
    train(&plan);
    let record = history(home.path(), Probe::StagePatching).remove(0);
    assert_eq!(record.measured_on.base, None);
}

#[test]
fn a_plan_tells_all_that_is_wrong_with_its_probes() {
    let home = TempDir::new().unwrap();
    let wrong = [
        "probes.patches=[\"decoder.mlp[3]\", \"decoder.mlp[0]\", \"encoder.mlp[0]\", \"decoder.mpl\"]",
        "probes.circuit_patches=[\"decoder.mlp[I]\", \"decoder.mlp[9]=zero\"]",
    ];
    let Err(message) = try_plan(home.path(), &wrong) else { panic!("it is accepted") };
    for part in [
        "5 problems",
        "probes.patches: ",
        "decoder.mlp[3]",
        "encoder.mlp[0]",
        "did you mean `decoder.mlp`?",
        "probes.circuit_patches: ",
        "expected SELECTOR=zero",
        "decoder.mlp[9]",
    ] {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    fs::write(home.path().join("corpus/test_queries.json"), "[]").unwrap();
    let Err(message) = try_plan(home.path(), &["probes.test_split=test"]) else {
        panic!("accepted")
    };
    assert!(message.contains("probes.test_split: the corpus has no test queries"), "{message}");
    // Not asked for: the probed queries stand in.
    let plan = plan(home.path(), &["train.steps=1", "probes.over=all"]);
    assert!(train_from(&plan, None).is_ok());
    let record = history(home.path(), Probe::Circuit).remove(0);
    let ProbeResult::Circuit(circuit) = record.result else { panic!("no circuit") };
    assert_eq!(circuit.test_set, "validation");
}
