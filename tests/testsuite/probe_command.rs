//! `genir probe` and `genir plot`: output, files, and errors.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use genir::component::Component;
use genir::probe::{MeasuredOn, NamedQueries, Probe, ProbeResult, Record, files};
use genir::retrieval::run_files::read_correct_queries;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command::{assert_says, genir_with_input, is_refused, succeeds, text};
use crate::tiny_recipe::trained_tiny;

/// A trained run with some correct queries, and with probes during training.
fn trained() -> &'static Path {
    static RUN: OnceLock<TempDir> = OnceLock::new();
    let home = RUN.get_or_init(|| {
        trained_tiny(&[
            "train.steps=200",
            "optimizer.learning_rate=2e-2",
            "model.dropout=0",
            "probes={every_steps=100, over=\"all\"}",
        ])
    });
    home.path()
}

fn run() -> String {
    text(trained().join("run"))
}

/// The run's checkpoint and its corpus, outside of any run.
fn alone() -> (TempDir, String, String) {
    let home = TempDir::new().unwrap();
    let checkpoint = home.path().join("checkpoint");
    fs::create_dir(&checkpoint).unwrap();
    for entry in fs::read_dir(trained().join("run/checkpoints/latest")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), checkpoint.join(entry.file_name())).unwrap();
    }
    (home, text(checkpoint), text(trained().join("corpus")))
}

fn records(arguments: &[&str]) -> Vec<Record> {
    let json = succeeds(&[&["probe"], arguments, &["--format", "json"]].concat()).stdout;
    let place = || "standard output".to_owned();
    let values: Vec<Value> = serde_json::from_str(&json).unwrap();
    values.iter().map(|value| Record::parse(&value.to_string(), place).unwrap()).collect()
}

/// Returns records as text, without the fields that differ between calls.
fn results(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| {
        serde_json::to_string(&Record { seconds: 0.0, ..record.clone() }).unwrap()
    };
    records.iter().map(text).collect()
}

#[test]
fn tables_json_and_csv_show_every_probe() {
    let run = run();
    let shown = succeeds(&["probe", &run]);
    assert_eq!(shown.stderr, "", "no probe is skipped: the base model of the run is known");
    assert_says(
        &shown.stdout,
        &[
            "step 200, ",
            " correct of 8 validation queries, ranked among text tokens and docids",
            "stages I 0, II 1, III 2; base model initialisation by seed 3",
            "| layer |",
        ],
    );

    let home = TempDir::new().unwrap();
    let at = |name: &str| text(home.path().join(name));
    let measured = records(&[&run]);
    let names: Vec<Probe> = measured.iter().map(|record| record.result.probe()).collect();
    assert_eq!(names, Probe::ALL);
    assert!(measured.iter().all(|record| record.measured_on.step == Some(200)));
    succeeds(&["probe", &run, "--format", "json", "--output", &at("all.json")]);
    let stored = files::read(&home.path().join("all.json")).unwrap();
    assert_eq!(results(&stored), results(&measured));

    let csv = succeeds(&["probe", &run, "--probe", "logit_lens,circuit", "--format", "csv"]).stdout;
    let columns = csv.lines().next().unwrap().split(',').count();
    assert!(csv.lines().count() > 20 && columns > 5, "{csv}");
    assert_says(&csv, &["logit_lens", "circuit"]);
    assert!(!csv.contains("stage_patching"));
}

#[test]
fn sample_and_candidate_set_can_be_selected() {
    let run = run();
    let options = ["--probe", "direct_effect", "--over", "all", "--vocabulary", "docids"];
    let more =
        ["--queries", "3", "--seed", "7", "--split", "test", "--stages", "I=0..1,II=1..2,III=2"];
    let [record] = &records(&[&[run.as_str()], &options[..], &more].concat())[..] else {
        panic!("not one record")
    };
    let on = &record.measured_on;
    assert_eq!((on.ranked, on.measured, on.queries.as_str()), (3, 3, "test"));
    assert_eq!(on.stages.as_ref().unwrap().to_string(), "I 0, II 1, III 2");
    let exact = records(&[&run, "--probe", "neuron_reads", "--variant", "exact"]);
    let ProbeResult::NeuronReads(reads) = &exact[0].result else { panic!("no reads") };
    assert!(reads.largest_deviation.unwrap() < 1e-4);
}

