//! The command line: one file a verb, each parses, calls the library and prints.

mod beside;
mod cache;
mod check;
mod eval;
mod output;
mod outputs;
mod plot;
mod probe;
mod recipes;
mod search;
mod target;
mod train;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use self::output::OutputError;
use crate::choice::Choice;
use crate::monitor::{Console, Verbosity};
use crate::recipe::{Recipe, RecipeErrors, ShippedRecipe};

/// Fine-tune generative retrieval models: a T5 that answers a query with a document's id.
#[derive(Debug, Parser)]
#[command(name = "genir", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,

    /// Show warnings and errors only.
    #[arg(long, short, global = true)]
    quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  genir train quickstart
  genir train quickstart train.epochs=2 run.directory=runs/short
  genir search runs/quickstart \"Which element has the symbol Fe?\"
  genir eval runs/quickstart --split test --run test.run
  genir probe runs/quickstart --probe logit_lens
  genir check quickstart
  genir recipes copy quickstart my-recipe.toml

Every option of training is a key of the recipe: see `genir recipes show quickstart`.
RUST_LOG=genir=debug shows more.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Fine-tune a model as a recipe says; everything goes into its run directory.
    Train(train::Train),
    /// Rank the queries of a split with a checkpoint, and print its metrics.
    Eval(eval::Eval),
    /// Answer typed queries with ranked documents.
    Search(search::Search),
    /// See what a checkpoint does inside: the paper's probes, as tables, JSON or CSV.
    Probe(Box<probe::ProbeVerb>),
    /// Draw pictures of stored probe results, as SVG.
    Plot(plot::Plot),
    /// Show all that is wrong with a recipe, or what it would train and need.
    Check(check::Check),
    /// List, show or copy the recipes that come with genir.
    Recipes(recipes::Recipes),
    /// Show or remove what runs have stored of frozen encoders.
    Cache(cache::Cache),
}

/// What a word of the command line picks; the error lists the words there are.
fn picked<T: Choice>(word: &str) -> Result<T, String> {
    T::from_name(word).ok_or_else(|| format!("expected one of {}", T::names()))
}

/// A recipe with overrides.
#[derive(Debug, Args)]
struct RecipeArgs {
    /// The recipe: a TOML file, or the name of a recipe that comes with genir.
    recipe: PathBuf,

    /// Keys to set (`train.steps=500`) or to remove (`~train.epochs`).
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,

    /// auto, cpu, cuda or cuda:N (also cuda+f32: products in f32), in place of the recipe's `run.device`.
    #[arg(long)]
    device: Option<String>,
}

impl RecipeArgs {
    /// The recipe with its overrides, of which the device is the last. A file of the name of a recipe that comes with
    /// genir is read in its place, and `console` is told which of them it was.
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

/// Parses the command line and runs its verb: exit code 0, or 1 with the error on standard error (2 for
/// a command line that cannot be parsed).
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let console = Console::stderr(if cli.quiet { Verbosity::Quiet } else { Verbosity::Normal });
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(console.clone())
        .with_ansi(false)
        .init();
    // On a thread of rayon's pool: a matrix product that a worker begins needs no other thread to be woken
    // before it starts. Worth 6% of a full step on two cores (`benches/README.md`).
    let done = rayon::scope(|_| match cli.verb {
        Verb::Train(train) => train.run(&console),
        Verb::Eval(eval) => eval.run(),
        Verb::Search(search) => search.run(&console),
        Verb::Probe(probe) => probe.run(&console),
        Verb::Plot(plot) => plot.run(),
        Verb::Check(check) => check.run(&console),
        Verb::Recipes(recipes) => recipes.run(),
        Verb::Cache(cache) => cache.run(),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever has read enough of it wants no more: `genir check RECIPE | head -3`.
        Err(error) if is_unread(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told where this cannot be written.
            let _ = writeln!(io::stderr(), "error: {}", output::plain_lines(&told(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Whether the reader of an output has gone, be it of what is printed or of a file that is a pipe.
fn is_unread(error: &anyhow::Error) -> bool {
    let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref().is_some_and(OutputError::is_unread)
        || error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(broken))
}

/// An error with its causes, each told once: many messages end with that of their cause.
fn told(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |told, cause| match cause.to_string() {
        cause if told.is_empty() => cause,
        cause if told.contains(&cause) => told,
        cause => format!("{told}: {cause}"),
    })
}
