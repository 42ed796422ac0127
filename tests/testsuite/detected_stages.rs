//! `stages = "detect"`, in recipes and for `genir probe` and `genir advise`, on a base model with planted stages.

use std::fs;
use std::path::{Path, PathBuf};

use genir::recipe::{Recipe, StagesSetting};
use tempfile::TempDir;

use crate::command::{assert_says, is_refused, succeeds, text};
use crate::planted_stages::{CLEAR, plant};
use crate::small_recipe;
use crate::tiny_corpus;

/// A directory with a base model that has these contributions, and a recipe that trains it.
fn planted(is_above: &[bool]) -> (TempDir, String) {
    let home = TempDir::new().unwrap();
    let recipe = home.path().join("tiny.toml");
    fs::write(&recipe, tiny_corpus::recipe(home.path())).unwrap();
    let recipe = text(recipe);
    let layers = format!("model.config.num_decoder_layers={}", is_above.len());
    let directory = format!("run.directory={}", home.path().join("first").display());
    succeeds(&["train", &recipe, "train.steps=1", &layers, &directory]);
    let checkpoint = fs::canonicalize(home.path().join("first/checkpoints/latest")).unwrap();
    plant(&checkpoint, is_above);
    (home, recipe)
}

/// The arguments that train the planted base.
fn keys(home: &Path) -> Vec<String> {
    let base = format!("model.base={}", home.join("first").display());
    ["stages=detect", "model.init=pretrained", "~model.config", "train.steps=4", &base]
        .map(str::to_owned)
        .to_vec()
}

fn command(words: &[&str], keys: &[String]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).chain(keys.iter().cloned()).collect()
}

fn stdout(arguments: &[String]) -> String {
    succeeds(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).stdout
}

fn stderr(arguments: &[String]) -> String {
    succeeds(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).stderr
}

#[test]
fn a_recipe_detects_the_stages_of_its_base_and_the_run_has_their_numbers() {
    let (home, recipe) = planted(&CLEAR);
    let keys = keys(home.path());
    let checked = stdout(&command(&["check", &recipe], &keys));
    assert_says(
        &checked,
        &[
            "I 0, II 1-3, III 4-5, detected on 8 validation queries",
            "100% of the differences have the sign of their stage",
            "`genir train` writes these numbers into the recipe of the run",
            "so that ablation (P3) could not confirm it",
        ],
    );
    assert!(!home.path().join("run").exists(), "a check writes nothing");

    // Interrupted before its end, so that it can continue.
    let trained = stderr(&command(&["train", &recipe, "save.every_steps=2"], &keys));
    assert_says(&trained, &["detected on 8 validation queries"]);
    let stored = home.path().join("run/recipe.toml");
    let resolved = Recipe::from_file(&stored, &[]).unwrap();
    let stages = resolved.stages.as_ref().and_then(StagesSetting::given).unwrap();
    assert_eq!(stages.to_string(), "I 0, II 1-3, III 4-5");
    assert!(!fs::read_to_string(&stored).unwrap().contains("detect"));

    // The stages of the run are those of its probes.
    let run = text(home.path().join("run"));
    let probed = succeeds(&["probe", &run, "--probe", "direct_effect", "--over", "all"]).stdout;
    assert_says(&probed, &["stages I 0, II 1-3, III 4-5"]);
}

#[test]
fn a_run_continues_with_the_stages_that_it_was_started_with() {
    let (home, recipe) = planted(&CLEAR);
    let keys = keys(home.path());
    let save = ["train", &recipe, "save.every_steps=2", "save.keep_last=9"];
    stderr(&command(&save, &keys));
    let run = home.path().join("run");
    fs::remove_file(run.join("summary.json")).unwrap();
    let newest = newest_checkpoint(&run);
    fs::remove_dir_all(&newest).unwrap();
    // Another base would now have other stages: nothing is measured again.
    let base = fs::canonicalize(home.path().join("first/checkpoints/latest")).unwrap();
    plant(&base, &[true, false, false, false, true, true]);
    let continued = stderr(&command(&save, &keys));
    assert_says(&continued, &["the run continues from", "stages    I 0, II 1-3, III 4-5\n"]);
    assert!(!continued.contains("detected"), "{continued}");

    // Numbers that differ are another recipe, and so are stages that the run was started without.
    fs::remove_file(run.join("summary.json")).unwrap();
    fs::remove_dir_all(newest_checkpoint(&run)).unwrap();
    let mut other = command(&save, &keys);
    other.push("stages={I=\"0..2\",II=\"2..4\",III=\"4..6\"}".to_owned());
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    is_refused(&other, &["unfinished run of another recipe", "stages.I"]);
}

