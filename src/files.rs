//! Files that are written whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::Access;

/// What went wrong with a file or directory, and which one.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// What was being done, as a verb: "write", "rename", "create".
    pub action: &'static str,
    /// The file or directory it was done to.
    pub path: PathBuf,
    /// What the system says.
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: names what was being done to which path.
    pub fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_path_buf();
        move |source| FileError { action, path, source }
    }
}

/// A file being written beside its final place; [`WholeFile::commit`] puts it there.
///
/// What is promised: whoever opens the final path finds either what was there before or all of
/// the new content, never a part of it, even when the process is killed or the power fails. For
/// that the content goes to a temporary file in the same directory, is flushed to disk (`fsync`),
/// renamed over the final path in one step, and the directory is flushed too, so that the rename
/// survives. A value dropped without `commit` deletes its temporary file; a killed process leaves
/// it behind (`.NAME.PID-N.tmp`), which harms nothing. On Windows the directory cannot be
/// flushed, so after a power failure the old content may be back. A symbolic link at the final
/// path is replaced by the file.
#[derive(Debug)]
pub struct WholeFile {
    writer: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl WholeFile {
    /// Opens the temporary file beside `path`; the directory must exist.
    pub fn create(path: &Path) -> Result<WholeFile, FileError> {
        // Two writers of one path, in one process or two, must not share a temporary file.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}-{count}.tmp", process::id()));
        let file = File::create(&temporary).map_err(FileError::new("write", path))?;
        Ok(WholeFile {
            writer: BufWriter::new(file),
            temporary,
            path: path.to_path_buf(),
            committed: false,
        })
    }

    /// The final path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes the content to disk and puts it at its final path.
    pub fn commit(mut self) -> Result<(), FileError> {
        self.writer
            .flush()
            .and_then(|()| self.writer.get_ref().sync_all())
            .map_err(FileError::new("write", &self.path))?;
        fs::rename(&self.temporary, &self.path).map_err(FileError::new("write", &self.path))?;
        self.committed = true;
        sync_parent(&self.path)
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing more can be done about a temporary file that cannot be removed.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes the file at `path` whole or not at all (see [`WholeFile`]): `write` gives the content.
pub fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut WholeFile) -> io::Result<()>,
) -> Result<(), FileError> {
    let mut file = WholeFile::create(path)?;
    write(&mut file).map_err(FileError::new("write", path))?;
    file.commit()
}

/// Makes a rename to `path`, of a file or a directory, survive a power failure.
pub(crate) fn sync_parent(path: &Path) -> Result<(), FileError> {
    if cfg!(unix) {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(FileError::new("flush", directory))?;
    }
    Ok(())
}

/// That files can be made in `directory`, which need not be there yet: it, or else the nearest directory above it, is one
/// and can be written to. Nothing is written.
pub(crate) fn can_create_in(directory: &Path) -> io::Result<()> {
    let is_there = |path: &&Path| path.symlink_metadata().is_ok();
    let there = directory.ancestors().find(is_there).unwrap_or(Path::new("."));
    if !fs::metadata(there)?.is_dir() {
        let found = format!("{} is not a directory", there.display());
        return Err(io::Error::new(io::ErrorKind::NotADirectory, found));
    }
    Ok(rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// `~` and `~/..` with the user's home directory put in; every other path as it is.
pub(crate) fn expand_home(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_owned(),
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(&rest[1..]),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_content_and_no_litter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("values.json");
        write_whole(&path, |file| file.write_all(b"old")).unwrap();

        let error = write_whole(&path, |file| {
            file.write_all(b"half of the n")?;
            Err(io::Error::other("the source ran dry"))
        })
        .unwrap_err();

        assert!(error.to_string().contains("values.json: the source ran dry"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn new_content_replaces_the_old_only_at_commit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("values.json");
        write_whole(&path, |file| file.write_all(b"old")).unwrap();
        let mut file = WholeFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
