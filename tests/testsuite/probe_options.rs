//! What can be chosen in a probe beside the defaults, on a small trained model: definitions, and ranks of every query.

use std::fs;
use std::path::Path;

use genir::probe::{
    AverageFirst, EncoderNorm, EncoderSwap, InputAttribution, LensSite, Probe, ProbeResult, Record,
    Replacement,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::command::{assert_says, is_refused, succeeds, text};

/// A part of the fixture: a model of three decoder layers, its base, or its corpus.
fn part(name: &str) -> String {
    text(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/probes/shallow").join(name))
}

fn probed(more: &[&str]) -> Vec<Record> {
    let [checkpoint, corpus, base] = ["checkpoint", "corpus", "base"].map(part);
    let target = ["probe", &checkpoint, "--corpus", &corpus, "--base", &base, "--format", "json"];
    let json = succeeds(&[&target[..], more].concat()).stdout;
    let values: Vec<Value> = serde_json::from_str(&json).unwrap();
    values.iter().map(|value| Record::parse(&value.to_string(), String::new).unwrap()).collect()
}

fn reads(more: &[&str]) -> Vec<InputAttribution> {
    let found = probed(&[&["--probe", "neuron_reads,attention_reads"], more].concat());
    let reads = found.into_iter().map(|record| match record.result {
        ProbeResult::NeuronReads(reads) | ProbeResult::AttentionReads(reads) => reads,
        _ => panic!("no reads"),
    });
    reads.collect()
}

#[test]
fn reads_are_averaged_over_readers_or_over_queries_first() {
    let (readers, queries) = (reads(&[]), reads(&["--average-first", "queries"]));
    assert!(readers.iter().all(|reads| reads.average_first == AverageFirst::Readers));
    assert!(queries.iter().all(|reads| reads.average_first == AverageFirst::Queries));
    assert_ne!(readers[0].layers, queries[0].layers);
    for (one, other) in readers.iter().zip(&queries) {
        for (one, other) in one.layers.iter().zip(&other.layers) {
            assert_eq!(one.readers, other.readers);
            let sum: f64 = other.shares.iter().map(|share| share.share).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{other:?}");
        }
    }
    let csv = ["--probe", "neuron_reads", "--average-first", "queries", "--format", "csv"];
    let [checkpoint, corpus] = ["checkpoint", "corpus"].map(part);
    let csv = succeeds(&[&["probe", &checkpoint, "--corpus", &corpus], &csv[..]].concat()).stdout;
    assert_says(&csv, &[",\"paper, queries first\","]);
}

#[test]
fn a_selector_that_begins_with_a_minus_is_refused_as_a_selector() {
    let [checkpoint, corpus] = ["checkpoint", "corpus"].map(part);
    for (option, probe, selector) in [
        ("--patch", "stage_patching", "-decoder.mlp"),
        ("--circuit", "circuit", "-decoder.mlp=zero"),
    ] {
        let target =
            ["probe", &checkpoint, "--corpus", &corpus, "--base", &checkpoint, "--probe", probe];
        is_refused(
            &[&target[..], &[option, selector]].concat(),
            &["`-decoder.mlp` cannot be patched: it excludes components"],
        );
    }
}

fn swap(more: &[&str]) -> EncoderSwap {
    let found = probed(&[&["--probe", "encoder_swap"], more].concat()).remove(0);
    let ProbeResult::EncoderSwap(swap) = found.result else { panic!("no swap") };
    swap
}

#[test]
fn another_encoder_comes_with_its_norm_or_meets_the_models_own() {
    let (other, own) = (swap(&[]), swap(&["--encoder-norm", "own"]));
    assert_eq!((other.encoder_norm, own.encoder_norm), (EncoderNorm::Other, EncoderNorm::Own));
    assert_ne!(other.swaps[0].ranks, own.swaps[0].ranks);
    // With its own encoder there is nothing to choose, and nothing is lost.
    let itself = part("checkpoint");
    for norm in ["other", "own"] {
        let swap = swap(&["--encoder-norm", norm, "--encoder-from", &itself]);
        assert_eq!(swap.swaps[1].ranks.beyond_1, 0.0, "{norm}");
    }
    // What other probes make of the base's encoder stays its own.
    let with_base = |norm: &str| {
        let both = ["--probe", "stage_patching,encoder_swap", "--encoder-norm", norm];
        let found = probed(&both).remove(0);
        let ProbeResult::StagePatching(patching) = found.result else { panic!("no patching") };
        let cells = patching.cells.into_iter().filter(|cell| cell.replacement == Replacement::Base);
        cells.collect::<Vec<_>>()
    };
    assert_eq!(with_base("other"), with_base("own"));
}

#[test]
fn ranks_of_every_query_are_written_on_request() {
    let home = TempDir::new().unwrap();
    let file = text(home.path().join("ranks.csv"));
    let other = part("other");
    let held_out = ["--encoder-from", &other, "--left-out-ids", "2,11,17,23,29,38"];
    let found = probed(&[&["--per-query", &file, "--over", "all"], &held_out[..]].concat());
    let rows = fs::read_to_string(&file).unwrap();
    let rows: Vec<Vec<&str>> = rows.lines().map(|line| line.split(',').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|column| *column == name).unwrap();
    let [probe, layer, stage, of, setting, query, rank] =
        ["probe", "layer", "stage", "of", "setting", "query", "rank"].map(column);
    let ranks = |wanted: Probe, keys: [&str; 4]| -> Vec<(String, u32)> {
        let is = |row: &&Vec<&str>| {
            row[probe] == wanted.name() && [row[layer], row[stage], row[of], row[setting]] == keys
        };
        let rows = rows.iter().filter(is);
        rows.map(|row| (row[query].to_owned(), row[rank].parse().unwrap())).collect()
    };
    let only = |ranks: &[(String, u32)]| ranks.iter().map(|(_, rank)| *rank).collect::<Vec<u32>>();
    let share = |ranks: &[u32]| {
        100.0 * ranks.iter().filter(|rank| **rank > 1).count() as f64 / ranks.len() as f64
    };

    let [_, lens, effects, patching, circuit, swap, ..] = &found[..] else { panic!("too few") };
    let measured = &lens.measured_on.measured_queries;
    assert_eq!(measured.len(), lens.measured_on.measured);
    // What is read off after the last layer is what the model ranks.
    let unpatched = ranks(Probe::LogitLens, ["", "", "", "unpatched"]);
    assert_eq!(ranks(Probe::LogitLens, ["2", "III", "residual_post", ""]), unpatched);
    assert_eq!(
        only(&unpatched).iter().filter(|rank| **rank == 1).count(),
        lens.measured_on.correct
    );
    let ProbeResult::LogitLens(lens) = &lens.result else { panic!("no lens") };
    let site = lens.sites.iter().find(|site| (site.layer, site.site) == (1, LensSite::MlpOut));
    let of_site = only(&ranks(Probe::LogitLens, ["1", "II", "mlp_out", ""]));
    assert_eq!((of_site.len(), share(&of_site)), (measured.len(), site.unwrap().ranks.beyond_1));

    let ProbeResult::DirectEffect(effects) = &effects.result else { panic!("no effect") };
    let of_mlp = only(&ranks(Probe::DirectEffect, ["", "", "mlp", ""]));
    assert_eq!(of_mlp, effects.effects[0].ranks.ranks);
    let ProbeResult::StagePatching(patching) = &patching.result else { panic!("no patching") };
    for cell in &patching.cells {
        assert_eq!(share(&cell.ranks.ranks), cell.ranks.beyond_1, "{}", cell.selector);
    }
    let of_cell = only(&ranks(Probe::StagePatching, ["", "I", "self_attention", "zero"]));
    assert_eq!(of_cell, patching.cells[0].ranks.ranks);

    // A query with two relevant documents has a row for each.
    let ProbeResult::Circuit(circuit) = &circuit.result else { panic!("no circuit") };
    for (name, scores) in
        [("unpatched", circuit.unpatched), ("paper", circuit.circuits[0].absolute)]
    {
        let ranks = ranks(Probe::Circuit, ["", "", "test", name]);
        let mut first: Vec<&String> =
            ranks.iter().filter(|(_, rank)| *rank == 1).map(|(query, _)| query).collect();
        first.dedup();
        let expected = circuit.test_queries as f64 * scores.hits_1;
        assert_eq!(first.len(), expected.round() as usize, "{name}");
    }
    let ProbeResult::EncoderSwap(swap) = &swap.result else { panic!("no swap") };
    let swapped = only(&ranks(Probe::EncoderSwap, ["", "", "", &part("base")]));
    assert_eq!(share(&swapped), swap.swaps[0].ranks.beyond_1);
    let held_out = swap.swaps[1].held_out.as_ref().unwrap();
    let of_held_out = only(&ranks(Probe::EncoderSwap, ["", "", "held_out_swapped", &other]));
    assert_eq!(of_held_out.len(), held_out.queries);
    assert_eq!(of_held_out.iter().filter(|rank| **rank == 1).count(), held_out.swapped.first);

    // Not asked for, they take no place.
    let [record] = &probed(&["--probe", "stage_patching"])[..] else { panic!("not one") };
    let json = serde_json::to_string(record).unwrap();
    assert!(!json.contains("\"ranks\":") && !json.contains("measured_queries"), "{json}");
}
