//! `genir train`

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use super::RecipeArgs;
use crate::component::Stages;
use crate::corpus::Corpus;
use crate::device;
use crate::files::can_create_in;
use crate::monitor::Console;
use crate::prefix::describe_storage;
use crate::recipe::Init;
use crate::run::Overwrite;
use crate::train::{MemoryEstimate, Plan, Training};

/// Fine-tune a model as a recipe says.
///
/// The run directory then holds the resolved recipe, the environment, metrics.jsonl, TensorBoard events,
/// run files, and checkpoints that transformers loads.
#[derive(Debug, Args)]
pub struct Train {
    #[command(flatten)]
    recipe: RecipeArgs,

    /// Replace the run that is in the run directory. It stays aside in .genir-old until the new one has its first
    /// checkpoint; without one it comes back, and what the new run has logged is moved to failed-run/.
    #[arg(long)]
    overwrite: bool,
}

impl Train {
    pub fn run(self, console: &Console) -> Result<()> {
        let overwrite = if self.overwrite { Overwrite::Replace } else { Overwrite::Refuse };
        console.log_later();
        let plan = Plan::to_start(self.recipe.read(console)?, overwrite)?;
        let training = Training::claim(&plan, overwrite)?;
        let run = training.directory().clone();
        console.message(&summary(&plan));
        for warning in plan.warnings() {
            tracing::warn!("{warning}");
        }
        let begun = Instant::now();
        let outcome = training.run(console)?;
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
    let memory = MemoryEstimate::of(plan);
    format!(
        "run       {run}, seed {seed}, device {device}\n\
         corpus    {path}: {documents}; {train} training, {generated} generated, \
         {validation} validation, {test} test queries\n\
         base      {base} ({init})\n\
         docids    {docids}\n\
         examples  {mixture}\n\
         stages    {stages}\n\
         steps     {steps} ({epochs})\n\
         prefix    {prefix}\n\
         probes    {probes}\n\
         memory    {memory}\n\n{table}\n",
        run = plan.recipe.run.directory.display(),
        seed = plan.recipe.run.seed,
        device = device::describe(&plan.device, plan.precision),
        path = plan.recipe.corpus.path,
        documents = documents(corpus),
        train = corpus.train.len(),
        generated = corpus.generated.len(),
        validation = corpus.validation.len(),
        test = corpus.test.len(),
        base = plan.recipe.model.base,
        init = init(plan),
        docids = docids(plan),
        mixture = plan.mixture,
        stages = stages(plan),
        steps = plan.total_steps(),
        epochs = plan.epochs,
        prefix = prefix(plan, memory.released as u64),
        probes = probes.map_or("none".to_owned(), |section| {
            let base = plan.probe_base().map(|base| format!("; base model {}", base.name));
            format!("{section}{}", base.unwrap_or_default())
        }),
        table = plan.table,
    )
}

/// How many documents there are, and how many texts where that is another number.
fn documents(corpus: &Corpus) -> String {
    let documents = corpus.documents.len();
    match corpus.documents.iter().map(|document| document.texts.len()).sum::<usize>() {
        texts if texts == documents => format!("{documents} documents"),
        texts => format!("{documents} documents with {texts} texts"),
    }
}

/// What is frozen and stored, and whether it can be.
fn prefix(plan: &Plan, released: u64) -> String {
    let settings = plan.recipe.cache.settings();
    let frozen = plan.frozen_prefix();
    let stored = describe_storage(
        frozen,
        &settings,
        &plan.training_texts(),
        plan.config().d_model,
        released,
    );
    match can_create_in(&settings.directory) {
        Err(error) if frozen.is_some() && settings.enabled => format!(
            "{stored}; warning: no file can be written in {} ({error}), so it is held in memory, or computed in every \
             step",
            settings.directory.display()
        ),
        _ => stored,
    }
}

/// Where the weights start.
fn init(plan: &Plan) -> String {
    match plan.recipe.model.init {
        Init::Pretrained => "pretrained".to_owned(),
        Init::Scratch if plan.base_has_weights() => {
            "scratch: new weights, those of the base are not used".to_owned()
        }
        Init::Scratch => "scratch".to_owned(),
    }
}

/// Where the docid rows start.
fn docids(plan: &Plan) -> String {
    let (sources, rows) = (plan.docid_sources(), plan.recipe.docids.rows);
    match sources.new {
        0 => sources.to_string(),
        _ => format!("{sources} (new ones: docids.rows = \"{rows}\")"),
    }
}

fn stages(plan: &Plan) -> String {
    match &plan.stages {
        Some(stages) => stages.to_string(),
        None => format!(
            "none: three stages need {} decoder layers, this one has {}",
            Stages::LEAST_DEPTH,
            plan.config().num_decoder_layers
        ),
    }
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
