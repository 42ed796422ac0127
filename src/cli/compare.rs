//! `genir compare`

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use super::eval::{Measures, default_measures, measures};
use super::{output, outputs};
use crate::compare::{
    CompareOptions, Comparison, Pairs, compare, csv, latex, probes_csv, table, wins_and_losses,
};
use crate::corpus::Split;
use crate::files::write_atomically;

/// Compare runs: effectiveness with significance tests over the same queries, cost, and probe results.
///
/// Runs that differ in nothing but their seed are the seeds of one arm. Each run is represented by its last evaluation.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Compare {
    /// Run directories, or TREC run files of other systems. NAME=PATH names an arm; paths of the same name are its seeds.
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    runs: Vec<String>,

    /// Queries: train, validation or test.
    #[arg(long, default_value = "validation")]
    split: Split,

    /// Metrics, as one quoted list (see `genir eval --help`).
    #[arg(long, value_name = "NAMES", value_parser = measures)]
    metrics: Option<Measures>,

    /// TREC qrels file [default: the judgements of the runs].
    #[arg(long, value_name = "FILE")]
    qrels: Option<PathBuf>,

    /// Levels of hits@1 for the cost to reach them, separated by commas [default: 50, 80, 90 and 95% of the best value
    /// of the first arm that was trained].
    #[arg(long, value_delimiter = ',', value_name = "LEVELS")]
    levels: Option<Vec<f64>>,

    /// Pairs of arms to test: all, or first (each arm with the first one). Holm's correction is for their number.
    #[arg(long, default_value = "all")]
    pairs: Pairs,

    /// Output format. LaTeX has letters for significant differences.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    /// Write the value of each metric for each query and run as CSV; - is standard output.
    #[arg(long, value_name = "FILE")]
    per_query: Option<PathBuf>,

    /// Write the probe results of all arms, those of single layers too, as CSV; - is standard output.
    #[arg(long, value_name = "FILE")]
    probes: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  genir compare runs/full runs/restricted
  genir compare full=runs/full-1 full=runs/full-2 restricted=runs/restricted-1 restricted=runs/restricted-2
  genir eval squad-1000-full --baseline bm25 --run bm25.run
  genir compare runs/full runs/restricted BM25=bm25.run --metrics 'Success@1 nDCG@10' --format latex";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
    Latex,
}

impl Compare {
    pub fn run(self) -> Result<()> {
        let inputs: Vec<(PathBuf, Option<String>)> =
            self.runs.iter().map(|text| named(text)).collect();
        if let Some(levels) = &self.levels
            && let Some(level) = levels.iter().find(|level| !(0.0..=1.0).contains(*level))
        {
            bail!("--levels: {level} is not between 0 and 1");
        }
        let files = inputs.iter().map(|(path, _)| path).chain(&self.qrels);
        let read: Vec<_> = files.map(|path| ("an input", path.clone())).collect();
        let written =
            [("--per-query", self.per_query.as_deref()), ("--probes", self.probes.as_deref())];
        outputs::check(&written, &read)?;
        let options = CompareOptions {
            split: self.split,
            measures: self.metrics.clone().unwrap_or_else(default_measures).0,
            qrels: self.qrels.clone(),
            levels: self.levels.clone(),
            pairs: self.pairs,
        };
        let found = compare(&inputs, &options)?;
        let contents: [fn(&Comparison) -> String; 2] = [wins_and_losses, probes_csv];
        for ((_, path), content) in written.into_iter().zip(contents) {
            if let Some(path) = path {
                let text = outputs::escaped_for_terminal(path, content(&found).into_bytes());
                write_atomically(path, |file| std::io::Write::write_all(file, &text))?;
            }
        }
        let text = match self.format {
            Format::Table => table(&found),
            Format::Json => output::escaped_json(&serde_json::to_string_pretty(&found)?),
            Format::Csv => csv(&found),
            Format::Latex => latex(&found),
        };
        match written.iter().any(|(_, path)| path.is_some_and(outputs::is_standard_output)) {
            true => output::error_line(text),
            false => output::line(text.trim_end())?,
        }
        Ok(())
    }
}

/// `NAME=PATH`, or a path.
pub(super) fn named(text: &str) -> (PathBuf, Option<String>) {
    match text.split_once('=') {
        Some((name, path))
            if !name.is_empty() && !name.contains('/') && !PathBuf::from(text).exists() =>
        {
            (path.into(), Some(name.to_owned()))
        }
        _ => (text.into(), None),
    }
}
