//! The files of a corpus, by name, plain or gzip, and similar files that are not read.

use std::path::{Path, PathBuf};

use super::builder::CorpusBuilder;
use super::error::CorpusError;
use super::findings::FindingKind;
use super::location::FileLocation;
use super::{Layout, Split};

/// Extensions of files that may contain queries or judgements, without `.gz`.
const DATA_EXTENSIONS: [&str; 9] =
    [".json", ".jsonl", ".ndjson", ".tsv", ".csv", ".txt", ".parquet", ".qrels", ".trec"];

/// Returns the path of `name` in `directory`, or else of `name.gz`, if one exists. A regular file comes first; whatever
/// else has the name is returned too, so that opening it reports what it is.
pub(super) fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let paths = [directory.join(name), directory.join(format!("{name}.gz"))];
    let regular = paths.iter().find(|path| path.is_file());
    regular.or_else(|| paths.iter().find(|path| path.symlink_metadata().is_ok())).cloned()
}

/// Returns the names in a directory, sorted; names that are not UTF-8 are ignored.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, CorpusError> {
    let failed = |source| CorpusError::Read { file: directory.to_path_buf(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Returns the file of each split; `split_of` parses the split of a name without `.gz`.
pub(super) fn of_splits(
    directory: &Path,
    split_of: impl Fn(&str) -> Option<Split>,
) -> Result<Vec<(Split, PathBuf)>, CorpusError> {
    let names = names(directory)?;
    let mut files = Vec::new();
    for &split in Split::ALL {
        // `x.jsonl` and `x.jsonl.gz` count as one file; `find` returns the plain one.
        let mut found: Vec<PathBuf> = names
            .iter()
            .map(|name| without_gz(name))
            .filter(|name| split_of(name) == Some(split))
            .filter_map(|name| find(directory, name))
            .collect();
        found.dedup();
        if let Some(file) = only(directory, &format!("the {split} queries"), found)? {
            files.push((split, file));
        }
    }
    Ok(files)
}

/// Returns the only file in `found`, if there is one. Several are an error; `what` describes their content.
pub(super) fn only(
    directory: &Path,
    what: &str,
    mut found: Vec<PathBuf>,
) -> Result<Option<PathBuf>, CorpusError> {
    if found.len() > 1 {
        return Err(CorpusError::Ambiguous {
            path: directory.display().to_string(),
            candidates: found.iter().map(|file| file.display().to_string()).collect(),
            solution: format!("each may contain {what}; leave one of them in the directory"),
        });
    }
    Ok(found.pop())
}

/// Returns the error that `missing` is not in a directory, which has other files of the layout or none.
pub(super) fn missing<'a>(
    directory: &Path,
    layout: Layout,
    missing: &str,
    found: impl Iterator<Item = &'a Path>,
) -> CorpusError {
    let name = |file: &Path| match file.strip_prefix(directory) {
        Ok(name) => name.display().to_string(),
        Err(_) => file.display().to_string(),
    };
    let found: Vec<String> = found.map(name).collect();
    let (path, missing) = (directory.display().to_string(), missing.to_owned());
    match found.is_empty() {
        true => CorpusError::NothingFound { path, layout, looked_for: vec![missing] },
        false => CorpusError::MissingFile { path, layout, missing, found },
    }
}

/// Reports files that have not been read, although their names look like parts of the corpus.
pub(super) fn note_unread(
    directory: &Path,
    layout: Layout,
    expected: &str,
    builder: &mut CorpusBuilder,
) {
    let Ok(names) = names(directory) else { return };
    for name in names {
        let path = directory.join(&name);
        if builder.has_read(&path) || !path.is_file() {
            continue;
        }
        let plain = without_gz(&name);
        let location = FileLocation::file(&path);
        if plain != name && builder.has_read(&directory.join(plain)) {
            builder.note(
                FindingKind::NotRead,
                &location,
                format_args!("`{plain}` is read instead"),
            );
        } else if let Some(split) = split_in_name(plain) {
            builder.note(
                FindingKind::NotRead,
                &location,
                format_args!(
                    "named like {split} queries, but the layout {layout} reads {expected}"
                ),
            );
        }
    }
}

/// Returns the split that a file seems to belong to by its name without `.gz`.
fn split_in_name(name: &str) -> Option<Split> {
    let stem = DATA_EXTENSIONS.iter().find_map(|extension| name.strip_suffix(extension))?;
    // genir itself writes these files: queries whose relevant document has rank 1.
    if stem.starts_with("correct_") {
        return None;
    }
    split_among_words(stem)
}

/// Returns the split whose name is one of the words of a text, in any case.
pub(super) fn split_among_words(text: &str) -> Option<Split> {
    text.split(['_', '-', '.', ' ']).find_map(|word| word.to_ascii_lowercase().parse().ok())
}

/// Returns a file name without the extension `.gz`.
pub(super) fn without_gz(name: &str) -> &str {
    name.strip_suffix(".gz").unwrap_or(name)
}