#[test]
fn user_defined_patches_and_circuits_are_measured_in_addition_to_the_papers() {
    let run = run();
    let patched = records(&[
        &run,
        "--probe=stage_patching,circuit",
        "--patch=decoder.layers[1]",
        "--patch",
        "decoder.cross_attention[1].heads[0,1]",
        "--circuit=decoder.mlp[I,II]=mean, decoder.self_attention=zero",
    ]);
    let ProbeResult::StagePatching(patching) = &patched[0].result else { panic!("no patching") };
    let own: Vec<&str> = patching
        .cells
        .iter()
        .filter(|cell| cell.component.is_none())
        .map(|cell| cell.selector.as_str())
        .collect();
    assert_eq!(own.len(), 6, "zero, mean and base of each: {own:?}");
    assert!(own.contains(&"decoder.cross_attention[1].heads[0,1]"));
    let of_paper = patching.cells.iter().filter(|cell| cell.component == Some(Component::Mlp));
    assert_eq!(of_paper.count(), 9);
    let ProbeResult::Circuit(circuit) = &patched[1].result else { panic!("no circuit") };
    let given = circuit.circuits.iter().find(|circuit| circuit.name == "given").unwrap();
    assert_eq!(given.patches, ["decoder.mlp[I,II]=mean", "decoder.self_attention=zero"]);

    let overlap = records(&[
        &run,
        "--probe=circuit",
        "--circuit=decoder.cross_attention[1]=zero,decoder.cross_attention[1].heads[1]=mean",
    ]);
    let ProbeResult::Circuit(circuit) = &overlap[0].result else { panic!("no circuit") };
    let patches = &circuit.circuits.last().unwrap().patches;
    let applied =
        ["decoder.cross_attention[1].heads[0]=zero", "decoder.cross_attention[1].heads[1]=mean"];
    assert_eq!(*patches, applied);
}

#[test]
fn correct_queries_are_written_and_read_in_the_papers_form() {
    let run = run();
    let home = TempDir::new().unwrap();
    let file = text(home.path().join("correct_valid.json"));
    let lens = [run.as_str(), "--probe", "logit_lens"];
    let found = records(&[&lens[..], &["--write-correct", &file]].concat());
    let pairs = read_correct_queries(Path::new(&file)).unwrap();
    assert_eq!(pairs.len(), found[0].measured_on.correct);
    assert!(
        pairs
            .iter()
            .all(|(token, query)| token.starts_with("@DOC_ID_") && query.starts_with("val-"))
    );
    let again = records(&[&lens[..], &["--correct", &file]].concat());
    let on = &again[0].measured_on;
    let all = NamedQueries { pairs: pairs.len(), used: pairs.len(), ranked_first: pairs.len() };
    assert_eq!(on.named, Some(all));
    let without_names = |record: &Record| {
        let on = MeasuredOn { named: None, ..record.measured_on.clone() };
        Record { measured_on: on, ..record.clone() }
    };
    assert_eq!(results(&[without_names(&again[0])]), results(&found));

    // A sample does not drop any of them.
    let sampled = records(&[&lens[..], &["--correct", &file, "--queries", "1"]].concat());
    assert_eq!(results(&sampled), results(&again));
    fs::write(&file, "[]").unwrap();
    is_refused(
        &["probe", &run, "--correct", &file],
        &[
            "correct_valid.json: the list of correct queries is empty, expected [[docid token, query id], ...]",
        ],
    );

    // Incorrect queries are measured too; a query that is listed twice is used once.
    let (wrong, right) = (["@DOC_ID_nile@", "val-0"], [&pairs[0].0, &pairs[0].1]);
    fs::write(&file, json!([wrong, right, wrong]).to_string()).unwrap();
    let named = records(&[&lens[..], &["--correct", &file]].concat());
    let on = &named[0].measured_on;
    assert_eq!(on.named, Some(NamedQueries { pairs: 3, used: 2, ranked_first: 1 }));
    assert_eq!((on.measured, on.correct, on.ranked), (2, pairs.len(), 8));
    let shown = succeeds(&[&["probe"], &lens[..], &["--correct", &file]].concat()).stdout;
    let counts = format!(
        "2 queries of 3 listed in a file, 1 of them ranked first (of all 8 validation queries: {})",
        pairs.len()
    );
    assert_says(&shown, &[&counts, "ranked among text tokens and docids"]);
    let csv = ["--correct", &file, "--format", "csv"];
    assert_says(
        &succeeds(&[&["probe"], &lens[..], &csv].concat()).stdout,
        &[",named,all,logit_lens,"],
    );

    for (pair, part) in [
        (["@DOC_ID_nile@", "test-7"], "test-7"),
        (["@DOC_ID_elbe@", "val-7"], "`@DOC_ID_elbe@` is not a docid of this model"),
    ] {
        fs::write(&file, json!([["@DOC_ID_7@", "val-0"], pair]).to_string()).unwrap();
        let parts = ["correct_valid.json", "correct query 1", part];
        is_refused(&["probe", &run, "--correct", &file], &parts);
    }
}

