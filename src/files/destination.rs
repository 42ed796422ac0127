//! Where the content of an output goes: into a new file that takes another's place, or straight into what is there.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// More links in a row than the system follows.
const MOST_LINKS: usize = 40;

/// What a path leads to, as far as writing to it is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// A regular file, or nothing yet. Symbolic links are followed: this is the path of the file itself.
    File(PathBuf),
    /// What is written to and never replaced.
    Stream(Stream),
}

/// What is written to and never replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stream {
    /// The standard output of this process: `-`, and whatever leads to the same file, such as `/dev/stdout`.
    Output,
    /// Its standard error.
    Error,
    /// A device, a pipe, or a file that this process has open already.
    At(PathBuf),
}

impl Destination {
    /// Follows `path`.
    ///
    /// # Errors
    /// It is a directory, is marked read-only, or cannot be looked at.
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
        // What is printed later must come after it, also where the system's streams are files.
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
    /// Opens it; what is written comes after what is there.
    pub fn open(&self) -> io::Result<File> {
        match self {
            Stream::Output => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            Stream::Error => Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
            Stream::At(path) => File::options().append(true).open(path),
        }
    }
}

/// Where a file would be made by whoever writes to `path`, which leads to nothing.
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

/// Whether this is the very file that `stream` is open on.
fn is_open_as(found: &Metadata, stream: BorrowedFd) -> bool {
    let open = stream.try_clone_to_owned().and_then(|stream| File::from(stream).metadata());
    open.is_ok_and(|open| (open.dev(), open.ino()) == (found.dev(), found.ino()))
}

/// Whether a path is `/dev/fd/3`, `/proc/self/fd/3`, or a link to one: whoever has opened that file goes on writing to
/// it, and would write into nothing if another took its place.
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
