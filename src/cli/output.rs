//! What verbs print, on standard output.
//!
//! `println!` panics where whoever reads has gone (`genir check RECIPE | head -3`). Here that is an error, which ends
//! the verb: in silence, as [`super::main`] does, for nothing went wrong.

use std::fmt::{self, Display, Write as _};
use std::io::{self, Write};

/// What the system says of an output that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub(super) struct OutputError(#[from] io::Error);

impl OutputError {
    /// Whether the reader has gone, rather than that something is wrong.
    pub fn is_unread(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Prints text as it is.
pub(super) fn print(text: impl Display) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Prints text and ends the line.
pub(super) fn line(text: impl Display) -> Result<(), OutputError> {
    print(format_args!("{text}\n"))
}

/// Prints a line on standard error, where standard output is taken by a file. Nobody is told where that has no reader.
pub(super) fn error_line(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A text that comes from a file, fit for a terminal: on one line, and with `\u{1b}` in the place of a character that
/// would command the terminal or turn the direction of what follows.
pub(super) struct Plain<'a>(pub &'a str);

impl Display for Plain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '\t' | '\n' | '\r' => formatter.write_char(' '),
            letter if commands(letter) => write!(formatter, "{}", letter.escape_unicode()),
            letter => formatter.write_char(letter),
        })
    }
}

/// A text of several lines, each of them [`Plain`].
pub(super) fn plain_lines(text: &str) -> String {
    text.lines().map(|line| Plain(line).to_string()).collect::<Vec<_>>().join("\n")
}

/// A JSON value on one line, with the same characters escaped: JSON itself escapes only those below U+0020. Outside of
/// strings it has none of them.
pub(super) fn json(value: &serde_json::Value) -> String {
    let mut line = String::new();
    for letter in value.to_string().chars() {
        if commands(letter) {
            line += &format!("\\u{:04x}", u32::from(letter)); // all of them are below U+10000
        } else {
            line.push(letter);
        }
    }
    line
}

/// Control characters (C0, DEL, C1), separators of lines and paragraphs, and Unicode's directional formatting characters
/// (its property `Bidi_Control`).
fn commands(letter: char) -> bool {
    let directional = matches!(
        letter,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    letter.is_control() || directional || matches!(letter, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A terminal's escape sequences in C0 and C1, BEL, DEL, and a text that would be read backwards.
    const HOSTILE: &str = "a\u{1b}[31mb\u{9b}2Jc\u{7}d\u{7f}e\u{202e}f\u{2066}g\u{2028}h";

    #[test]
    fn no_character_of_a_text_commands_the_terminal() {
        let expected = "a\\u{1b}[31mb\\u{9b}2Jc\\u{7}d\\u{7f}e\\u{202e}f\\u{2066}g\\u{2028}h";
        assert_eq!(Plain(HOSTILE).to_string(), expected);
        let text = "one line\r\nand\tanother: Zürich, שלום, 中文, 👍🏽";
        assert_eq!(Plain(text).to_string(), "one line  and another: Zürich, שלום, 中文, 👍🏽");
    }

    #[test]
    fn json_escapes_them_and_is_read_as_what_it_was() {
        let value = serde_json::json!({ "text": HOSTILE, "docid": "d\\u001b" });
        let line = json(&value);
        let hostile = ['\u{1b}', '\u{9b}', '\u{7}', '\u{7f}', '\u{202e}', '\u{2066}', '\u{2028}'];
        assert!(!line.contains(hostile), "{line}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), value);
    }
}
