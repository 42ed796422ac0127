//! `tokenizer.json` as text around its added tokens.
//!
//! Docids are taken out of and put into the array `added_tokens` as text, and all else stays byte for byte
//! as it was: the tokenizers library adds tokens in time quadratic in their number, and reading the whole
//! file into a tree and writing it again could change the last digit of a score. The one exception are a byte-pair
//! encoding's merges: see [`TokenizerFile::parse`].

use std::borrow::Cow;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

const KEY: &str = "added_tokens";
/// Where a byte-pair encoding has its merges.
const MODEL: &str = "model";
const MERGES: &str = "merges";

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
    ///
    /// Merges that are pairs, `["a", "b"]`, become `"a b"`: the library reads both, but before its version 0.20
    /// (transformers 4.45) the second form only. Pairs with a space inside stay, as they have no other form.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (start, end) = value_of(text, KEY).filter(|&(start, _)| text[start..].starts_with('[')).ok_or_else(|| {
            format!("has no array `{KEY}` at its top level; right would be the tokenizer.json of a fast tokenizer")
        })?;
        let added = serde_json::from_str(&text[start..end])
            .map_err(|error| format!("field `{KEY}`: {error}"))?;
        let (before, after) = (&text[..start + 1], &text[end - 1..]);
        // The model stands on one side of the added tokens.
        let [before, after] = match value_of(text, MODEL) {
            Some((model, _)) if model < start => {
                [with_joined_merges(before, model), after.to_owned()]
            }
            Some((model, _)) if model >= end => {
                [before.to_owned(), with_joined_merges(after, model - (end - 1))]
            }
            _ => [before.to_owned(), after.to_owned()],
        };
        Ok(Self { before, added, after })
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

/// `text` with the merges of the model whose object begins at `model` as strings.
fn with_joined_merges(text: &str, model: usize) -> String {
    let joined = || {
        let (start, end) = value_of(&text[model..], MERGES)?;
        let (start, end) = (model + start, model + end);
        let pairs: Vec<(Cow<str>, Cow<str>)> = serde_json::from_str(&text[start..end]).ok()?;
        let whole = |part: &Cow<str>| !part.contains(' ');
        if !pairs.iter().all(|(left, right)| whole(left) && whole(right)) {
            return None;
        }
        let merges: Vec<String> =
            pairs.iter().map(|(left, right)| format!("{left} {right}")).collect();
        let merges = serde_json::to_string(&merges).ok()?;
        Some([&text[..start], &merges, &text[end..]].concat())
    };
    joined().unwrap_or_else(|| text.to_owned())
}

/// Where the value of `key` begins and ends in the object that `text` begins with, when it is an array or an object.
///
/// Only strings and brackets matter for that; whether the rest is JSON is for the real parsers to say.
fn value_of(text: &str, key: &str) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut start = None;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                let end = string_end(bytes, at)?;
                if depth == 1 && start.is_none() && text.get(at + 1..end - 1) == Some(key) {
                    let value = skip_white(bytes, end);
                    if bytes.get(value) == Some(&b':') {
                        let value = skip_white(bytes, value + 1);
                        if !matches!(bytes.get(value), Some(b'[' | b'{')) {
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
                match (start, depth) {
                    (Some(start), 1) => return Some((start, at + 1)),
                    // The object's end.
                    (_, 0) => return None,
                    _ => {}
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
    fn merges_are_written_in_the_form_that_old_and_new_versions_read() {
        let added = r#""added_tokens": []"#;
        let model = |merges: &str| {
            format!(r#""model": {{"x": {{"merges": [["a", "b"]]}}, "merges": {merges}, "v": 1}}"#)
        };
        let pairs = r#"[["a", "\"b"], ["\u00e9", "c"]]"#;
        let joined = r#"["a \"b","é c"]"#;
        let unchanged = [r#"["a b"]"#, r#"[["a", "b c"]]"#, "[]", "3"];
        let cases = [(pairs, joined)].into_iter().chain(unchanged.map(|same| (same, same)));
        for (found, written) in cases {
            for behind in [true, false] {
                let text = |merges: &str| match behind {
                    true => format!("{{{added}, {}, \"z\": [1]}}", model(merges)),
                    false => format!("{{{}, {added}, \"z\": [1]}}", model(merges)),
                };
                let mut out = Vec::new();
                let file = TokenizerFile::parse(&text(found)).expect("a file");
                file.write(&mut out, std::iter::empty()).expect("written");
                assert_eq!(String::from_utf8(out).expect("UTF-8"), text(written));
            }
        }
    }

    #[test]
    fn a_file_without_the_array_is_refused() {
        for text in ["{}", r#"{"added_tokens": null}"#, r#"{"added_tokens": ["#, "\""] {
            assert!(TokenizerFile::parse(text).is_err(), "{text}");
        }
    }
}
