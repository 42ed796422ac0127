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

/// The error of parsing the name of a value that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {of} `{found}`; expected one of {expected}")]
pub struct UnknownName {
    /// The type of the value.
    pub of: &'static str,
    /// The name found.
    pub found: String,
    /// The known names, each in quotes.
    pub expected: String,
}

/// Declares an enum with a name for each variant, which is also used by `Display`, `FromStr` and serde. `FromStr` accepts
/// the further names after it, too.
macro_rules! choice {
    (
        $(#[$about:meta])*
        $name:ident {
            $($(#[$meaning:meta])* $variant:ident = $value:literal $(| $other:literal)*),+ $(,)?
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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

        impl std::str::FromStr for $name {
            type Err = $crate::UnknownName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                match name {
                    $($value $(| $other)* => Ok(Self::$variant),)+
                    _ => Err($crate::UnknownName {
                        of: stringify!($name),
                        found: name.to_owned(),
                        expected: <Self as $crate::choice::Choice>::names(),
                    }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.name())
            }
        }
    };
}

pub(crate) use choice;
