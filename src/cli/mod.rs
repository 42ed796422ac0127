//! The command line, one file per subcommand: each parses its arguments, calls the library and prints.

mod advise;
mod baseline;
mod cache;
mod check;
mod compare;
mod eval;
mod export;
mod inspect;
mod output;
mod outputs;
mod panic;
mod plot;
mod probe;
mod recipes;
mod reference_models;
mod replay;
mod report;
mod run_output;
mod search;
mod signals;
mod stages;
mod sweep;
mod sweep_run;
mod target;
mod together;
mod tokenizer;
mod train;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use self::output::OutputError;
use crate::choice::Choice;
use crate::monitor::{Console, Verbosity};
use crate::processes::{alone, started_rank};
use crate::recipe::{Recipe, RecipeErrors, ShippedRecipe};
use crate::terminal::escaped_lines;

/// Fine-tune generative retrieval models: a T5 that answers a query with document ids.
#[derive(Debug, Parser)]
#[command(name = "genir", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print warnings and errors only.
    #[arg(long, short, global = true)]
    quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  genir train quickstart
  genir train quickstart train.epochs=2 run.directory=runs/short
  genir search runs/quickstart \"Which element has the symbol Fe?\"
  genir eval runs/quickstart --split test --run test.run
  genir eval runs/quickstart --baseline bm25
  genir probe runs/quickstart --probe logit_lens
  genir inspect runs/quickstart \"Which element has the symbol Fe?\" --html query.html
  genir advise runs/quickstart-full
  genir check quickstart
  genir sweep quickstart --arms full,restricted,lora --seeds 1,2,3
  genir recipes copy quickstart my-recipe.toml

All training options are keys of the recipe: see `genir recipes show quickstart`.
RUST_LOG=genir=debug prints more log messages.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Fine-tune a model from a recipe; all outputs go to its run directory.
    Train(train::Train),
    /// Evaluate checkpoints on a split: metrics, TREC run files, values of each query.
    Eval(Box<eval::Eval>),
    /// Train several trainable sets with several seeds, one run after another, and compare them.
    Sweep(Box<sweep::Sweep>),
    /// Compare runs: effectiveness with significance tests, and cost.
    Compare(compare::Compare),
    /// Show runs on one HTML page: what each loses and saves, curves, probes, queries.
    Report(report::ReportCommand),
    /// Rank documents for queries from the command line or standard input.
    Search(search::Search),
    /// Show what a model does with one query: ranking, attention, logit lens, mean ablation.
    Inspect(Box<inspect::Inspect>),
    /// Measure the paper's interpretability probes on a checkpoint: tables, JSON, CSV, figures.
    Probe(Box<probe::ProbeCommand>),
    /// Advise a trainable set: the smallest set of decoder components that retrieval depends on, by ablation.
    Advise(Box<advise::Advise>),
    /// Plot stored probe results and the training of runs as figures, SVG or PDF.
    Plot(plot::Plot),
    /// Validate a recipe and estimate its cost.
    Check(check::Check),
    /// Repeat a training step and compare its bits with what the run has recorded.
    Replay(replay::Replay),
    /// Write a checkpoint without its training state: for transformers, or as a base model; also in bfloat16.
    Export(export::Export),
    /// List, show or copy the recipes that come with genir.
    Recipes(recipes::Recipes),
    /// Train a tokenizer for a corpus of your own, to pre-train a model from scratch.
    Tokenizer(tokenizer::Tokenizer),
    /// List or delete the cached outputs of frozen encoders.
    Cache(cache::Cache),
}

/// Parses the value of an option that is an enum; the error lists the allowed values.
fn parse_choice<T: Choice>(word: &str) -> Result<T, String> {
    T::from_name(word).ok_or_else(|| format!("expected one of {}", T::names()))
}

/// A recipe with overrides.
#[derive(Debug, Args)]
struct RecipeArgs {
    /// The recipe: a TOML file, or the name of a recipe that comes with genir.
    recipe: PathBuf,

    /// Recipe keys to set (`train.steps=500`) or to remove (`~train.epochs`).
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,

    /// Device: auto, cpu, cuda or cuda:N (cuda+f32 computes matrix products in f32); overrides the recipe's
    /// `run.device`.
    #[arg(long)]
    device: Option<String>,
}

