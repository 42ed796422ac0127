//! `genir sweep`

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::eval::{default_measures, measures};
use super::output;
use super::signals::listen;
use super::sweep_run::{Ended, Progress, Runner};
use crate::compare::{CompareOptions, Pairs, compare, table};
use crate::corpus::Split;
use crate::files::{create_directory, write_atomically};
use crate::monitor::Console;
use crate::report::{ReportOptions, report};
use crate::run::{RunDirectory, RunError, Summary, lock};
use crate::sweep::{
    PlannedArm, PlannedRun, RunKind, RunRecord, RunStatus, SweepOptions, SweepPlan, SweepRecord,
    in_use,
};
use crate::train::{Requests, costs_table};

/// Train the arms of a comparison with several seeds, one run after another, and compare them.
///
/// Each run is one of `genir train`, in DIRECTORY/ARM-seed-N. The same command continues a sweep that was interrupted:
/// what is finished is not trained again, what is unfinished continues, and what has failed is tried again. All runs are
/// checked before the first one starts. An arm that fails does not stop the others; the exit code is then 1.
///
/// An arm is a trainable set by its name (full, decoder, restricted, lora, matched, norms, docids, random-matched,
/// lora-decoder, lora-full; those without the docid rows train them too), a selector of `trainable.select`, several
/// joined by `+`, `bm25`, or what --arm or a file with [sweep.arms.NAME] defines.
///
/// At the end, the arms are compared as `genir compare` does, also in DIRECTORY/comparison.md and comparison.json, and
/// shown on one page as by `genir report`, DIRECTORY/report.html; sweep.json lists the runs and how each has ended. Signals are handled as by `genir train`, which saves the current
/// run first.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Sweep {
    /// A recipe, or a file with [sweep]: a TOML file, or the name of one that comes with genir.
    recipe: PathBuf,

    /// Recipe keys to set (`train.steps=500`) or to remove (`~train.epochs`) in all arms.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,

    /// Arms, separated by commas: arms of the file by name (a subset of them), trainable sets, selectors [default: all
    /// arms of the file].
    #[arg(long, value_name = "ARM,...")]
    arms: Vec<String>,

    /// Define an arm by keys of the recipe; repeatable. If it does not set trainable.select, its name may be that of a
    /// trainable set. recipe=FILE gives it a recipe of its own.
    #[arg(long, value_name = "NAME: KEY=VALUE ...")]
    arm: Vec<String>,

    /// Make an arm for each value of a key out of each arm, to choose among them; repeatable.
    #[arg(long, value_name = "KEY=VALUE,VALUE,...")]
    vary: Vec<String>,

    /// Seeds, separated by commas; 1-3 is 1,2,3 [default: those of the file, else the recipe's run.seed].
    #[arg(long, value_name = "SEEDS", value_parser = seeds)]
    seeds: Option<Seeds>,

    /// The directory of the sweep [default: sweep.directory of the file, else runs/NAME-sweep].
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,

    /// Queries of the comparison, which evaluate.splits must have: train, validation or test [default: validation].
    #[arg(long)]
    split: Option<Split>,

    /// Metrics of the comparison, as one quoted list (see `genir eval --help`).
    #[arg(long, value_name = "NAMES")]
    metrics: Option<String>,

    /// Pairs of arms to test: all, or first (each arm with the first one) [default: sweep.pairs of the file, else all].
    #[arg(long)]
    pairs: Option<Pairs>,

    /// Device; see `genir train --help`.
    #[arg(long)]
    device: Option<String>,

    /// Check all runs, and print what the arms cost and what is left to do. Nothing is trained or written.
    #[arg(long)]
    dry_run: bool,
}

const EXAMPLES: &str = "\
Examples:
  genir sweep sweep-quickstart
  genir sweep quickstart --arms full,restricted,lora,bm25 --seeds 1,2,3
  genir sweep quickstart --arms full --arm 'low: trainable.select=[\"restricted\",\"docids\"] optimizer.learning_rate=4e-3'
  genir sweep quickstart --arms full,restricted --vary optimizer.learning_rate=1e-3,4e-3
  genir sweep my-recipe.toml --arms 'restricted,lora(restricted, rank=4, alpha=8)+docids' train.epochs=5 --dry-run
  genir sweep experiment.toml --arms full,lora   # of the arms in the file, these two

