//! Writes checkpoints.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{CheckpointError, FileRecord, MANIFEST, Manifest};
use crate::docid::{DocidVocabulary, TextTokenizer};
use crate::files::{FileError, create_directory, rename, sync_parent, write_atomically};
use crate::t5::GenirModel;
use crate::t5::weights::{self, INDEX, OtherRows, StoredType};

/// The prefix of unfinished checkpoints, which hides them from all readers.
const UNFINISHED: &str = ".unfinished-";

/// The state of the trainer; that of the optimizer is a safetensors file.
pub(crate) const TRAINER_STATE: &str = "trainer_state.json";

/// Names of the files of a checkpoint, written by genir or others. Weights, also in shards, and vocabularies are
/// recognised by their extensions.
const FILES: [&str; 10] = [
    "config.json",
    "generation_config.json",
    INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "docids.json",
    TRAINER_STATE,
    MANIFEST,
];
const EXTENSIONS: [&str; 3] = ["safetensors", "bin", "model"];

/// Returns whether `path` is a file of a checkpoint in the same directory. The file need not exist: once written, it
/// would be read as a part of the checkpoint.
pub(crate) fn is_own_file(path: &Path) -> bool {
    let (name, extension) =
        (path.file_name().unwrap_or_default(), path.extension().unwrap_or_default());
    let is_own =
        FILES.iter().any(|own| *own == name) || EXTENSIONS.iter().any(|own| *own == extension);
    is_own && path.with_file_name("config.json").exists()
}

/// Writes files into a directory.
pub type WriteFiles<'a> = &'a dyn Fn(&Path) -> Result<(), CheckpointError>;

/// The contents of a checkpoint.
pub struct CheckpointContents<'a> {
    /// The model, with docid rows in the order of `docids`. Low-rank factors are merged into its matrices.
    pub model: &'a GenirModel,
    /// The tokenizer, without docids.
    pub tokenizer: &'a TextTokenizer,
    /// The docids by row; `None` to write the T5 alone, as a base model.
    pub docids: Option<&'a DocidVocabulary>,
    /// Type of the weights.
    pub stored: StoredType,
    /// The manifest; its `files` are set when they are written.
    pub manifest: &'a Manifest,
    /// Docid rows that other processes have; `None`: all are in `model`.
    pub other_rows: Option<OtherRows<'a>>,
    /// Writes further files into the directory; `None`: a model without a training state.
    pub training: Option<WriteFiles<'a>>,
}

/// Writes the checkpoint `parent/name`.
///
/// All files are written and flushed to disk in a hidden directory, which is then renamed: if the process is killed,
/// the checkpoint is either complete or absent. Unfinished checkpoints of killed processes are removed first. An
/// existing checkpoint is never overwritten.
///
/// # Errors
/// [`CheckpointError::Exists`] if the checkpoint exists; [`CheckpointError::NotFinite`] if a weight is not finite;
/// [`CheckpointError::Weights`], [`CheckpointError::Tokenizer`], [`CheckpointError::Docids`] or
/// [`CheckpointError::File`] if a file cannot be written, for example because the disk is full, or if released weights
/// cannot be read from their origin. Nothing is left under the name then.
pub fn write(
    parent: &Path,
    name: &str,
    contents: &CheckpointContents,
) -> Result<PathBuf, CheckpointError> {
    let target = parent.join(name);
    if target.symlink_metadata().is_ok() {
        return Err(CheckpointError::Exists { directory: target });
    }
    check_finite(contents.model, &target)?;
    create_directory(parent)?;
    remove_unfinished(parent)?;
    let unfinished = parent.join(format!("{UNFINISHED}{name}"));
    create_directory(&unfinished)?;
    let written = write_files(&unfinished, contents);
    if let Err(error) = written {
        // Frees the space if the disk is full. The first error is the one to report.
        let _ = fs::remove_dir_all(&unfinished);
        return Err(error);
    }
    rename(&unfinished, &target)?;
    sync_parent(&target)?;
    Ok(target)
}

