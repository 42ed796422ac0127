//! Checks what the tokenizers library reads without checks: the maps of characters of SentencePiece normalizers, and
//! the words of a unigram model.
//!
//! A map (`precompiled_charsmap`) is base64 of `trie size u32 | trie | texts`, all numbers little-endian. The trie is a
//! double array of 32-bit units; a leaf's value is the place in `texts` of what replaces the characters, which ends with
//! a NUL byte. The library allocates whatever the size says, and panics where a unit leads out of the array.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

const KEY: &str = "precompiled_charsmap";

/// Checks every map of characters in the text of a `tokenizer.json`, wherever it is, and the words of unigram models.
///
/// # Errors
/// The message of the JSON parser, or what is wrong with a map or a word.
pub(super) fn check(tokenizer: &str) -> Result<(), String> {
    serde_json::from_str::<Checked>(tokenizer).map(drop).map_err(|error| error.to_string())
}

/// A JSON value that has been checked. Only what the value around it needs is kept.
enum Checked {
    Text(String),
    /// An array; `is_empty_word`: it has the form `["", score]`.
    Array {
        is_empty_word: bool,
    },
    /// An object, a number or another value.
    Other,
}

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CheckedVisitor;

        impl<'de> Visitor<'de> for CheckedVisitor {
            type Value = Checked;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, _: bool) -> Result<Checked, E> {
                Ok(Checked::Other)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Checked, E> {
                Ok(Checked::Other)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Checked, E> {
                Ok(Checked::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Checked, E> {
                Ok(Checked::Other)
            }

            fn visit_unit<E>(self) -> Result<Checked, E> {
                Ok(Checked::Other)
            }

            fn visit_str<E>(self, text: &str) -> Result<Checked, E> {
                Ok(Checked::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Checked, A::Error> {
                let mut count = 0;
                let mut is_empty_word = false;
                while let Some(value) = values.next_element()? {
                    match value {
                        Checked::Text(text) if count == 0 => is_empty_word = text.is_empty(),
                        // An element of the words: `["word", score]`.
                        Checked::Array { is_empty_word: true } => {
                            return Err(Error::custom(format!(
                                "the word {count} of the vocabulary is empty, which the library would find without end"
                            )));
                        }
                        _ => {}
                    }
                    count += 1;
                }
                Ok(Checked::Array { is_empty_word: is_empty_word && count == 2 })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Checked, A::Error> {
                let (mut is_precompiled, mut has_map) = (false, false);
                while let Some(key) = fields.next_key::<Cow<str>>()? {
                    match (&*key, fields.next_value()?) {
                        (KEY, Checked::Text(map)) => {
                            check_map(&map)
                                .map_err(|found| Error::custom(format!("{KEY}: {found}")))?;
                            has_map = true;
                        }
                        ("type", Checked::Text(kind)) => is_precompiled |= kind == "Precompiled",
                        _ => {}
                    }
                }
                match is_precompiled && !has_map {
                    true => Err(Error::custom(format!(
                        "a normalizer of type `Precompiled` without a text `{KEY}`"
                    ))),
                    false => Ok(Checked::Other),
                }
            }
        }

        deserializer.deserialize_any(CheckedVisitor)
    }
}

/// Checks the base64 of one map.
fn check_map(map: &str) -> Result<(), String> {
    let bytes = STANDARD.decode(map).map_err(|error| format!("it is not base64: {error}"))?;
    let has = bytes.len();
    let Some((size, rest)) = bytes.split_first_chunk() else {
        return Err(format!(
            "it has {has} bytes, expected the size of its trie in 4 bytes and the trie"
        ));
    };
    let size = u32::from_le_bytes(*size) as usize;
    if size > rest.len() {
        return Err(format!("it has {has} bytes, and its trie alone is to have {size} bytes"));
    }
    if !size.is_multiple_of(4) {
        return Err(format!(
            "its trie of {size} bytes (the map has {has} bytes) is not one of 32-bit units"
        ));
    }
    let (trie, texts) = rest.split_at(size);
    let units: Vec<usize> =
        trie.as_chunks().0.iter().map(|&unit| u32::from_le_bytes(unit) as usize).collect();
    let texts = std::str::from_utf8(texts)
        .map_err(|error| format!("its texts are not UTF-8 from byte {} on", error.valid_up_to()))?;
    check_trie(&units, texts)
}

/// Follows every path through the trie as the library does, each unit once.
fn check_trie(units: &[usize], texts: &str) -> Result<(), String> {
    let has_leaf = |unit: usize| unit >> 8 & 1 == 1;
    let value = |unit: usize| unit & ((1 << 31) - 1);
    let label = |unit: usize| unit & (1 << 31 | 0xff);
    let offset = |unit: usize| (unit >> 10) << ((unit & 1 << 9) >> 6);
    let unit_at = |at: usize| {
        units.get(at).copied().ok_or_else(|| {
            format!("a path of its trie leads to unit {at}, and it has {} units", units.len())
        })
    };
    let Some(&root) = units.first() else {
        return Err("its trie has no units".to_owned());
    };
    let mut seen = vec![false; units.len()];
    let mut waiting = vec![offset(root)];
    while let Some(node) = waiting.pop() {
        for letter in 1..=0xff {
            let at = node ^ letter;
            let unit = unit_at(at)?;
            if label(unit) != letter || std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let next = at ^ offset(unit);
            if has_leaf(unit) {
                let start = value(unit_at(next)?);
                if !texts.is_char_boundary(start) {
                    return Err(format!(
                        "a leaf of its trie leads to byte {start} of its texts, where none of their {} bytes starts a \
                         character",
                        texts.len()
                    ));
                }
            }
            waiting.push(next);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_of_t5_is_accepted_and_each_of_its_parts_is_needed() {
        let base = include_str!("../../checkpoints/atlas-base/tokenizer.json");
        assert_eq!(check(base), Ok(()));
        // A trie that replaces `a` by `b`: unit 0 leads to unit 64 ^ 97, which has a leaf at unit 128.
        let mut units = vec![0u32; 256];
        units[0] = 64 << 10;
        let at = 64 ^ 97;
        units[at] = 97 | 1 << 8 | ((at as u32 ^ 128) << 10);
        units[128] = 2 | 1 << 31;
        let map = |units: &[u32], texts: &[u8]| {
            let trie: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
            STANDARD.encode([&(trie.len() as u32).to_le_bytes()[..], &trie, texts].concat())
        };
        assert_eq!(check_map(&map(&units, "a\0b\0".as_bytes())), Ok(()));
        let refused = |units: &[u32], texts: &[u8], words: &str| {
            let error = check_map(&map(units, texts)).unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        refused(&units, b"a", "byte 2 of its texts");
        refused(&units, "a\u{e9}".as_bytes(), "byte 2 of its texts");
        refused(&units[..128], b"a\0b\0", "leads to unit 128, and it has 128 units");
        refused(&units[..100], b"a\0b\0", "and it has 100 units");
        units[128] = 97;
        units[at] = 97 | 1 << 8 | 1 << 30;
        refused(&units, b"a\0b\0", "leads to unit 1048");
    }
}
