//! Checks the output files of subcommands before anything is computed, so that no output overwrites an input or another
//! output.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::checkpoint;
use crate::corpus::Split;
use crate::files::{AtomicFile, Destination, Stream};
use crate::probe::Probe;
use crate::provenance;
use crate::recipe::Recipe;
use crate::run::RunDirectory;
use crate::terminal::escaped_lines;

/// Extensions of the files that corpora are read from.
const CORPUS_EXTENSIONS: [&str; 4] = ["json", "jsonl", "tsv", "gz"];

/// Refuses outputs (each with its option) that cannot be written, that are given twice, or that would overwrite an
/// `input` (with the option or key that names it) or a file of a checkpoint or run. Symbolic links are resolved. All
/// problems are reported at once, and nothing is changed.
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
            problems
                .push(format!("{shown}: {other} is the same file; use a different file for each"));
        } else if let Destination::File(file) = &destination {
            problems.extend(conflict(path, file, inputs).map(|found| format!("{shown}: {found}")));
        }
        known.push((option, destination));
    }
    match problems.is_empty() {
        true => Ok(()),
        false => bail!("{}", problems.join("\n")),
    }
}

/// Returns whether `path` is standard output under any name: `-`, `/dev/stdout`, or the file that standard output was
/// redirected to.
pub(super) fn is_standard_output(path: &Path) -> bool {
    let is_output = matches!(Destination::of(path), Ok(Destination::Stream(Stream::Output)));
    // /dev/null may be both an output and standard output.
    is_output && (path == Path::new("-") || !is_device(path) || io::stdout().is_terminal())
}

/// Returns the text for `path`: unchanged, or escaped if it is printed on a terminal.
pub(super) fn escaped_for_terminal(path: &Path, text: Vec<u8>) -> Vec<u8> {
    if !(is_standard_output(path) && io::stdout().is_terminal()) {
        return text;
    }
    let lines = escaped_lines(&String::from_utf8_lossy(&text));
    lines.into_bytes()
}

/// Refuses an output directory that exists and is not a directory.
pub(super) fn check_directory(option: &str, path: &Path) -> Result<()> {
    if path.as_os_str().is_empty() {
        bail!("{option}: expected a directory, found an empty string");
    }
    match path.exists() && !path.is_dir() {
        true => bail!("{option} {}: expected a directory, found a file", path.display()),
        false => Ok(()),
    }
}

/// Describes what writing `file`, to which `path` resolves, would overwrite, or why it cannot be written.
fn conflict(path: &Path, file: &Path, inputs: &[(&'static str, PathBuf)]) -> Option<String> {
    if let Some((name, input)) = inputs.iter().find(|(_, input)| is_input(file, input)) {
        let input = input.display();
        return Some(format!(
            "this is, or may be, an input file of {name} ({input}); choose another path"
        ));
    }
    // The path as typed is checked too: a file in a cache is a link to one with another name.
    let typed = std::path::absolute(path).unwrap_or_default();
    if let Some(owner) = [file, typed.as_path()].into_iter().find_map(owner) {
        return Some(format!("this is a file of {owner}; choose another path"));
    }
    // The temporary file is deleted on drop.
    AtomicFile::create(path).err().map(|error| error.to_string())
}

/// Returns whether an existing `file` is `input`, or is in the corpus directory `input` and has the extension of a
/// corpus file.
fn is_input(file: &Path, input: &Path) -> bool {
    let Ok(input) = fs::canonicalize(input) else { return false };
    let extension = file.extension().unwrap_or_default();
    let directories = [input.clone(), input.join("qrels")];
    let is_inside = directories.iter().any(|directory| file.parent() == Some(directory.as_path()));
    let is_inside = is_inside && CORPUS_EXTENSIONS.iter().any(|known| *known == extension);
    file.exists() && (file == input || is_inside)
}

/// Returns a description of the checkpoint or run that `path` is a file of.
fn owner(path: &Path) -> Option<String> {
    let directory = path.parent()?;
    if checkpoint::is_own_file(path) {
        return Some(format!("the checkpoint {}", directory.display()));
    }
    let runs = path.ancestors().skip(1).filter_map(|path| RunDirectory::open(path).ok());
    let mut runs =
        runs.filter(|run| run.is_own_file(path) || result_files(run).any(|own| own == path));
    runs.next().map(|run| format!("the run {}", run.path().display()))
}

/// Returns the files that the evaluations and probes of a run write.
fn result_files(run: &RunDirectory) -> impl Iterator<Item = PathBuf> {
    let recipe = Recipe::from_file(&run.recipe(), &[]).ok();
    let splits = recipe.map_or(Split::ALL.to_vec(), |recipe| recipe.evaluate.splits);
    let (retrieval, probes) = (run.retrieval(), run.probes());
    let of_split = move |split: Split| {
        let names = ["", provenance::SUFFIX].map(|suffix| format!("{split}.run{suffix}"));
        let others = [format!("{split}.qrels"), format!("correct_{split}.json")];
        let retrieval = retrieval.clone();
        names.into_iter().chain(others).map(move |name| retrieval.join(name))
    };
    let of_probe = move |probe: &Probe| probes.join(format!("{probe}.jsonl"));
    splits.into_iter().flat_map(of_split).chain(Probe::ALL.iter().map(of_probe))
}

/// Returns whether the path is a character device, such as `/dev/null`, which may be written several times.
fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_char_device())
}
