//! The one writer of checkpoints.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{CheckpointError, MANIFEST, Manifest};
use crate::docid::{DocidVocabulary, TextTokenizer};
use crate::files::{FileError, create_directory, rename, sync_parent, write_whole};
use crate::t5::GenirModel;
use crate::t5::weights::{self, INDEX};

/// How unfinished checkpoints are called: hidden, and never taken for one.
const UNFINISHED: &str = ".unfinished-";

/// Names of what is read of a checkpoint, ours or another's. Weights, in shards too, and vocabularies are known by their
/// endings.
const OWN: [&str; 9] = [
    "config.json",
    "generation_config.json",
    INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "docids.json",
    MANIFEST,
];
const OWN_ENDINGS: [&str; 3] = ["safetensors", "bin", "model"];

/// Whether `path` names a file of a checkpoint that is in its directory, there or not: one that is not there would be
/// read if it were.
pub(crate) fn is_own_file(path: &Path) -> bool {
    let (name, ending) =
        (path.file_name().unwrap_or_default(), path.extension().unwrap_or_default());
    let is_own = OWN.iter().any(|own| *own == name) || OWN_ENDINGS.iter().any(|own| *own == ending);
    is_own && path.with_file_name("config.json").exists()
}

/// What goes into a checkpoint.
pub struct Contents<'a> {
    /// The model; its docid rows in the order of `docids`.
    pub model: &'a GenirModel,
    /// The tokenizer, without docids.
    pub tokenizer: &'a TextTokenizer,
    /// Docids by row.
    pub docids: &'a DocidVocabulary,
    /// What to say about it.
    pub manifest: &'a Manifest,
}

/// Writes the checkpoint `parent/name`.
///
/// All files are written and flushed to the disk under another name, then the directory is renamed: a
/// process that is killed leaves the checkpoint whole or not there. What earlier kills left unfinished is
/// removed first. An existing checkpoint is never overwritten.
pub fn write(parent: &Path, name: &str, contents: &Contents) -> Result<PathBuf, CheckpointError> {
    let target = parent.join(name);
    if target.symlink_metadata().is_ok() {
        return Err(CheckpointError::Exists { directory: target });
    }
    create_directory(parent)?;
    remove_unfinished(parent)?;
    let unfinished = parent.join(format!("{UNFINISHED}{name}"));
    create_directory(&unfinished)?;
    let written = write_files(&unfinished, contents);
    if let Err(error) = written {
        // A full disk: give the space back. The error that matters is the first one.
        let _ = fs::remove_dir_all(&unfinished);
        return Err(error);
    }
    rename(&unfinished, &target)?;
    sync_parent(&target)?;
    Ok(target)
}

fn write_files(directory: &Path, contents: &Contents) -> Result<(), CheckpointError> {
    let Contents { model, tokenizer, docids, manifest } = contents;
    let config = model.t5.config();
    let rows = config.vocab_size + model.documents();
    write_json(directory, "config.json", &config.export(rows, model.t5.is_tied()))?;
    let generation = json!({
        "_from_model_config": true,
        "decoder_start_token_id": config.decoder_start_token_id,
        "pad_token_id": tokenizer.pad_id(),
        "eos_token_id": tokenizer.end_id(),
    });
    write_json(directory, "generation_config.json", &generation)?;
    weights::write(model, directory)?;
    tokenizer.export(directory, Some(docids))?;
    docids.write(&directory.join("docids.json"))?;
    write_json(directory, MANIFEST, manifest)?;
    Ok(())
}

fn write_json(
    directory: &Path,
    name: &str,
    value: &impl serde::Serialize,
) -> Result<(), CheckpointError> {
    write_whole(&directory.join(name), |file| {
        serde_json::to_writer_pretty(&mut *file, value)?;
        std::io::Write::write_all(file, b"\n")
    })?;
    Ok(())
}

/// Makes `parent/link` lead to the checkpoint `parent/name`; at no moment does it lead nowhere.
pub fn link(parent: &Path, link: &str, name: &str) -> Result<(), CheckpointError> {
    let beside = parent.join(format!("{UNFINISHED}{link}"));
    if beside.symlink_metadata().is_ok() {
        fs::remove_file(&beside).map_err(FileError::new("remove", &beside))?;
    }
    std::os::unix::fs::symlink(name, &beside).map_err(FileError::new("create", &beside))?;
    let path = parent.join(link);
    Ok(rename(&beside, &path)?)
}

/// Removes the checkpoint `parent/name`. It is renamed first, so that what is left of an interrupted
/// removal is not taken for a checkpoint.
pub fn prune(parent: &Path, name: &str) -> Result<(), CheckpointError> {
    let unfinished = parent.join(format!("{UNFINISHED}{name}"));
    let path = parent.join(name);
    rename(&path, &unfinished)?;
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