#[test]
fn probes_that_are_unavailable_for_a_checkpoint_are_skipped_and_named() {
    let (_home, checkpoint, corpus) = alone();
    let target = ["probe", &checkpoint, "--corpus", &corpus];
    let done = succeeds(&[&target[..], &["--format", "json"]].concat());
    assert_says(&done.stderr, &["skipped: encoder_swap", "--base", "--encoder-from"]);
    assert!(!done.stdout.contains("\"encoder_swap\""));
    assert!(done.stdout.contains("\"stage_patching\"") && !done.stdout.contains("\"base\": \""));
    is_refused(
        &[&target[..], &["--probe", "encoder_swap"]].concat(),
        &["encoder swap needs another encoder"],
    );
    let base = text(trained().join("run/checkpoints/latest"));
    let with = records(&[&target[1..], &["--base", &base, "--probe", "encoder_swap"]].concat());
    assert_eq!(with[0].measured_on.base.as_ref(), Some(&base));
}

#[test]
fn encoder_swap_reports_the_documents_excluded_from_training() {
    let run = run();
    let home = trained_tiny(&["train.steps=5", "corpus.leave_out.ids=[\"neon\", \"lima\"]"]);
    let other = text(home.path().join("run"));
    let swap = |more: &[&str]| {
        let options = ["--probe", "encoder_swap", "--encoder-from", &other];
        let found = records(&[&[run.as_str()], &options[..], more].concat()).remove(0);
        let ProbeResult::EncoderSwap(swap) = found.result else { panic!("no swap") };
        swap.swaps
    };
    let swaps = swap(&[]);
    let names: Vec<&str> = swaps.iter().map(|swap| swap.encoder.as_str()).collect();
    assert_eq!(names, ["initialisation by seed 3", &format!("{other}/checkpoints/best")]);
    let held_out = swaps[1].held_out.as_ref().unwrap();
    assert_eq!((held_out.documents, held_out.queries), (2, 2));
    let swaps = swap(&["--left-out-ids", "7,0,oxygen", "--base", "none"]);
    assert_eq!(swaps.len(), 1);
    assert_eq!(swaps[0].held_out.as_ref().unwrap().documents, 3);
    is_refused(
        &["probe", &run, "--encoder-from", &other, "--left-out-ids", "elbe"],
        &["`elbe`", "8 docids"],
    );
    // An id may start with a minus.
    is_refused(
        &["probe", &run, "--encoder-from", &other, "--left-out-ids", "-17,7"],
        &["without the document `-17`"],
    );
}

#[test]
fn options_that_cannot_be_measured_are_errors() {
    let run = run();
    let probe = |more: &[&str], parts: &[&str]| {
        is_refused(&[&["probe", run.as_str()], more].concat(), parts);
    };
    probe(&["--stages", "0..1,1..2,2..5"], &["stages: ", "layer 4", "last layer is 2"]);
    let stages = genir_with_input(&["probe", &run, "--stages", "0..1,1..2,2..5"], "").stderr;
    assert_eq!(stages.matches("last layer is 2").count(), 1, "reported once: {stages}");
    probe(&["--patch", "decoder.mlp[7]"], &["decoder.mlp[7]", "3 layers"]);
    probe(&["--patch", "decoder.mpl"], &["decoder.mpl", "did you mean `decoder.mlp`?"]);
    probe(
        &["--circuit", "decoder.mlp[I,II]"],
        &["`decoder.mlp[I,II]` is not a patch", "SELECTOR=zero"],
    );
    probe(
        &["--probe", "logit_lens", "--patch", "decoder.mlp"],
        &["--patch applies to stage_patching"],
    );
    probe(&["--base", "no/such/base"], &["no/such/base"]);
    probe(&["--correct", "no/such/file.json"], &["no/such/file.json"]);
    // Detected before anything is read: errors of later steps are not reached.
    let late = ["--output", "no/such/place/probes.json", "--correct", "no/such/file.json"];
    probe(&late, &["--output no/such/place/probes.json: cannot be written"]);

    let corpus = text(trained().join("corpus"));
    is_refused(
        &["probe", "checkpoints/atlas-base", "--corpus", &corpus],
        &["no docids", "genir train"],
    );
    let begun = trained_tiny(&["train.steps=1"]);
    is_refused(
        &["probe", &text(begun.path().join("run"))],
        &[
            "no correct query: none of 8 validation queries",
            "at rank 1 among text tokens and docids (best rank ",
            "query `val-",
            "rank docids only",
        ],
    );
}

#[test]
fn a_base_of_another_shape_is_refused_with_the_tensor_and_its_sizes() {
    let wider = trained_tiny(&["train.steps=1", "model.config.d_model=24"]);
    let base = text(wider.path().join("run/checkpoints/latest"));
    is_refused(
        &["probe", &run(), "--probe", "stage_patching", "--base", &base],
        &["another shape", "shared.weight", "24]", "16]"],
    );
    is_refused(
        &["probe", &run(), "--probe", "encoder_swap", "--encoder-from", &base],
        &["another shape", "shared.weight", "24]", "16]"],
    );
}

