//! Opens a GenIR checkpoint: ours, or one in the paper's released form.

use std::path::{Path, PathBuf};

use super::{CheckpointError, MANIFEST, Manifest};
use crate::device::ComputeDevice;
use crate::docid::{DocidVocabulary, TextTokenizer};
use crate::files::FileError;
use crate::run::{CHECKPOINTS, LATEST};
use crate::t5::weights::{self, StoredTensors};
use crate::t5::{GenirModel, T5Config};
use crate::task::Encoding;

/// A GenIR model with all that is needed to ask it.
pub struct Checkpoint {
    /// The model.
    pub model: GenirModel,
    /// The tokenizer, without docids.
    pub tokenizer: TextTokenizer,
    /// Docids by row.
    pub docids: DocidVocabulary,
    /// What genir wrote about it; none for checkpoints of other origin.
    pub manifest: Option<Manifest>,
}

impl Checkpoint {
    /// Opens the checkpoint in `directory` with its weights on `device`.
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
        let manifest = read_manifest(directory)?;
        let tensors = StoredTensors::open(directory)?.with_moved_words(loaded.moved_words);
        let t5 = weights::load(&tensors, &config, loaded.tokenizer.words(), device)?;
        let docids = weights::load_docids(&tensors, &config, &imported.rows, &device.device)?;
        Ok(Self {
            model: GenirModel { t5, docids },
            tokenizer: loaded.tokenizer,
            docids: imported.vocabulary,
            manifest,
        })
    }

    /// How texts were encoded in training; the paper's way where the checkpoint does not say.
    pub fn encoding(&self) -> Encoding {
        self.manifest.as_ref().map_or_else(Encoding::default, |manifest| manifest.encoding.clone())
    }
}

/// The checkpoint that `path` leads to: `path` itself, or the best checkpoint of the run that it is the directory of, else
/// its latest. None where there is neither.
pub fn checkpoint_at(path: &Path) -> Option<PathBuf> {
    let checkpoints = path.join(CHECKPOINTS);
    let places = [path.to_owned(), checkpoints.join("best"), checkpoints.join(LATEST)];
    places.into_iter().find(|place| place.join("config.json").exists())
}

fn read_manifest(directory: &Path) -> Result<Option<Manifest>, CheckpointError> {
    let file = directory.join(MANIFEST);
    if !file.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&file).map_err(FileError::new("read", &file))?;
    let wrong = |found: String| CheckpointError::Manifest { file: file.clone(), found };
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    match manifest.format {
        Manifest::FORMAT => Ok(Some(manifest)),
        other => Err(wrong(format!("format {other}"))),
    }
}