A file with [sweep] holds a whole experiment: `genir recipes show sweep-quickstart`.";

/// The seeds of `--seeds`.
#[derive(Debug, Clone)]
struct Seeds(Vec<u64>);

/// The most seeds of a range.
const MOST_SEEDS: u64 = 1000;

fn seeds(text: &str) -> Result<Seeds, String> {
    let wrong = || format!("`{text}`: expected different whole numbers, such as 1,2,3 or 1-3");
    let mut found: Vec<u64> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if last < first || last - first >= MOST_SEEDS {
            return Err(wrong());
        }
        for seed in first..=last {
            if found.contains(&seed) {
                return Err(wrong());
            }
            found.push(seed);
        }
    }
    if found.is_empty() { Err(wrong()) } else { Ok(Seeds(found)) }
}

impl Sweep {
    pub fn run(self, console: &Console) -> Result<ExitCode> {
        let device = self.device.iter().map(|device| format!("run.device={device}"));
        let options = SweepOptions {
            recipe: self.recipe,
            overrides: self.overrides.into_iter().chain(device).collect(),
            arms: self.arms,
            defined: self.arm,
            vary: self.vary,
            seeds: self.seeds.map(|seeds| seeds.0),
            directory: self.directory,
            split: self.split,
            metrics: self.metrics,
            pairs: self.pairs,
        };
        let plan = SweepPlan::new(&options)?;
        let metrics = match &plan.metrics {
            None => default_measures(),
            Some(names) => measures(names)
                .map_err(|error| anyhow::anyhow!("the metrics of the comparison: {error}"))?,
        };
        let compared = CompareOptions {
            split: plan.split,
            measures: metrics.0,
            qrels: None,
            levels: None,
            pairs: plan.pairs,
        };
        if self.dry_run {
            output::line(summary(&plan).trim_end())?;
            return Ok(ExitCode::SUCCESS);
        }
        console.message(&summary(&plan));
        let held = match lock(&plan.directory) {
            Err(RunError::InUse { path, owner }) => bail!("{}", in_use(&path, &owner)),
            held => held?,
        };
        let ended = run_all(&plan, console);
        held.remove_file();
        let (record, signal) = ended?;
        if let Some(signal) = signal {
            console.message(&format!(
                "interrupted by signal {signal}; the same command continues the sweep"
            ));
            return Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)));
        }
        print_comparison(&plan, &record, &compared)?;
        let failed: Vec<&RunRecord> =
            record.runs.iter().filter(|run| run.status != RunStatus::Finished).collect();
        if failed.is_empty() {
            console.message(&format!(
                "the sweep is in {}: sweep.json lists its runs, comparison.md, comparison.json and report.html compare them",
                plan.directory.display()
            ));
            return Ok(ExitCode::SUCCESS);
        }
        let mut text = format!(
            "{} of {} runs did not finish; the same command tries them again:",
            failed.len(),
            record.runs.len()
        );
        for run in failed {
            let reason = run.reason.as_deref().unwrap_or("it was interrupted");
            text += &format!("\n  {}: {}", run.directory.display(), shortened(reason));
        }
        bail!("{text}")
    }
}

/// The longest reason of a failure on the screen, in characters: that of a loss that is not finite names all examples.
const LONGEST_REASON: usize = 300;

/// Returns the beginning of a reason that is long; `sweep.json` and the log of the run have all of it.
pub(super) fn shortened(reason: &str) -> String {
    let indented = reason.replace('\n', "\n    ");
    match indented.char_indices().nth(LONGEST_REASON) {
        None => indented,
        Some((end, _)) => format!("{}... (all of it is in sweep.json)", &indented[..end]),
    }
}

