//! The documents say what the code does: every key of a recipe has its line, links lead somewhere, and `.ci/run` runs
//! the test command that README gives.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use genir::recipe::{Recipe, SHIPPED, SweepFile};

/// No key is near this one.
const NO_KEY: &str = "zqxjzqxjzqxjzqxj";

fn package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(package(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The keys and sections of the section `path` (empty: of the recipe), by what the reader says of an unknown one;
/// `None` where `path` is no section.
fn keys_of(path: &str, optimizer: &str) -> Option<Vec<String>> {
    let key = if path.is_empty() { NO_KEY.to_owned() } else { format!("{path}.{NO_KEY}") };
    // With all tasks: denoising has keys of its own.
    let tasks = "task.tasks=[\"indexing\", \"retrieval\", \"denoising\"]";
    let overrides = [format!("optimizer.name={optimizer}"), tasks.to_owned(), format!("{key}=1")];
    let errors = Recipe::from_text("empty.toml", "", &overrides).unwrap_err();
    let problem = errors.problems.iter().find(|problem| problem.key == key)?;
    let known = problem.message.strip_prefix("unknown key; known here are ")?;
    let full =
        |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    Some(known.split(", ").map(full).collect())
}

/// Every key that a recipe may have, dotted, and every section.
fn all_keys() -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut keys, mut sections) = (BTreeSet::new(), BTreeSet::new());
    for optimizer in ["adamw", "adafactor"] {
        let mut left = keys_of("", optimizer).expect("the sections of a recipe");
        while let Some(path) = left.pop() {
            match keys_of(&path, optimizer) {
                Some(inner) => {
                    left.extend(inner);
                    sections.insert(path);
                }
                None => {
                    keys.insert(path);
                }
            }
        }
    }
    (keys, sections)
}

#[test]
fn every_key_of_a_recipe_has_its_line_in_the_documents() {
    let page = text("docs/recipes.md");
    let (keys, sections) = all_keys();
    assert!(
        keys.contains("train.batch_size") && keys.contains("optimizer.clip_threshold"),
        "{keys:?}"
    );
    assert!(keys.len() > 90, "{}", keys.len());
    // All nine probes have the same four keys, which the page explains once.
    let of_one_probe = |key: &&String| key.starts_with("probes.") && key.matches('.').count() == 2;
    let missing: Vec<_> = keys
        .iter()
        .filter(|key| !of_one_probe(key))
        .filter(|key| {
            let cell = format!("`{key}`");
            !page.lines().any(|line| {
                let first = line.strip_prefix('|').and_then(|row| row.split('|').next());
                first.is_some_and(|first| first.contains(&cell))
            })
        })
        .collect();
    assert!(missing.is_empty(), "not in docs/recipes.md: {missing:?}");
    for key in keys.iter().filter(of_one_probe) {
        let last = key.rsplit('.').next().unwrap();
        assert!(
            ["every_steps", "every_epochs", "every_evaluations", "queries"].contains(&last),
            "{key}"
        );
    }
    let missing: Vec<_> =
        sections.iter().filter(|section| !page.contains(&format!("`[{section}]`"))).collect();
    assert!(missing.is_empty(), "not in docs/recipes.md: {missing:?}");
}

#[test]
fn no_line_of_the_documents_names_a_key_that_recipes_do_not_have() {
    let (keys, _) = all_keys();
    let page = text("docs/recipes.md");
    let reference = page.split("## Reference").nth(1).expect("the reference");
    for line in reference.lines().filter(|line| line.starts_with("| `")) {
        let first = line.split('|').nth(1).unwrap();
        for key in first.split('`').filter(|part| part.contains('.') && !part.contains(['*', '[']))
        {
            let selector = ["encoder.", "decoder."].iter().any(|stack| key.starts_with(stack));
            assert!(selector || keys.contains(key), "{key} in {line}");
        }
    }
}

#[test]
fn every_shipped_recipe_is_in_the_documents() {
    let page = text("docs/recipes.md");
    for recipe in SHIPPED {
        assert!(page.contains(&format!("`{}`", recipe.name)), "{}", recipe.name);
    }
}

/// The files of a directory whose names end in `extension`, with their path.
fn files_in(directory: &str, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(package(directory)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.ends_with(extension))
        .map(|name| format!("{directory}/{name}"))
        .collect()
}

/// README, and every page of `docs/`.
fn pages() -> Vec<String> {
    let roots = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(str::to_owned);
    [roots.to_vec(), files_in("docs", ".md"), files_in("docs/experiments", ".md")].concat()
}

#[test]
fn the_recipes_and_sweeps_of_the_experiments_are_valid() {
    let files = files_in("docs/experiments", ".toml");
    assert!(!files.is_empty());
    for file in files {
        let content = text(&file);
        if SweepFile::from_text(&file, &content).unwrap().is_none() {
            Recipe::from_text(&file, &content, &[]).unwrap();
        }
    }
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    for page in pages() {
        let content = text(&page);
        for link in content.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let directory = Path::new(&page).parent().unwrap();
            let target = if file.is_empty() { PathBuf::from(&page) } else { directory.join(file) };
            let path = package(target.to_str().unwrap());
            assert!(path.exists(), "{page}: {link}");
            if !place.is_empty() {
                let there = fs::read_to_string(&path).unwrap();
                let headings = there.lines().filter(|line| line.starts_with('#'));
                let mut anchors = headings.map(|line| anchor(line.trim_start_matches('#').trim()));
                assert!(anchors.any(|anchor| anchor == place), "{page}: no heading for {link}");
            }
        }
    }
}

#[test]
fn every_page_is_linked_from_the_index_and_from_the_readme() {
    let (index, readme) = (text("docs/README.md"), text("README.md"));
    // The pages of the experiments are linked from an index of their own.
    let is_listed = |page: &&str| *page != "README.md" && *page != "experiments/restricted.md";
    for page in pages().iter().filter_map(|page| page.strip_prefix("docs/")) {
        if is_listed(&page) {
            assert!(index.contains(&format!("({page}")), "docs/README.md does not link {page}");
            assert!(
                readme.contains(&format!("(docs/{page}")),
                "README.md does not link docs/{page}"
            );
        }
    }
}

#[test]
fn ci_runs_the_test_command_that_readme_gives() {
    let readme = text("README.md");
    let command = readme.lines().map(str::trim).find(|line| line.starts_with("cargo test"));
    let command = command.expect("README gives a test command");
    assert!(
        text(".ci/run").lines().any(|line| line.ends_with(&format!("run {command}"))),
        "{command}"
    );
}
