//! Writes files: each is written atomically, and no existing file is destroyed by accident. Reads regular files only.
//!
//! All files and directories that genir creates go through this module: [`AtomicFile`] replaces files, [`write_new`]
//! creates a file that must not exist, [`append_to`] extends logs, [`create_directory`] creates directories. All of
//! them follow the umask, as shared directories require. A lint forbids the corresponding functions of the standard
//! library elsewhere (`clippy.toml`).
//!
//! Files whose paths come from a user or another program are opened with [`open_regular`], [`read_regular`],
//! [`read_regular_to_string`] or [`read_small_to_string`].
#![allow(clippy::disallowed_methods)]

mod destination;
mod regular;

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use destination::{Destination, Stream};
pub(crate) use regular::{
    open_regular, read_regular, read_regular_to_string, read_small_to_string,
};

/// An error of an operation on a file or directory.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// The operation, as a verb: "write", "rename", "create".
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The error of the operating system.
    pub source: io::Error,
}

impl FileError {
    /// Returns a function for `map_err` that adds the operation and the path to an error.
    pub fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_path_buf();
        move |source| FileError { action, path, source }
    }
}

/// A file that is written under a temporary name; [`AtomicFile::commit`] renames it to its path.
///
/// A reader of the path sees either the previous content or the complete new content, never a part of it, even if the
/// process is killed or the power fails. The content is written to a temporary file in the same directory, flushed to
/// disk (`fsync`), and renamed to the path; then the directory is flushed, so that the rename survives. A value that is
/// dropped without `commit` deletes its temporary file; a killed process leaves a harmless temporary file
/// (`.NAME.PID-N.tmp`). On Windows the directory cannot be flushed, so that the previous content may return after a
/// power failure.
///
/// A symbolic link is preserved, and its target is replaced. The new file has the permissions of the replaced one, or
/// those of the umask. A read-only file is not replaced. A path that is not a regular file (a device, a pipe,
/// `/dev/stdout`, or `-` for standard output) is written to directly and never replaced; its readers see the content as
/// it is written.
#[derive(Debug)]
pub struct AtomicFile {
    writer: BufWriter<File>,
    path: PathBuf,
    /// The temporary file and its target; `None` if the content is written directly.
    replacement: Option<Replacement>,
}

#[derive(Debug)]
struct Replacement {
    temporary: PathBuf,
    target: PathBuf,
}

impl AtomicFile {
    /// Opens a temporary file in the directory of `path`, which must exist.
    pub fn create(path: &Path) -> Result<AtomicFile, FileError> {
        let open = || match Destination::of(path)? {
            Destination::Stream(stream) => Ok((stream.open()?, None)),
            Destination::File(target) => {
                let (file, temporary) = temporary_beside(&target)?;
                if let Ok(replaced) = fs::metadata(&target) {
                    // Fails on a file system without permissions, where there are none to preserve.
                    let _ = file.set_permissions(replaced.permissions());
                }
                Ok((file, Some(Replacement { temporary, target })))
            }
        };
        let (file, replacement) = open().map_err(FileError::new("write", path))?;
        Ok(AtomicFile { writer: BufWriter::new(file), path: path.to_path_buf(), replacement })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes the content to disk and renames the file to its path.
    pub fn commit(self) -> Result<(), FileError> {
        self.finish(|temporary, target| fs::rename(temporary, target))
    }

    /// Like [`AtomicFile::commit`], but fails if the path exists.
    fn commit_new(self) -> Result<(), FileError> {
        self.finish(|temporary, target| match fs::hard_link(temporary, target) {
            Ok(()) => fs::remove_file(temporary),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
            // On a file system without hard links, the name is reserved first and then replaced.
            Err(_) => File::create_new(target).and_then(|_| fs::rename(temporary, target)),
        })
    }

    fn finish(mut self, put: impl Fn(&Path, &Path) -> io::Result<()>) -> Result<(), FileError> {
        self.writer.flush().map_err(FileError::new("write", &self.path))?;
        let Some(Replacement { temporary, target }) = &self.replacement else { return Ok(()) };
        let synced = self.writer.get_ref().sync_all();
        synced
            .and_then(|()| put(temporary, target))
            .map_err(FileError::new("write", &self.path))?;
        let target = target.clone();
        self.replacement = None;
        sync_parent(&target)
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(Replacement { temporary, .. }) = &self.replacement {
            // A temporary file that cannot be removed is left behind.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Creates a temporary file in the directory of `path`. Concurrent writers of one path, in the same or another
/// process, get different files.
fn temporary_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_file_name(format!(".{name}.{}-{count}.tmp", process::id()));
        match File::create_new(&temporary) {
            // Left behind by a killed process with the same process id.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            created => return Ok((created?, temporary)),
        }
    }
}

/// Returns whether a file of this name is a temporary file of the file named `of`.
pub(crate) fn is_temporary(name: &str, of: &str) -> bool {
    let rest = name.strip_prefix('.').and_then(|name| name.strip_prefix(of));
    let parts = rest.and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".tmp")?.split_once('-'));
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    parts.is_some_and(|(process, count)| number(process) && number(count))
}

