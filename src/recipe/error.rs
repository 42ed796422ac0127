//! Errors of a recipe, which are reported all at once.

use std::fmt;

use thiserror::Error;

/// The origin of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyOrigin {
    /// A line of the file, from 1.
    Line(usize),
    /// An override `key=value` on the command line.
    CommandLine,
}

impl fmt::Display for KeyOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyOrigin::Line(line) => write!(formatter, "line {line}"),
            KeyOrigin::CommandLine => formatter.write_str("command line"),
        }
    }
}

/// A problem with a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The origin of the key; `None` for a missing key, and for a file that cannot be read.
    pub origin: Option<KeyOrigin>,
    /// The dotted key; empty if the text is not valid TOML.
    pub key: String,
    /// The value found, as TOML.
    pub found: Option<String>,
    /// The problem, and what was expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = self.origin {
            write!(formatter, "{origin}: ")?;
        }
        formatter.write_str(&self.key)?;
        if let Some(found) = &self.found {
            write!(formatter, " = {found}")?;
        }
        let separator = if self.key.is_empty() { "" } else { ": " };
        write!(formatter, "{separator}{}", self.message)
    }
}

/// All problems with a recipe, displayed as a heading and one line for each.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct RecipeErrors {
    /// The name of the recipe's file.
    pub file: String,
    /// The problems: in the order of lines in the file, then those of the command line, then missing keys.
    pub problems: Vec<Problem>,
}

impl fmt::Display for RecipeErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(formatter, "recipe {}: {count} problem{plural}", self.file)?;
        for problem in &self.problems {
            write!(formatter, "\n  {problem}")?;
        }
        Ok(())
    }
}
