//! The tiny recipe as a file, for commands.

use std::fs;

use tempfile::TempDir;

use crate::command::succeeds;
use crate::tiny_corpus;

/// Writes the recipe into `home`; its path as an argument.
pub fn tiny_recipe(home: &TempDir) -> String {
    let file = home.path().join("tiny.toml");
    fs::write(&file, tiny_corpus::recipe(home.path())).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Trains the tiny recipe with overrides, by the command, in a directory of its own.
pub fn trained_tiny(overrides: &[&str]) -> TempDir {
    let home = TempDir::new().unwrap();
    let recipe = tiny_recipe(&home);
    succeeds(&[&["train", recipe.as_str()], overrides].concat());
    home
}
