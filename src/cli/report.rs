//! `genir report`

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::compare::named;
use super::eval::{Measures, default_measures, measures};
use super::{output, outputs, plot};
use crate::compare::Pairs;
use crate::corpus::Split;
use crate::files::write_atomically;
use crate::monitor::Console;
use crate::report::{FigureFormat, ReportOptions, report};

/// Show runs on one page: what each arm loses and saves, curves, trained components, probes, queries, recipes.
///
/// The page is one HTML file that needs no network. It is made from what the runs have stored; no model is loaded.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReportCommand {
    /// Run directories, finished or not; also TREC run files of other systems, for the comparison. NAME=PATH names an
    /// arm; paths of the same name are its seeds. The first arm is the reference.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<String>,

    /// The page.
    #[arg(long, short, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,

    /// Directory for the figures as files, as wide as a page's text; those of each run in a subdirectory if there are
    /// several.
    #[arg(long, value_name = "DIRECTORY")]
    figures: Option<PathBuf>,

    /// File formats of --figures, separated by commas: svg, pdf (for LaTeX, its font embedded).
    #[arg(long, value_name = "FORMATS", value_delimiter = ',', default_value = "svg", requires = "figures", value_parser = super::parse_choice::<FigureFormat>)]
    figure_format: Vec<FigureFormat>,

    /// Results of `genir probe RUN --format json --output FILE`, for runs without probes that you may not write into; may
    /// be repeated.
    #[arg(long, value_name = "FILE")]
    probes: Vec<PathBuf>,

    /// A query of `genir inspect RUN --json FILE`, to show the attention of each head over its tokens; may be repeated.
    #[arg(long = "inspect", value_name = "FILE")]
    inspections: Vec<PathBuf>,

    /// Queries: train, validation or test [default: the first of validation, test and train that were ranked].
    #[arg(long)]
    split: Option<Split>,

    /// Metrics of the comparison, as one quoted list; the first is that of the answer (see `genir eval --help`).
    #[arg(long, value_name = "NAMES", value_parser = measures)]
    metrics: Option<Measures>,

    /// Pairs of arms to test: all, or first (each arm with the first one). Holm's correction is for their number.
    #[arg(long, default_value = "all")]
    pairs: Pairs,
}

const EXAMPLES: &str = "\
Examples:
  genir report runs/quickstart
  genir report runs/quickstart-full runs/quickstart-restricted --output pair.html
  genir report full=runs/full-1 full=runs/full-2 restricted=runs/restricted-1 restricted=runs/restricted-2
  genir report runs/full runs/restricted BM25=bm25.run --figures figures --figure-format svg,pdf

A run without probes:
  genir probe runs/full --save
  genir report runs/full

A query with the attention over its tokens:
  genir inspect runs/full --query-id element-iron/symbol/given/0 --json query.json
  genir report runs/full --inspect query.json";

impl ReportCommand {
    pub fn run(self, console: &Console) -> Result<()> {
        let inputs: Vec<(PathBuf, Option<String>)> =
            self.runs.iter().map(|text| named(text)).collect();
        let files =
            inputs.iter().map(|(path, _)| path).chain(&self.probes).chain(&self.inspections);
        let read: Vec<_> = files.map(|path| ("an input", path.clone())).collect();
        outputs::check(&[("--output", Some(&self.output))], &read)?;
        if let Some(directory) = &self.figures {
            outputs::check_directory("--figures", directory)?;
        }
        let options = ReportOptions {
            split: self.split,
            measures: self.metrics.unwrap_or_else(default_measures).0,
            probes: self.probes,
            inspections: self.inspections,
            pairs: self.pairs,
            comparison: None,
        };
        let made = report(&inputs, &options)?;
        for warning in &made.warnings {
            console.message(&format!("warning: {warning}"));
        }
        let figures = match &self.figures {
            Some(directory) => {
                let page = [("--output", Some(self.output.as_path()))];
                plot::files(&made.figures()?, directory, &self.figure_format, &page, &read)?
            }
            None => Vec::new(),
        };
        write_atomically(&self.output, |file| file.write_all(made.html.as_bytes()))?;
        plot::write(&figures)?;
        // Printed last, so that a closed pipe leaves nothing unwritten.
        if !outputs::is_standard_output(&self.output) {
            let figures = figures.iter().map(|(path, _)| path);
            for path in std::iter::once(&self.output).chain(figures) {
                output::line(path.display())?;
            }
        }
        Ok(())
    }
}
