//! `genir.json`, the manifest of a checkpoint: written last, with the size and the checksum of every other file.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::CheckpointError;
use crate::files::{FileError, open_regular, read_small_to_string};
use crate::task::Encoding;

/// The file name of the manifest.
pub(crate) const MANIFEST: &str = "genir.json";

/// The metadata of a checkpoint written by genir that transformers does not read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the file format.
    pub format: u32,
    /// Version of genir that wrote it.
    pub genir: String,
    /// Number of updates before the checkpoint.
    pub step: u64,
    /// Metrics measured at this step.
    pub metrics: BTreeMap<String, f64>,
    /// The encoding of texts in training.
    pub encoding: Encoding,
    /// The other files of the checkpoint, by their paths in it; empty in checkpoints of earlier versions of genir.
    #[serde(default)]
    pub files: BTreeMap<String, FileRecord>,
}

/// The size and the checksum of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 hash in hexadecimal, as `b3sum` prints it.
    pub blake3: String,
}

impl FileRecord {
    /// Reads a file from its start to its end.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(path: &Path) -> Result<Self, FileError> {
        let hashed = || {
            let (mut file, mut hasher) = (open_regular(path)?, blake3::Hasher::new());
            let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0);
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    read => {
                        hasher.update(&buffer[..read]);
                        bytes += read as u64;
                    }
                }
            }
            Ok(Self { bytes, blake3: hasher.finalize().to_hex().to_string() })
        };
        hashed().map_err(FileError::new("read", path))
    }
}

impl Manifest {
    /// The version of the format that this version of genir writes and reads.
    pub const FORMAT: u32 = 1;

    /// A manifest of a model that was not trained by genir: step 0, no metrics.
    pub fn new(encoding: Encoding) -> Self {
        Self {
            format: Self::FORMAT,
            genir: env!("CARGO_PKG_VERSION").to_owned(),
            step: 0,
            metrics: BTreeMap::new(),
            encoding,
            files: BTreeMap::new(),
        }
    }

    /// Reads the manifest of the checkpoint in `directory`; `None` if it was not written by genir.
    ///
    /// # Errors
    /// The file cannot be read, or has another format.
    pub fn read(directory: &Path) -> Result<Option<Self>, CheckpointError> {
        let file = directory.join(MANIFEST);
        if file.symlink_metadata().is_err() {
            return Ok(None);
        }
        let text = read_small_to_string(&file).map_err(FileError::new("read", &file))?;
        let wrong = |found: String| CheckpointError::Manifest { file: file.clone(), found };
        let manifest: Self =
            serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        match manifest.format {
            Self::FORMAT => Ok(Some(manifest)),
            other => Err(wrong(format!("format {other}"))),
        }
    }

    /// Checks every file of the checkpoint in `directory` against its size and its checksum.
    ///
    /// # Errors
    /// All files that are missing or have another content.
    pub fn verify(&self, directory: &Path) -> Result<(), CheckpointError> {
        let mut changed = Vec::new();
        for (name, expected) in &self.files {
            // Nothing leads out of the checkpoint.
            let within = Path::new(name).components();
            let path = directory.join(
                within.filter(|part| matches!(part, Component::Normal(_))).collect::<PathBuf>(),
            );
            let found = match fs::metadata(&path) {
                Ok(found) if found.len() != expected.bytes => {
                    Some(format!("{name} has {} bytes, not {}", found.len(), expected.bytes))
                }
                Ok(_) => match FileRecord::of(&path)? == *expected {
                    true => None,
                    false => Some(format!("{name} has another checksum than when it was written")),
                },
                Err(error) => Some(format!("{name} cannot be read ({error})")),
            };
            changed.extend(found);
        }
        match changed.is_empty() {
            true => Ok(()),
            false => Err(CheckpointError::Changed { directory: directory.to_owned(), changed }),
        }
    }
}