fn write_files(directory: &Path, contents: &CheckpointContents) -> Result<(), CheckpointError> {
    let &CheckpointContents { model, tokenizer, docids, stored, other_rows, manifest, training } =
        contents;
    // Other tools know of no factors beside a matrix.
    let model = &model.merged();
    let config = model.t5.config();
    let rows = config.vocab_size + docids.map_or(0, DocidVocabulary::len);
    write_json(directory, "config.json", &config.export(rows, model.t5.is_tied(), stored))?;
    let generation = json!({
        "_from_model_config": true,
        "decoder_start_token_id": config.decoder_start_token_id,
        "pad_token_id": tokenizer.pad_id(),
        "eos_token_id": tokenizer.end_id(),
    });
    write_json(directory, "generation_config.json", &generation)?;
    weights::write(model, directory, stored, docids.is_some(), other_rows)?;
    tokenizer.export(directory, docids)?;
    if let Some(docids) = docids {
        docids.write(&directory.join("docids.json"))?;
    }
    if let Some(training) = training {
        training(directory)?;
    }
    // Last: a checkpoint with a manifest has all of its files.
    let manifest = Manifest { files: records(directory)?, ..manifest.clone() };
    write_json(directory, MANIFEST, &manifest)
}

/// The sizes and checksums of all files in `directory`, by their paths in it.
fn records(directory: &Path) -> Result<BTreeMap<String, FileRecord>, CheckpointError> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(FileError::new("list", directory))? {
        let entry = entry.map_err(FileError::new("list", directory))?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if path.is_dir() {
            let within = records(&path)?.into_iter();
            found.extend(within.map(|(file, record)| (format!("{name}/{file}"), record)));
        } else {
            found.insert(name, FileRecord::of(&path)?);
        }
    }
    Ok(found)
}

/// Refuses a model with a value that is not finite: it could replace the last good checkpoint.
fn check_finite(model: &GenirModel, target: &Path) -> Result<(), CheckpointError> {
    match weights::first_not_finite(model) {
        None => Ok(()),
        Some((tensor, count)) => {
            Err(CheckpointError::NotFinite { directory: target.to_owned(), tensor, count })
        }
    }
}

pub(super) fn write_json(
    directory: &Path,
    name: &str,
    value: &impl serde::Serialize,
) -> Result<(), CheckpointError> {
    write_atomically(&directory.join(name), |file| {
        serde_json::to_writer_pretty(&mut *file, value)?;
        std::io::Write::write_all(file, b"\n")
    })?;
    Ok(())
}

/// Replaces the metrics in the manifest of the checkpoint in `directory`; a checkpoint that was removed by something else
/// is left out with a warning.
///
/// # Errors
/// The manifest cannot be read or written.
pub(crate) fn add_metrics(
    directory: &Path,
    metrics: &BTreeMap<String, f64>,
) -> Result<(), CheckpointError> {
    match Manifest::read(directory)? {
        Some(manifest) => {
            let manifest = Manifest { metrics: metrics.clone(), ..manifest };
            write_json(directory, MANIFEST, &manifest)
        }
        None => {
            tracing::warn!("{} was removed by something else", directory.display());
            Ok(())
        }
    }
}

/// Makes `parent/link` a symbolic link to the checkpoint `parent/name`, atomically.
///
/// # Errors
/// [`CheckpointError::File`] if the link cannot be created or renamed, for example if `parent` does not exist or is
/// read-only, or if a directory has the name of the link.
pub fn link(parent: &Path, link: &str, name: &str) -> Result<(), CheckpointError> {
    let temporary = parent.join(format!("{UNFINISHED}{link}"));
    if temporary.symlink_metadata().is_ok() {
        fs::remove_file(&temporary).map_err(FileError::new("remove", &temporary))?;
    }
    std::os::unix::fs::symlink(name, &temporary).map_err(FileError::new("create", &temporary))?;
    let path = parent.join(link);
    rename(&temporary, &path)?;
    Ok(sync_parent(&path)?)
}

/// Removes the checkpoint `parent/name`. It is renamed first, so that an interrupted removal leaves no partial
/// checkpoint under that name.
///
/// # Errors
/// [`CheckpointError::File`] if there is no such checkpoint, or if it cannot be renamed or removed.
pub fn prune(parent: &Path, name: &str) -> Result<(), CheckpointError> {
    let unfinished = parent.join(format!("{UNFINISHED}{name}"));
    let path = parent.join(name);
    match rename(&path, &unfinished) {
        Err(error) if error.source.kind() == ErrorKind::NotFound => {
            tracing::warn!("{} was removed by something else", path.display());
            return Ok(());
        }
        renamed => renamed?,
    }
    fs::remove_dir_all(&unfinished).map_err(FileError::new("remove", &unfinished))?;
    Ok(())
}

fn remove_unfinished(parent: &Path) -> Result<(), CheckpointError> {
    for entry in fs::read_dir(parent).map_err(FileError::new("read", parent))? {
        let path = entry.map_err(FileError::new("read", parent))?.path();
        let unfinished = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(UNFINISHED));
        if unfinished && path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path).map_err(FileError::new("remove", &path))?;
        }
    }
    Ok(())
}
