//! The smallest recipe, read with overrides, and what is wrong with it.

use genir::recipe::{Recipe, RecipeErrors};

/// A recipe with the required keys only.
pub const SMALL: &str = r#"
[run]
directory = "runs/small"
[model]
base = "google-t5/t5-small"
[corpus]
path = "bundled:atlas"
[optimizer]
learning_rate = 1e-3
[train]
steps = 100
batch_size = 8
"#;

/// A recipe from its text and overrides.
pub fn read(text: &str, overrides: &[&str]) -> Result<Recipe, RecipeErrors> {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    Recipe::from_text("small.toml", text, &overrides)
}

/// The small recipe with overrides.
pub fn small(overrides: &[&str]) -> Recipe {
    read(SMALL, overrides).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The lines of the problems, without the heading.
pub fn problems(text: &str, overrides: &[&str]) -> Vec<String> {
    let errors = read(text, overrides).expect_err("the recipe is wrong");
    errors.problems.iter().map(ToString::to_string).collect()
}

/// The only problem of the small recipe with these overrides.
pub fn problem(overrides: &[&str]) -> String {
    let mut problems = problems(SMALL, overrides);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}
