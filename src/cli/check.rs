//! `genir check`

use anyhow::Result;
use clap::Args;

use super::{RecipeArgs, output};
use crate::train::Plan;

/// Show all that is wrong with a recipe, or what it would train and need.
///
/// Reads the recipe, the corpus and the base's configuration and tokenizer; trains nothing and writes
/// nothing.
#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    recipe: RecipeArgs,
}

impl Check {
    pub fn run(self) -> Result<()> {
        let recipe = self.recipe.read()?;
        let plan = Plan::new(recipe)?;
        output::line(super::train::summary(&plan))?;
        for warning in plan.warnings() {
            output::line(format_args!("{warning}\n"))?;
        }
        let recipe = self.recipe.recipe.display();
        Ok(output::line(format_args!("{recipe}: nothing is wrong with it"))?)
    }
}
