//! `tokenizer.json` as text around its added tokens.
//!
//! Docids are taken out of and put into the array `added_tokens` as text, and all else stays byte for byte
//! as it was: the tokenizers library adds tokens in time quadratic in their number, and reading the whole
//! file into a tree and writing it again could change the last digit of a score.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

const KEY: &str = "added_tokens";

/// One element of `added_tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
    pub(super) special: bool,
}

/// The text of a `tokenizer.json` in three parts.
#[derive(Debug, Clone)]
pub(super) struct TokenizerFile {
    /// Up to and with the `[` of `added_tokens`.
    before: String,
    /// The elements of that array.
    pub(super) added: Vec<AddedToken>,
    /// From the `]` on.
    after: String,
}

impl TokenizerFile {
    /// Splits `text`; `Err` is what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (start, end) = added_tokens(text).ok_or_else(|| {
            format!("has no array `{KEY}` at its top level; right would be the tokenizer.json of a fast tokenizer")
        })?;
        let added = serde_json::from_str(&text[start..end])
            .map_err(|error| format!("field `{KEY}`: {error}"))?;
        Ok(Self { before: text[..start + 1].to_owned(), added, after: text[end - 1..].to_owned() })
    }

    /// Writes the file with `more` added tokens behind its own, one at a time.
    pub(super) fn write(
        &self,
        writer: &mut impl Write,
        more: impl Iterator<Item = AddedToken>,
    ) -> io::Result<()> {
        writer.write_all(self.before.as_bytes())?;
        for (index, token) in self.added.iter().cloned().chain(more).enumerate() {
            if index > 0 {
                writer.write_all(b",")?;
            }
            serde_json::to_writer(&mut *writer, &token)?;
        }
        writer.write_all(self.after.as_bytes())
    }
}

/// Where the value of the top-level key `added_tokens` begins and ends, when it is an array.
///
/// Only strings and brackets matter for that; whether the rest is JSON is for the real parsers to say.
fn added_tokens(text: &str) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut start = None;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                let end = string_end(bytes, at)?;
                if depth == 1 && start.is_none() && text.get(at + 1..end - 1) == Some(KEY) {
                    let value = skip_white(bytes, end);
                    if bytes.get(value) == Some(&b':') {
                        let value = skip_white(bytes, value + 1);
                        if bytes.get(value) != Some(&b'[') {
                            return None;
                        }
                        start = Some(value);
                        at = value;
                        continue;
                    }
                }
                at = end;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                if let (Some(start), 1) = (start, depth) {
                    return Some((start, at + 1));
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The position after the closing quote of the string that opens at `open`.
fn string_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        match bytes.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

fn skip_white(bytes: &[u8], from: usize) -> usize {
    let white = bytes
        .get(from..)
        .unwrap_or_default()
        .iter()
        .take_while(|byte| byte.is_ascii_whitespace())
        .count();
    from + white
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_array_at_the_top_level_is_taken() {
        let text = r#"{"a": "\"added_tokens\": [", "b": {"added_tokens": [1]}, "added_tokens" : [ ], "c": [2]}"#;
        let file = TokenizerFile::parse(text).expect("an array");
        assert!(file.before.ends_with(r#""added_tokens" : ["#));
        assert_eq!(file.after, r#"], "c": [2]}"#);
        assert!(file.added.is_empty());
    }

    #[test]
    fn a_file_without_the_array_is_refused() {
        for text in ["{}", r#"{"added_tokens": null}"#, r#"{"added_tokens": ["#, "\""] {
            assert!(TokenizerFile::parse(text).is_err(), "{text}");
        }
    }
}
