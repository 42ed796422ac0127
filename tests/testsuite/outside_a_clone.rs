//! The binary alone, in an empty directory: its recipes run by name, and copies of them get run directories of their
//! own.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// Runs `genir` in `directory` and returns standard output and error; the exit code must be `code`.
#[track_caller]
fn genir(directory: &Path, arguments: &[&str], code: i32) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_genir"))
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("HOME", directory)
        .output()
        .unwrap();
    let printed =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {printed}");
    printed
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// Overrides that make the quickstart run small.
const SMALL: [&str; 9] = [
    "model.config={ d_model = 16, d_ff = 32, d_kv = 8, num_heads = 2, num_layers = 1 }",
    "run.device=cpu",
    "task.max_tokens=16",
    "~train.epochs",
    "train.steps=2",
    "schedule.warmup_steps=0",
    "evaluate.queries=10",
    "evaluate.memorisation=0",
    "~probes",
];

/// The denoising loss of held-out documents before the first update.
fn denoising_loss(home: &Path, directory: &str, init: &str) -> f64 {
    let (directory, init) = (format!("run.directory={directory}"), format!("model.init={init}"));
    let overrides = [
        &directory,
        &init,
        "run.device=cpu",
        "~train.epochs",
        "train.steps=1",
        "schedule.warmup_steps=0",
        "evaluate.at_start=true",
    ];
    genir(home, &[&["train", "pretrain-tiny"], &overrides[..]].concat(), 0);
    let run = home.join(&directory["run.directory=".len()..]);
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let mut losses = metrics.lines().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["denoising/loss"].as_f64()
    });
    losses.next().unwrap()
}

#[test]
fn the_bundled_base_is_pre_trained_and_both_quickstarts_start_from_it() {
    let empty = TempDir::new().unwrap();
    let home = empty.path();
    // Far below the 5.35 of a unigram model.
    let loss = denoising_loss(home, "pretrained", "pretrained");
    assert!((2.4..2.6).contains(&loss), "{loss}");
    let loss = denoising_loss(home, "scratch", "scratch");
    assert!((8.0..10.0).contains(&loss), "{loss}");
    for form in ["full", "restricted"] {
        let name = format!("quickstart-{form}");
        // The first one is for models from scratch.
        let printed = genir(home, &[&["train", &name], &SMALL[1..]].concat(), 0);
        assert_says(&printed, &["bundled:tiny (pretrained)", &format!("genir search runs/{name}")]);
    }
    let printed =
        genir(home, &["compare", "runs/quickstart-full", "runs/quickstart-restricted"], 0);
    assert_says(&printed, &["Differences in hits@1", "Cost"]);
}

#[test]
fn the_sequence_of_the_readme_runs_in_an_empty_directory() {
    let empty = TempDir::new().unwrap();
    let home = empty.path();
    let run = |arguments: &[&str]| genir(home, &[arguments, &SMALL].concat(), 0);
    assert_says(
        &run(&["check", "quickstart"]),
        &[
            "recipe    quickstart, which comes with genir",
            "bundled:atlas-base",
            "no problems found",
        ],
    );
    assert_eq!(fs::read_dir(home).unwrap().count(), 0, "check writes nothing");
    assert_says(&run(&["train", "quickstart"]), &["genir search runs/quickstart"]);
    assert_says(&genir(home, &["search", "runs/quickstart", "what is iron"], 0), &["  1 "]);
    assert_says(&genir(home, &["eval", "runs/quickstart", "--queries", "5"], 0), &["hits@1"]);

    // The run exists: the same recipe is refused, a copy is not.
    let again = genir(home, &["check", "quickstart"], 1);
    assert_says(&again, &["run.directory: runs/quickstart already holds a run", "--overwrite"]);
    let copied = genir(home, &["recipes", "copy", "quickstart", "my.toml"], 0);
    assert_says(&copied, &["my.toml: run directory runs/my", "genir train my.toml"]);
    let text = fs::read_to_string(home.join("my.toml")).unwrap();
    assert_says(&text, &["directory = \"runs/my\"  #", "#   genir train my.toml\n"]);
    assert_says(&run(&["check", "my.toml"]), &["runs/my", "no problems found"]);
    assert_says(&run(&["train", "my.toml"]), &["genir search runs/my"]);
    assert!(home.join("runs/my/recipe.toml").exists());
    // A second copy with that name in another directory.
    fs::create_dir(home.join("other")).unwrap();
    genir(home, &["recipes", "copy", "quickstart", "other/my.toml"], 0);
    assert_says(&run(&["check", "other/my.toml"]), &["runs/my-2"]);
}

#[test]
fn a_file_with_the_name_of_a_recipe_is_read_instead_and_reported() {
    let empty = TempDir::new().unwrap();
    let home = empty.path();
    fs::write(home.join("quickstart"), "run.directory = 3\n").unwrap();
    let printed = genir(home, &["check", "quickstart"], 1);
    assert_says(&printed, &["the file quickstart in this directory", "run.directory = 3"]);
    fs::remove_file(home.join("quickstart")).unwrap();
    fs::create_dir(home.join("quickstart")).unwrap();
    assert_says(&genir(home, &["check", "quickstart"], 0), &["which comes with genir"]);
}

#[test]
fn a_recipe_that_is_not_there_names_the_one_that_comes_with_genir() {
    let empty = TempDir::new().unwrap();
    for missing in ["recipes/quickstart.toml", "quickstrt", "quickstart.toml"] {
        let printed = genir(empty.path(), &["check", missing], 1);
        assert_says(
            &printed,
            &[missing, "cannot be read", "genir includes a recipe named `quickstart`"],
        );
    }
}

#[test]
fn every_copy_of_a_recipe_has_a_run_directory_of_its_own() {
    let empty = TempDir::new().unwrap();
    for name in [
        "quickstart",
        "squad-1000-full",
        "squad-1000-restricted",
        "nq-t5-large-full",
        "nq-t5-large-restricted",
    ] {
        let file = format!("a \"{name}\".toml");
        genir(empty.path(), &["recipes", "copy", name, &file], 0);
        let text = fs::read_to_string(empty.path().join(&file)).unwrap();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["run"]["directory"].as_str(), Some(format!("runs/a \"{name}\"").as_str()));
        assert!(!text.contains(&format!("\"runs/{name}\"")), "{name}");
    }
}
