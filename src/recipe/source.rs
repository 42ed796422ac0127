//! The text of a recipe with the overrides of the command line, and the origin of each key.

use std::collections::HashMap;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::error::{KeyOrigin, Problem};
use crate::nearest::nearest;

/// The most parts of a dotted key on the command line. Each is a table inside of the one before.
const MOST_PARTS: usize = 10;

/// The keys and values of a recipe before they are validated.
#[derive(Default)]
pub(super) struct Source {
    pub(super) table: Table,
    /// The origins by dotted key.
    origins: HashMap<String, KeyOrigin>,
    /// The text of overrides by dotted key: a value that looks like a number may be read as a string.
    texts: HashMap<String, String>,
}

impl Source {
    /// Parses TOML `text`, then applies `overrides` in order: `key=value` sets, `~key` removes.
    ///
    /// Errors: invalid TOML, with its line, and overrides that cannot be applied.
    pub(super) fn read(text: &str, overrides: &[String]) -> Result<Self, Vec<Problem>> {
        let (places, mistakes) = DeTable::parse_recoverable(text);
        // Computed once for all keys: counting the lines before each key would take quadratic time.
        let ends: Vec<usize> = text.match_indices('\n').map(|(end, _)| end).collect();
        let line = |offset: usize| 1 + ends.partition_point(|end| *end < offset);
        let problem = |error: &toml::de::Error| Problem {
            origin: error.span().map(|span| KeyOrigin::Line(line(span.start))),
            key: String::new(),
            found: None,
            message: error.message().replace('\n', "; "),
        };
        if !mistakes.is_empty() {
            return Err(mistakes.iter().map(problem).collect());
        }
        let table = text.parse().map_err(|error| vec![problem(&error)])?;
        let mut source = Self { table, ..Self::default() };
        source.note_lines("", places.get_ref(), &line);

        let applied = overrides.iter().map(|text| source.apply(text));
        let problems: Vec<Problem> = applied.filter_map(Result::err).collect();
        if problems.is_empty() { Ok(source) } else { Err(problems) }
    }

    fn note_lines(&mut self, path: &str, table: &DeTable<'_>, line: &impl Fn(usize) -> usize) {
        for (key, value) in table {
            let path = join(path, key.get_ref());
            if let DeValue::Table(table) = value.get_ref() {
                self.note_lines(&path, table, line);
            }
            let place = KeyOrigin::Line(line(key.span().start));
            self.origins.insert(path, place);
        }
    }

    fn apply(&mut self, text: &str) -> Result<(), Problem> {
        let (key, value) = match (text.strip_prefix('~'), text.split_once('=')) {
            (Some(key), _) => (key.trim(), None),
            (None, Some((key, value))) => (key.trim(), Some(value.trim())),
            (None, None) => {
                let message = "an override is key=value, or ~key to remove the key";
                return Err(refused(text, message.to_owned()));
            }
        };
        let path: Vec<&str> = key.split('.').map(str::trim).collect();
        let Some((last, parents)) =
            path.split_last().filter(|_| path.iter().all(|part| !part.is_empty()))
        else {
            let message = "an override's key is section.key, such as train.batch_size";
            return Err(refused(key, message.to_owned()));
        };
        if path.len() > MOST_PARTS {
            let shown: String = key.chars().take(60).collect();
            let message = format!(
                "the key has {} parts, and no key of a recipe has more than {MOST_PARTS}",
                path.len()
            );
            return Err(refused(&format!("{shown}..."), message));
        }
        let mut table = &mut self.table;
        for parent in parents {
            let entry =
                table.entry((*parent).to_owned()).or_insert_with(|| Value::Table(Table::new()));
            table = entry
                .as_table_mut()
                .ok_or_else(|| refused(key, format!("`{parent}` is a value, not a section")))?;
        }
        let key = path.join(".");
        match value {
            Some(text) => {
                let value = text.parse().unwrap_or_else(|_| Value::String(text.to_owned()));
                table.insert((*last).to_owned(), value);
                self.origins.insert(key.clone(), KeyOrigin::CommandLine);
                self.texts.insert(key, text.to_owned());
            }
            None if table.remove(*last).is_none() => {
                let nearest = nearest(last, table.keys().map(String::as_str));
                let suggestion = nearest.map(|word| format!("; did you mean `{word}`?"));
                let message = format!(
                    "the recipe does not set it, so it cannot be removed{}",
                    suggestion.unwrap_or_default()
                );
                return Err(refused(&key, message));
            }
            None => {}
        }
        Ok(())
    }

    /// Returns the origin of `key` or, inside an inline table, of the table.
    pub(super) fn origin(&self, key: &str) -> Option<KeyOrigin> {
        let found = self.origins.get(key).copied();
        found.or_else(|| self.origin(key.rsplit_once('.')?.0))
    }

    /// Returns the text of `key` on the command line.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.texts.get(key).map(String::as_str)
    }

    /// Returns the value of the dotted `key`.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        let mut parts = key.split('.');
        let first = self.table.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    }
}

/// Joins a section and a key: `train` and `steps` give `train.steps`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn refused(key: &str, message: String) -> Problem {
    Problem { origin: Some(KeyOrigin::CommandLine), key: key.to_owned(), found: None, message }
}
