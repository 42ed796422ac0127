//! Stores the prefixes of texts that are read more than once, before the first step of a run.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::compute::FrozenModel;
use super::file::Contents;
use super::key::Weights;
use super::prefetch::Prefetcher;
use super::store::{Store, StoredRows};
use super::stored::{MIB, mebibytes};
use super::texts::Texts;
use super::write_lock::{WriteLock, name_of};
use super::{CacheError, CacheSettings, FrozenPrefix, PrefixOutput, PrefixStorage, StoredPrefix};
use crate::allocator::release_freed_memory;
use crate::files::FileError;
use crate::processes::{Group, World};

/// A set of texts that a run reads.
pub struct TextSet<'a> {
    /// The name of the set, such as `training` or `validation`.
    pub name: String,
    /// Token ids of each text; a text may occur more than once.
    pub texts: Vec<&'a [u32]>,
    /// Number of times that texts are read during the run, in total.
    pub reads: u64,
}

/// Called with the progress of a set: its name, the number of texts done, the number of all texts.
pub type Progress<'a> = dyn FnMut(&str, usize, usize) + 'a;

/// The stored outputs of a run's frozen prefix.
pub struct Prefix {
    frozen: FrozenPrefix,
    training: Option<Arc<Store>>,
    others: Vec<Store>,
    stored: Vec<StoredPrefix>,
    complete: bool,
}

impl Prefix {
    /// Finds or computes the prefixes of the `training` texts and of the `others`, which evaluations and probes read:
    /// of each set whose texts are read more than once, within the budgets of `settings`, in this order.
    ///
    /// The set of stored texts depends on the recipe only, not on existing files, and for the training texts not on the
    /// other sets: a seed gives the same weights with and without probes. A set that cannot be stored is logged as a
    /// warning and computed for each batch.
    pub fn prepare(
        frozen: &FrozenModel,
        settings: &CacheSettings,
        training: TextSet,
        others: Vec<TextSet>,
        progress: &mut Progress,
    ) -> Self {
        Self::prepare_together(None, frozen, settings, training, others, progress)
    }

    /// As [`Prefix::prepare`], but what goes into files is computed together with the other processes of `world`, of which
    /// this one is the first.
    pub(crate) fn prepare_together(
        world: Option<&World>,
        frozen: &FrozenModel,
        settings: &CacheSettings,
        training: TextSet,
        others: Vec<TextSet>,
        progress: &mut Progress,
    ) -> Self {
        let mut builder = StoreBuilder {
            frozen,
            world,
            settings,
            memory: settings.memory,
            disk: settings.disk,
            weights: None,
            stored: Vec::new(),
        };
        let mut prefix = Self {
            frozen: frozen.prefix,
            training: None,
            others: Vec::new(),
            stored: Vec::new(),
            complete: false,
        };
        if settings.enabled {
            prefix.training = builder.add(training, progress).map(Arc::new);
            prefix.complete = prefix.training.is_some();
            for set in others {
                if !prefix.has(&set.texts) {
                    let store = builder.add(set, progress);
                    prefix.complete &= store.is_some();
                    prefix.others.extend(store);
                }
            }
        }
        prefix.stored = builder.stored;
        prefix
    }

    /// The frozen part of the model.
    pub fn frozen(&self) -> FrozenPrefix {
        self.frozen
    }

    /// True if all sets are stored, so that no batch of them needs to be computed.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The result for each set of texts; empty if storing is disabled.
    pub fn stored(&self) -> &[StoredPrefix] {
        &self.stored
    }

    /// The stored prefix of a batch of training texts, if they are stored.
    pub fn of_training(&self, texts: &[&[u32]]) -> Option<PrefixOutput> {
        self.training.as_ref()?.output(texts)
    }

    /// A prefetcher for batches of training texts; none if gathering does not block.
    pub fn training_prefetcher(&self) -> Option<Prefetcher> {
        self.training.clone().and_then(Prefetcher::new)
    }

    /// The stored prefix of a batch of texts, if all of them are stored in one set.
    pub fn of(&self, texts: &[&[u32]]) -> Option<PrefixOutput> {
        self.stores().find_map(|store| store.output(texts))
    }

    /// Returns whether all of `texts` are stored in one set.
    pub fn has(&self, texts: &[&[u32]]) -> bool {
        self.stores().any(|store| store.find(texts).is_some())
    }

    /// Scalars for the log: seconds, MiB stored, and the fraction of them that was read from existing files.
    pub fn summary(&self) -> Vec<(&'static str, f64)> {
        let is_stored = |set: &&StoredPrefix| !matches!(set.storage, PrefixStorage::NotStored(_));
        let bytes = |reused: bool| {
            let sets = self.stored.iter().filter(is_stored);
            sets.filter(|set| set.is_reused() || !reused).map(|set| set.bytes).sum::<u64>() as f64
        };
        let (all, reused) = (bytes(false), bytes(true));
        vec![
            ("time/prefix_seconds", self.stored.iter().map(|set| set.seconds).sum()),
            ("prefix/mebibytes", all / MIB),
            ("prefix/reused", if all > 0.0 { reused / all } else { 0.0 }),
        ]
    }

    fn stores(&self) -> impl Iterator<Item = &Store> {
        self.training.as_deref().into_iter().chain(&self.others)
    }
}

/// Stores sets one after another within the budgets.
struct StoreBuilder<'a> {
    frozen: &'a FrozenModel<'a>,
    /// The processes that compute together; none if this one computes alone.
    world: Option<&'a World>,
    settings: &'a CacheSettings,
    /// Remaining budgets in bytes.
    memory: u64,
    disk: u64,
    /// Hashed when the first set is stored.
    weights: Option<Weights>,
    stored: Vec<StoredPrefix>,
}