fn newest_checkpoint(run: &Path) -> PathBuf {
    let entries = fs::read_dir(run.join("checkpoints")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_step = |path: &PathBuf| {
        path.file_name().unwrap().to_str().unwrap().starts_with("step-") && !path.is_symlink()
    };
    paths.filter(is_step).max().unwrap()
}

#[test]
fn boundaries_that_are_not_clear_are_refused_and_the_remedy_is_named() {
    let cases: [(&[bool], &[&str]); 3] = [
        (&[false; 6], &["in no layer between the first and the last", "there is no Stage II"]),
        (&[true, true, true, false, false, false], &["from the first layer on", "no Stage I"]),
        (&[false, true, false, true, false, true, false], &["cross 6 times", "agree with only"]),
    ];
    for (is_above, parts) in cases {
        let (home, recipe) = planted(is_above);
        let arguments = command(&["check", &recipe], &keys(home.path()));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        is_refused(
            &arguments,
            &[&["stages = \"detect\": the stages cannot be detected"], parts].concat(),
        );
        is_refused(
            &arguments,
            &["give their layers as numbers, or leave the stages out", "scaled to"],
        );
    }
}

#[test]
fn boundaries_that_ablation_does_not_confirm_are_refused() {
    let (home, recipe) = planted(&CLEAR);
    let of = |name: &str| home.path().join(name).display().to_string();
    // Docid rows that are learnt on the planted base give queries that it answers, and change no stage of it.
    let base = format!("model.base={}", of("first"));
    let directory = format!("run.directory={}", of("second"));
    let select = r#"trainable.select=["docids"]"#;
    let keys_of_rows = ["model.init=pretrained", "~model.config", "optimizer.learning_rate=2e-2"];
    let rows = ["train", &recipe, &base, &directory, select, "train.steps=250"];
    succeeds(&[&rows[..], &keys_of_rows].concat());

    let mut refused = command(&["check", &recipe], &keys(home.path()));
    refused.push(format!("model.base={}", of("second")));
    let refused: Vec<&str> = refused.iter().map(String::as_str).collect();
    is_refused(
        &refused,
        &[
            "P3 does not confirm the stages that P1 shows in the base model: I 0, II 1-3, III 4-5",
            "not confirmed: mean ablation of cross-attention (P3) costs",
            "give their layers as numbers, or leave the stages out",
        ],
    );
}

#[test]
fn random_weights_have_no_stages_to_detect() {
    let problem = small_recipe::problem(&["stages=detect", "model.init=scratch"]);
    assert_says(&problem, &["stages", "model.init = \"scratch\" takes", "random ones"]);
    let problem = small_recipe::problem(&["stages=detct"]);
    assert_says(&problem, &["stages", "expected \"detect\", or a section [stages]"]);
}

#[test]
fn the_word_detect_is_read_and_written_in_the_place_of_a_section() {
    let recipe = small_recipe::small(&["stages=detect"]);
    assert_eq!(recipe.stages, Some(StagesSetting::Detect));
    let again = Recipe::from_text("again.toml", &recipe.to_toml().unwrap(), &[]).unwrap();
    assert_eq!(again, recipe);
    let in_file = format!("stages = \"detect\"\n{}", small_recipe::SMALL);
    assert_eq!(small_recipe::read(&in_file, &[]).unwrap(), recipe);
}

#[test]
fn probe_prints_detected_stages_with_the_lines_of_a_recipe() {
    let (home, _) = planted(&CLEAR);
    let first = text(home.path().join("first"));
    let options = ["--stages", "detect", "--over", "all"];
    let probed = succeeds(&[&["probe", &first, "--probe=direct_effect"], &options[..]].concat());
    let section = "[stages]\nI = \"0..1\"\nII = \"1..4\"\nIII = \"4..6\"\n";
    assert_says(&probed.stderr, &["stages I 0, II 1-3, III 4-5, detected on", section]);
    assert_says(&probed.stdout, &["stages I 0, II 1-3, III 4-5"]);
    // Without a correct query there is nothing to advise, but the stages come first.
    is_refused(&["advise", &first, "--stages", "detect"], &["no correct query"]);
}