/// Describes the arms with their costs, and the runs.
fn summary(plan: &SweepPlan) -> String {
    let trained = plan.arms.iter().filter_map(|arm| Some((arm.name.clone(), arm.costs.as_ref()?)));
    let mut text = costs_table(trained);
    if !plan.differing_keys.is_empty() {
        text += "\nkeys that differ:\n";
        for (key, values) in &plan.differing_keys {
            text += &format!("  {key}\n");
            for (value, arms) in by_value(values, &plan.arms) {
                text += &format!("    {value}: {}\n", arms.join(", "));
            }
        }
    }
    text += &format!("\nruns in {}:\n", plan.directory.display());
    let width = plan.runs.iter().map(|run| run.name.len()).max().unwrap_or(0);
    for run in &plan.runs {
        let steps = plan.arms[run.arm].steps;
        let left = match &run.kind {
            RunKind::Done => "finished".to_owned(),
            RunKind::Training { from: 0 } => format!("{steps} steps"),
            RunKind::Training { from } => format!("continues after step {from} of {steps}"),
            RunKind::Bm25(_) => "ranks without a model".to_owned(),
        };
        text += &format!("  {:width$}  {left}\n", run.name);
    }
    for warning in &plan.warnings {
        text += &format!("{warning}\n");
    }
    text
}

/// Returns each value of a key with the names of the arms that have it, in the order of the arms.
fn by_value<'a>(
    values: &'a [Option<String>],
    arms: &'a [PlannedArm],
) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (value, arm) in values.iter().zip(arms) {
        let Some(value) = value.as_deref() else { continue };
        match groups.iter_mut().find(|(known, _)| *known == value) {
            Some((_, names)) => names.push(&arm.name),
            None => groups.push((value, vec![&arm.name])),
        }
    }
    groups
}

/// Runs what is not done; returns the record, and the signal that ended the sweep.
fn run_all(plan: &SweepPlan, console: &Console) -> Result<(SweepRecord, Option<i32>)> {
    let requests = Requests::default();
    // A first signal is passed on to the run, and a second one ends this process at once.
    requests.accept();
    listen(&requests)?;
    let recipes = plan.directory.join("recipes");
    let program = env::current_exe().context("the program's own path is not known")?;
    let mut record = SweepRecord {
        genir: env!("CARGO_PKG_VERSION").to_owned(),
        command: env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        split: plan.split.to_string(),
        arms: plan.arms.iter().map(|arm| arm.name.clone()).collect(),
        runs: plan.runs.iter().map(|run| of_run(plan, run, &recipes)).collect(),
    };
    let before = SweepRecord::read(&plan.directory).ok();
    record.write(&plan.directory)?;
    create_directory(&recipes)?;
    let mut progress = Progress::new(console, plan);
    let mut ended_by = None;
    for (index, run) in plan.runs.iter().enumerate() {
        if run.kind == RunKind::Done {
            progress.done(index, record.runs[index].seconds);
            continue;
        }
        if let RunKind::Bm25(_) = run.kind
            && has_ranked(before.as_ref(), &record.runs[index])
        {
            record.runs[index].status = RunStatus::Finished;
            progress.done(index, None);
            continue;
        }
        // The resolved recipe: a file that is edited while a sweep runs does not change the runs that are still to come.
        write_atomically(&recipe_file(run, &recipes), |file| {
            file.write_all(run.recipe.as_bytes())
        })?;
        record.runs[index].status = RunStatus::Running;
        record.write(&plan.directory)?;
        let start = Instant::now();
        let runner = Runner { program: &program, console, requests: &requests };
        let ended = runner.run(&record.runs[index].command, &mut progress, index)?;
        let result = &mut record.runs[index];
        result.seconds = seconds(run).or(Some(start.elapsed().as_secs_f64()));
        let signal = requests.signal();
        (result.status, result.reason) = match ended {
            Ended::Finished => (RunStatus::Finished, None),
            Ended::Interrupted => (RunStatus::Interrupted, None),
            Ended::Failed(_) if signal.is_some() => (RunStatus::Interrupted, None),
            Ended::Failed(reason) => (RunStatus::Failed, Some(reason)),
        };
        progress.ended(index, result);
        record.write(&plan.directory)?;
        ended_by = signal;
        if ended_by.is_some() {
            break;
        }
    }
    progress.finish();
    Ok((record, ended_by))
}

