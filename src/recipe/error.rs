//! What can be wrong with a recipe, all of it at once.

use std::fmt;

use thiserror::Error;

/// Where a key was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyOrigin {
    /// In the file, on this line (from 1).
    Line(usize),
    /// As `key=value` on the command line.
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

/// One thing that is wrong with a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `None` for a key that is missing, and for a file that cannot be read.
    pub place: Option<KeyOrigin>,
    /// The dotted key; empty when the text is no TOML.
    pub key: String,
    /// The value found, as TOML.
    pub found: Option<String>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(formatter, "{place}: ")?;
        }
        formatter.write_str(&self.key)?;
        if let Some(found) = &self.found {
            write!(formatter, " = {found}")?;
        }
        let separator = if self.key.is_empty() { "" } else { ": " };
        write!(formatter, "{separator}{}", self.message)
    }
}

/// All that is wrong with one recipe: a heading and one line for each problem.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct RecipeErrors {
    /// The recipe's file, as it was named.
    pub file: String,
    /// In the order of the file's lines, then of the command line, then what is missing.
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
