//! What is said of stored prefixes: before a run what it would store, and then what became of it.

use std::fmt;
use std::path::PathBuf;

use super::texts::Texts;
use super::{CacheSettings, Element, FrozenPrefix, TextSet};
use crate::component::grouped;

/// What became of one set of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPrefix {
    /// What it is called.
    pub name: String,
    /// Distinct texts.
    pub texts: usize,
    /// Bytes of what is stored, or would be.
    pub bytes: u64,
    /// What values are stored as.
    pub element: Element,
    /// Seconds that it took to find or compute it.
    pub seconds: f64,
    /// Where it is.
    pub storage: PrefixStorage,
}

/// Where the stored prefix of a set of texts is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrefixStorage {
    /// In this file, which was there.
    Reused(PathBuf),
    /// In this file, which this run has written.
    Written(PathBuf),
    /// In memory alone.
    Memory,
    /// Nowhere, for this reason.
    NotStored(String),
}

impl StoredPrefix {
    /// Whether it was found, not computed.
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
                write!(f, "computed once, in {seconds:.1} s, kept in {}", path.display())
            }
            PrefixStorage::Memory => write!(f, "computed once, in {seconds:.1} s, kept in memory"),
            PrefixStorage::NotStored(why) => write!(f, "computed for each batch: {why}"),
        }
    }
}

/// What a run of `reading` would do about its frozen prefix, in words, before its weights are read; `released` are the
/// bytes of weights that it would let go of then.
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
    let gone = match released {
        0 => String::new(),
        bytes => format!("; the weights of the {prefix} are let go ({})", mebibytes(bytes)),
    };
    format!("{prefix} {verb} frozen: computed without dropout, {how}{gone}")
}

/// Bytes that a run of `reading` would hold of its frozen prefix, in memory or mapped; 0 where it stores nothing.
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

/// Distinct texts, and the bytes of all their rows.
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

/// Bytes as MiB, small ones with their fraction.
pub(crate) fn mebibytes(bytes: u64) -> String {
    let mebibytes = bytes as f64 / MIB;
    if mebibytes < 10.0 { format!("{mebibytes:.1} MiB") } else { format!("{mebibytes:.0} MiB") }
}
