//! `genir advise`: the advised set covers what is printed, is minimal, and a recipe trains it; errors.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use genir::Retriever;
use genir::component::{Component, Selector, Stack, Stages};
use genir::corpus::Split;
use genir::device::device;
use genir::probe::{PROBE_PRECISION, Place, ProbeOptions, ProbeQueries, Suite};
use serde_json::Value;
use tempfile::TempDir;

use crate::command::{assert_says, genir_with_input, is_refused, succeeds, text};
use crate::tiny_corpus;
use crate::tiny_recipe::trained_tiny;
use crate::tiny_run;

/// A run of four decoder layers with correct queries.
fn trained() -> &'static Path {
    static RUN: OnceLock<TempDir> = OnceLock::new();
    let home = RUN.get_or_init(|| {
        trained_tiny(&[
            "train.steps=250",
            "optimizer.learning_rate=2e-2",
            "model.dropout=0",
            "model.config.num_decoder_layers=4",
        ])
    });
    home.path()
}

fn run() -> String {
    text(trained().join("run"))
}

fn advice(more: &[&str]) -> Value {
    let shown = succeeds(&[&["advise", &run(), "--json"], more].concat()).stdout;
    serde_json::from_str(&shown).unwrap()
}

fn selected(advice: &Value) -> Vec<String> {
    let select = advice["advice"]["select"].as_array().unwrap();
    select.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// The decoder components that selectors name.
fn named(select: &[String], stages: &Stages) -> BTreeSet<Place> {
    let selectors: Vec<Selector> = select.iter().map(|text| text.parse().unwrap()).collect();
    let all = (0..4).flat_map(|layer| Component::ALL.map(|component| (layer, component)));
    let matches = |&(layer, component): &Place| {
        selectors.iter().any(|selector| {
            selector.matches_component(Stack::Decoder, layer, component, Some(stages))
        })
    };
    all.filter(matches).collect()
}

/// Hits@1 over the correct queries of `split`, by the library, with each of `sets` ablated.
fn hits_without(split: Split, sets: &[BTreeSet<Place>]) -> Vec<f64> {
    let cpu = device("cpu").unwrap();
    let mut retriever = Retriever::open(&trained().join("run"), "best", cpu).unwrap();
    retriever.compute_in(PROBE_PRECISION);
    let config = retriever.checkpoint.model.t5.config().clone();
    let suite = Suite::new(&[], ProbeOptions::new(None), &config).unwrap();
    let set = retriever.queries(split, None, 1).unwrap();
    let mut queries = ProbeQueries::new(set);
    let subject = retriever.subject("run");
    let outcomes = suite.ablate(&subject, &mut queries, |model| model.without(sets)).unwrap();
    let hits = |outcomes: &Vec<_>| {
        let first = outcomes.iter().filter(|o: &&genir::probe::QueryOutcome| o.rank == 1).count();
        first as f64 / outcomes.len() as f64
    };
    outcomes.iter().map(hits).collect()
}

#[test]
fn the_advised_set_covers_what_is_printed_and_no_component_of_it_can_be_left_out() {
    let stages = Stages::scaled(4).unwrap();
    for share in [0.5, 0.9] {
        let found = advice(&["--share", &share.to_string()]);
        let advised = named(&selected(&found), &stages);
        let all: BTreeSet<Place> =
            (0..4).flat_map(|layer| Component::ALL.map(|component| (layer, component))).collect();
        let outside: BTreeSet<Place> = all.difference(&advised).copied().collect();
        // Nothing ablated, everything, all outside of the set, and the set less each of its components.
        let mut sets = vec![BTreeSet::new(), all, outside.clone()];
        sets.extend(advised.iter().map(|&place| {
            let mut less = outside.clone();
            less.insert(place);
            less
        }));
        let hits = hits_without(Split::Validation, &sets);
        let covered = |hits_1: f64| (hits_1 - hits[1]) / (hits[0] - hits[1]);
        let printed = found["advice"]["coverage"]["share"]["mean"].as_f64().unwrap();
        assert!((covered(hits[2]) - printed).abs() < 1e-9, "{printed} {hits:?}");
        assert!(printed >= share, "{printed}");
        assert!(!advised.is_empty());
        for (less, place) in hits[3..].iter().zip(&advised) {
            assert!(covered(*less) < share, "{place:?} can be left out: {hits:?}");
        }
        // The same set, on queries that the search does not see.
        let hits = hits_without(Split::Test, &sets[..3]);
        let covered = (hits[2] - hits[1]) / (hits[0] - hits[1]);
        let checked = found["advice"]["checked"]["share"]["mean"].as_f64().unwrap();
        assert!((covered - checked).abs() < 1e-9, "{checked} {hits:?}");
    }
}

#[test]
fn a_recipe_trains_the_printed_set_with_the_printed_number_of_parameters() {
    let found = advice(&[]);
    let advice = &found["advice"];
    let select = format!("trainable.select={}", advice["select"]);
    let plan = tiny_run::plan(trained(), &["model.config.num_decoder_layers=4", &select]);
    let number = |key: &str| advice[key].as_u64().unwrap() as usize;
    assert_eq!(plan.table.total.trained, number("parameters") + number("docid_parameters"));
    let decoder = "trainable.select=[\"decoder\"]";
    let plan = tiny_run::plan(trained(), &["model.config.num_decoder_layers=4", decoder]);
    assert_eq!(plan.table.total.trained, number("decoder_parameters"));
    assert!(number("parameters") < number("decoder_parameters"));
}

#[test]
fn the_advice_is_the_same_each_time_and_has_every_effect_and_the_reasons_for_doubt() {
    let shown = succeeds(&["advise", &run()]).stdout;
    assert_eq!(succeeds(&["advise", &run()]).stdout, shown);
    assert_says(
        &shown,
        &[
            "step 250, ",
            " correct of 8 validation queries, ranked among text tokens and docids",
            "stages I 0, II 1-2, III 3",
            "Fall of Hits@1 under mean ablation (P3)",
            "Fall of the log probability",
            "[trainable]\n    select = [\"decoder.",
            "\"docids\"]",
            "% of the decoder's",
            "coverage      ",
            "restricted    ",
            "The evidence is weak:",
            "Few queries: effects are means over ",
        ],
    );
    let found = advice(&[]);
    let components = found["advice"]["components"].as_array().unwrap();
    assert_eq!(components.len(), 12);
    assert_eq!(found["advice"]["by_stage"].as_array().unwrap().len(), 9);
    for effect in components {
        let interval = effect["hits"]["interval"].as_array().unwrap();
        let [low, high] = [&interval[0], &interval[1]].map(|value| value.as_f64().unwrap());
        let mean = effect["hits"]["mean"].as_f64().unwrap();
        assert!(low <= mean && mean <= high, "{effect}");
    }
    assert_eq!(found["detected_stages"], Value::Null);
    // The queries that the search does not see.
    assert_eq!(found["advice"]["checked"]["set"], "test");
}

#[test]
fn a_share_of_one_keeps_every_query() {
    let found = advice(&["--share", "1"]);
    assert_eq!(found["advice"]["coverage"]["share"]["mean"], 1.0);
    assert_eq!(found["advice"]["coverage"]["kept"], found["advice"]["coverage"]["intact"]);
}

#[test]
fn other_queries_other_stages_and_all_queries_can_be_asked_for() {
    let found = advice(&["--stages", "0..2,2..3,3..4", "--over", "all", "--queries", "5"]);
    let advice_of = &found["advice"];
    assert_eq!(advice_of["coverage"]["queries"], 5);
    assert_eq!(advice_of["stages"]["I"], "0..2");
    // Selectors by stage are read with these stages.
    let stages = Stages::explicit(0..2, 2..3, 3..4, 4).unwrap();
    let advised = named(&selected(&found), &stages);
    let flagged = advice_of["components"].as_array().unwrap().iter();
    assert_eq!(flagged.filter(|effect| effect["is_advised"] == true).count(), advised.len());
    let recipe = found["recipe"].as_str().unwrap();
    let by_stage = selected(&found).iter().any(|text| text.contains('I'));
    assert_eq!(recipe.contains("[stages]\nI = \"0..2\""), by_stage, "{recipe}");
}

#[test]
fn what_cannot_be_advised_is_refused_in_words() {
    let home = trained_tiny(&["train.steps=1"]);
    let untrained = text(home.path().join("run"));
    is_refused(&["advise", &untrained], &["no correct query", "none of 8 validation queries"]);
    is_refused(
        &["advise", &run(), "--check-split", "validation"],
        &["--check-split validation", "name another split"],
    );
    is_refused(&["advise", &text(home.path().join("corpus"))], &["neither a checkpoint"]);
    for share in ["0", "1.5", "much"] {
        let done = genir_with_input(&["advise", &run(), "--share", share], "");
        assert_eq!(done.code, 2);
        assert_says(&done.stderr, &["expected a number above 0 and at most 1", share]);
    }
    let corpus = home.path().join("without");
    tiny_corpus::write(&corpus);
    fs::remove_file(corpus.join("val_queries.json")).unwrap();
    let corpus = text(corpus);
    is_refused(&["advise", &run(), "--corpus", &corpus], &["the corpus has no validation queries"]);
}

#[test]
fn the_run_of_a_part_of_the_decoder_is_no_witness_for_what_training_changes() {
    // The last one is `full` in other words.
    for (select, in_part) in [
        (r#"["restricted", "docids"]"#, true),
        (r#"["full", "-norms"]"#, true),
        (r#"["full", "-decoder.mlp", "lora(decoder.mlp, rank=2, alpha=4)"]"#, true),
        (r#"["full", "-decoder.mlp", "decoder.mlp"]"#, false),
    ] {
        let home = trained_tiny(&[
            "train.steps=250",
            "optimizer.learning_rate=2e-2",
            "model.dropout=0",
            &format!("trainable.select={select}"),
        ]);
        let run = text(home.path().join("run"));
        let shown = succeeds(&["advise", &run, "--vocabulary", "docids"]);
        let says = shown.stdout.contains(&format!("The run trained {select} only"));
        assert_eq!(says, in_part, "{select}: {}", shown.stdout);
    }
}
