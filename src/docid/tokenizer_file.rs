//! `tokenizer.json`, split into its added tokens and the text around them.
//!
//! Docids are removed from and inserted into the array `added_tokens` as text, and the rest of the file is preserved
//! byte for byte: the tokenizers library adds tokens in quadratic time, and parsing and serialising the whole file
//! could change the last digit of a score. The merges of a byte-pair encoding are the one exception: see
//! [`TokenizerFile::parse`].

use std::borrow::Cow;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

const KEY: &str = "added_tokens";
/// The object and the key of a byte-pair encoding's merges.
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
    /// The text up to the `[` of `added_tokens`, included.
    before: String,
    /// The elements of that array.
    pub(super) added: Vec<AddedToken>,
    /// The text from the `]` of that array on.
    after: String,
}

impl TokenizerFile {
    /// Splits `text`; the error is a message.
    ///
    /// Merges that are pairs, `["a", "b"]`, are rewritten as `"a b"`: the library reads both forms, but only the
    /// second before version 0.20 (transformers 4.45). Merges with a space in a part are left unchanged, as they have
    /// no other form.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (start, end) = value_of(text, KEY).filter(|&(start, _)| text[start..].starts_with('[')).ok_or_else(|| {
            format!("has no array `{KEY}` at its top level; expected the tokenizer.json of a fast tokenizer")
        })?;
        let added = serde_json::from_str(&text[start..end])
            .map_err(|error| format!("field `{KEY}`: {error}"))?;
        let (before, after) = (&text[..start + 1], &text[end - 1..]);
        // The model is before or after the added tokens.
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

    /// Writes the file, with `more` added tokens after its own, one at a time.
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

/// Returns `text` with the merges rewritten as strings, for the model whose object starts at byte `model`.
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

/// Returns the byte range of the value of `key` in the object at the start of `text`, if the value is an array or an
/// object.
///
/// Only strings and brackets are parsed here; the JSON parser validates the rest.
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
                    // The end of the object.
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

/// Returns the position after the closing quote of the string that starts at `open`.
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
    fn only_the_array_at_the_top_level_is_split_off() {
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
