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

/// Draw pictures of stored probe results, as SVG.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Plot {
    /// Run directories, or files of results: <run>/probes/<probe>.jsonl, or what `genir probe --format json`
    /// wrote. Of more than one, each gets a directory of its own in --output.
    #[arg(required = true, value_name = "RUN|FILE")]
    from: Vec<PathBuf>,

    /// The directory for the pictures.
    #[arg(long, short, value_name = "DIRECTORY")]
    output: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  genir plot runs/quickstart --output pictures
  genir plot runs/quickstart/probes/logit_lens.jsonl --output pictures
  genir plot runs/full runs/restricted --output pictures";

impl Plot {
    pub fn run(self) -> Result<()> {
        let mut pictures = Vec::new();
        for (from, directory) in self.from.iter().zip(self.directories()?) {
            outputs::check_directory("--output", &directory)?;
            pictures.extend(draw(&read(from)?, &directory)?);
        }
        write(&pictures)?;
        // Last: nothing is left undone where nobody reads it.
        for Picture { path, .. } in pictures {
            output::line(path.display())?;
        }
        Ok(())
    }

    /// Where the pictures of each of `from` go.
    fn directories(&self) -> Result<Vec<PathBuf>> {
        if self.from.len() == 1 {
            return Ok(vec![self.output.clone()]);
        }
        let mut names = BTreeSet::new();
        let directory = |from: &PathBuf| {
            let name = name_of(from);
            if !names.insert(name.clone()) {
                bail!("two of what is to be drawn are called `{name}`: draw one at a time");
            }
            Ok(self.output.join(name))
        };
        self.from.iter().map(directory).collect()
    }
}

/// The results of a run, or in a file.
fn read(from: &Path) -> Result<Stored> {
    let stored = match from.is_dir() {
        true => files::read_histories(&RunDirectory::open(from)?.probes())?,
        false => files::read_all(from)?,
    };
    if stored.records.is_empty() {
        let from = from.display();
        match stored.skipped.last() {
            None => bail!(
                "{from}: no result of a probe is stored there (a recipe's [probes] and `genir probe --format \
                 json` store them)"
            ),
            Some(last) => bail!(
                "{from}: no result of a probe is stored there: all were {}; the last because {}",
                report::skipped(&stored.skipped).unwrap_or_default(),
                last.skipped.message
            ),
        }
    }
    Ok(stored)
}

/// `runs/full` and `runs/full.json` are both `full`.
fn name_of(path: &Path) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// A picture and the file that it is for.
pub(super) struct Picture {
    path: PathBuf,
    svg: String,
}

/// Draws what is stored, the records of one probe as a history, for files in `directory`.
pub(super) fn draw(stored: &Stored, directory: &Path) -> Result<Vec<Picture>> {
    let mut drawn = Vec::new();
    for &probe in Probe::ALL {
        let of_probe = stored.records.iter().filter(|record| record.result.probe() == probe);
        let history: Vec<Record> = of_probe.cloned().collect();
        for picture in report::pictures(&history, &stored.skipped) {
            let path = directory.join(format!("{}.svg", picture.name()));
            drawn.push(Picture { path, svg: picture.svg()? });
        }
    }
    Ok(drawn)
}

/// Writes pictures, none where one of them cannot be, into directories that are made where they are missing.
pub(super) fn write(pictures: &[Picture]) -> Result<()> {
    for directory in pictures.iter().filter_map(|picture| picture.path.parent()) {
        create_directory(directory)?;
    }
    let outputs = pictures.iter().map(|picture| ("picture", Some(picture.path.as_path())));
    outputs::check(&outputs.collect::<Vec<_>>(), &[])?;
    for Picture { path, svg } in pictures {
        write_atomically(path, |file| file.write_all(svg.as_bytes()))?;
    }
    Ok(())
}
