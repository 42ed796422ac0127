//! Decides what is stored, and finds or computes it before a run's first step.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::ahead::Ahead;
use super::claim::{Claim, name_of};
use super::compute::Frozen;
use super::file::Contents;
use super::key::Weights;
use super::store::{Store, StoredRows};
use super::stored::{MIB, mebibytes};
use super::texts::Texts;
use super::{CacheError, CacheSettings, FrozenPrefix, PrefixOutput, PrefixStorage, StoredPrefix};
use crate::allocator::release_freed_memory;
use crate::files::FileError;

/// Texts that a run reads.
pub struct Reading<'a> {
    /// What they are called: `training`, `validation`.
    pub name: String,
    /// Their tokens; any may be there more than once.
    pub texts: Vec<&'a [u32]>,
    /// Texts that will be read over the whole run, each time counted.
    pub reads: u64,
}

/// How far the computation of a set of texts is: its name, texts done, texts in all.
pub type Progress<'a> = dyn FnMut(&str, usize, usize) + 'a;

/// The frozen prefix of a run, with all of it that is stored.
pub struct Prefix {
    frozen: FrozenPrefix,
    training: Option<Arc<Store>>,
    asked: Vec<Store>,
    stored: Vec<StoredPrefix>,
    complete: bool,
}

impl Prefix {
    /// Finds or computes the prefixes of the `training` texts, and of those that evaluations and probes have `asked`
    /// for: of each set whose texts are read more than once, within the budgets of `settings`, in this order.
    ///
    /// What is stored follows from the recipe alone, not from which files happen to be there, nor for the training
    /// texts from what else is asked: so a seed gives the same weights with and without probes. What cannot be
    /// stored is told as a warning, and computed for each batch.
    pub fn prepare(
        frozen: &Frozen,
        settings: &CacheSettings,
        training: Reading,
        asked: Vec<Reading>,
        progress: &mut Progress,
    ) -> Self {
        let mut keeper = Keeper {
            frozen,
            settings,
            memory: settings.memory,
            disk: settings.disk,
            weights: None,
            stored: Vec::new(),
        };
        let mut prefix = Self {
            frozen: frozen.prefix,
            training: None,
            asked: Vec::new(),
            stored: Vec::new(),
            complete: false,
        };
        if settings.enabled {
            prefix.training = keeper.keep(training, progress).map(Arc::new);
            prefix.complete = prefix.training.is_some();
            for reading in asked {
                if !prefix.has(&reading.texts) {
                    let store = keeper.keep(reading, progress);
                    prefix.complete &= store.is_some();
                    prefix.asked.extend(store);
                }
            }
        }
        prefix.stored = keeper.stored;
        prefix
    }

    /// How far it reaches.
    pub fn frozen(&self) -> FrozenPrefix {
        self.frozen
    }

    /// Whether all texts that were asked for are stored, each set in one place: then nothing is left to be computed
    /// from any batch of them.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// What became of each set of texts; empty where nothing may be stored.
    pub fn stored(&self) -> &[StoredPrefix] {
        &self.stored
    }

    /// The stored prefix of a batch of training texts, if they are stored.
    pub fn of_training(&self, texts: &[&[u32]]) -> Option<PrefixOutput> {
        self.training.as_ref()?.output(texts)
    }

    /// Batches of training texts gathered one ahead, where that saves waiting.
    pub fn training_ahead(&self) -> Option<Ahead> {
        self.training.clone().and_then(Ahead::new)
    }

    /// The stored prefix of a batch of texts, if all of them are stored in one set.
    pub fn of(&self, texts: &[&[u32]]) -> Option<PrefixOutput> {
        self.stores().find_map(|store| store.output(texts))
    }

    /// Whether all of `texts` are stored in one set.
    pub fn has(&self, texts: &[&[u32]]) -> bool {
        self.stores().any(|store| store.find(texts).is_some())
    }

