//! The one writer of checkpoints.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{CheckpointError, MANIFEST, Manifest};
use crate::docid::{DocidVocabulary, TextTokenizer};
use crate::files::{FileError, sync_parent, write_whole};
use crate::t5::GenirModel;
use crate::t5::weights;

/// How unfinished checkpoints are called: hidden, and never taken for one.
const UNFINISHED: &str = ".unfinished-";

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
    fs::create_dir_all(parent).map_err(FileError::new("create", parent))?;
    remove_unfinished(parent)?;
    let unfinished = parent.join(format!("{UNFINISHED}{name}"));
    fs::create_dir(&unfinished).map_err(FileError::new("create", &unfinished))?;
    let written = write_files(&unfinished, contents);
    if let Err(error) = written {
        // A full disk: give the space back. The error that matters is the first one.
        let _ = fs::remove_dir_all(&unfinished);
        return Err(error);
    }
    fs::rename(&unfinished, &target).map_err(FileError::new("rename", &unfinished))?;
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
    for entry in fs::read_dir(directory).map_err(FileError::new("read", directory))? {
        let path = entry.map_err(FileError::new("read", directory))?.path();
        let file = fs::File::open(&path).map_err(FileError::new("open", &path))?;
        file.sync_all().map_err(FileError::new("flush", &path))?;
    }
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
    fs::rename(&beside, &path).map_err(FileError::new("rename", &path))?;
    Ok(())
}

/// Removes the checkpoint `parent/name`. It is renamed first, so that what is left of an interrupted
/// removal is not taken for a checkpoint.
pub fn prune(parent: &Path, name: &str) -> Result<(), CheckpointError> {
    let unfinished = parent.join(format!("{UNFINISHED}{name}"));
    let path = parent.join(name);
    fs::rename(&path, &unfinished).map_err(FileError::new("rename", &path))?;
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
