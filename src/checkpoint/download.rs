//! One file of a hub into the cache: its content by its ETag in `blobs/`, and a link to it in the snapshot.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::transport::{FileInfo, Hub, HubError};
use crate::files::{append_to, create_directory, rename};

/// How often a file is tried; each attempt goes on where the one before was cut.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// The most bytes of a file of weights, and of any other.
const LARGEST_WEIGHTS: u64 = 1 << 40;
const LARGEST: u64 = 4 << 30;

/// Where a file of the hub goes.
pub(super) struct Destination<'a> {
    /// The model's directory in the cache.
    pub folder: &'a Path,
    /// The commit that the file is of.
    pub commit: &'a str,
}

/// Fetches the file at `path` of the hub and links it as `name`, which is a file's name, into the snapshot. A transfer
/// that is cut is taken up again.
pub(super) fn download(
    hub: &Hub,
    path: &str,
    name: &str,
    to: &Destination,
) -> Result<(), HubError> {
    let largest = if name.ends_with(".safetensors") { LARGEST_WEIGHTS } else { LARGEST };
    let info = hub.file(path, to.commit, largest)?;
    let blobs = to.folder.join("blobs");
    let snapshot = to.folder.join("snapshots").join(to.commit);
    create_directory(&blobs).map_err(|error| error.source)?;
    create_directory(&snapshot).map_err(|error| error.source)?;
    let blob = blobs.join(&info.etag);
    let part = blobs.join(format!("{}.part", info.etag));
    let file = open_alone(&part)?;
    // Another process may have fetched it meanwhile.
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

/// Opens a file that one process at a time writes to.
fn open_alone(part: &Path) -> io::Result<File> {
    let file = append_to(part).map_err(|error| error.source)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            tracing::warn!("{} is being fetched by another process: waiting", part.display());
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}

/// Gets all bytes of a file, those that are there already excepted.
fn fetch(hub: &Hub, path: &str, name: &str, info: &FileInfo, file: &File) -> Result<(), HubError> {
    let bar = ProgressBar::new(info.size).with_message(name.to_owned());
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes} {eta}");
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut attempt = 1;
    loop {
        match transfer(hub, path, info.size, file, &bar) {
            Ok(()) => break,
            Err(error) if attempt < ATTEMPTS && may_pass(&error) => thread::sleep(PAUSE * attempt),
            Err(error) => return Err(error),
        }
        attempt += 1;
    }
    bar.finish();
    Ok(file.sync_all()?)
}

/// One attempt: appends what is missing.
fn transfer(
    hub: &Hub,
    path: &str,
    size: u64,
    mut file: &File,
    bar: &ProgressBar,
) -> Result<(), HubError> {
    let mut there = file.metadata()?.len();
    if there >= size {
        // Whole, and yet not taken: what an earlier attempt left is of another file.
        file.set_len(0)?;
        there = 0;
    }
    let content = match hub.content(path, there) {
        // Nothing comes after what is there.
        Err(HubError::Status(416)) => return Err(HubError::Size { found: there, expected: size }),
        content => content?,
    };
    if !content.is_rest {
        file.set_len(0)?;
        there = 0;
    }
    // One more than announced, to see that there are more.
    let mut reader = content.reader.take(size - there + 1);
    let mut buffer = vec![0; 1 << 16];
    loop {
        bar.set_position(there);
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        there += count as u64;
        if there > size {
            return Err(HubError::Size { found: there, expected: size });
        }
        file.write_all(&buffer[..count])?;
    }
    match there == size {
        true => Ok(()),
        false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

/// Returns whether a retry can succeed: the connection was cut, or the hub is busy.
fn may_pass(error: &HubError) -> bool {
    match error {
        HubError::Status(status) => *status == 429 || *status >= 500,
        HubError::Io(_) | HubError::Request(_) => true,
        HubError::Implausible { .. } | HubError::Size { .. } => false,
    }
}