/// Writes the file at `path` atomically (see [`AtomicFile`]); `write` writes the content.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut AtomicFile) -> io::Result<()>,
) -> Result<(), FileError> {
    let mut file = AtomicFile::create(path)?;
    write(&mut file).map_err(FileError::new("write", path))?;
    file.commit()
}

/// Writes a file that must not exist, atomically. A symbolic link, also a dangling one, is treated as an existing
/// file.
pub fn write_new(path: &Path, content: &[u8]) -> Result<(), FileError> {
    if path.symlink_metadata().is_ok() {
        return Err(FileError::new("create", path)(ErrorKind::AlreadyExists.into()));
    }
    let mut file = AtomicFile::create(path)?;
    file.write_all(content).map_err(FileError::new("write", path))?;
    file.commit_new()
}

/// Opens a file for appending, and creates it if it is missing.
pub fn append_to(path: &Path) -> Result<File, FileError> {
    let file = File::options().append(true).create(true).open(path);
    file.map_err(FileError::new("write", path))
}

/// Creates a file that must not exist, to be written incrementally.
pub(crate) fn create_new(path: &Path) -> Result<File, FileError> {
    File::create_new(path).map_err(FileError::new("create", path))
}

/// Opens a file for locking without truncating it, and creates it if it is missing.
pub(crate) fn open_lock_file(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// Returns whether `path` refers to the open `file`. A process that has waited for a lock uses it to detect that the
/// previous owner has renamed or removed the locked file.
pub(crate) fn is_same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Creates a directory and its missing parents.
pub fn create_directory(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(FileError::new("create", path))
}

/// Renames a file or directory within its file system, atomically.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::new("rename", from))
}

/// Flushes the parent directory of `path`, so that a rename to `path` survives a power failure.
pub(crate) fn sync_parent(path: &Path) -> Result<(), FileError> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

/// Flushes a directory, so that entries created, renamed and removed in it survive a power failure.
pub(crate) fn sync_directory(path: &Path) -> Result<(), FileError> {
    if cfg!(unix) {
        let synced = File::open(path).and_then(|directory| directory.sync_all());
        synced.map_err(FileError::new("flush", path))?;
    }
    Ok(())
}

/// Checks that `directory` exists or can be created, and that files can be created in it.
///
/// The check creates a trial directory with a file in the nearest existing parent, and removes it. Permissions are not
/// sufficient: for root, `access(2)` allows everything, even in `/proc`, in `/sys` and on a full file system, and there
/// are too many types of file systems without files. The missing names are looked up in the trial directory, so that
/// the file system reports names that are too long.
pub(crate) fn can_create_in(directory: &Path) -> io::Result<()> {
    /// Paths of a run's files, relative to its directory, are shorter than this.
    const BELOW: usize = 300;
    /// The maximum length of a path in bytes, including the terminating 0.
    const LONGEST: usize = 4096;

    let length = directory.as_os_str().len();
    if length + BELOW > LONGEST {
        let found = format!(
            "the path has {length} bytes, and with the names of the files in it, that is more than the maximum of \
             {LONGEST}"
        );
        return Err(io::Error::new(ErrorKind::InvalidFilename, found));
    }
    let is_there = |path: &&Path| path.symlink_metadata().is_ok();
    let there = directory.ancestors().find(is_there).unwrap_or(Path::new("."));
    if !fs::metadata(there).is_ok_and(|found| found.is_dir()) {
        let is = if there.is_symlink() && !there.exists() {
            "a dangling symbolic link"
        } else {
            "not a directory"
        };
        let found = format!("{} is {is}", there.display());
        return Err(io::Error::new(ErrorKind::NotADirectory, found));
    }
    let refused = |error: io::Error| {
        let found = format!("nothing can be created in {} ({error})", there.display());
        io::Error::new(error.kind(), found)
    };
    let trial = trial_directory(there).map_err(refused)?;
    let names = directory.strip_prefix(there).unwrap_or(directory).components();
    let too_long = names
        .map(|name| trial.join(name).symlink_metadata())
        .find_map(|found| found.err().filter(|error| error.kind() != ErrorKind::NotFound));
    let made = match too_long {
        Some(error) => Err(error),
        None => File::create_new(trial.join("file")).map(drop).map_err(refused),
    };
    // A trial directory that cannot be removed is harmless, and recognised by its name.
    let _ = fs::remove_dir_all(&trial);
    made
}

/// The prefix of the trial directories of [`can_create_in`]; the process id and the number of the trial follow.
pub(crate) const TRIAL: &str = ".genir-trial-";

