//! Reports of stored prefixes: what a run will store, and what it has stored.

use std::fmt;
use std::path::PathBuf;

use super::texts::Texts;
use super::{CacheSettings, Element, FrozenPrefix, TextSet};
use crate::component::grouped;

/// Result of storing the prefix of one set of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPrefix {
    /// The name of the set.
    pub name: String,
    /// Number of distinct texts.
    pub texts: usize,
    /// Size of the stored states and residuals in bytes, or the size that they would have.
    pub bytes: u64,
    /// The type of stored values.
    pub element: Element,
    /// Seconds that it took to find or compute it.
    pub seconds: f64,
    /// The place where they are stored.
    pub storage: PrefixStorage,
}

/// Where the stored prefix of a set of texts is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrefixStorage {
    /// In this file, which existed before.
    Reused(PathBuf),
    /// In this file, which this run has written.
    Written(PathBuf),
    /// In memory only.
    Memory,
    /// Not stored, for this reason.
    NotStored(String),
}

impl StoredPrefix {
    /// True if it was read from an existing file.
    pub fn is_reused(&self) -> bool {
        matches!(self.storage, PrefixStorage::Reused(_))
    }
}

impl fmt::Display for StoredPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, texts, bytes, element, seconds, storage } = self;
        write!(f, "{name}: {} texts, {} {element}; ", grouped(*texts), mebibytes(*bytes))?;
        match storage {
            PrefixStorage::Reused(path) => write!(f, "reused from {}", path.display()),
            PrefixStorage::Written(path) => {
                write!(f, "computed once, in {seconds:.1} s, stored in {}", path.display())
            }
            PrefixStorage::Memory => {
                write!(f, "computed once, in {seconds:.1} s, stored in memory")
            }
            PrefixStorage::NotStored(why) => write!(f, "computed for each batch: {why}"),
        }
    }
}

/// Describes how a run that reads `set` will compute and store its frozen prefix, for the log before training.
/// `released` is the size in bytes of the weights that will be released.
pub fn describe_storage(
    prefix: Option<FrozenPrefix>,
    settings: &CacheSettings,
    set: &TextSet,
    d_model: usize,
    released: u64,
) -> String {
    let Some(prefix) = prefix else {
        return "none: the encoder or the word embedding is trained".to_owned();
    };
    let verb = if prefix.layer() == 0 { "is" } else { "are" };
    let (texts, bytes) = size_of(prefix, settings, set, d_model);
    let count = grouped(texts);
    let size = format!("{} {}", mebibytes(bytes), settings.element);
    let how = if !settings.enabled {
        "for each batch (cache.enabled = false)".to_owned()
    } else if set.reads <= texts as u64 {
        format!("for each batch: each of {count} {} texts is read once", set.name)
    } else if bytes <= settings.disk {
        let directory = settings.directory.display();
        format!("once for {count} {} texts ({size} in {directory})", set.name)
    } else if bytes <= settings.memory {
        format!("once for {count} {} texts ({size}: more than cache.disk, in memory)", set.name)
    } else {
        format!("for each batch: {size} for {count} {} texts is more than cache.disk", set.name)
    };
    let release = match released {
        0 => String::new(),
        bytes => format!("; the weights of the {prefix} are released ({})", mebibytes(bytes)),
    };
    format!("{prefix} {verb} frozen: computed without dropout, {how}{release}")
}

/// Bytes of the stored prefix of `set`, in memory or mapped; 0 if it is not stored.
pub fn bytes_held(
    prefix: FrozenPrefix,
    settings: &CacheSettings,
    set: &TextSet,
    d_model: usize,
) -> u64 {
    let (texts, bytes) = size_of(prefix, settings, set, d_model);
    let fits = bytes <= settings.disk.max(settings.memory);
    if settings.enabled && set.reads > texts as u64 && fits { bytes } else { 0 }
}

/// Number of distinct texts, and the size of all their rows in bytes.
fn size_of(
    prefix: FrozenPrefix,
    settings: &CacheSettings,
    set: &TextSet,
    d_model: usize,
) -> (usize, u64) {
    let texts = Texts::distinct(set.texts.iter().copied());
    let rows = texts.starts(prefix.layer() > 0).last().copied().unwrap_or(0);
    (texts.len(), rows * (d_model * settings.element.size()) as u64)
}

pub(super) const MIB: f64 = (1 << 20) as f64;

/// Formats bytes as MiB, with one decimal below 10 MiB.
pub(crate) fn mebibytes(bytes: u64) -> String {
    let mebibytes = bytes as f64 / MIB;
    if mebibytes < 10.0 { format!("{mebibytes:.1} MiB") } else { format!("{mebibytes:.0} MiB") }
}
