//! Decoders of one and two layers have no stages: everything works but what needs them, which is refused in words.

use std::fs;
use std::path::Path;

use genir::checkpoint::Checkpoint;
use tempfile::TempDir;

#[path = "support/command.rs"]
mod command;
#[path = "support/tiny_corpus.rs"]
mod tiny_corpus;

use command::{assert_says, is_refused, succeeds, text};

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
        let none =
            format!("stages    none: three stages need 3 decoder layers, this one has {depth}");
        assert_says(&shown, &[&none, "decoder self-attention", "decoder mlp", "nothing is wrong"]);
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
            let checkpoint = Path::new(&run).join("checkpoints/best");
            let opened = Checkpoint::open(&checkpoint, &burn::tensor::Device::flex()).unwrap();
            assert_eq!(opened.model.t5.decoder.layers.len(), depth);
        }
    }
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
                "probes={}",
            ],
            &[
                "2 problems",
                &format!("selector `{selector}` needs the decoder's three stages"),
                "a decoder of 2 layer(s) has none",
                "name the layers instead",
                "probes: they describe a decoder by its three stages",
                "`~probes`",
            ],
        );
    }
    is_refused(
        &["check", &recipe, "stages={ I = \"0\", II = \"1\", III = \"2\" }"],
        &["3 are the least"],
    );
    assert!(!home.path().join("run").exists());
    succeeds(&["train", &recipe, "train.steps=1"]);
    is_refused(
        &["probe", &text(home.path().join("run"))],
        &["probes describe a decoder by its three stages", "2 layers"],
    );
}
