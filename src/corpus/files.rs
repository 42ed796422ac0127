//! Which files a corpus consists of: by their names, plain or gzip, and those that nobody reads.

use std::path::{Path, PathBuf};

use super::builder::CorpusBuilder;
use super::error::{CorpusError, FileLocation};
use super::findings::Kind;
use super::{Layout, Split};

/// Endings of files that may hold queries or judgements, without `.gz`.
const DATA: [&str; 9] =
    [".json", ".jsonl", ".ndjson", ".tsv", ".csv", ".txt", ".parquet", ".qrels", ".trec"];

/// `name` in `directory`, or else `name.gz`, when there is such a file.
pub(super) fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    [directory.join(name), directory.join(format!("{name}.gz"))]
        .into_iter()
        .find(|path| path.is_file())
}

/// The names in a directory, sorted; those that are not UTF-8 are nobody's.
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

/// The file of each split, which `split_of` reads from a name without `.gz`.
pub(super) fn of_splits(
    directory: &Path,
    split_of: impl Fn(&str) -> Option<Split>,
) -> Result<Vec<(Split, PathBuf)>, CorpusError> {
    let names = names(directory)?;
    let mut files = Vec::new();
    for &split in Split::ALL {
        // `x.jsonl` and `x.jsonl.gz` are one file; `find` takes the plain one.
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

/// The one file of `found` for `what`, if there is any.
pub(super) fn only(
    directory: &Path,
    what: &str,
    mut found: Vec<PathBuf>,
) -> Result<Option<PathBuf>, CorpusError> {
    if found.len() > 1 {
        return Err(CorpusError::Ambiguous {
            path: directory.display().to_string(),
            candidates: found.iter().map(|file| file.display().to_string()).collect(),
            right: format!("each may hold {what}: leave one of them in the directory"),
        });
    }
    Ok(found.pop())
}

/// That `missing` is not in a directory which has other files of the layout, or that none is there.
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

/// Notes the files beside those that were read that seem to belong to the corpus, for which its reader may take them.
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
        let place = FileLocation::file(&path);
        if plain != name && builder.has_read(&directory.join(plain)) {
            builder.note(Kind::NotRead, &place, format_args!("`{plain}` is read in its place"));
        } else if let Some(split) = looks_like(plain) {
            builder.note(
                Kind::NotRead,
                &place,
                format_args!(
                    "named like {split} queries, but the layout {layout} reads {expected}"
                ),
            );
        }
    }
}

/// The split whose queries or judgements a file seems to hold, by its name without `.gz`.
fn looks_like(name: &str) -> Option<Split> {
    let stem = DATA.iter().find_map(|ending| name.strip_suffix(ending))?;
    // What genir itself writes beside a corpus: queries whose document has rank 1.
    if stem.starts_with("correct_") {
        return None;
    }
    split_among_words(stem)
}

/// The split that is one of the words of a text, in any case.
pub(super) fn split_among_words(text: &str) -> Option<Split> {
    text.split(['_', '-', '.', ' ']).find_map(|word| word.to_ascii_lowercase().parse().ok())
}

/// A file's name without the ending of a gzip file.
pub(super) fn without_gz(name: &str) -> &str {
    name.strip_suffix(".gz").unwrap_or(name)
}
