//! Reads the keys of a recipe, collects problems, and finally refuses unknown keys.
//!
//! The type, the range and the default of a key are defined where it is read; there is no other list of keys. Reading
//! continues after a problem with a placeholder value, and the recipe is discarded at the end.

use std::path::Path;

use toml::{Table, Value};

use super::error::Problem;
use super::source::{Source, join};
use crate::choice::Choice;
use crate::files::expand_home;
use crate::nearest::nearest;

/// Longer values are truncated in messages.
const MAX_SHOWN: usize = 60;

/// The state of reading a recipe.
pub(super) struct Reader<'a> {
    source: &'a Source,
    problems: Vec<Problem>,
    /// The dotted keys that have been read, given or not.
    known: Vec<String>,
    /// The dotted keys that are given, but have not been read.
    unknown: Vec<String>,
}

/// A section (table) of a recipe while it is read.
pub(super) struct Section<'r, 'a> {
    reader: &'r mut Reader<'a>,
    path: String,
    table: Option<&'a Table>,
    known: Vec<&'static str>,
}

/// A key that has been read; its methods choose the value if it is not given.
#[must_use]
pub(super) struct Field<'s, 'r, 'a, T> {
    section: &'s mut Section<'r, 'a>,
    key: &'static str,
    expected: String,
    value: FieldValue<T>,
}

enum FieldValue<T> {
    Missing,
    /// Already reported as a problem.
    Invalid,
    Given(T),
}

impl<T> Field<'_, '_, '_, T> {
    /// Returns the value, or `default` if it is not given.
    pub(super) fn or(self, default: T) -> T {
        self.optional().unwrap_or(default)
    }

    /// Returns the value, or `None` if it is not given.
    pub(super) fn optional(self) -> Option<T> {
        match self.value {
            FieldValue::Given(value) => Some(value),
            FieldValue::Missing | FieldValue::Invalid => None,
        }
    }

    /// Returns the value; a missing key is a problem.
    pub(super) fn required(self) -> T
    where
        T: Default,
    {
        if let FieldValue::Missing = self.value {
            let message = format!("missing: expected {}", self.expected);
            self.section.problem(self.key, message);
        }
        self.optional().unwrap_or_default()
    }
}

/// Reads `source` with `read`, and returns the value or all problems.
pub(super) fn read<T>(
    source: &Source,
    read: impl FnOnce(&mut Section<'_, '_>) -> T,
) -> Result<T, Vec<Problem>> {
    let mut reader = Reader::new(source);
    let value = reader.read("", Some(&source.table), read);
    reader.refuse_unknown();
    if reader.problems.is_empty() { Ok(value) } else { Err(reader.problems) }
}

impl<'a> Reader<'a> {
    fn new(source: &'a Source) -> Self {
        Self { source, problems: Vec::new(), known: Vec::new(), unknown: Vec::new() }
    }

    fn read<T>(
        &mut self,
        path: &str,
        table: Option<&'a Table>,
        read: impl FnOnce(&mut Section<'_, 'a>) -> T,
    ) -> T {
        let mut section = Section { reader: self, path: path.to_owned(), table, known: Vec::new() };
        let value = read(&mut section);
        let known = section.known;
        let keys = table.into_iter().flat_map(Table::keys);
        let unknown = keys.filter(|key| !known.contains(&key.as_str()));
        self.unknown.extend(unknown.map(|key| join(path, key)));
        value
    }

    fn problem(&mut self, key: String, message: String) {
        let found = self.source.value(&key).filter(|value| !value.is_table());
        let found = found.map(|value| {
            let text = value.to_string();
            if text.chars().count() <= MAX_SHOWN {
                text
            } else {
                let cut: String = text.chars().take(MAX_SHOWN).collect();
                format!("{cut}...")
            }
        });
        self.problems.push(Problem {
            origin: self.source.origin(&key).filter(|_| self.source.value(&key).is_some()),
            key,
            found,
            message,
        });
    }

    fn refuse_unknown(&mut self) {
        for key in std::mem::take(&mut self.unknown) {
            let (path, last) = key.rsplit_once('.').unwrap_or(("", &key));
            let siblings: Vec<&str> = self
                .known
                .iter()
                .filter_map(|known| {
                    let (asked_path, last) = known.rsplit_once('.').unwrap_or(("", known));
                    (asked_path == path).then_some(last)
                })
                .collect();
            let ends = |known: &&String| known.rsplit('.').next() == Some(last);
            let elsewhere: Vec<&str> = self.known.iter().filter(ends).map(String::as_str).collect();
            let kind = match self.source.value(&key) {
                Some(Value::Table(_)) => "section",
                _ => "key",
            };
            let message = if key == "sweep" {
                "this file is a sweep: `genir sweep FILE` runs it, and `genir sweep FILE --dry-run` checks it"
                    .to_owned()
            } else if let Some(word) = nearest(last, siblings.iter().copied()) {
                format!("unknown {kind}; did you mean `{word}`?")
            } else if !elsewhere.is_empty() {
                format!("unknown {kind}; did you mean `{}`?", elsewhere.join("` or `"))
            } else {
                format!("unknown {kind}; known here are {}", siblings.join(", "))
            };
            self.problem(key, message);
        }
    }
}

