//! Checks that a run can be started: its directory, and the memory of the machine.

use super::memory::{Fit, MemoryEstimate};
use super::plan::Plan;
use super::plan_error::{PlanError, PlanErrors};
use crate::recipe::Recipe;
use crate::run::{NewRun, Overwrite, RunDirectory, available_to_process};

impl Plan {
    /// As [`Plan::new`] for a run that is to be started: also refused are a run that cannot start in its directory, one
    /// that reads what would be removed with the run that it replaces, and one that needs more memory than there is.
    ///
    /// # Errors
    /// All problems at once.
    pub fn to_start(recipe: Recipe, overwrite: Overwrite) -> Result<Self, PlanErrors> {
        let directory = RunDirectory::can_start(&recipe.run.directory, overwrite);
        let plan =
            Self::assemble(recipe, directory.err().map(PlanError::from).into_iter().collect())?;
        let inputs = NewRun::refuse_inputs(&plan.recipe.run.directory, plan.inputs());
        plan.that_fits(inputs.err().map(PlanError::from).into_iter().collect())
    }

    /// As [`Plan::to_start`] for a run that continues: its directory must exist and be free.
    ///
    /// # Errors
    /// All problems at once.
    pub fn to_continue(recipe: Recipe) -> Result<Self, PlanErrors> {
        let directory = NewRun::check_resume(&recipe.run.directory);
        let plan =
            Self::assemble(recipe, directory.err().map(PlanError::from).into_iter().collect())?;
        plan.that_fits(Vec::new())
    }

    /// Returns the plan if there are no problems and the machine has the memory for it.
    fn that_fits(self, mut problems: Vec<PlanError>) -> Result<Self, PlanErrors> {
        let plan = self;
        let memory = plan.memory_problem();
        problems.extend(memory.filter(|(fit, _)| *fit == Fit::DoesNot).map(|(_, problem)| problem));
        match problems.is_empty() {
            true => Ok(plan),
            false => Err(PlanErrors(problems)),
        }
    }

    /// Returns the problem that the run needs more memory than its process can have, if it does.
    pub(super) fn memory_problem(&self) -> Option<(Fit, PlanError)> {
        const MIB: u64 = 1 << 20;
        let (available, memory) = (available_to_process()?, MemoryEstimate::of(self));
        let needed = memory.total().saturating_sub(memory.stored) as u64 / MIB;
        let problem = PlanError::Memory { needed, available: available / MIB };
        Some((memory.fits(available), problem)).filter(|(fit, _)| *fit != Fit::Fits)
    }
}
