//! Prints the output of subcommands on standard output.
//!
//! `println!` panics if the reader has closed the pipe (`genir check RECIPE | head -3`). Here that is an error which
//! ends the subcommand; [`super::main`] then prints no message, because nothing went wrong.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use crate::terminal::{escaped_lines, is_control};

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub(super) struct OutputError(#[from] io::Error);

impl OutputError {
    /// Returns whether the reader has closed the pipe, as opposed to a real failure.
    pub fn is_broken_pipe(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Prints text without a line break.
pub(super) fn print(text: impl Display) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Prints text of one or several lines for people, with control characters escaped, and a line break.
pub(super) fn line(text: impl Display) -> Result<(), OutputError> {
    print(format_args!("{}\n", escaped_lines(&text.to_string())))
}

/// Prints data, which a program may read: control characters are escaped on a terminal only.
pub(super) fn data(text: &str) -> Result<(), OutputError> {
    match io::stdout().is_terminal() {
        true => print(escaped_lines(text)),
        false => print(text),
    }
}

/// Prints a line on standard error, as [`line`] does, for when an output file is written to standard output. Errors
/// are ignored.
pub(super) fn error_line(text: impl Display) {
    let _ = writeln!(io::stderr(), "{}", escaped_lines(&text.to_string()));
}

/// Returns a JSON value on one line without control characters.
pub(super) fn json(value: &serde_json::Value) -> String {
    escaped_json(&value.to_string())
}

/// Returns the text of a JSON value with control characters escaped, except line breaks. JSON itself escapes only those
/// below U+0020; outside of strings none of them occurs.
pub(super) fn escaped_json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_control(letter) && letter != '\n' {
            escaped += &format!("\\u{:04x}", u32::from(letter)); // all of them are below U+10000
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Terminal escape sequences in C0 and C1, BEL, DEL, and characters that reverse the text.
    const HOSTILE: &str = "a\u{1b}[31mb\u{9b}2Jc\u{7}d\u{7f}e\u{202e}f\u{2066}g\u{2028}h";

    #[test]
    fn json_escapes_them_and_parses_to_the_same_value() {
        let value = serde_json::json!({ "text": HOSTILE, "docid": "d\\u001b" });
        let line = json(&value);
        let hostile = ['\u{1b}', '\u{9b}', '\u{7}', '\u{7f}', '\u{202e}', '\u{2066}', '\u{2028}'];
        assert!(!line.contains(hostile), "{line}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), value);
    }
}