/// The record of a run before the sweep has done anything.
fn of_run(plan: &SweepPlan, run: &PlannedRun, recipes: &Path) -> RunRecord {
    let recipe = recipe_file(run, recipes).display().to_string();
    let command: Vec<String> = match &run.kind {
        RunKind::Bm25(options) => {
            let mut command = ["eval", &recipe, "--baseline=bm25"].map(str::to_owned).to_vec();
            command.extend(options.clone());
            command.push(format!("--run={}", run.path.display()));
            command
        }
        RunKind::Done | RunKind::Training { .. } => vec!["train".to_owned(), recipe],
    };
    let is_done = run.kind == RunKind::Done;
    RunRecord {
        arm: plan.arms[run.arm].name.clone(),
        seed: run.seed,
        directory: run.path.clone(),
        status: if is_done { RunStatus::Finished } else { RunStatus::Waiting },
        reason: None,
        seconds: is_done.then(|| seconds(run)).flatten(),
        command,
    }
}

fn recipe_file(run: &PlannedRun, recipes: &Path) -> PathBuf {
    recipes.join(format!("{}.toml", run.name))
}

/// Wall time of a run that has ended.
fn seconds(run: &PlannedRun) -> Option<f64> {
    let directory = RunDirectory::open(&run.path).ok()?;
    Summary::read(&directory.summary()).ok().map(|summary| summary.seconds.total)
}

/// Returns whether BM25 has already ranked with the same options.
fn has_ranked(before: Option<&SweepRecord>, now: &RunRecord) -> bool {
    now.directory.is_file()
        && before.is_some_and(|record| {
            record.runs.iter().any(|run| {
                run.directory == now.directory
                    && run.command == now.command
                    && run.status == RunStatus::Finished
            })
        })
}

/// Compares the runs that have finished: on standard output, and in the directory of the sweep, with a report.
fn print_comparison(
    plan: &SweepPlan,
    record: &SweepRecord,
    options: &CompareOptions,
) -> Result<()> {
    let finished = |run: &&RunRecord| run.status == RunStatus::Finished;
    // In the order of the arms, which is not that of the runs.
    let inputs: Vec<(PathBuf, Option<String>)> = record
        .arms
        .iter()
        .flat_map(|arm| record.runs.iter().filter(finished).filter(move |run| run.arm == *arm))
        .map(|run| (run.directory.clone(), Some(run.arm.clone())))
        .collect();
    let write = |name: &str, text: &str| {
        write_atomically(&plan.directory.join(name), |file| file.write_all(text.as_bytes()))
    };
    let arms = |arm: &str| inputs.iter().any(|(_, name)| name.as_deref() == Some(arm));
    let is_pair = record.arms.iter().filter(|arm| arms(arm)).count() > 1;
    let found = is_pair.then(|| compare(&inputs, options)).transpose();
    // BM25 alone has nothing to report.
    if record.runs.iter().filter(finished).any(|run| run.directory.is_dir()) {
        let options = ReportOptions {
            split: Some(options.split),
            measures: options.measures.clone(),
            probes: Vec::new(),
            inspections: Vec::new(),
            pairs: options.pairs,
            comparison: found.as_ref().ok().cloned().flatten(),
        };
        write("report.html", &report(&inputs, &options)?.html)?;
    }
    let Some(found) = found? else {
        return Ok(output::line(
            "there is no comparison: fewer than two arms have a finished run",
        )?);
    };
    let text = table(&found);
    write("comparison.md", &text)?;
    write("comparison.json", &output::escaped_json(&serde_json::to_string_pretty(&found)?))?;
    Ok(output::line(text.trim_end())?)
}
