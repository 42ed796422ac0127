//! Choices: enums whose variants people write as words, each word written once.

use std::fmt::Display;

/// A value that is picked by its word, in a recipe.
pub(crate) trait Choice: Copy + Display + 'static {
    /// All that can be picked, in the order in which messages list them.
    const ALL: &'static [Self];

    /// What `word` picks.
    fn named(word: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|choice| choice.to_string() == word)
    }

    /// The words, for messages: `"docids", "all"`.
    fn words() -> String {
        let words: Vec<String> = Self::ALL.iter().map(|choice| format!("\"{choice}\"")).collect();
        words.join(", ")
    }
}

/// Declares an enum with the word of each variant; `Display` and serde use that word.
macro_rules! choice {
    (
        $(#[$about:meta])*
        $name:ident { $($(#[$meaning:meta])* $variant:ident = $word:literal),+ $(,)? }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$meaning])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// All of them, in the order of messages.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that picks it.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl $crate::choice::Choice for $name {
            const ALL: &'static [Self] = Self::ALL;
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.word())
            }
        }
    };
}

pub(crate) use choice;
