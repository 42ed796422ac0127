//! The recipes of `recipes/`, inside the library: a binary alone can list, show, copy and run them.

/// A recipe that comes with genir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShippedRecipe {
    /// The file's name without `.toml`.
    pub name: &'static str,
    /// The file's text.
    pub text: &'static str,
}

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        &[$(ShippedRecipe {
            name: $name,
            text: include_str!(concat!("../../recipes/", $name, ".toml")),
        }),+]
    };
}

/// All shipped recipes, the first to try first.
pub const SHIPPED: &[ShippedRecipe] = shipped![
    "quickstart",
    "squad-1000-full",
    "squad-1000-restricted",
    "nq-t5-large-full",
    "nq-t5-large-restricted",
];

impl ShippedRecipe {
    /// The recipe of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SHIPPED.iter().find(|recipe| recipe.name == name)
    }

    /// The text of a copy in the file `to`, with the run directory `run` of its own.
    pub fn copy(&self, to: &str, run: &str) -> String {
        let name = self.name;
        let directory = |run: &str| format!("directory = {}", toml::Value::from(run));
        self.text.replacen(&directory(&format!("runs/{name}")), &directory(run), 1).replacen(
            &format!("genir train {name}"),
            &format!("genir train {to}"),
            1,
        )
    }

    /// What the recipe is: its first comment lines, up to one that ends a sentence, as one line.
    pub fn summary(&self) -> String {
        let mut summary = String::new();
        for line in self.text.lines() {
            let Some(words) = line.strip_prefix('#').map(str::trim).filter(|line| !line.is_empty())
            else {
                break;
            };
            if !summary.is_empty() {
                summary.push(' ');
            }
            summary.push_str(words);
            if words.ends_with('.') {
                break;
            }
        }
        summary
    }
}