impl StoreBuilder<'_> {
    fn add(&mut self, set: TextSet, progress: &mut Progress) -> Option<Store> {
        let begun = Instant::now();
        let TextSet { name, texts, reads } = set;
        let texts = Texts::distinct(texts);
        let element = self.settings.element;
        let starts = texts.starts(self.frozen.prefix.layer() > 0);
        let width = self.frozen.t5.config().d_model;
        let bytes = starts.last().map_or(0, |rows| rows * (width * element.size()) as u64);
        let count = texts.len();
        let (store, storage) = if reads <= count as u64 {
            (None, PrefixStorage::NotStored("each text is read once".to_owned()))
        } else {
            let mut progress = |done| progress(&name, done, count);
            self.store(&name, texts, &starts, bytes, &mut progress)
        };
        let seconds = begun.elapsed().as_secs_f64();
        self.stored.push(StoredPrefix { name, texts: count, bytes, element, seconds, storage });
        store
    }

    fn store(
        &mut self,
        name: &str,
        texts: Texts,
        starts: &[u64],
        bytes: u64,
        progress: &mut dyn FnMut(usize),
    ) -> (Option<Store>, PrefixStorage) {
        let element = self.settings.element;
        let mut why = format!("it is more than cache.disk has left ({})", mebibytes(self.disk));
        let mut in_memory = bytes <= self.memory;
        if bytes <= self.disk {
            match self.in_file(&texts, starts, progress) {
                Ok((rows, place)) => {
                    self.disk -= bytes;
                    return (Some(Store::new(self.frozen, element, texts, rows)), place);
                }
                Err(error) => {
                    // The value does not fit the type, in memory as little as in a file.
                    in_memory &= !matches!(error, CacheError::Overflow { .. });
                    why = error.to_string();
                }
            }
        }
        if in_memory {
            tracing::warn!("the frozen prefix of the {name} texts is stored in memory only: {why}");
            match Store::compute(self.frozen, texts.tokens, element, Group::default(), progress) {
                Ok(store) => {
                    self.memory -= bytes;
                    return (Some(store), PrefixStorage::Memory);
                }
                Err(error) => why = error.to_string(),
            }
        }
        tracing::warn!(
            "the frozen prefix of the {name} texts ({}) is not stored but computed for each batch: {why}",
            mebibytes(bytes)
        );
        (None, PrefixStorage::NotStored(why))
    }

    /// The rows of `texts` from the file of their key, which is written if it is missing or damaged.
    fn in_file(
        &mut self,
        texts: &Texts,
        starts: &[u64],
        progress: &mut dyn FnMut(usize),
    ) -> Result<(StoredRows, PrefixStorage), CacheError> {
        let FrozenModel { t5, prefix, device, .. } = self.frozen;
        let weights = self.weights.get_or_insert_with(|| Weights::of(t5, prefix, device));
        let element = self.settings.element;
        let contents = Contents {
            key: weights.key(element, texts),
            element,
            starts,
            width: t5.config().d_model,
        };
        let path = self.settings.directory.join(name_of(&contents.key));
        let whole = match self.open(&contents, &path) {
            Ok(rows) => return Ok((rows, PrefixStorage::Reused(path))),
            Err(CacheError::File(_)) if path.symlink_metadata().is_err() => true,
            Err(error) => {
                tracing::warn!("a stored frozen prefix is recomputed: {error}");
                // What cannot be read may have been replaced by another run.
                matches!(error, CacheError::File(_))
            }
        };
        let waiting = &mut || {
            tracing::warn!(
                "another run computes the same frozen prefix: waiting for {}",
                path.display()
            );
        };
        let claim = WriteLock::take(&path, waiting)?;
        // Another run may have written it meanwhile.
        if (whole || claim.waited)
            && let Ok(rows) = self.open(&contents, &path)
        {
            return Ok((rows, PrefixStorage::Reused(path)));
        }
        self.write(&contents, texts, &claim, &path, progress)?;
        claim.commit()?;
        // Returns the memory of the computation to the system before the rows are loaded.
        release_freed_memory();
        Ok((self.open(&contents, &path)?, PrefixStorage::Written(path)))
    }

    fn write(
        &self,
        contents: &Contents,
        texts: &Texts,
        claim: &WriteLock,
        path: &Path,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(), CacheError> {
        let failed = |error: io::Error| CacheError::File(FileError::new("write", path)(error));
        let element = contents.element;
        let mut file = BufWriter::with_capacity(1 << 20, claim.file());
        let fill = |take: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
            let each = |rows: &[f32], done| {
                let bytes = element.encode(rows);
                let bytes = bytes.map_err(|value| CacheError::Overflow { value, element })?;
                take(&bytes).map_err(failed)?;
                progress(done);
                Ok(())
            };
            let residual = self.frozen.prefix.layer() > 0;
            match self.world {
                None => self.frozen.rows(Group::default(), &texts.tokens, residual, each),
                Some(world) => self.frozen.rows_together(world, texts, residual, each),
            }
        };
        contents.write(&mut file, fill, failed)?;
        file.flush().map_err(failed)
    }

    /// Opens a file, and takes its rows into memory or onto the GPU if they fit.
    fn open(&mut self, contents: &Contents, path: &Path) -> Result<StoredRows, CacheError> {
        let mapped = contents.open(path)?;
        let bytes = contents.row_bytes();
        if bytes > self.memory {
            return Ok(StoredRows::Mapped(mapped));
        }
        self.memory -= bytes;
        Ok(StoredRows::load(
            mapped.into_memory(),
            contents.width,
            contents.element,
            self.frozen.device,
        ))
    }
}
