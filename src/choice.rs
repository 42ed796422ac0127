//! Enums whose variants have names in recipes and on the command line, each defined once.

use std::fmt::Display;

/// A value that is selected by name, in a recipe or on the command line.
pub(crate) trait Choice: Copy + Display + 'static {
    /// All values, in the order of messages.
    const ALL: &'static [Self];

    /// Returns the value with this name.
    fn from_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|choice| choice.to_string() == name)
    }

    /// Returns the names in quotes, for messages: `"docids", "all"`.
    fn names() -> String {
        let names: Vec<String> = Self::ALL.iter().map(|choice| format!("\"{choice}\"")).collect();
        names.join(", ")
    }
}

/// Declares an enum with a name for each variant, which is also used by `Display` and serde.
macro_rules! choice {
    (
        $(#[$about:meta])*
        $name:ident { $($(#[$meaning:meta])* $variant:ident = $value:literal),+ $(,)? }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$meaning])* #[serde(rename = $value)] $variant),+
        }

        impl $name {
            /// All values, in the order of messages.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the name of the value.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $value),+ }
            }
        }

        impl $crate::choice::Choice for $name {
            const ALL: &'static [Self] = Self::ALL;
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.name())
            }
        }
    };
}

pub(crate) use choice;
