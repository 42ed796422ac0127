//! `genir check`

use anyhow::Result;
use clap::Args;

use super::{RecipeArgs, output};
use crate::monitor::Console;
use crate::run::Overwrite;
use crate::train::Plan;

/// Show all that is wrong with a recipe, or what it would train and need.
///
/// Reads the recipe, the corpus, the base's configuration, its tokenizer and the headers of its weights,
/// and tries whether the run directory can be made. What passes, `train` starts. Trains nothing and leaves nothing behind.
#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    recipe: RecipeArgs,

    /// Check as `train --overwrite` would: a run in the run directory is no problem.
    #[arg(long)]
    overwrite: bool,
}

impl Check {
    pub fn run(self, console: &Console) -> Result<()> {
        let overwrite = if self.overwrite { Overwrite::Replace } else { Overwrite::Refuse };
        let plan = Plan::to_start(self.recipe.read(console)?, overwrite)?;
        output::line(super::train::summary(&plan))?;
        for warning in plan.warnings() {
            output::line(format_args!("{warning}\n"))?;
        }
        let recipe = self.recipe.recipe.display();
        Ok(output::line(format_args!("{recipe}: nothing is wrong with it"))?)
    }
}
