//! The files that verbs are asked to write: looked at before anything is computed, so that none destroys another.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::output;
use crate::checkpoint;
use crate::corpus::Split;
use crate::files::{AtomicFile, Destination, Stream};
use crate::probe::Probe;
use crate::recipe::Recipe;
use crate::run::RunDirectory;

/// Endings of the files that corpora are read from.
const CORPUS_ENDINGS: [&str; 4] = ["json", "jsonl", "tsv", "gz"];

/// Refuses outputs (each with its option) that cannot be written, that are written twice, or that would take the place
/// of an `input` (with what names it) or of a file of a checkpoint or a run. Links count as what they lead to. All that
/// is wrong is told at once, and nothing is changed.
pub(super) fn check(
    outputs: &[(&str, Option<&Path>)],
    inputs: &[(&'static str, PathBuf)],
) -> Result<()> {
    let mut problems = Vec::new();
    let mut known: Vec<(&str, Destination)> = Vec::new();
    for &(option, path) in outputs {
        let Some(path) = path else { continue };
        let shown = format!("{option} {}", path.display());
        let destination = match Destination::of(path) {
            Ok(destination) => destination,
            Err(error) => {
                problems.push(format!("{shown}: cannot be written: {error}"));
                continue;
            }
        };
        let twice = known.iter().find(|(_, other)| *other == destination && !is_device(path));
        if let Some((other, _)) = twice {
            problems.push(format!("{shown}: {other} is the same file; give each its own"));
        } else if let Destination::File(file) = &destination {
            problems.extend(harm(path, file, inputs).map(|harm| format!("{shown}: {harm}")));
        }
        known.push((option, destination));
    }
    match problems.is_empty() {
        true => Ok(()),
        false => bail!("{}", problems.join("\n")),
    }
}

/// Whether what is written to `path` comes out of standard output, by whatever name: `-`, `/dev/stdout`, or the file
/// that standard output was redirected to.
pub(super) fn is_standard_output(path: &Path) -> bool {
    let is_output = matches!(Destination::of(path), Ok(Destination::Stream(Stream::Output)));
    // Nobody reads what is written to /dev/null twice.
    is_output && (path == Path::new("-") || !is_device(path) || io::stdout().is_terminal())
}

/// A text for `path`: as it is, or fit for a terminal where it is shown on one.
pub(super) fn for_reader(path: &Path, text: Vec<u8>) -> Vec<u8> {
    if !(is_standard_output(path) && io::stdout().is_terminal()) {
        return text;
    }
    let mut lines = output::plain_lines(&String::from_utf8_lossy(&text));
    lines.push('\n');
    lines.into_bytes()
}

/// Refuses a directory for outputs that is something else.
pub(super) fn check_directory(option: &str, path: &Path) -> Result<()> {
    if path.as_os_str().is_empty() {
        bail!("{option}: expected a directory, found an empty text");
    }
    match path.exists() && !path.is_dir() {
        true => bail!("{option} {}: expected a directory, found a file", path.display()),
        false => Ok(()),
    }
}

/// What writing `file`, to which `path` leads, would destroy, or why it cannot be.
fn harm(path: &Path, file: &Path, inputs: &[(&'static str, PathBuf)]) -> Option<String> {
    if let Some((name, input)) = inputs.iter().find(|(_, input)| is_read(file, input)) {
        let input = input.display();
        return Some(format!("{name} ({input}) is read from it, or may be; choose another file"));
    }
    // As typed too: a file of a cache is a link to one that has another name.
    let typed = std::path::absolute(path).unwrap_or_default();
    if let Some(owner) = [file, typed.as_path()].into_iter().find_map(owner) {
        return Some(format!("this is a file of {owner}; choose another"));
    }
    // The temporary file is removed again.
    AtomicFile::create(path).err().map(|error| error.to_string())
}

/// Whether an existing `file` is `input`, or in the corpus that `input` is and of a kind that corpora are read from.
fn is_read(file: &Path, input: &Path) -> bool {
    let Ok(input) = fs::canonicalize(input) else { return false };
    let ending = file.extension().unwrap_or_default();
    let directories = [input.clone(), input.join("qrels")];
    let is_inside = directories.iter().any(|directory| file.parent() == Some(directory.as_path()));
    let is_inside = is_inside && CORPUS_ENDINGS.iter().any(|known| *known == ending);
    file.exists() && (file == input || is_inside)
}

/// The checkpoint or run that `path` is a file of, in words.
fn owner(path: &Path) -> Option<String> {
    let directory = path.parent()?;
    if checkpoint::is_own_file(path) {
        return Some(format!("the checkpoint {}", directory.display()));
    }
    let runs = path.ancestors().skip(1).filter_map(|path| RunDirectory::open(path).ok());
    let mut runs = runs.filter(|run| run.is_own_file(path) || measured(run).any(|own| own == path));
    runs.next().map(|run| format!("the run {}", run.path().display()))
}

/// What the evaluations and probes of a run write.
fn measured(run: &RunDirectory) -> impl Iterator<Item = PathBuf> {
    let recipe = Recipe::from_file(&run.recipe(), &[]).ok();
    let splits = recipe.map_or(Split::ALL.to_vec(), |recipe| recipe.evaluate.splits);
    let (retrieval, probes) = (run.retrieval(), run.probes());
    let of_split = move |split: Split| {
        [format!("{split}.run"), format!("{split}.qrels"), format!("correct_{split}.json")]
            .map(|name| retrieval.join(name))
    };
    let of_probe = move |probe: &Probe| probes.join(format!("{probe}.jsonl"));
    splits.into_iter().flat_map(of_split).chain(Probe::ALL.iter().map(of_probe))
}

/// Whether any number of writers do no harm, as with `/dev/null`.
fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_char_device())
}
