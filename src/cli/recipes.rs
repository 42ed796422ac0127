//! `genir recipes`

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};

use super::output;
use crate::files::write_new;
use crate::nearest::nearest;
use crate::recipe::{SHIPPED, SHIPPED_SWEEPS, ShippedRecipe};

/// List, show or copy the recipes that come with genir.
#[derive(Debug, Args)]
pub struct Recipes {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all recipes with a one-line description.
    List,
    /// Print a recipe.
    Show {
        /// Name of the recipe, as printed by `list`.
        name: String,
    },
    /// Copy a recipe to a file for editing; the copy has its own run directory.
    Copy {
        /// Name of the recipe, as printed by `list`.
        name: String,
        /// Path of the copy; an existing file is not overwritten.
        to: PathBuf,
    },
}

impl Recipes {
    pub fn run(self) -> Result<()> {
        match self.action {
            Action::List => {
                let width = all().map(|recipe| recipe.name.len()).max().unwrap_or(0);
                for recipe in all() {
                    output::line(format_args!("{:width$}  {}", recipe.name, recipe.summary()))?;
                }
            }
            Action::Show { name } => output::print(find(&name)?.text)?,
            Action::Copy { name, to } => {
                let recipe = find(&name)?;
                let (shown, run) = (to.display().to_string(), own_directory(&to));
                match write_new(&to, recipe.copy(&shown, &run).as_bytes()) {
                    Err(error) if error.source.kind() == ErrorKind::AlreadyExists => {
                        bail!("{} already exists; it is not overwritten", to.display())
                    }
                    written => written?,
                }
                output::line(format_args!(
                    "{shown}: run directory {run}; edit the recipe, then run: genir {} {shown}",
                    if ShippedRecipe::find_sweep(&name).is_some() { "sweep" } else { "train" }
                ))?;
            }
        }
        Ok(())
    }
}

/// Returns a run directory that does not exist yet for the recipe in the file `to`: `runs/my` for `my.toml`, else
/// `runs/my-2` and so on.
fn own_directory(to: &Path) -> String {
    let stem = to.file_stem().unwrap_or_default().to_string_lossy();
    let numbered = (2..).map(|number| format!("runs/{stem}-{number}"));
    let mut names = std::iter::once(format!("runs/{stem}")).chain(numbered);
    let is_free = |name: &String| Path::new(name).symlink_metadata().is_err();
    names.find(is_free).unwrap_or_else(|| format!("runs/{stem}"))
}

/// All recipes and sweeps.
fn all() -> impl Iterator<Item = &'static ShippedRecipe> {
    SHIPPED.iter().chain(SHIPPED_SWEEPS)
}

fn find(name: &str) -> Result<&'static ShippedRecipe> {
    all().find(|recipe| recipe.name == name).ok_or_else(|| {
        let hint = nearest(name, all().map(|recipe| recipe.name))
            .map(|n| format!("; did you mean `{n}`?"));
        let all = all().map(|recipe| recipe.name).collect::<Vec<_>>().join(", ");
        anyhow!("no recipe is named `{name}`{} (available: {all})", hint.unwrap_or_default())
    })
}