#[test]
fn a_bad_command_line_ends_with_2() {
    let run = run();
    for wrong in [
        &["--probe", "logit_lense"][..],
        &["--stages", "0..1,1..3"],
        &["--stages", "II=0..1,I=1..2,III=2"],
        &["--stages", "0..1,2..3,3..4"],
        &["--over", "some"],
        &["--batch-size", "0"],
        &["--queries", "0"],
        &["--left-out-ids", "7"],
    ] {
        let done = genir_with_input(&[&["probe", run.as_str()], wrong].concat(), "");
        assert_eq!(done.code, 2, "{wrong:?}: {}", done.stderr);
    }
    let done = genir_with_input(&["probe", &run, "--probe", "logit_lense"], "");
    assert_says(&done.stderr, &["logit_lense", "\"logit_lens\""]);
    assert_eq!(genir_with_input(&["plot"], "").code, 2);
    let help = succeeds(&["probe", "--help"]).stdout;
    for probe in Probe::ALL {
        assert_says(&help, &[&format!("\n  {probe} ")]);
    }
}

#[test]
fn results_are_written_even_if_figures_cannot_be() {
    let home = TempDir::new().unwrap();
    let (taken, numbers) = (home.path().join("taken"), home.path().join("numbers.json"));
    fs::write(&taken, "").unwrap();
    let wanted = ["--probe", "direct_effect", "--format", "json", "--output"];
    let refused = |plots: String, words: &str| {
        let places = [text(numbers.clone()), "--plots".to_owned(), plots];
        let places = places.each_ref().map(String::as_str);
        is_refused(&[&["probe", run().as_str()], &wanted[..], &places].concat(), &[words]);
    };
    // Detected beforehand: nothing is measured.
    refused(text(taken.clone()), "expected a directory, found a file");
    assert!(!numbers.exists());
    refused(text(taken.join("below")), "cannot create");
    assert_eq!(files::read(&numbers).unwrap().len(), 1);
}

#[test]
fn a_truncated_last_line_is_skipped() {
    let home = TempDir::new().unwrap();
    let history = fs::read_to_string(trained().join("run/probes/logit_lens.jsonl")).unwrap();
    let cut = home.path().join("logit_lens.jsonl");
    fs::write(&cut, format!("{history}{}", &history[..200])).unwrap();
    let plot = ["plot", &text(cut.clone()), "-o", &text(home.path().join("drawn"))];
    let done = succeeds(&plot);
    assert_says(&done.stderr, &["passed over", "logit_lens.jsonl, line 3"]);
    let whole = files::read(&trained().join("run/probes/logit_lens.jsonl")).unwrap();
    assert_eq!(files::read(&cut).unwrap(), whole);

    // In any other line it is an error, and so is a file without a complete line.
    for broken in [format!("{}\n{history}", &history[..200]), history[..200].to_owned()] {
        fs::write(&cut, broken).unwrap();
        is_refused(&plot, &["logit_lens.jsonl, line 1"]);
    }
}

#[test]
fn figures_are_drawn_from_stored_results() {
    let run = run();
    let home = TempDir::new().unwrap();
    let at = |name: &str| text(home.path().join(name));
    let drawn = succeeds(&["plot", &run, "--output", &at("of-run")]).stdout;
    assert!(drawn.lines().count() >= Probe::ALL.len(), "{drawn}");
    for line in drawn.lines() {
        assert!(fs::read_to_string(line).unwrap().starts_with("<svg"), "{line}");
    }
    assert!(home.path().join("of-run/logit_lens.svg").exists(), "{drawn}");

    let json = at("now.json");
    let options = ["--probe", "logit_lens", "--format", "json", "--output", &json];
    succeeds(&[&["probe", &run, "--plots", &at("now")], &options[..]].concat());
    assert!(home.path().join("now/logit_lens.svg").exists());
    succeeds(&["plot", &json, "-o", &at("again")]);
    let again = fs::read(home.path().join("again/logit_lens.svg")).unwrap();
    assert!(again == fs::read(home.path().join("now/logit_lens.svg")).unwrap());

    is_refused(&["plot", &json, &json, "-o", &at("x")], &["two inputs", "`now`"]);
    fs::write(&json, "{\"schema\": 9}\n").unwrap();
    is_refused(&["plot", &json, "-o", &at("x")], &["now.json, line 1", "schema 9"]);
    let without = trained_tiny(&["train.steps=1"]);
    let without = text(without.path().join("run"));
    is_refused(
        &["plot", &without, "--figure", "probes", "-o", &at("x")],
        &["no probe results found"],
    );
    succeeds(&["plot", &without, "-o", &at("training")]);
    assert!(home.path().join("training/training_over_steps.svg").exists());
}
