//! `genir recipes`

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};

use super::output;
use crate::files::write_new;
use crate::nearest::nearest;
use crate::recipe::{SHIPPED, ShippedRecipe};

/// List, show or copy the recipes that come with genir.
#[derive(Debug, Args)]
pub struct Recipes {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Name every recipe, with what it is for.
    List,
    /// Print a recipe.
    Show {
        /// Its name, as `list` shows it.
        name: String,
    },
    /// Copy a recipe, to change it.
    Copy {
        /// Its name, as `list` shows it.
        name: String,
        /// The new file; an existing one is not overwritten.
        to: PathBuf,
    },
}

impl Recipes {
    pub fn run(self) -> Result<()> {
        match self.action {
            Action::List => {
                let width = SHIPPED.iter().map(|recipe| recipe.name.len()).max().unwrap_or(0);
                for recipe in SHIPPED {
                    output::line(format_args!("{:width$}  {}", recipe.name, recipe.summary()))?;
                }
            }
            Action::Show { name } => output::print(find(&name)?.text)?,
            Action::Copy { name, to } => {
                let recipe = find(&name)?;
                match write_new(&to, recipe.text.as_bytes()) {
                    Err(error) if error.source.kind() == ErrorKind::AlreadyExists => {
                        bail!("{} is there already; it is not overwritten", to.display())
                    }
                    written => written?,
                }
                let to = to.display();
                output::line(format_args!("{to}: edit it, then: genir train {to}"))?;
            }
        }
        Ok(())
    }
}

fn find(name: &str) -> Result<&'static ShippedRecipe> {
    let names = || SHIPPED.iter().map(|recipe| recipe.name);
    SHIPPED.iter().find(|recipe| recipe.name == name).ok_or_else(|| {
        let hint = nearest(name, names()).map(|n| format!("; did you mean `{n}`?"));
        let all = names().collect::<Vec<_>>().join(", ");
        anyhow!("no recipe is called `{name}`{} (there are {all})", hint.unwrap_or_default())
    })
}
