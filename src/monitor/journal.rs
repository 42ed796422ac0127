//! The files of a run that only grow: scalars, TensorBoard events, results of probes.
//!
//! A run continues without them for a while: what cannot be written (a full disk, a lost connection) is retained in
//! memory and written with the next lines. The trainer finds the problem after the current step, saves a checkpoint, in
//! which the retained text is stored, and ends the run with the error.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::files::{FileError, append_to, create_directory};

/// The pauses before another attempt to write. A disk of a cluster may be gone for a moment.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(900)];

/// All growing files of a run that this process has written to.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    files: BTreeMap<PathBuf, Growing>,
    problem: Option<FileError>,
}

/// A file that grows.
#[derive(Debug)]
struct Growing {
    file: File,
    /// Size of the file after the last successful write.
    size: u64,
    /// Bytes that could not be written yet.
    retained: Vec<u8>,
}

impl Growing {
    fn open(path: &Path) -> io::Result<Self> {
        let file = append_to(path).map_err(|error| error.source)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size, retained: Vec::new() })
    }

    /// Writes what is retained, all of it or nothing.
    fn write(&mut self) -> io::Result<()> {
        if let Err(error) = self.file.write_all(&self.retained) {
            // A part may have been written. If it cannot be removed, the next attempt tries again.
            self.file.set_len(self.size)?;
            return Err(error);
        }
        self.size += self.retained.len() as u64;
        self.retained.clear();
        Ok(())
    }
}

impl Journal {
    /// Opens a file, creating it and its directory if they are missing.
    ///
    /// # Errors
    /// It cannot be opened or created.
    pub fn open(&mut self, path: &Path) -> Result<(), FileError> {
        if !self.files.contains_key(path) {
            if let Some(parent) = path.parent() {
                create_directory(parent)?;
            }
            let opened = Growing::open(path).map_err(FileError::new("write", path))?;
            self.files.insert(path.to_path_buf(), opened);
        }
        Ok(())
    }

    /// Appends `bytes` to a file in one write. If that fails, they are retained, and [`Journal::problem`] returns the
    /// error.
    pub fn append(&mut self, path: &Path, bytes: &[u8]) {
        if let Err(error) = self.try_append(path, bytes) {
            self.problem.get_or_insert(error);
        }
    }

    fn try_append(&mut self, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
        self.open(path)?;
        let Some(file) = self.files.get_mut(path) else { return Ok(()) };
        file.retained.extend_from_slice(bytes);
        // Once there is a problem the run is about to end: no more pauses.
        let pauses = if self.problem.is_none() { &PAUSES[..] } else { &[] };
        let mut written = file.write();
        for pause in pauses {
            let Err(error) = &written else { break };
            tracing::warn!("cannot write {}: {error}; trying again", path.display());
            thread::sleep(*pause);
            written = file.write();
        }
        written.map_err(FileError::new("write", path))
    }

    /// Records a problem of another file without which a run can continue until its next checkpoint.
    pub fn report(&mut self, problem: FileError) {
        self.problem.get_or_insert(problem);
    }

    /// Takes the first problem, if there is one.
    pub fn problem(&mut self) -> Option<FileError> {
        self.problem.take()
    }

    /// Flushes all files to disk.
    ///
    /// # Errors
    /// The first one that cannot be flushed.
    pub fn sync(&self) -> Result<(), FileError> {
        self.files.iter().try_for_each(|(path, Growing { file, .. })| {
            file.sync_all().map_err(FileError::new("write", path))
        })
    }

    /// Returns the retained bytes of each file that has some.
    pub fn retained(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        let files = self.files.iter().filter(|(_, file)| !file.retained.is_empty());
        files.map(|(path, file)| (path.as_path(), file.retained.as_slice()))
    }
}

/// The sizes of the growing files of a run: `metrics.jsonl`, and all files directly in `directories`.
///
/// # Errors
/// A directory cannot be listed.
pub(crate) fn sizes(
    metrics: &Path,
    directories: &[PathBuf],
) -> Result<BTreeMap<PathBuf, u64>, FileError> {
    let mut sizes = BTreeMap::new();
    let mut add = |path: PathBuf| {
        if let Ok(found) = fs::metadata(&path)
            && found.is_file()
        {
            sizes.insert(path, found.len());
        }
    };
    add(metrics.to_path_buf());
    for directory in directories.iter().filter(|directory| directory.is_dir()) {
        for entry in fs::read_dir(directory).map_err(FileError::new("list", directory))? {
            add(entry.map_err(FileError::new("list", directory))?.path());
        }
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_cannot_be_written_are_retained_and_written_later() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("metrics.jsonl");
        let mut journal = Journal::default();
        journal.append(&path, b"first\n");
        assert!(journal.problem().is_none());
        // A file that was opened for reading stands for a disk that is full.
        let sound = std::mem::replace(
            &mut journal.files.get_mut(&path).unwrap().file,
            File::open(&path).unwrap(),
        );
        journal.append(&path, b"second\n");
        journal.append(&path, b"third\n");
        let retained: Vec<_> = journal.retained().collect();
        assert_eq!(retained, [(path.as_path(), &b"second\nthird\n"[..])]);
        let problem = journal.problem().unwrap().to_string();
        assert!(problem.contains("metrics.jsonl"), "{problem}");
        assert_eq!(fs::read(&path).unwrap(), b"first\n");

        journal.files.get_mut(&path).unwrap().file = sound;
        journal.append(&path, b"fourth\n");
        assert_eq!(fs::read(&path).unwrap(), b"first\nsecond\nthird\nfourth\n");
        assert!(journal.problem().is_none() && journal.retained().next().is_none());
    }
}
