//! `genir plot`

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;

use super::{output, outputs};
use crate::files::{create_directory, write_atomically};
use crate::probe::files::{self, Stored};
use crate::probe::{Probe, Record};
use crate::report;
use crate::run::RunDirectory;

/// Plot stored probe results as SVG figures.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Plot {
    /// Run directories, or result files: RUN/probes/PROBE.jsonl, or the output of `genir probe --format json`.
    /// If there are several, each gets its own subdirectory of --output.
    #[arg(required = true, value_name = "RUN|FILE")]
    from: Vec<PathBuf>,

    /// Directory for the figures.
    #[arg(long, short, value_name = "DIRECTORY")]
    output: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  genir plot runs/quickstart --output figures
  genir plot runs/quickstart/probes/logit_lens.jsonl --output figures
  genir plot runs/full runs/restricted --output figures";

impl Plot {
    pub fn run(self) -> Result<()> {
        let mut figures = Vec::new();
        for (from, directory) in self.from.iter().zip(self.directories()?) {
            outputs::check_directory("--output", &directory)?;
            figures.extend(draw(&read(from)?, &directory)?);
        }
        write(&figures)?;
        // Printed last, so that a closed pipe leaves no figure unwritten.
        for FigureFile { path, .. } in figures {
            output::line(path.display())?;
        }
        Ok(())
    }

    /// Returns the output directory for the figures of each of `from`.
    fn directories(&self) -> Result<Vec<PathBuf>> {
        if self.from.len() == 1 {
            return Ok(vec![self.output.clone()]);
        }
        let mut names = BTreeSet::new();
        let directory = |from: &PathBuf| {
            let name = name_of(from);
            if !names.insert(name.clone()) {
                bail!("two inputs are named `{name}`: plot them separately");
            }
            Ok(self.output.join(name))
        };
        self.from.iter().map(directory).collect()
    }
}

/// Reads the results of a run, or those in a file.
fn read(from: &Path) -> Result<Stored> {
    let stored = match from.is_dir() {
        true => files::read_histories(&RunDirectory::open(from)?.probes())?,
        false => files::read_all(from)?,
    };
    if stored.records.is_empty() {
        let from = from.display();
        match stored.skipped.last() {
            None => bail!(
                "{from}: no probe results found ([probes] in a recipe and `genir probe --format json` write \
                 them)"
            ),
            Some(last) => bail!(
                "{from}: no probe results found: all probes were {}; reason of the last: {}",
                report::skipped(&stored.skipped).unwrap_or_default(),
                last.skipped.message
            ),
        }
    }
    Ok(stored)
}

/// Returns the file stem: `runs/full` and `runs/full.json` are both `full`.
fn name_of(path: &Path) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// A figure with the path of its file.
pub(super) struct FigureFile {
    path: PathBuf,
    svg: String,
}

/// Draws the stored results, for files in `directory`; the records of one probe form its history.
pub(super) fn draw(stored: &Stored, directory: &Path) -> Result<Vec<FigureFile>> {
    let mut drawn = Vec::new();
    for &probe in Probe::ALL {
        let of_probe = stored.records.iter().filter(|record| record.result.probe() == probe);
        let history: Vec<Record> = of_probe.cloned().collect();
        for figure in report::figures(&history, &stored.skipped) {
            let path = directory.join(format!("{}.svg", figure.name()));
            drawn.push(FigureFile { path, svg: figure.svg()? });
        }
    }
    Ok(drawn)
}

/// Writes all figures, or none if a path cannot be written; missing directories are created.
pub(super) fn write(figures: &[FigureFile]) -> Result<()> {
    for directory in figures.iter().filter_map(|figure| figure.path.parent()) {
        create_directory(directory)?;
    }
    let outputs = figures.iter().map(|figure| ("figure", Some(figure.path.as_path())));
    outputs::check(&outputs.collect::<Vec<_>>(), &[])?;
    for FigureFile { path, svg } in figures {
        write_atomically(path, |file| file.write_all(svg.as_bytes()))?;
    }
    Ok(())
}
