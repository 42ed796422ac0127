//! Decoders of one and two layers have no stages: everything works but what needs them, which is refused in words. That
//! probes measure there what a plain reference does: `probes_against_reference.rs`.

use std::fs;
use std::path::Path;

use genir::checkpoint::Checkpoint;
use tempfile::TempDir;

use crate::command::{assert_says, is_refused, succeeds, text};
use crate::tiny_corpus;

/// The tiny recipe for a decoder of `depth` layers.
fn recipe(home: &Path, depth: usize) -> String {
    let file = home.join("shallow.toml");
    let recipe = tiny_corpus::recipe(home);
    let depth = format!("num_decoder_layers = {depth}");
    fs::write(&file, recipe.replace("num_decoder_layers = 3", &depth)).unwrap();
    text(file)
}

#[test]
fn a_shallow_decoder_is_trained_evaluated_and_searched() {
    for depth in [1, 2] {
        let home = TempDir::new().unwrap();
        let recipe = recipe(home.path(), depth);
        let shown = succeeds(&["check", &recipe]).stdout;
        let none = format!(
            "stages    none: three stages need at least 3 decoder layers; this model has {depth}"
        );
        assert_says(&shown, &[&none, "decoder self-attention", "decoder mlp", "no problems found"]);
        for (select, run) in [
            ("trainable.select=full", "full"),
            ("trainable.select=[\"decoder\", \"docids\"]", "decoder"),
            (
                "trainable.select=[\"decoder.mlp[0]\", \"decoder.cross_attention\", \"docids\"]",
                "layers",
            ),
        ] {
            let run = text(home.path().join(run));
            let directory = format!("run.directory={run}");
            succeeds(&["train", &recipe, select, &directory, "train.steps=2"]);
            let table = succeeds(&["eval", &run, "--split", "test"]).stdout;
            assert_says(&table, &["| all ", "hits@1"]);
            let found = succeeds(&["search", &run, "what is gold", "-k", "3"]).stdout;
            assert_eq!(found.lines().count(), 6, "{found}");
            let found = succeeds(&["inspect", &run, "what is gold"]).stdout;
            assert_says(&found, &["Logit lens", "Mean ablation", "|     - |"]);
            assert!(!found.contains("| all"), "no stage is ablated: {found}");
            let checkpoint = Path::new(&run).join("checkpoints/best");
            let opened = Checkpoint::open(&checkpoint, &burn::tensor::Device::flex()).unwrap();
            assert_eq!(opened.model.t5.decoder.layers.len(), depth);
        }
    }
}

/// Those that measure something without stages.
const WITHOUT_STAGES: [&str; 7] = [
    "residual_contribution",
    "logit_lens",
    "direct_effect",
    "encoder_swap",
    "neuron_reads",
    "attention_reads",
    "attention_writes",
];

/// The probes that a directory of results has files of.
fn probed(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    let mut names: Vec<String> = files.map(|path| text(path.with_extension(""))).collect();
    names.iter_mut().for_each(|name| *name = name.rsplit('/').next().unwrap().to_owned());
    names.sort();
    names
}