fn trial_directory(parent: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let trial = parent.join(format!("{TRIAL}{}-{count}", process::id()));
        match fs::create_dir(&trial) {
            // Left behind by a killed process with the same process id.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => return made.map(|()| trial),
        }
    }
}

/// Returns the free space for this process, in bytes, on the disk of `directory` or its nearest existing parent;
/// `None` if it is unknown.
pub(crate) fn free_space(directory: &Path) -> Option<u64> {
    let directory = std::path::absolute(directory).ok()?;
    let there = directory.ancestors().find(|path| path.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    // Virtual file systems, and some network file systems, have no size.
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Replaces the `~` of `~` and `~/..` by the home directory; other paths are returned unchanged.
pub(crate) fn expand_home(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_owned(),
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(&rest[1..]),
        _ => PathBuf::from(path),
    }
}

/// Returns whether a file that starts with `bytes` is a Git LFS pointer, which replaces the file until it is pulled.
pub(crate) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs.github.com/spec/v1")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_content_and_no_temporary_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("values.json");
        write_atomically(&path, |file| file.write_all(b"old")).unwrap();

        let error = write_atomically(&path, |file| {
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
        write_atomically(&path, |file| file.write_all(b"old")).unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_symbolic_link_is_preserved_and_its_target_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let [target, link, absent, dangling] =
            ["target", "link", "absent", "dangling"].map(|name| directory.path().join(name));
        fs::write(&target, "old").unwrap();
        symlink("target", &link).unwrap();
        symlink("absent", &dangling).unwrap();
        for (link, target) in [(&link, &target), (&dangling, &absent)] {
            write_atomically(link, |file| file.write_all(b"new")).unwrap();
            assert!(link.is_symlink());
            assert!(!target.is_symlink() && fs::read(target).unwrap() == b"new");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4);
        let endless = directory.path().join("endless");
        symlink("endless", &endless).unwrap();
        assert!(write_atomically(&endless, |_| Ok(())).is_err());
    }

    #[test]
    fn devices_and_pipes_are_written_to_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        for (device, written) in [("/dev/null", true), ("/dev/full", false)] {
            let written_now = write_atomically(Path::new(device), |file| file.write_all(b"gone"));
            assert_eq!(written_now.is_ok(), written, "{device}: {written_now:?}");
            assert!(fs::metadata(device).unwrap().file_type().is_char_device(), "{device}");
        }
        let pipe = directory.path().join("pipe");
        assert!(process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || fs::read_to_string(pipe).unwrap())
        };
        write_atomically(&pipe, |file| file.write_all(b"through")).unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

        // A file that is already open: the process that has it open sees the new content.
        let mut open = tempfile::tempfile_in(&directory).unwrap();
        open.write_all(b"first, ").unwrap();
        let path = format!("/proc/self/fd/{}", open.as_raw_fd());
        write_atomically(Path::new(&path), |file| file.write_all(b"then")).unwrap();
        let mut text = String::new();
        open.rewind().and_then(|()| open.read_to_string(&mut text)).unwrap();
        assert_eq!(text, "first, then");
    }

    #[test]
    fn a_file_keeps_its_permissions_and_a_read_only_one_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("values.json");
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        fs::write(&path, "old").unwrap();
        mode(0o604);
        write_atomically(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o604);
        mode(0o444);
        let error =
            write_atomically(&path, |file| file.write_all(b"newer")).unwrap_err().to_string();
        assert!(error.contains("values.json") && error.contains("read-only"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_new_file_never_replaces_an_existing_one() {
        let directory = tempfile::tempdir().unwrap();
        let [there, dangling, new] =
            ["there", "dangling", "new"].map(|name| directory.path().join(name));
        fs::write(&there, "old").unwrap();
        symlink("elsewhere", &dangling).unwrap();
        for path in [&there, &dangling, &PathBuf::from("/dev/null")] {
            let error = write_new(path, b"new").unwrap_err();
            assert_eq!(error.source.kind(), ErrorKind::AlreadyExists, "{error}");
        }
        // A file that is created during the write is not replaced either.
        let mut late = AtomicFile::create(&new).unwrap();
        late.write_all(b"late").unwrap();
        write_new(&new, b"new").unwrap();
        assert_eq!(late.commit_new().unwrap_err().source.kind(), ErrorKind::AlreadyExists);
        assert_eq!(
            (fs::read(&there).unwrap(), fs::read(&new).unwrap()),
            (b"old".into(), b"new".into())
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    }

    #[test]
    fn the_temporary_file_of_a_killed_writer_is_recognised_by_its_name() {
        assert!(is_temporary(".environment.json.123-0.tmp", "environment.json"));
        for name in [
            "environment.json.123-0.tmp",
            ".environment.json.a-0.tmp",
            ".environment.json.1-.tmp",
            ".environment.json.tmp",
            ".environment.json.12.tmp",
            ".environment.jsonl.1-0.tmp",
        ] {
            assert!(!is_temporary(name, "environment.json"), "{name}");
        }
    }
}