    /// Scalars that say what was done: seconds that it took, MiB that are stored, and which share of them was found.
    pub fn summary(&self) -> Vec<(&'static str, f64)> {
        let is_stored = |set: &&StoredPrefix| !matches!(set.storage, PrefixStorage::Nowhere(_));
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
        self.training.as_deref().into_iter().chain(&self.asked)
    }
}

/// Stores sets one after another within the budgets.
struct Keeper<'a> {
    frozen: &'a Frozen<'a>,
    settings: &'a CacheSettings,
    /// Bytes left.
    memory: u64,
    disk: u64,
    /// Hashed when the first set is stored.
    weights: Option<Weights>,
    stored: Vec<StoredPrefix>,
}

impl Keeper<'_> {
    fn keep(&mut self, reading: Reading, progress: &mut Progress) -> Option<Store> {
        let begun = Instant::now();
        let Reading { name, texts, reads } = reading;
        let texts = Texts::distinct(texts);
        let element = self.settings.element;
        let starts = texts.starts(self.frozen.prefix.layer() > 0);
        let width = self.frozen.t5.config().d_model;
        let bytes = starts.last().map_or(0, |rows| rows * (width * element.size()) as u64);
        let count = texts.len();
        let (store, storage) = if reads <= count as u64 {
            (None, PrefixStorage::Nowhere("each text is read once".to_owned()))
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
                    // No more to be stored in memory than in a file.
                    in_memory &= !matches!(error, CacheError::Overflow { .. });
                    why = error.to_string();
                }
            }
        }
        if in_memory {
            tracing::warn!("the frozen prefix of the {name} texts is kept in memory alone: {why}");
            match Store::compute(self.frozen, texts.tokens, element, progress) {
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
        (None, PrefixStorage::Nowhere(why))
    }

    /// The rows of `texts`, from the file of their key, which is written where it is not there or not right.
    fn in_file(
        &mut self,
        texts: &Texts,
        starts: &[u64],
        progress: &mut dyn FnMut(usize),
    ) -> Result<(StoredRows, PrefixStorage), CacheError> {
        let Frozen { t5, prefix, device, .. } = self.frozen;
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
            // Not there; or not to be read: then it is replaced, or writing it tells what is wrong.
            Err(CacheError::File(_)) => true,
            Err(error) => {
                tracing::warn!("a stored frozen prefix is computed again: {error}");
                false
            }
        };
        let waiting = &mut || {
            tracing::warn!(
                "another run computes the same frozen prefix: waiting for {}",
                path.display()
            );
        };
        let claim = Claim::take(&path, waiting)?;
        // Another run may have written it meanwhile.
        if (whole || claim.waited)
            && let Ok(rows) = self.open(&contents, &path)
        {
            return Ok((rows, PrefixStorage::Reused(path)));
        }
        self.write(&contents, texts, &claim, &path, progress)?;
        claim.commit()?;
        // What it took to compute the rows has no place among them.
        release_freed_memory();
        Ok((self.open(&contents, &path)?, PrefixStorage::Written(path)))
    }

    fn write(
        &self,
        contents: &Contents,
        texts: &Texts,
        claim: &Claim,
        path: &Path,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(), CacheError> {
        let failed = |error: io::Error| CacheError::File(FileError::new("write", path)(error));
        let element = contents.element;
        let mut file = BufWriter::with_capacity(1 << 20, claim.file());
        let fill = |take: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
            self.frozen.rows(&texts.tokens, self.frozen.prefix.layer() > 0, |rows, done| {
                let bytes = element.encode(rows);
                let bytes = bytes.map_err(|value| CacheError::Overflow { value, element })?;
                take(&bytes).map_err(failed)?;
                progress(done);
                Ok(())
            })
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
        Ok(StoredRows::held(
            mapped.into_memory(),
            contents.width,
            contents.element,
            self.frozen.device,
        ))
    }
}
