//! `genir check`

use anyhow::Result;
use clap::Args;

use super::{RecipeArgs, output};
use crate::monitor::Console;
use crate::processes::Needs;
use crate::train::{MemoryEstimate, Resume, Start, arms_table, find_start};

/// Validate a recipe and estimate its cost.
///
/// Reads the recipe, the corpus, and the base model's configuration, tokenizer and weights, and tests whether
/// the run directory can be created. Reports all problems at once, or what would be trained, the number of steps, what an
/// update costs and the peak memory. Nothing is trained or written.
#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    recipe: RecipeArgs,

    /// Validate for `train --overwrite`: an existing run in the run directory is not a problem.
    #[arg(long)]
    overwrite: bool,

    /// Also show what the trainable sets of a comparison cost with this recipe: full, decoder, restricted, matched, norms
    /// and docids.
    #[arg(long)]
    arms: bool,

    /// Also show what a training by this number of processes needs (docs/processes.md): its share of an update, memory, and
    /// the network.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    processes: Option<u16>,
}

impl Check {
    pub fn run(self, console: &Console) -> Result<()> {
        let recipe = self.recipe.read(console)?;
        let start = find_start(&recipe, self.overwrite, &Resume::Auto)?;
        let mut plan = start.plan(recipe)?;
        plan.check_values()?;
        let memory = MemoryEstimate::of(&plan);
        let costs = plan.costs(&memory);
        let needs = |count| Needs::of(&plan, usize::from(count), &costs);
        let needs = self.processes.map(needs).transpose()?;
        if let Start::Continue(point) = &start {
            let directory = point.directory.display();
            output::line(format_args!("`genir train` would continue the run from {directory}\n"))?;
        }
        output::line(super::train::summary(&plan))?;
        if self.arms {
            let arms = plan.arms();
            output::line(arms_table(&costs, &arms))?;
        }
        if let Some(needs) = needs {
            output::line(format_args!("{needs}\n"))?;
        }
        for warning in plan.warnings() {
            output::line(format_args!("{warning}\n"))?;
        }
        let recipe = self.recipe.recipe.display();
        Ok(output::line(format_args!("{recipe}: no problems found"))?)
    }
}