impl RecipeArgs {
    /// Returns the recipe with its overrides; `--device` is the last of them. A file with the name of an included
    /// recipe takes precedence over it, and `console` reports which of the two was read.
    fn read(&self, console: &Console) -> Result<Recipe, RecipeErrors> {
        let device = self.device.iter().map(|device| format!("run.device={device}"));
        let overrides: Vec<String> = self.overrides.iter().cloned().chain(device).collect();
        let name = self.recipe.to_string_lossy();
        match ShippedRecipe::find(&name) {
            Some(shipped) if !self.recipe.is_file() => {
                console.message(&format!("recipe    {name}, which comes with genir"));
                Recipe::from_text(&name, shipped.text, &overrides)
            }
            Some(_) => {
                console.message(&format!(
                    "recipe    the file {name} in this directory, not the recipe {name} that comes with genir"
                ));
                Recipe::from_file(&self.recipe, &overrides)
            }
            None => Recipe::from_file(&self.recipe, &overrides),
        }
    }
}

/// The default of RUST_LOG. Warnings of the SVG parser are left out: it warns of each bar of height 0.
const DEFAULT_LOG: &str = "warn,usvg=error";

/// Parses the command line and runs its subcommand. Returns exit code 0, or 1 with the error on standard error (2 for a
/// command line that cannot be parsed, 1 for a replay that differs, 128 plus the signal for a training that a signal
/// interrupted). A panic ends the process with exit code 101, and a message on how to report it.
pub fn main() -> ExitCode {
    panic::install_hook();
    let cli = Cli::parse();
    // Of several processes that work together, the first one prints.
    use Command::{Eval, Probe, Search, Train};
    let shared = matches!(cli.command, Train(_) | Eval(_) | Search(_) | Probe(_));
    let follows = shared && started_rank() > 0;
    let console = Console::stderr(match (follows, cli.quiet) {
        (true, _) => Verbosity::Log,
        (false, true) => Verbosity::Quiet,
        (false, false) => Verbosity::Normal,
    });
    let default_log = if follows { "error" } else { DEFAULT_LOG };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_log));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(console.clone())
        .with_ansi(false)
        .init();
    // On a thread of rayon's pool: a matrix product that a worker starts does not have to wake another thread first.
    // This saves 6% of a full step on two cores (`benches/README.md`).
    let success = |()| ExitCode::SUCCESS;
    let done = rayon::scope(|_| {
        panic::panic_if_asked();
        match cli.command {
            Command::Train(train) => train.run(&console),
            Command::Eval(eval) => eval.run(&console),
            Command::Sweep(sweep) => {
                // Its trainings would take themselves for one process of several.
                alone()?;
                sweep.run(&console)
            }
            Command::Compare(compare) => compare.run().map(success),
            Command::Report(report) => report.run(&console).map(success),
            Command::Search(search) => search.run(&console),
            Command::Inspect(inspect) => inspect.run(&console).map(success),
            Command::Probe(probe) => probe.run(&console),
            Command::Advise(advise) => advise.run(&console).map(success),
            Command::Plot(plot) => plot.run(&console).map(success),
            Command::Check(check) => check.run(&console).map(success),
            Command::Replay(replay) => replay.run(&console),
            Command::Export(export) => export.run().map(success),
            Command::Recipes(recipes) => recipes.run().map(success),
            Command::Tokenizer(tokenizer) => tokenizer.run().map(success),
            Command::Cache(cache) => cache.run().map(success),
        }
    });
    match done {
        Ok(code) => code,
        // The reader has closed the pipe on purpose: `genir check RECIPE | head -3`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report_error(&error, &console);
            ExitCode::FAILURE
        }
    }
}

/// Prints an error with its causes, and writes it to the log of the run.
fn report_error(error: &anyhow::Error, console: &Console) {
    let message = format!("error: {}", escaped_lines(&with_causes(error)));
    console.log_line(&message);
    // If standard error cannot be written either, nothing is left to report to.
    let _ = writeln!(io::stderr(), "{message}");
}

/// Returns whether the reader of an output has closed it: standard output, or a file that is a pipe.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref().is_some_and(OutputError::is_broken_pipe)
        || error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(broken))
}

/// Returns an error with its causes, each once: many messages already end with that of their cause.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |message, cause| match cause.to_string() {
        cause if message.is_empty() => cause,
        cause if message.contains(&cause) => message,
        cause => format!("{message}: {cause}"),
    })
}
