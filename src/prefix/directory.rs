//! The files in a cache directory: what is there, and how to be rid of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::write_lock::{is_name, sweep};
use crate::files::FileError;

/// A file of stored prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was written.
    pub written: SystemTime,
}

/// The files of stored prefixes in `directory`, oldest first; none where there is no directory.
///
/// # Errors
/// The directory cannot be listed, or a file in it cannot be inspected. A missing directory is no error.
pub fn stored_files(directory: &Path) -> Result<Vec<StoredFile>, FileError> {
    let list = || -> io::Result<Vec<StoredFile>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if is_name(&entry.file_name().to_string_lossy()) {
                let about = entry.metadata()?;
                let (bytes, written) = (about.len(), about.modified()?);
                files.push(StoredFile { path: entry.path(), bytes, written });
            }
        }
        files.sort_by(|a, b| (a.written, &a.path).cmp(&(b.written, &b.path)));
        Ok(files)
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(FileError::new("list", directory)),
    }
}

/// Removes the files of stored prefixes in `directory`, and what killed builds have left there; nothing else. A run
/// that uses one keeps what it has opened.
///
/// # Errors
/// The directory cannot be listed, or a file in it cannot be removed; files before it are removed then.
pub fn clear(directory: &Path) -> Result<Vec<StoredFile>, FileError> {
    sweep(directory, Path::new(""));
    let files = stored_files(directory)?;
    for file in &files {
        fs::remove_file(&file.path).map_err(FileError::new("delete", &file.path))?;
    }
    Ok(files)
}
