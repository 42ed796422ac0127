//! `genir plot`

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use super::compare::named;
use super::{output, outputs};
use crate::files::{create_directory, write_atomically};
use crate::monitor::Console;
use crate::probe::Probe;
use crate::report::{DrawnFigure, FigureFormat, FigureWidth, PlotOptions, plot};

/// Plot stored probe results and the training of runs as figures, SVG or PDF.
///
/// Each figure names the run, its base model and the collection. Several runs are drawn into one figure, at the last step
/// at which all of them were measured. Runs that differ in their seed only are drawn as their mean, with error bars and
/// bands of one standard deviation.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Plot {
    /// Run directories, or result files: RUN/probes/PROBE.jsonl, or the output of `genir probe --format json`.
    /// NAME=PATH names an arm; paths of the same name are its seeds.
    #[arg(required = true, value_name = "RUN|FILE")]
    from: Vec<String>,

    /// Directory for the figures.
    #[arg(long, short, value_name = "DIRECTORY")]
    output: PathBuf,

    /// Figures, separated by commas: probes by name, `probes` for all of them, `training` for the curves and costs of
    /// training [default: all that the runs have stored].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = wanted)]
    figure: Vec<Wanted>,

    /// Width in a paper: `column` (3.33 inches) or `page` (7 inches), with type of 7 points or more; without it, figures
    /// are for a screen.
    #[arg(long, value_name = "WIDTH", value_parser = super::parse_choice::<FigureWidth>)]
    width: Option<FigureWidth>,

    /// File formats, separated by commas: svg, pdf (for LaTeX, its font embedded).
    #[arg(long, value_name = "FORMATS", value_delimiter = ',', default_value = "svg", value_parser = super::parse_choice::<FigureFormat>)]
    format: Vec<FigureFormat>,
}

const EXAMPLES: &str = "\
Examples:
  genir plot runs/quickstart --output figures
  genir plot runs/quickstart/probes/logit_lens.jsonl --output figures
  genir plot runs/full runs/restricted --output figures --width page
  genir plot full=runs/full-1 full=runs/full-2 restricted=runs/restricted-1 restricted=runs/restricted-2 -o figures
  genir plot runs/full runs/restricted --figure training,logit_lens --output figures --width column --format pdf";

/// A value of `--figure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Training,
    Probes,
    Probe(Probe),
}

fn wanted(name: &str) -> Result<Wanted, String> {
    match name {
        "training" => Ok(Wanted::Training),
        "probes" => Ok(Wanted::Probes),
        _ => super::parse_choice::<Probe>(name)
            .map(Wanted::Probe)
            .map_err(|error| format!("{error}, \"probes\", \"training\"")),
    }
}

impl Plot {
    pub fn run(self, console: &Console) -> Result<()> {
        outputs::check_directory("--output", &self.output)?;
        let probes = self.figure.iter().flat_map(|wanted| match wanted {
            Wanted::Probe(probe) => vec![*probe],
            Wanted::Probes => Probe::ALL.to_vec(),
            Wanted::Training => Vec::new(),
        });
        let is_any = self.figure.is_empty() || self.figure.contains(&Wanted::Probes);
        let options = PlotOptions {
            probes: if is_any { None } else { Some(probes.collect()) },
            training: self.figure.is_empty() || self.figure.contains(&Wanted::Training),
            width: self.width,
        };
        let inputs: Vec<_> = self.from.iter().map(|text| named(text)).collect();
        let plots = plot(&inputs, &options)?;
        for warning in &plots.warnings {
            console.message(&format!("warning: {warning}"));
        }
        let written = files(&plots.figures, &self.output, &self.format, &[], &[])?;
        write(&written)?;
        // Printed last, so that a closed pipe leaves no figure unwritten.
        for (path, _) in written {
            output::line(path.display())?;
        }
        Ok(())
    }
}

/// Returns the files of all figures in each of the formats, if all of them can be written: none is an input, or one of the
/// `others` that are written, given as in [`outputs::check`]. Missing directories are created.
pub(super) fn files(
    figures: &[DrawnFigure],
    directory: &Path,
    formats: &[FigureFormat],
    others: &[(&'static str, Option<&Path>)],
    inputs: &[(&'static str, PathBuf)],
) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for DrawnFigure { name, svg } in figures {
        for format in FigureFormat::ALL.iter().filter(|format| formats.contains(format)) {
            files.push((directory.join(format!("{name}.{format}")), format.encode(name, svg)?));
        }
    }
    create_directory(directory)?;
    for parent in files.iter().filter_map(|(path, _)| path.parent()) {
        create_directory(parent)?;
    }
    let figures = files.iter().map(|(path, _)| ("a figure", Some(path.as_path())));
    outputs::check(&others.iter().copied().chain(figures).collect::<Vec<_>>(), inputs)?;
    Ok(files)
}

/// Writes what [`files`] has returned.
pub(super) fn write(files: &[(PathBuf, Vec<u8>)]) -> Result<()> {
    for (path, contents) in files {
        write_atomically(path, |file| file.write_all(contents))?;
    }
    Ok(())
}
