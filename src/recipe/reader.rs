//! Asks a recipe for its keys, notes what is wrong, and at the end refuses the keys nobody asked for.
//!
//! A key is written once, where it is asked for, with its type, its range and its default; there is no
//! other list of keys. The first problem stops nothing: what cannot be read is replaced, and the recipe
//! is thrown away at the end.

use std::path::Path;

use toml::{Table, Value};

use super::error::Problem;
use super::source::{Source, join};
use crate::choice::Choice;
use crate::files::expand_home;
use crate::nearest::nearest;

/// Values longer than this are cut in messages.
const LONGEST_SHOWN: usize = 60;

/// One reading of a recipe.
pub(super) struct Reader<'a> {
    source: &'a Source,
    problems: Vec<Problem>,
    /// The dotted keys that were asked for.
    asked: Vec<String>,
    /// The dotted keys that are given but were not asked for.
    unknown: Vec<String>,
}

/// One section (table) of a recipe while it is read.
pub(super) struct Section<'r, 'a> {
    reader: &'r mut Reader<'a>,
    path: String,
    table: Option<&'a Table>,
    asked: Vec<&'static str>,
}

/// A key that was asked for; say what holds when it is not given.
#[must_use]
pub(super) struct Asked<'s, 'r, 'a, T> {
    section: &'s mut Section<'r, 'a>,
    key: &'static str,
    wanted: String,
    answer: Answer<T>,
}

enum Answer<T> {
    Missing,
    /// Noted as a problem already.
    Wrong,
    Given(T),
}

impl<T> Asked<'_, '_, '_, T> {
    /// The value, `default` when it is not given.
    pub(super) fn or(self, default: T) -> T {
        self.optional().unwrap_or(default)
    }

    /// The value, `None` when it is not given.
    pub(super) fn optional(self) -> Option<T> {
        match self.answer {
            Answer::Given(value) => Some(value),
            Answer::Missing | Answer::Wrong => None,
        }
    }

    /// The value; that it is not given is a problem.
    pub(super) fn required(self) -> T
    where
        T: Default,
    {
        if let Answer::Missing = self.answer {
            let message = format!("missing: expected {}", self.wanted);
            self.section.problem(self.key, message);
        }
        self.optional().unwrap_or_default()
    }
}

