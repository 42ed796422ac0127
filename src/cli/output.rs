//! Prints the output of subcommands on standard output.
//!
//! `println!` panics if the reader has closed the pipe (`genir check RECIPE | head -3`). Here that is an error which
//! ends the subcommand; [`super::main`] then prints no message, because nothing went wrong.

use std::fmt::{self, Display, Write as _};
use std::io::{self, Write};

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

/// Prints text and a line break.
pub(super) fn line(text: impl Display) -> Result<(), OutputError> {
    print(format_args!("{text}\n"))
}

/// Prints a line on standard error, for when an output file is written to standard output. Errors are ignored.
pub(super) fn error_line(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Displays text from a file safely on a terminal: on one line, with control characters and characters that change the
/// direction of text escaped as `\u{1b}`.
pub(super) struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '\t' | '\n' | '\r' => formatter.write_char(' '),
            letter if is_control(letter) => write!(formatter, "{}", letter.escape_unicode()),
            letter => formatter.write_char(letter),
        })
    }
}

/// Returns text of several lines with each line [`Escaped`].
pub(super) fn escaped_lines(text: &str) -> String {
    text.lines().map(|line| Escaped(line).to_string()).collect::<Vec<_>>().join("\n")
}

/// Returns a JSON value on one line with the same characters escaped. JSON itself escapes only those below U+0020;
/// outside of strings none of them occurs.
pub(super) fn json(value: &serde_json::Value) -> String {
    let mut line = String::new();
    for letter in value.to_string().chars() {
        if is_control(letter) {
            line += &format!("\\u{:04x}", u32::from(letter)); // all of them are below U+10000
        } else {
            line.push(letter);
        }
    }
    line
}

/// True for control characters (C0, DEL, C1), line and paragraph separators, and Unicode's directional formatting
/// characters (property `Bidi_Control`).
fn is_control(letter: char) -> bool {
    let directional = matches!(
        letter,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    letter.is_control() || directional || matches!(letter, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Terminal escape sequences in C0 and C1, BEL, DEL, and characters that reverse the text.
    const HOSTILE: &str = "a\u{1b}[31mb\u{9b}2Jc\u{7}d\u{7f}e\u{202e}f\u{2066}g\u{2028}h";

    #[test]
    fn control_characters_of_a_text_are_escaped() {
        let expected = "a\\u{1b}[31mb\\u{9b}2Jc\\u{7}d\\u{7f}e\\u{202e}f\\u{2066}g\\u{2028}h";
        assert_eq!(Escaped(HOSTILE).to_string(), expected);
        let text = "one line\r\nand\tanother: Zürich, שלום, 中文, 👍🏽";
        assert_eq!(Escaped(text).to_string(), "one line  and another: Zürich, שלום, 中文, 👍🏽");
    }

    #[test]
    fn json_escapes_them_and_parses_to_the_same_value() {
        let value = serde_json::json!({ "text": HOSTILE, "docid": "d\\u001b" });
        let line = json(&value);
        let hostile = ['\u{1b}', '\u{9b}', '\u{7}', '\u{7f}', '\u{202e}', '\u{2066}', '\u{2028}'];
        assert!(!line.contains(hostile), "{line}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), value);
    }
}
