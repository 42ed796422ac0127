//! `genir train`

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use super::RecipeArgs;
use crate::device;
use crate::monitor::{Console, Monitor};
use crate::prefix::outlook;
use crate::run::{Environment, Overwrite, RunDirectory};
use crate::train::{Plan, Trainer, callbacks};

/// Fine-tune a model as a recipe says.
///
/// The run directory then holds the resolved recipe, the environment, metrics.jsonl, TensorBoard events,
/// run files, and checkpoints that transformers loads.
#[derive(Debug, Args)]
pub struct Train {
    #[command(flatten)]
    recipe: RecipeArgs,

    /// Replace the run that is in the run directory.
    #[arg(long)]
    overwrite: bool,
}

impl Train {
    pub fn run(self, console: &Console) -> Result<()> {
        let recipe = self.recipe.read()?;
        let plan = Plan::new(recipe)?;
        let overwrite = if self.overwrite { Overwrite::Replace } else { Overwrite::Refuse };
        let environment = Environment::capture(&device::describe(&plan.device));
        let toml = plan.recipe.to_toml()?;
        let run = RunDirectory::create(&plan.recipe.run.directory, overwrite, &toml, &environment)?;
        console.log_to(&run.log())?;
        console.message(&summary(&plan));

        let begun = Instant::now();
        let mut trainer = Trainer::new(&plan)?;
        let model = trainer.initial_model()?;
        let mut callbacks = callbacks::standard(&plan, &run)?;
        let mut monitor = Monitor::open(&run, plan.total_steps(), console)?;
        let outcome = trainer.run_for_callbacks(model, &mut callbacks, &mut monitor)?;
        monitor.finish()?;

        if let Some(reason) = outcome.stopped {
            console.message(&format!("stopped after step {}: {reason}", outcome.steps));
        }
        console.message(&closing(run.path(), run.probes().exists(), begun.elapsed().as_secs_f64()));
        Ok(())
    }
}

/// What is trained on what, before the first step.
pub(super) fn summary(plan: &Plan) -> String {
    let corpus = &plan.corpus;
    let probes = plan.recipe.probes.as_ref();
    let memory = plan.memory();
    format!(
        "run       {run}, seed {seed}, device {device}\n\
         corpus    {path}: {documents} documents; {train} training, {generated} generated, \
         {validation} validation, {test} test queries\n\
         base      {base} ({init})\n\
         examples  {mixture}\n\
         stages    {stages}\n\
         steps     {steps} ({per_epoch} an epoch)\n\
         prefix    {prefix}\n\
         probes    {probes}\n\
         memory    {memory}\n\n{table}\n",
        run = plan.recipe.run.directory.display(),
        seed = plan.recipe.run.seed,
        device = device::describe(&plan.device),
        path = plan.recipe.corpus.path,
        documents = corpus.documents.len(),
        train = corpus.train.len(),
        generated = corpus.generated.len(),
        validation = corpus.validation.len(),
        test = corpus.test.len(),
        base = plan.recipe.model.base,
        init = plan.recipe.model.init,
        mixture = plan.mixture,
        stages = plan.stages,
        steps = plan.total_steps(),
        per_epoch = plan.steps_per_epoch(),
        prefix = outlook(
            plan.frozen_prefix(),
            &plan.recipe.cache.settings(),
            &plan.reading(),
            plan.config().d_model,
            memory.let_go as u64,
        ),
        probes = probes.map_or("none".to_owned(), |section| {
            let base = plan.probe_base().map(|base| format!("; base model {}", base.name));
            format!("{section}{}", base.unwrap_or_default())
        }),
        table = plan.table,
    )
}

fn closing(run: &Path, probed: bool, seconds: f64) -> String {
    let run = run.display();
    let pictures = format!("probes       genir plot {run} --output pictures\n");
    format!(
        "done in {:.0} min {:02.0} s\n\
         checkpoint   {run}/checkpoints/best (transformers loads it)\n\
         search       genir search {run} \"your query\"\n\
         evaluate     genir eval {run} --split test\n\
         {}\
         TensorBoard  tensorboard --logdir {run}/tensorboard",
        (seconds / 60.0).floor(),
        (seconds % 60.0).floor(),
        if probed { pictures.as_str() } else { "" },
    )
}
