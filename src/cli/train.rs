//! `genir train`

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use super::RecipeArgs;
use super::signals::{ignore, listen, listen_to_sweep};
use super::together::{device_and_instructions, digest, end_all, end_known, program};
use crate::checkpoint::MANIFEST;
use crate::component::Stages;
use crate::corpus::Corpus;
use crate::device;
use crate::files::can_create_in;
use crate::monitor::Console;
use crate::prefix::describe_storage;
use crate::processes::{ProcessesError, World, check_shards, share};
use crate::recipe::Init;
use crate::train::{
    MemoryEstimate, Plan, Resume, Start, TrainError, Training, find_start, follow, name_of_base,
};

/// Fine-tune a model from a recipe.
///
/// The run directory holds the resolved recipe, the environment, metrics.jsonl, TensorBoard events, TREC run files, and
/// checkpoints that load in transformers.
///
/// If the run directory holds an unfinished run of this recipe, it continues from its newest checkpoint, to the same
/// weights as if it had not been interrupted. SIGINT (Ctrl-C), SIGTERM and SIGHUP finish the current step, write a
/// checkpoint and exit with 128 plus the signal's number; another signal a second later exits at once. SIGUSR1 writes a checkpoint and
/// continues.
///
/// `mpirun -np 4 genir train RECIPE` trains the same run with four processes, to the same weights, in a build with
/// `--features mpi`: docs/processes.md.
#[derive(Debug, Args)]
pub struct Train {
    #[command(flatten)]
    recipe: RecipeArgs,

    /// Replace the existing run in the run directory. The old run is moved to .genir-old until the new one has written
    /// its first checkpoint. If the new run ends without a checkpoint, the old run is restored, and the log of the new
    /// one is moved to failed-run/.
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,

    /// What to do with an unfinished run in the run directory: `auto` continues it, `never` refuses to, and the name or
    /// path of one of its checkpoints (`latest`, `step-000500`) continues from there, also a finished run (newer
    /// checkpoints are removed).
    #[arg(long, value_name = "auto|never|CHECKPOINT", default_value = "auto")]
    resume: String,
}

impl Train {
    pub fn run(self, console: &Console) -> Result<ExitCode> {
        console.buffer_log();
        match World::join()? {
            None => {
                let (plan, start) = self.plan(console)?;
                lead(&plan, start, None, console)
            }
            Some(world) => self.together(world, console),
        }
    }

    fn plan(&self, console: &Console) -> Result<(Plan, Start)> {
        let resume = match self.resume.as_str() {
            "auto" => Resume::Auto,
            "never" => Resume::Never,
            path => Resume::From(path.into()),
        };
        let recipe = self.recipe.read(console)?;
        let start = find_start(&recipe, self.overwrite, &resume)?;
        let plan = start.plan(recipe)?;
        Ok((plan, start))
    }

    /// Trains with other processes. An error ends all of them.
    fn together(self, world: World, console: &Console) -> Result<ExitCode> {
        // What may fail in one process alone comes first: all of them learn of it here.
        let planned = world.all_succeed(self.plan(console).and_then(|(plan, start)| {
            let identity = identity(&plan, &start)?;
            Ok((plan, start, identity))
        }));
        let planned = planned.and_then(|(plan, start, identity)| {
            world.agree(&identity)?;
            share(plan.recipe.train.accumulate, world.count())?;
            if plan.recipe.docids.shard {
                check_shards(plan.docids.len(), world.count())?;
            }
            Ok((plan, start))
        });
        let (plan, start) = match planned {
            Ok(planned) => planned,
            Err(error) => return Ok(end_known(world, &error, console)),
        };
        let done = match world.is_first() {
            true => lead(&plan, start, Some(&world), console),
            false => ignore().and_then(|()| match follow(&plan, start, &world) {
                // The first process reports it, and ends all.
                Err(
                    TrainError::NotFinite { .. }
                    | TrainError::Processes(ProcessesError::Disagree { .. }),
                ) => Ok(ExitCode::FAILURE),
                done => Ok(done.map(|_| ExitCode::SUCCESS)?),
            }),
        };
        match done {
            Ok(code) => {
                world.finish();
                Ok(code)
            }
            Err(error) => end_all(world, error, console),
        }
    }
}

