//! Downloads a file of the hub to the cache: the content goes to `blobs/` under its ETag, and the snapshot gets a
//! symbolic link to it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::transport::{FileInfo, Hub, HubError};
use crate::files::{append_to, create_directory, rename};

/// Maximum number of attempts for a file; each resumes where the previous one was interrupted.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// Maximum size in bytes of a file with weights, and of any other file.
const LARGEST_WEIGHTS: u64 = 1 << 40;
const LARGEST: u64 = 4 << 30;

/// The location of a downloaded file in the cache.
pub(super) struct CacheLocation<'a> {
    /// The model's directory in the cache.
    pub folder: &'a Path,
    /// The commit of the file.
    pub commit: &'a str,
}

/// Downloads the file at `path` of the hub and links it into the snapshot as `name`, which is a file name. An
/// interrupted transfer is resumed.
pub(super) fn download(
    hub: &Hub,
    path: &str,
    name: &str,
    to: &CacheLocation,
) -> Result<(), HubError> {
    let largest = if name.ends_with(".safetensors") { LARGEST_WEIGHTS } else { LARGEST };
    let info = hub.file(path, to.commit, largest)?;
    let blobs = to.folder.join("blobs");
    let snapshot = to.folder.join("snapshots").join(to.commit);
    create_directory(&blobs).map_err(|error| error.source)?;
    create_directory(&snapshot).map_err(|error| error.source)?;
    let blob = blobs.join(&info.etag);
    let part = blobs.join(format!("{}.part", info.etag));
    let file = open_exclusive(&part)?;
    // Another process may have downloaded the file in the meantime.
    if fs::metadata(&blob).is_ok_and(|blob| blob.len() == info.size) {
        fs::remove_file(&part)?;
    } else {
        match fetch(hub, path, name, &info, &file) {
            Ok(()) => rename(&part, &blob).map_err(|error| error.source)?,
            Err(error @ HubError::Size { .. }) => {
                fs::remove_file(&part)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    }
    let link = snapshot.join(name);
    if link.is_symlink() && !link.exists() {
        fs::remove_file(&link)?;
    }
    match symlink(Path::new("../../blobs").join(&info.etag), link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

/// Opens a file for appending, with an exclusive lock.
fn open_exclusive(part: &Path) -> io::Result<File> {
    let file = append_to(part).map_err(|error| error.source)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            tracing::warn!(
                "{} is being downloaded by another process; waiting for it",
                part.display()
            );
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}

/// Downloads the bytes of a file that are missing in `file`.
fn fetch(hub: &Hub, path: &str, name: &str, info: &FileInfo, file: &File) -> Result<(), HubError> {
    let bar = ProgressBar::new(info.size).with_message(name.to_owned());
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes} {eta}");
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut attempt = 1;
    loop {
        match transfer(hub, path, info.size, file, &bar) {
            Ok(()) => break,
            Err(error) if attempt < ATTEMPTS && is_transient(&error) => {
                thread::sleep(PAUSE * attempt)
            }
            Err(error) => return Err(error),
        }
        attempt += 1;
    }
    bar.finish();
    Ok(file.sync_all()?)
}

/// Makes one attempt to append the missing bytes.
fn transfer(
    hub: &Hub,
    path: &str,
    size: u64,
    mut file: &File,
    bar: &ProgressBar,
) -> Result<(), HubError> {
    let mut present = file.metadata()?.len();
    if present >= size {
        // Complete, but not yet renamed: the bytes of an earlier attempt belong to another file.
        file.set_len(0)?;
        present = 0;
    }
    let content = match hub.content(path, present) {
        // The file on the hub is not longer than the bytes that are present.
        Err(HubError::Status(416)) => {
            return Err(HubError::Size { found: present, expected: size });
        }
        content => content?,
    };
    if !content.is_partial {
        file.set_len(0)?;
        present = 0;
    }
    // One more byte than announced, to detect a longer file.
    let mut reader = content.reader.take(size - present + 1);
    let mut buffer = vec![0; 1 << 16];
    loop {
        bar.set_position(present);
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        present += count as u64;
        if present > size {
            return Err(HubError::Size { found: present, expected: size });
        }
        file.write_all(&buffer[..count])?;
    }
    match present == size {
        true => Ok(()),
        false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

/// Returns whether a retry can succeed: the connection was cut, or the hub is busy.
fn is_transient(error: &HubError) -> bool {
    match error {
        HubError::Status(status) => *status == 429 || *status >= 500,
        HubError::Io(_) | HubError::Request(_) => true,
        HubError::InvalidResponse { .. } | HubError::Size { .. } => false,
    }
}
