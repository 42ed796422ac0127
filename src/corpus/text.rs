//! Texts of a corpus as JSON has them, lone surrogates included.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

/// The text of a JSON string. Lone surrogates, which a Rust string cannot represent, are replaced by U+FFFD.
#[derive(Debug, Default, Clone)]
pub(super) struct Text {
    pub text: String,
    /// The first lone surrogate that was replaced.
    pub surrogate: Option<u16>,
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl Visitor<'_> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text, E> {
                Ok(Text::from_wtf8(bytes))
            }
        }

        // serde_json passes a lone surrogate on in bytes, but refuses it in a string.
        deserializer.deserialize_bytes(TextVisitor)
    }
}

impl Text {
    /// Decodes UTF-8 that may contain surrogates as three bytes, as serde_json passes them on.
    fn from_wtf8(mut bytes: &[u8]) -> Self {
        let mut read = Self::default();
        loop {
            match std::str::from_utf8(bytes) {
                Ok(rest) => {
                    read.text.push_str(rest);
                    return read;
                }
                Err(error) => {
                    let (valid, rest) = bytes.split_at(error.valid_up_to());
                    read.text.push_str(&String::from_utf8_lossy(valid));
                    read.text.push(char::REPLACEMENT_CHARACTER);
                    let &[_, second, third, ref after @ ..] = rest else {
                        return read;
                    };
                    let code = 0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f);
                    read.surrogate.get_or_insert(code);
                    bytes = after;
                }
            }
        }
    }

    /// Joins title and text by `. `, or returns the one that is not empty.
    pub fn titled(title: Self, text: Self) -> Self {
        Self {
            surrogate: title.surrogate.or(text.surrogate),
            text: match (title.text.is_empty(), text.text.is_empty()) {
                (false, false) => format!("{}. {}", title.text, text.text),
                (false, true) => title.text,
                (true, _) => text.text,
            },
        }
    }
}