/// The values that all processes of a training must have in common, each with its name in an error.
fn identity(plan: &Plan, start: &Start) -> Result<[(&'static str, String); 5]> {
    let recipe = plan.recipe.to_toml()?;
    let start = match start {
        Start::New(_) => "a new run".to_owned(),
        // The manifest has the checksums of all files.
        Start::Continue(point) => {
            let manifest = fs::read(point.directory.join(MANIFEST))?;
            format!("the checkpoint of step {}, {}", point.state.step, digest(&manifest))
        }
    };
    Ok([
        program()?,
        ("their recipe, by BLAKE3", digest(recipe.as_bytes())),
        ("the examples of their corpus, by hash", plan.fingerprint()),
        ("what they start from", start),
        ("their device and instructions", device_and_instructions(&plan.device, plan.precision)),
    ])
}

/// Trains with a run directory: alone, or as the first process of `world`.
fn lead(plan: &Plan, start: Start, world: Option<&World>, console: &Console) -> Result<ExitCode> {
    let mut training = Training::start(plan, start)?;
    if let Some(world) = world {
        training = training.with(world);
    }
    listen(&training.requests())?;
    listen_to_sweep(&training.requests());
    let run = training.directory().clone();
    console.message(&summary(plan));
    if let Some(world) = world {
        let (accumulate, count) = (plan.recipe.train.accumulate, world.count());
        let own = share(accumulate, count)?;
        let rows = match plan.recipe.docids.shard {
            true => "; the docid rows are divided among them",
            false => "",
        };
        console.message(&format!(
            "processes {count}, each of which computes {own} of the {accumulate} batches of an update{rows}"
        ));
    }
    for warning in plan.warnings() {
        tracing::warn!("{warning}");
    }
    let start = Instant::now();
    let outcome = training.run(console)?;
    if let Some(signal) = outcome.signal {
        console.message(&format!(
            "interrupted by signal {signal} after step {}; the same command continues the run",
            outcome.steps
        ));
        return Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)));
    }
    if let Some(reason) = outcome.stopped {
        console.message(&format!("stopped after step {}: {reason}", outcome.steps));
    }
    console.message(&closing_message(
        run.path(),
        run.probes().exists(),
        plan.docids.is_empty(),
        start.elapsed().as_secs_f64(),
    ));
    Ok(ExitCode::SUCCESS)
}

/// Summarises what will be trained, on which data and with what memory: printed before the first step.
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
         {denoising}\
         stages    {stages}\n\
         {lora}\
         steps     {steps} ({epochs})\n\
         update    {update}\n\
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
        denoising = denoising(plan),
        stages = stages(plan),
        lora = lora(plan),
        steps = plan.total_steps(),
        epochs = plan.epochs,
        update = plan.costs(&memory),
        prefix = prefix(plan, memory.released as u64),
        probes = probes.map_or("none".to_owned(), |section| {
            let base = plan.probe_base().map(|base| format!("; base model {}", base.name));
            format!("{section}{}", base.unwrap_or_default())
        }),
        table = plan.table,
    )
}

/// Number of documents, and of texts if that differs.
fn documents(corpus: &Corpus) -> String {
    let documents = corpus.documents.len();
    match corpus.documents.iter().map(|document| document.texts.len()).sum::<usize>() {
        texts if texts == documents => format!("{documents} documents"),
        texts => format!("{documents} documents with {texts} texts"),
    }
}

/// Describes the corrupted texts; empty where denoising is not trained.
fn denoising(plan: &Plan) -> String {
    if !plan.is_denoising() {
        return String::new();
    }
    let options = plan.recipe.task.options().denoising;
    let longest = options.longest_piece();
    let counts = options.counts(longest);
    format!(
        "denoising pieces of up to {longest} tokens: {} of source and {} of target, {} spans; {} pieces are held out\n",
        counts.source(),
        counts.target(),
        counts.spans,
        plan.held_out.len()
    )
}