impl<'r, 'a> Section<'r, 'a> {
    /// Reads the subsection `key` with `read`; a missing one is read as empty.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_, 'a>) -> T,
    ) -> T {
        let path = self.note(key);
        match self.table.and_then(|table| table.get(key)) {
            None => self.reader.read(&path, None, read),
            Some(Value::Table(table)) => self.reader.read(&path, Some(table), read),
            Some(_) => {
                self.problem(key, format!("expected a section, [{path}]"));
                // Missing keys in it are not reported separately.
                let before = self.reader.problems.len();
                let value = self.reader.read(&path, None, read);
                self.reader.problems.truncate(before);
                value
            }
        }
    }

    /// Like [`Section::section`], but returns `None` if the section is not given.
    pub(super) fn optional_section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_, 'a>) -> T,
    ) -> Option<T> {
        let before = self.reader.problems.len();
        let value = self.section(key, read);
        if self.has(key) {
            return Some(value);
        }
        self.reader.problems.truncate(before);
        None
    }

    /// Returns whether `key` is given, valid or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Returns whether the value of `key` is a string.
    pub(super) fn is_text(&self, key: &str) -> bool {
        self.table.and_then(|table| table.get(key)).is_some_and(Value::is_str)
    }

    /// Reports a problem with `key` (dotted, relative to this section).
    pub(super) fn problem(&mut self, key: &str, message: String) {
        self.reader.problem(join(&self.path, key), message);
    }

    /// Reports that `key` conflicts with `others` (dotted, relative to this section), unless one of them already has a
    /// problem.
    pub(super) fn conflict(&mut self, key: &str, others: &[&str], message: String) {
        let mut keys = others.iter().chain([&key]).map(|key| join(&self.path, key));
        let problems = &self.reader.problems;
        if keys.all(|key| problems.iter().all(|problem| problem.key != key)) {
            self.problem(key, message);
        }
    }

    /// Refuses the given keys that `read` reads and this section has not read.
    pub(super) fn refuse_keys_of<T>(
        &mut self,
        read: impl FnOnce(&mut Section<'_, '_>) -> T,
        message: &str,
    ) {
        let nothing = Source::default();
        let mut reader = Reader::new(&nothing);
        let mut scratch =
            Section { reader: &mut reader, path: String::new(), table: None, known: Vec::new() };
        read(&mut scratch);
        for key in scratch.known {
            if self.has(key) && !self.known.contains(&key) {
                self.known.push(key);
                self.problem(key, message.to_owned());
            }
        }
    }

    /// Reads a string. Every value of the command line is also a valid string.
    pub(super) fn string(&mut self, key: &'static str) -> Field<'_, 'r, 'a, String> {
        let text = self.reader.source.text(&join(&self.path, key));
        self.field(key, "a string".to_owned(), |value| match value {
            Value::String(text) => Some(text.clone()),
            _ => text.map(str::to_owned),
        })
    }

    /// Reads a non-empty path, with a leading `~` expanded as by a shell.
    pub(super) fn path(&mut self, key: &'static str) -> Field<'_, 'r, 'a, String> {
        let mut known = self.string(key);
        if let FieldValue::Given(text) = &known.value {
            known.value = match expanded(text, std::env::home_dir().as_deref()) {
                Ok(path) => FieldValue::Given(path),
                Err(message) => {
                    known.section.problem(key, message.to_owned());
                    FieldValue::Invalid
                }
            };
        }
        known
    }

    /// Reads a string that `parse` accepts; `expected` describes it.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Field<'_, 'r, 'a, T> {
        self.field(key, expected.to_owned(), |value| match value {
            Value::Integer(number) => parse(&number.to_string()),
            value => parse(value.as_str()?),
        })
    }

    /// Reads `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str) -> Field<'_, 'r, 'a, bool> {
        self.field(key, "true or false".to_owned(), Value::as_bool)
    }

    /// Reads an integer of at least `min`.
    pub(super) fn integer<T>(&mut self, key: &'static str, min: i64) -> Field<'_, 'r, 'a, T>
    where
        T: TryFrom<i64>,
    {
        let expected = format!("an integer of at least {min}");
        self.field(key, expected, |value| {
            let number = value.as_integer().filter(|number| *number >= min)?;
            T::try_from(number).ok()
        })
    }

    /// Reads a finite number that `allowed` accepts; `expected` describes it.
    pub(super) fn float(
        &mut self,
        key: &'static str,
        expected: &str,
        allowed: impl Fn(f64) -> bool,
    ) -> Field<'_, 'r, 'a, f64> {
        self.field(key, expected.to_owned(), |value| {
            finite(value).filter(|number| allowed(*number))
        })
    }

    /// Reads a number above 0, or 0 or `"none"` for off; both are read as 0.
    pub(super) fn float_or_off(&mut self, key: &'static str) -> Field<'_, 'r, 'a, f64> {
        let expected = "a number above 0, or 0 or \"none\" for off";
        self.field(key, expected.to_owned(), |value| match value {
            Value::String(text) => (text == "none").then_some(0.0),
            value => finite(value).filter(|number| *number >= 0.0),
        })
    }

    /// Reads two finite numbers that `allowed` accepts.
    pub(super) fn pair(
        &mut self,
        key: &'static str,
        expected: &str,
        allowed: impl Fn(f64) -> bool,
    ) -> Field<'_, 'r, 'a, [f64; 2]> {
        self.field(key, expected.to_owned(), |value| {
            let [first, second] = value.as_array()?.as_slice() else {
                return None;
            };
            let pair = [finite(first)?, finite(second)?];
            pair.iter().all(|number| allowed(*number)).then_some(pair)
        })
    }

    /// Reads the name of a value of `T`.
    pub(super) fn choice<T: Choice>(&mut self, key: &'static str) -> Field<'_, 'r, 'a, T> {
        let expected = format!("one of {}", T::names());
        self.field(key, expected, |value| T::from_name(value.as_str()?))
    }

    /// Reads a list of names of values of `T`, without duplicates.
    pub(super) fn choices<T>(&mut self, key: &'static str) -> Field<'_, 'r, 'a, Vec<T>>
    where
        T: Choice + PartialEq,
    {
        let expected = format!("a list of {}, without duplicates", T::names());
        self.field(key, expected, |value| {
            let mut chosen = Vec::new();
            for word in strings(value)? {
                let choice = T::from_name(&word).filter(|choice| !chosen.contains(choice))?;
                chosen.push(choice);
            }
            Some(chosen)
        })
    }

    /// Reads a list of strings (integers are converted to strings), or one string as a list of one.
    pub(super) fn strings(&mut self, key: &'static str) -> Field<'_, 'r, 'a, Vec<String>> {
        self.field(key, "a list of strings".to_owned(), strings)
    }

    fn field<T>(
        &mut self,
        key: &'static str,
        expected: String,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Field<'_, 'r, 'a, T> {
        let path = self.note(key);
        let value = match self.table.and_then(|table| table.get(key)) {
            None => FieldValue::Missing,
            Some(value) => match read(value) {
                Some(value) => FieldValue::Given(value),
                None => {
                    self.reader.problem(path, format!("expected {expected}"));
                    FieldValue::Invalid
                }
            },
        };
        Field { section: self, key, expected, value }
    }

    fn note(&mut self, key: &'static str) -> String {
        let path = join(&self.path, key);
        self.known.push(key);
        self.reader.known.push(path.clone());
        path
    }
}

/// Returns a path with `~` expanded, or the problem with it.
fn expanded(text: &str, home: Option<&Path>) -> Result<String, &'static str> {
    let home = home.filter(|home| !home.as_os_str().is_empty());
    let path = expand_home(text, home);
    if text.trim().is_empty() {
        return Err("expected a path, found an empty string");
    }
    if text.starts_with('~') && path == Path::new(text) {
        return Err(match text.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                "`~` cannot be expanded: HOME is not set"
            }
            _ => {
                "only `~/`, your own home directory, is expanded: write this path in full \
             (for a file whose name starts with `~`, write `./~...`)"
            }
        });
    }
    path.into_os_string().into_string().map_err(|_| "the home directory is not valid UTF-8")
}

fn finite(value: &Value) -> Option<f64> {
    let whole = || value.as_integer().map(|number| number as f64);
    let number = value.as_float().or_else(whole)?;
    number.is_finite().then_some(number)
}

fn strings(value: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        _ => None,
    };
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        value => Some(vec![text(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_is_expanded_as_a_shell_does_or_refused() {
        let home = Some(Path::new("/home/me"));
        let path = |text| expanded(text, home);
        assert_eq!(path("~").as_deref(), Ok("/home/me"));
        assert_eq!(path("~/runs/a").as_deref(), Ok("/home/me/runs/a"));
        for same in ["runs/a", "/runs/~a", "./~a", "a/~", "bundled:atlas"] {
            assert_eq!(path(same).as_deref(), Ok(same));
        }
        for (wrong, why) in
            [("~you", "own home"), ("~you/a", "own home"), ("", "empty"), (" ", "empty")]
        {
            assert!(path(wrong).unwrap_err().contains(why), "{wrong:?}");
        }
        for unknown in [None, Some(Path::new(""))] {
            assert!(expanded("~/runs", unknown).unwrap_err().contains("HOME"));
        }
    }
}
