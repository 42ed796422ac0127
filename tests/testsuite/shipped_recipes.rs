//! The included recipes: all are valid, each starts with its command, and pairs differ only where they should.

use std::path::{Path, PathBuf};

use genir::recipe::{OptimizerSettings, Recipe, SHIPPED, SHIPPED_SWEEPS, ScheduleName};
use genir::sweep::{SweepOptions, SweepPlan};

fn shipped() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let entries = directory.read_dir().unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| !is_sweep(file));
    files.sort();
    files
}

/// Whether a file of `recipes/` is one for `genir sweep`.
fn is_sweep(file: &Path) -> bool {
    file.file_name().unwrap().to_str().unwrap().starts_with("sweep-")
}

#[test]
fn every_sweep_is_included_and_can_be_planned() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let files = directory.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = files
        .filter(|file| is_sweep(file))
        .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    let mut inside: Vec<&str> = SHIPPED_SWEEPS.iter().map(|sweep| sweep.name).collect();
    inside.sort();
    assert_eq!(inside, names);
    for sweep in SHIPPED_SWEEPS {
        assert!(sweep.text.contains(&format!("genir sweep {}", sweep.name)), "{}", sweep.name);
        let home = tempfile::tempdir().unwrap();
        let options = SweepOptions {
            recipe: sweep.name.into(),
            directory: Some(home.path().join("sweep")),
            ..SweepOptions::default()
        };
        let plan = SweepPlan::new(&options).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(plan.arms.len() > 1 && plan.runs.len() > plan.arms.len(), "{}", sweep.name);
    }
}

#[test]
fn shipped_recipes_parse_and_serialise_to_the_same_recipe() {
    let files = shipped();
    let names: Vec<_> = files.iter().map(|file| file.file_stem().unwrap()).collect();
    for name in [
        "quickstart",
        "quickstart-full",
        "quickstart-restricted",
        "pretrain-tiny",
        "squad-1000-full",
        "squad-1000-restricted",
        "nq-t5-large-full",
        "nq-t5-large-restricted",
    ] {
        assert!(names.contains(&name.as_ref()), "{name} is not shipped");
    }
    for file in &files {
        let recipe = Recipe::from_file(file, &[]).unwrap_or_else(|errors| panic!("{errors}"));
        let resolved = recipe.to_toml().unwrap();
        let again = Recipe::from_text("resolved.toml", &resolved, &[]);
        assert_eq!(again, Ok(recipe), "{resolved}");
    }
}

#[test]
fn every_recipe_is_included_in_the_library() {
    let mut inside: Vec<_> = SHIPPED
        .iter()
        .map(|recipe| (format!("{}.toml", recipe.name), recipe.text.to_owned()))
        .collect();
    inside.sort();
    let files: Vec<_> = shipped()
        .iter()
        .map(|file| {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(file).unwrap())
        })
        .collect();
    assert_eq!(inside, files);
}

#[test]
fn a_summary_is_the_first_sentence_of_the_comment() {
    for recipe in SHIPPED {
        let summary = recipe.summary();
        assert!(summary.ends_with('.') && summary.len() > 40, "{}: {summary}", recipe.name);
        assert!(!summary.contains('#') && !summary.contains("Needed"), "{summary}");
    }
    let restricted = SHIPPED.iter().find(|recipe| recipe.name == "nq-t5-large-restricted").unwrap();
    let summary = restricted.summary();
    assert!(summary.starts_with("T5-large on Natural Questions"), "{summary}");
    assert!(
        summary.ends_with("components that the paper found to matter, and the docid rows."),
        "{summary}"
    );
}

#[test]
fn shipped_recipes_start_with_their_command() {
    for file in shipped() {
        let text = std::fs::read_to_string(&file).unwrap();
        let header: String = text.lines().take_while(|line| line.starts_with('#')).collect();
        let name = file.file_stem().unwrap().to_str().unwrap();
        let command = format!("genir train {name}");
        assert!(header.contains(&command), "{name} has no `{command}`");
    }
}

#[test]
fn restricted_recipes_differ_from_full_ones_in_what_is_trained() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    for name in ["squad-1000", "nq-t5-large"] {
        let read = |kind: &str| {
            let file = directory.join(format!("{name}-{kind}.toml"));
            Recipe::from_file(&file, &[]).unwrap()
        };
        let (full, restricted) = (read("full"), read("restricted"));
        assert_eq!(full.trainable.select, ["full"]);
        assert_eq!(restricted.trainable.select, ["restricted", "docids"]);
        assert_eq!(full.corpus, restricted.corpus);
        assert_eq!(full.task, restricted.task);
        assert_eq!(full.evaluate, restricted.evaluate);
        assert_eq!(full.probes, restricted.probes);
    }
}

#[test]
fn the_hyperparameters_are_those_of_the_paper() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/nq-t5-large-full.toml");
    let recipe = Recipe::from_file(&file, &[]).unwrap();
    assert_eq!(recipe.optimizer.learning_rate, 1e-3);
    assert_eq!(recipe.optimizer.clip_norm, None);
    assert_eq!(
        recipe.optimizer.optimizer,
        OptimizerSettings::Adafactor {
            eps: [1e-30, 1e-3],
            clip_threshold: 1.0,
            decay_rate: -0.8,
            weight_decay: 0.0,
            scale_parameter: false,
        }
    );
    assert_eq!(recipe.schedule.name, ScheduleName::Constant);
    assert_eq!(recipe.train.batch_size * recipe.train.accumulate, 128);
    assert_eq!(recipe.task.document_tokens, 32);
    assert_eq!(recipe.task.query_tokens, 32);
    assert_eq!(recipe.task.ratio, Some(32.0));
}
