//! The destination of an output: a new file that replaces the existing one, or a stream that is written to directly.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Maximum number of symbolic links that are followed, as in the system.
const MOST_LINKS: usize = 40;

/// The target of a path for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// A regular file, which may not exist yet. The path has all symbolic links resolved.
    File(PathBuf),
    /// A stream, which is written to and never replaced.
    Stream(Stream),
}

/// A stream, which is written to and never replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stream {
    /// The standard output of this process: `-`, or a path of the same file, such as `/dev/stdout`.
    Output,
    /// The standard error of this process.
    Error,
    /// A device, a pipe, or a file that this process has already opened.
    At(PathBuf),
}

impl Destination {
    /// Returns the destination of `path`.
    ///
    /// # Errors
    /// The path is a directory, is read-only, or cannot be inspected.
    pub fn of(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Destination::Stream(Stream::Output));
        }
        let found = match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return end_of_links(path),
            found => found?,
        };
        if found.is_dir() {
            return Err(io::Error::new(ErrorKind::IsADirectory, "it is a directory"));
        }
        // Later prints must come after the content, also if the standard streams are files.
        if is_open_as(&found, io::stdout().as_fd()) {
            return Ok(Destination::Stream(Stream::Output));
        }
        if is_open_as(&found, io::stderr().as_fd()) {
            return Ok(Destination::Stream(Stream::Error));
        }
        if !found.is_file() || leads_through_descriptor(path) {
            return Ok(Destination::Stream(Stream::At(path.to_path_buf())));
        }
        if found.permissions().readonly() {
            return Err(io::Error::new(ErrorKind::PermissionDenied, "the file is read-only"));
        }
        Ok(Destination::File(fs::canonicalize(path)?))
    }
}

impl Stream {
    /// Opens the stream for appending.
    pub fn open(&self) -> io::Result<File> {
        match self {
            Stream::Output => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            Stream::Error => Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
            Stream::At(path) => File::options().append(true).open(path),
        }
    }
}

/// Returns the path of the file that a write to `path`, which does not exist or is a dangling link, would create.
fn end_of_links(path: &Path) -> io::Result<Destination> {
    let mut end = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&end) {
            Ok(next) => end = end.parent().unwrap_or(Path::new("")).join(next),
            Err(_) => {
                let name = end.file_name().ok_or(ErrorKind::InvalidFilename)?;
                let parent = match end.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
                return Ok(Destination::File(fs::canonicalize(parent)?.join(name)));
            }
        }
    }
    Err(io::Error::other("too many symbolic links in a row"))
}

/// Returns whether `stream` is open on this file.
fn is_open_as(found: &Metadata, stream: BorrowedFd) -> bool {
    let open = stream.try_clone_to_owned().and_then(|stream| File::from(stream).metadata());
    open.is_ok_and(|open| (open.dev(), open.ino()) == (found.dev(), found.ino()))
}

/// Returns whether a path is `/dev/fd/3`, `/proc/self/fd/3`, or a link to one. The process that has opened the file
/// continues to write to it, so its writes would be lost if the file were replaced.
fn leads_through_descriptor(path: &Path) -> bool {
    let mut at = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        let parent = at.parent().unwrap_or(Path::new("")).to_path_buf();
        let real = fs::canonicalize(&parent).unwrap_or_default();
        if real.starts_with("/proc") && real.ends_with("fd") {
            return true;
        }
        match fs::read_link(&at) {
            Ok(next) => at = parent.join(next),
            Err(_) => return false,
        }
    }
    false
}
