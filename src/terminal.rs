//! Text that is safe to print on a terminal, whatever files, recipes and arguments contain.

use std::fmt::{self, Display, Write};

/// Displays text on one line, with control characters and characters that change the direction of text escaped as
/// `\u{1b}`.
pub(crate) struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '\t' | '\n' | '\r' => formatter.write_char(' '),
            letter if is_control(letter) => write!(formatter, "{}", letter.escape_unicode()),
            letter => formatter.write_char(letter),
        })
    }
}

/// Returns text of several lines with each line [`Escaped`]; empty lines at its end are preserved.
pub(crate) fn escaped_lines(text: &str) -> String {
    text.split('\n')
        .map(|line| Escaped(line.trim_end_matches('\r')).to_string())
        .collect::<Vec<_>>()
        .join("\n")
}

/// True for control characters (C0, DEL, C1), line and paragraph separators, and Unicode's directional formatting
/// characters (property `Bidi_Control`).
pub(crate) fn is_control(letter: char) -> bool {
    let directional = matches!(
        letter,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    letter.is_control() || directional || matches!(letter, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_a_text_are_escaped() {
        // Terminal escape sequences in C0 and C1, BEL, DEL, and characters that reverse the text.
        let hostile = "a\u{1b}[31mb\u{9b}2Jc\u{7}d\u{7f}e\u{202e}f\u{2066}g\u{2028}h";
        let expected = "a\\u{1b}[31mb\\u{9b}2Jc\\u{7}d\\u{7f}e\\u{202e}f\\u{2066}g\\u{2028}h";
        assert_eq!(Escaped(hostile).to_string(), expected);
        let text = "one line\r\nand\tanother: Zürich, שלום, 中文, 👍🏽";
        assert_eq!(Escaped(text).to_string(), "one line  and another: Zürich, שלום, 中文, 👍🏽");
        let lines = "first\r\n\n\u{1b}[2Jthird\n\n";
        assert_eq!(escaped_lines(lines), "first\n\n\\u{1b}[2Jthird\n\n");
    }
}