fn in_order(names: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_needs_three_stages_is_refused_from_the_plan() {
    let home = TempDir::new().unwrap();
    let recipe = recipe(home.path(), 2);
    for selector in ["restricted", "decoder.mlp[III]"] {
        is_refused(
            &[
                "check",
                &recipe,
                &format!("trainable.select=[\"{selector}\", \"docids\"]"),
                "probes.run=[\"logit_lens\", \"stage_patching\", \"circuit\"]",
            ],
            &[
                "3 problems",
                &format!("selector `{selector}` needs the decoder's three stages"),
                "a decoder of 2 layer(s) has none",
                "name the layers instead",
                "probes.run: the probe `stage_patching` replaces components by stage",
                "a decoder of 2 layer(s) has no stages, which need 3 layers",
                "`probes.patches`",
                "the probe `circuit`",
                "`probes.circuit_patches`",
            ],
        );
    }
    // What is named by a stage, in probes that can do without.
    is_refused(
        &["check", &recipe, "probes={ patches = [\"decoder.mlp[II]\"] }"],
        &["probes.patches", "`decoder.mlp[II]`", "has none", "name the layers instead"],
    );
    // A key of its own asks for a probe by name.
    is_refused(
        &["check", &recipe, "probes={ circuit = { queries = 4 } }"],
        &["1 problem", "the probe `circuit` replaces components by stage"],
    );
    is_refused(
        &["check", &recipe, "stages={ I = \"0\", II = \"1\", III = \"2\" }"],
        &["3 are the least"],
    );
    assert!(!home.path().join("run").exists());
}

#[test]
fn probes_in_training_measure_what_needs_no_stages_and_check_names_the_others() {
    for depth in [1, 2] {
        let home = TempDir::new().unwrap();
        let recipe = recipe(home.path(), depth);
        let keys = [recipe.as_str(), "train.steps=2", "probes={ over = \"all\", at_start = true }"];
        let left_out = [
            "probes: not measured: the probe `stage_patching` replaces components by stage",
            "probes: not measured: the probe `circuit` replaces components by stage",
        ];
        let shown = succeeds(&[&["check"], &keys[..]].concat()).stdout;
        assert_says(&shown, &[&left_out[..], &["no problems found"]].concat());
        let shown = succeeds(&[&["train"], &keys[..]].concat()).stderr;
        assert_says(&shown, &left_out);
        let run = home.path().join("run");
        assert_eq!(probed(&run.join("probes")), in_order(&WITHOUT_STAGES));
        // The run's own recipe says what was measured, and is read again without a note.
        let again = format!("run.directory={}", text(home.path().join("again")));
        let shown = succeeds(&["check", &text(run.join("recipe.toml")), &again]).stdout;
        assert!(!shown.contains("not measured"), "{shown}");
    }
}

#[test]
fn patches_that_name_layers_need_no_stages() {
    let home = TempDir::new().unwrap();
    let recipe = recipe(home.path(), 1);
    let probes = "probes={ over = \"all\", patches = [\"decoder.mlp[0]\"], \
                  circuit_patches = [\"decoder.self_attention=zero\"] }";
    let shown = succeeds(&["check", &recipe, probes]).stdout;
    assert!(!shown.contains("not measured"), "{shown}");
    succeeds(&["train", &recipe, "train.steps=2", probes]);
    let all = [&WITHOUT_STAGES[..], &["stage_patching", "circuit"]].concat();
    assert_eq!(probed(&home.path().join("run/probes")), in_order(&all));
}

#[test]
fn probe_measures_what_needs_no_stages_and_names_the_others_once() {
    let home = TempDir::new().unwrap();
    let recipe = recipe(home.path(), 2);
    succeeds(&["train", &recipe, "train.steps=1"]);
    let run = text(home.path().join("run"));
    let pictures = home.path().join("pictures");
    let done = succeeds(&["probe", &run, "--over", "all", "--plots", &text(pictures.clone())]);
    for probe in ["stage_patching", "circuit"] {
        let told = format!("skipped: the probe `{probe}` replaces components by stage");
        assert_eq!(done.stderr.matches(&told).count(), 1, "{}", done.stderr);
    }
    assert_says(&done.stderr, &["a decoder of 2 layer(s) has no stages", "--patch", "--circuit"]);
    assert_says(
        &done.stdout,
        &[
            "stages none",
            "Logit lens: median rank of the relevant docid",
            "Direct logit attribution by component type",
            "share of positive attribution (%) by source and destination layer",
            "of cross-attention, by layer",
        ],
    );
    for of_stages in ["by stage", "destination stage", "by patched stage", "Stage III", "NaN"] {
        assert!(!done.stdout.contains(of_stages), "{of_stages}: {}", done.stdout);
    }
    let mut drawn: Vec<String> = fs::read_dir(&pictures)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    drawn.sort();
    let expected = [
        "attention_reads.svg",
        "attention_reads_layers.svg",
        "attention_writes.svg",
        "direct_effect.svg",
        "encoder_swap.svg",
        "logit_lens.svg",
        "neuron_reads.svg",
        "neuron_reads_layers.svg",
        "residual_contribution.svg",
    ];
    assert_eq!(drawn, expected);

    let csv = succeeds(&["probe", &run, "--over", "all", "--format", "csv"]).stdout;
    let stage = |line: &str| line.split(',').nth(7).unwrap().to_owned();
    assert!(csv.lines().count() > 100 && csv.lines().skip(1).all(|line| stage(line).is_empty()));

    for (probe, remedy) in [("stage_patching", "--patch"), ("circuit", "--circuit")] {
        is_refused(
            &["probe", &run, "--probe", &format!("logit_lens,{probe}")],
            &[&format!("`{probe}`"), "2 layer(s)", "no stages", remedy, "leave this probe out"],
        );
    }
    is_refused(
        &["probe", &run, "--probe", "stage_patching", "--patch", "decoder.mlp[III]"],
        &["`decoder.mlp[III]`", "three stages", "name the layers instead"],
    );
    is_refused(
        &["probe", &run, "--probe", "logit_lens", "--stages", "0..1,1..2,2..3"],
        &["2 layers", "3 are the least"],
    );
    let given = ["--patch", "decoder.mlp[1]", "--circuit", "decoder.mlp[0]=mean"];
    let done = succeeds(&[&["probe", &run, "--over", "all"], &given[..]].concat());
    assert!(!done.stderr.contains("skipped"), "{}", done.stderr);
    assert_says(&done.stdout, &["User-defined patches", "decoder.mlp[0]=mean"]);
    assert!(!done.stdout.contains("by patched stage"), "{}", done.stdout);
}