/// Describes the frozen prefix and where its outputs are cached, with a warning if the cache cannot be written.
fn prefix(plan: &Plan, released: u64) -> String {
    if plan.recipe.task.of_docids() == 0 {
        return "none: corrupted texts differ each time that they are seen".to_owned();
    }
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
            "{stored}; warning: cannot create a file in {} ({error}): cached in memory, or recomputed in every step",
            settings.directory.display()
        ),
        _ => stored,
    }
}

/// Describes how the weights are initialised.
fn init(plan: &Plan) -> String {
    match plan.recipe.model.init {
        Init::Pretrained => "pretrained".to_owned(),
        Init::Scratch if plan.base_has_weights() => {
            "scratch: random initialisation; the weights of the base are not used".to_owned()
        }
        Init::Scratch => "scratch".to_owned(),
    }
}

/// Describes how the docid rows are initialised.
fn docids(plan: &Plan) -> String {
    if plan.docids.is_empty() {
        return "none: no task has docids as its target".to_owned();
    }
    let (sources, rows) = (plan.docid_sources(), plan.recipe.docids.rows);
    match sources.new {
        0 => sources.to_string(),
        _ => format!("{sources} (initialisation of new rows: docids.rows = \"{rows}\")"),
    }
}

fn stages(plan: &Plan) -> String {
    if let Some(found) = &plan.detection {
        let base = name_of_base(&plan.recipe);
        return format!(
            "{}\n          measured on the base model {base}; `genir train` writes these numbers into the recipe of the run",
            found.describe().replace('\n', "\n          ")
        );
    }
    match &plan.stages {
        Some(stages) => stages.to_string(),
        None => format!(
            "none: three stages need at least {} decoder layers; this model has {}",
            Stages::LEAST_DEPTH,
            plan.config().num_decoder_layers
        ),
    }
}

/// Describes the factors of LoRA and the adapter in checkpoints, as a line; empty where nothing is adapted.
fn lora(plan: &Plan) -> String {
    if plan.lora.is_empty() {
        return String::new();
    }
    let mut of_kinds: BTreeMap<(usize, String), usize> = BTreeMap::new();
    for low_rank in plan.lora.values() {
        *of_kinds.entry((low_rank.rank, low_rank.alpha.to_string())).or_default() += 1;
    }
    let kinds: Vec<String> = of_kinds
        .into_iter()
        .map(|((rank, alpha), count)| format!("{count} matrices with rank {rank}, alpha {alpha}"))
        .collect();
    let adapter = match plan.no_peft_adapter() {
        None => "checkpoints hold the merged model and, in adapter/, the adapter for peft",
        Some(_) => "checkpoints hold the merged model",
    };
    format!("lora      {}; {adapter}\n", kinds.join("; "))
}

fn closing_message(run: &Path, probed: bool, pretrained: bool, seconds: f64) -> String {
    let run = run.display();
    if pretrained {
        return format!(
            "done in {:.0} min {:02.0} s\n\
             checkpoint   {run}/checkpoints/best (loads in transformers)\n\
             fine-tune    genir train RECIPE model.base={run} model.init=pretrained\n\
             TensorBoard  tensorboard --logdir {run}/tensorboard",
            (seconds / 60.0).floor(),
            (seconds % 60.0).floor(),
        );
    }
    let plot = format!("probes       genir plot {run} --output figures\n");
    format!(
        "done in {:.0} min {:02.0} s\n\
         checkpoint   {run}/checkpoints/best (loads in transformers)\n\
         search       genir search {run} \"your query\"\n\
         evaluate     genir eval {run} --split test\n\
         {}\
         TensorBoard  tensorboard --logdir {run}/tensorboard",
        (seconds / 60.0).floor(),
        (seconds % 60.0).floor(),
        if probed { plot.as_str() } else { "" },
    )
}
