//! Opens a GenIR checkpoint, written by genir or in the format of the paper's released code.

use std::path::{Path, PathBuf};

use super::{CheckpointError, Manifest};
use crate::device::ComputeDevice;
use crate::docid::{DocidVocabulary, TextTokenizer};
use crate::ops::{most_shards, shard};
use crate::processes::World;
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
    /// Opens the checkpoint in `directory` and loads its weights on `device`. For a run directory, see
    /// [`checkpoint_at`].
    ///
    /// # Errors
    /// A file is missing or damaged, or the tokenizer has no docids, as that of a base model.
    pub fn open(
        directory: &Path,
        device: impl Into<ComputeDevice>,
    ) -> Result<Self, CheckpointError> {
        Self::read(directory, &device.into(), true, None)
    }

    /// Like [`Checkpoint::open`], for a ranking by all processes of `world` together: the model has this process's part of
    /// the docid rows. Where there are more processes than can divide the rows, it has all of them.
    ///
    /// # Errors
    /// As for [`Checkpoint::open`].
    pub(crate) fn open_part(
        directory: &Path,
        device: impl Into<ComputeDevice>,
        world: &World,
    ) -> Result<Self, CheckpointError> {
        Self::read(directory, &device.into(), true, Some(world))
    }

    /// Like [`Checkpoint::open`], also for a model without docids: a base model, or a checkpoint of a run that trained
    /// denoising alone.
    ///
    /// # Errors
    /// A file is missing or damaged.
    pub fn open_t5(
        directory: &Path,
        device: impl Into<ComputeDevice>,
    ) -> Result<Self, CheckpointError> {
        Self::read(directory, &device.into(), false, None)
    }

    fn read(
        directory: &Path,
        device: &ComputeDevice,
        needs_docids: bool,
        world: Option<&World>,
    ) -> Result<Self, CheckpointError> {
        let config = T5Config::read(directory)?;
        let loaded = TextTokenizer::load(directory)?;
        let imported = match loaded.docids {
            None if needs_docids => {
                return Err(CheckpointError::NoDocids { directory: directory.to_owned() });
            }
            docids => docids.unwrap_or_default(),
        };
        let manifest = Manifest::read(directory)?;
        let config = config.with_words(loaded.tokenizer.vocab_size());
        config.check_tokens(directory)?;
        let tensors = StoredTensors::open(directory)?.with_moved_rows(loaded.moved_rows);
        // All that the headers show, before anything of the model's size is allocated.
        let tied = weights::is_tied(&tensors)?;
        weights::check(&tensors, &config, tied, &imported.rows)?;
        weights::warn_of_unread(&tensors, &config, tied, &imported.rows);
        imported.check_list(directory)?;
        let count = imported.rows.len();
        let rows = match world {
            Some(world) if world.count() <= most_shards(count) => {
                let own = shard(count, world.rank(), world.count());
                tracing::debug!("{world:?} has docid rows {own:?} of {count}");
                &imported.rows[own]
            }
            _ => &imported.rows[..],
        };
        weights::check_memory(directory, &config, tied, rows.len(), device)?;
        let t5 = weights::load(&tensors, &config, loaded.tokenizer.vocab_size(), device)?;
        let docids = weights::load_docids(&tensors, &config, rows, &device.device)?;
        // Last: the errors above name the tensor or the line. This finds what they cannot see, such as a changed bit.
        if let Some(manifest) = &manifest {
            manifest.verify(directory)?;
        }
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
    let best = checkpoints.join("best");
    let candidates = [path.to_owned(), best.clone(), checkpoints.join(LATEST)];
    let found = candidates.into_iter().find(|directory| directory.join("config.json").exists())?;
    if best.is_symlink() && !best.exists() && found.starts_with(&checkpoints) {
        tracing::warn!(
            "{}: the best checkpoint was removed; using {}",
            best.display(),
            found.display()
        );
    }
    Some(found)
}