/// Reads all of `source` with `read`: the value, or everything that is wrong.
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
        Self { source, problems: Vec::new(), asked: Vec::new(), unknown: Vec::new() }
    }

    fn read<T>(
        &mut self,
        path: &str,
        table: Option<&'a Table>,
        read: impl FnOnce(&mut Section<'_, 'a>) -> T,
    ) -> T {
        let mut section = Section { reader: self, path: path.to_owned(), table, asked: Vec::new() };
        let value = read(&mut section);
        let asked = section.asked;
        let keys = table.into_iter().flat_map(Table::keys);
        let unknown = keys.filter(|key| !asked.contains(&key.as_str()));
        self.unknown.extend(unknown.map(|key| join(path, key)));
        value
    }

    fn problem(&mut self, key: String, message: String) {
        let found = self.source.value(&key).filter(|value| !value.is_table());
        let found = found.map(|value| {
            let text = value.to_string();
            if text.chars().count() <= LONGEST_SHOWN {
                text
            } else {
                let cut: String = text.chars().take(LONGEST_SHOWN).collect();
                format!("{cut}...")
            }
        });
        self.problems.push(Problem {
            place: self.source.place(&key).filter(|_| self.source.value(&key).is_some()),
            key,
            found,
            message,
        });
    }

    fn refuse_unknown(&mut self) {
        for key in std::mem::take(&mut self.unknown) {
            let (path, last) = key.rsplit_once('.').unwrap_or(("", &key));
            let siblings: Vec<&str> = self
                .asked
                .iter()
                .filter_map(|asked| {
                    let (asked_path, last) = asked.rsplit_once('.').unwrap_or(("", asked));
                    (asked_path == path).then_some(last)
                })
                .collect();
            let ends = |asked: &&String| asked.rsplit('.').next() == Some(last);
            let elsewhere: Vec<&str> = self.asked.iter().filter(ends).map(String::as_str).collect();
            let kind = match self.source.value(&key) {
                Some(Value::Table(_)) => "section",
                _ => "key",
            };
            let message = if let Some(word) = nearest(last, siblings.iter().copied()) {
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
    /// The section `key` inside this one, read with `read`; one that is not given is read as empty.
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
                // What is missing in it is no news.
                let before = self.reader.problems.len();
                let value = self.reader.read(&path, None, read);
                self.reader.problems.truncate(before);
                value
            }
        }
    }

    /// Like [`Section::section`], but `None` when the section is not given.
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

    /// Whether `key` is given, rightly or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Notes what is wrong with `key` (dotted, from this section).
    pub(super) fn problem(&mut self, key: &str, message: String) {
        self.reader.problem(join(&self.path, key), message);
    }

    /// Notes that `key` does not go together with `others` (dotted, from this section); silent when
    /// one of them is wrong in itself.
    pub(super) fn conflict(&mut self, key: &str, others: &[&str], message: String) {
        let mut keys = others.iter().chain([&key]).map(|key| join(&self.path, key));
        let problems = &self.reader.problems;
        if keys.all(|key| problems.iter().all(|problem| problem.key != key)) {
            self.problem(key, message);
        }
    }

    /// Refuses the keys that `read` asks for and this section has not asked for.
    pub(super) fn refuse_keys_of<T>(
        &mut self,
        read: impl FnOnce(&mut Section<'_, '_>) -> T,
        message: &str,
    ) {
        let nothing = Source::default();
        let mut reader = Reader::new(&nothing);
        let mut scratch =
            Section { reader: &mut reader, path: String::new(), table: None, asked: Vec::new() };
        read(&mut scratch);
        for key in scratch.asked {
            if self.has(key) && !self.asked.contains(&key) {
                self.asked.push(key);
                self.problem(key, message.to_owned());
            }
        }
    }

    /// A text. What the command line gave is a text whatever it looks like.
    pub(super) fn text(&mut self, key: &'static str) -> Asked<'_, 'r, 'a, String> {
        let text = self.reader.source.text(&join(&self.path, key));
        self.ask(key, "a text".to_owned(), |value| match value {
            Value::String(text) => Some(text.clone()),
            _ => text.map(str::to_owned),
        })
    }

    /// A path that is not empty, with a leading `~` as a shell expands it.
    pub(super) fn path(&mut self, key: &'static str) -> Asked<'_, 'r, 'a, String> {
        let mut asked = self.text(key);
        if let Answer::Given(text) = &asked.answer {
            asked.answer = match expanded(text, std::env::home_dir().as_deref()) {
                Ok(path) => Answer::Given(path),
                Err(message) => {
                    asked.section.problem(key, message.to_owned());
                    Answer::Wrong
                }
            };
        }
        asked
    }

    /// A text that `parse` reads; `wanted` says which.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Asked<'_, 'r, 'a, T> {
        self.ask(key, wanted.to_owned(), |value| match value {
            Value::Integer(number) => parse(&number.to_string()),
            value => parse(value.as_str()?),
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> Asked<'_, 'r, 'a, bool> {
        self.ask(key, "true or false".to_owned(), Value::as_bool)
    }

    /// A whole number of at least `least`.
    pub(super) fn integer<T>(&mut self, key: &'static str, least: i64) -> Asked<'_, 'r, 'a, T>
    where
        T: TryFrom<i64>,
    {
        let wanted = format!("a whole number of at least {least}");
        self.ask(key, wanted, |value| {
            let number = value.as_integer().filter(|number| *number >= least)?;
            T::try_from(number).ok()
        })
    }

    /// A finite number that `allowed` takes; `wanted` says which.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        wanted: &str,
        allowed: impl Fn(f64) -> bool,
    ) -> Asked<'_, 'r, 'a, f64> {
        self.ask(key, wanted.to_owned(), |value| finite(value).filter(|number| allowed(*number)))
    }

    /// A number above 0, or 0 or `"none"` for off, both read as 0.
    pub(super) fn number_or_off(&mut self, key: &'static str) -> Asked<'_, 'r, 'a, f64> {
        let wanted = "a number above 0, or 0 or \"none\" for off";
        self.ask(key, wanted.to_owned(), |value| match value {
            Value::String(text) => (text == "none").then_some(0.0),
            value => finite(value).filter(|number| *number >= 0.0),
        })
    }

    /// Two finite numbers that `allowed` takes.
    pub(super) fn pair(
        &mut self,
        key: &'static str,
        wanted: &str,
        allowed: impl Fn(f64) -> bool,
    ) -> Asked<'_, 'r, 'a, [f64; 2]> {
        self.ask(key, wanted.to_owned(), |value| {
            let [first, second] = value.as_array()?.as_slice() else {
                return None;
            };
            let pair = [finite(first)?, finite(second)?];
            pair.iter().all(|number| allowed(*number)).then_some(pair)
        })
    }

    /// One of the words of `T`.
    pub(super) fn choice<T: Choice>(&mut self, key: &'static str) -> Asked<'_, 'r, 'a, T> {
        let wanted = format!("one of {}", T::words());
        self.ask(key, wanted, |value| T::named(value.as_str()?))
    }

    /// Some of the words of `T`, none twice.
    pub(super) fn choices<T>(&mut self, key: &'static str) -> Asked<'_, 'r, 'a, Vec<T>>
    where
        T: Choice + PartialEq,
    {
        let wanted = format!("a list of {}, none twice", T::words());
        self.ask(key, wanted, |value| {
            let mut chosen = Vec::new();
            for word in texts(value)? {
                let choice = T::named(&word).filter(|choice| !chosen.contains(choice))?;
                chosen.push(choice);
            }
            Some(chosen)
        })
    }

    /// A list of texts (whole numbers are read as texts), or one text as a list of one.
    pub(super) fn texts(&mut self, key: &'static str) -> Asked<'_, 'r, 'a, Vec<String>> {
        self.ask(key, "a list of texts".to_owned(), texts)
    }

    fn ask<T>(
        &mut self,
        key: &'static str,
        wanted: String,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Asked<'_, 'r, 'a, T> {
        let path = self.note(key);
        let answer = match self.table.and_then(|table| table.get(key)) {
            None => Answer::Missing,
            Some(value) => match read(value) {
                Some(value) => Answer::Given(value),
                None => {
                    self.reader.problem(path, format!("expected {wanted}"));
                    Answer::Wrong
                }
            },
        };
        Asked { section: self, key, wanted, answer }
    }

    fn note(&mut self, key: &'static str) -> String {
        let path = join(&self.path, key);
        self.asked.push(key);
        self.reader.asked.push(path.clone());
        path
    }
}

/// A path with `~` expanded, or what is wrong with it.
fn expanded(text: &str, home: Option<&Path>) -> Result<String, &'static str> {
    let home = home.filter(|home| !home.as_os_str().is_empty());
    let path = expand_home(text, home);
    if text.trim().is_empty() {
        return Err("expected a path, found an empty text");
    }
    if text.starts_with('~') && path == Path::new(text) {
        return Err(match text.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                "`~` stands for no directory here: HOME is not set"
            }
            _ => {
                "of `~`, only your own home directory is known, as `~/`: write this path out \
                  (a file whose name begins with `~` is `./~...`)"
            }
        });
    }
    path.into_os_string().into_string().map_err(|_| "the home directory is not text in UTF-8")
}

fn finite(value: &Value) -> Option<f64> {
    let whole = || value.as_integer().map(|number| number as f64);
    let number = value.as_float().or_else(whole)?;
    number.is_finite().then_some(number)
}

fn texts(value: &Value) -> Option<Vec<String>> {
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
