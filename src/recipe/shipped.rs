//! The recipes of `recipes/`, compiled into the library: a binary alone can list, show, copy and run them.

/// A recipe that is included in genir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShippedRecipe {
    /// The file name without `.toml`.
    pub name: &'static str,
    /// The text of the file.
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

/// All included recipes, the one for newcomers first.
pub const SHIPPED: &[ShippedRecipe] = shipped![
    "quickstart-full",
    "quickstart-restricted",
    "quickstart",
    "pretrain-tiny",
    "squad-1000-full",
    "squad-1000-restricted",
    "nq-t5-large-full",
    "nq-t5-large-restricted",
];

/// All included sweeps, which `genir sweep` runs: files with a section `[sweep]`.
pub const SHIPPED_SWEEPS: &[ShippedRecipe] = shipped!["sweep-quickstart"];

impl ShippedRecipe {
    /// Returns the sweep with this name.
    pub fn find_sweep(name: &str) -> Option<&'static Self> {
        SHIPPED_SWEEPS.iter().find(|sweep| sweep.name == name)
    }

    /// Returns the recipe with this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        SHIPPED.iter().find(|recipe| recipe.name == name)
    }

    /// Returns the text for a copy in the file `to`, with the run directory `run`.
    pub fn copy(&self, to: &str, run: &str) -> String {
        let name = self.name;
        let directory = |run: &str| format!("directory = {}", toml::Value::from(run));
        self.text
            .replacen(&directory(&format!("runs/{name}")), &directory(run), 1)
            .replacen(&format!("genir train {name}"), &format!("genir train {to}"), 1)
            .replacen(&format!("genir sweep {name}"), &format!("genir sweep {to}"), 1)
    }

    /// Returns a summary of the recipe: its first comment lines, up to the end of a sentence, as one line.
    pub fn summary(&self) -> String {
        let mut summary = String::new();
        for line in self.text.lines() {
            let Some(text) = line.strip_prefix('#').map(str::trim).filter(|line| !line.is_empty())
            else {
                break;
            };
            if !summary.is_empty() {
                summary.push(' ');
            }
            summary.push_str(text);
            if text.ends_with('.') {
                break;
            }
        }
        summary
    }
}
