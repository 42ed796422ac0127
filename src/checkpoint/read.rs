//! Opens a GenIR checkpoint, written by genir or in the format of the paper's released code.

use std::path::{Path, PathBuf};

use super::{CheckpointError, MANIFEST, Manifest};
use crate::device::ComputeDevice;
use crate::docid::{DocidVocabulary, TextTokenizer};
use crate::files::{FileError, read_small_to_string};
use crate::run::{CHECKPOINTS, LATEST};
use crate::t5::weights::{self, StoredTensors};
use crate::t5::{GenirModel, T5Config};
use crate::task::Encoding;

/// A GenIR model with its tokenizer and docids.
pub struct Checkpoint {
    /// The model.
    pub model: GenirModel,
    /// The tokenizer, without docids.
    pub tokenizer: TextTokenizer,
    /// The docids by row.
    pub docids: DocidVocabulary,
    /// The manifest; `None` if the checkpoint was not written by genir.
    pub manifest: Option<Manifest>,
}

impl Checkpoint {
    /// Opens the checkpoint in `directory` and loads its weights on `device`. For a run directory, see [`checkpoint_at`].
    ///
    /// # Errors
    /// A file is missing or damaged, or the tokenizer has no docids, as that of a base model.
    pub fn open(
        directory: &Path,
        device: impl Into<ComputeDevice>,
    ) -> Result<Self, CheckpointError> {
        let device = &device.into();
        let config = T5Config::read(directory)?;
        let loaded = TextTokenizer::load(directory)?;
        let Some(imported) = loaded.docids else {
            return Err(CheckpointError::NoDocids { directory: directory.to_owned() });
        };
        let config = config.with_words(loaded.tokenizer.vocab_size());
        config.check_tokens(directory)?;
        let manifest = read_manifest(directory)?;
        let tensors = StoredTensors::open(directory)?.with_moved_rows(loaded.moved_rows);
        // All that the headers show, before anything of the model's size is allocated.
        let tied = weights::is_tied(&tensors)?;
        weights::check(&tensors, &config, tied, &imported.rows)?;
        weights::warn_of_unread(&tensors, &config, tied, &imported.rows);
        imported.check_list(directory)?;
        weights::check_memory(directory, &config, tied, imported.rows.len(), device)?;
        let t5 = weights::load(&tensors, &config, loaded.tokenizer.vocab_size(), device)?;
        let docids = weights::load_docids(&tensors, &config, &imported.rows, &device.device)?;
        Ok(Self {
            model: GenirModel { t5, docids },
            tokenizer: loaded.tokenizer,
            docids: imported.vocabulary,
            manifest,
        })
    }

    /// Returns the encoding of texts in training; the default of the paper if there is no manifest.
    pub fn encoding(&self) -> Encoding {
        self.manifest.as_ref().map_or_else(Encoding::default, |manifest| manifest.encoding.clone())
    }
}

/// Returns the checkpoint at `path`: `path` itself if it has a `config.json`, else the best or the latest checkpoint
/// of the run directory `path`. `None` if there is none.
pub fn checkpoint_at(path: &Path) -> Option<PathBuf> {
    let checkpoints = path.join(CHECKPOINTS);
    let candidates = [path.to_owned(), checkpoints.join("best"), checkpoints.join(LATEST)];
    candidates.into_iter().find(|directory| directory.join("config.json").exists())
}

fn read_manifest(directory: &Path) -> Result<Option<Manifest>, CheckpointError> {
    let file = directory.join(MANIFEST);
    if file.symlink_metadata().is_err() {
        return Ok(None);
    }
    let text = read_small_to_string(&file).map_err(FileError::new("read", &file))?;
    let wrong = |found: String| CheckpointError::Manifest { file: file.clone(), found };
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    match manifest.format {
        Manifest::FORMAT => Ok(Some(manifest)),
        other => Err(wrong(format!("format {other}"))),
    }
}
