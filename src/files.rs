//! The one writer of files: each is written whole or not at all, and none is destroyed that was not asked for.
//!
//! Whatever genir makes goes through here: [`WholeFile`] for files that are replaced, [`write_new`] for one that must not
//! be there yet, [`append_to`] for logs that grow, [`create_directory`]. So all follow the umask, as colleagues who share
//! a directory need it. A lint refuses the standard library's own ways of making files elsewhere (`clippy.toml`).
#![allow(clippy::disallowed_methods)]

mod destination;

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use destination::{Destination, Stream};

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
/// flushed, so after a power failure the old content may be back.
///
/// A symbolic link stays, and the file that it leads to is replaced. The new file has the permissions of the one that it
/// replaces, else those that the umask gives. A file that is marked read-only is not replaced. What is no regular file
/// (a device, a pipe, `/dev/stdout`, or `-` for standard output) is written to and stays what it is: there, readers see
/// the content as it comes.
#[derive(Debug)]
pub struct WholeFile {
    writer: BufWriter<File>,
    path: PathBuf,
    /// The temporary file and what it will replace; none where the content goes straight to where it belongs.
    replacement: Option<Replacement>,
}

#[derive(Debug)]
struct Replacement {
    temporary: PathBuf,
    target: PathBuf,
}

impl WholeFile {
    /// Opens the temporary file beside `path`; the directory must exist.
    pub fn create(path: &Path) -> Result<WholeFile, FileError> {
        let open = || match Destination::of(path)? {
            Destination::Stream(stream) => Ok((stream.open()?, None)),
            Destination::File(target) => {
                let (file, temporary) = temporary_beside(&target)?;
                if let Ok(replaced) = fs::metadata(&target) {
                    // Where the file system has no permissions, there are none to keep.
                    let _ = file.set_permissions(replaced.permissions());
                }
                Ok((file, Some(Replacement { temporary, target })))
            }
        };
        let (file, replacement) = open().map_err(FileError::new("write", path))?;
        Ok(WholeFile { writer: BufWriter::new(file), path: path.to_path_buf(), replacement })
    }

    /// The final path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes the content to disk and puts it at its final path.
    pub fn commit(self) -> Result<(), FileError> {
        self.finish(|temporary, target| fs::rename(temporary, target))
    }

    /// The same where nothing may be at the final path yet.
    fn commit_new(self) -> Result<(), FileError> {
        self.finish(|temporary, target| match fs::hard_link(temporary, target) {
            Ok(()) => fs::remove_file(temporary),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
            // A file system without hard links: the name is taken first, then the content follows.
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
        if let Some(Replacement { temporary, .. }) = &self.replacement {
            // Nothing more can be done about a temporary file that cannot be removed.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// A new file beside `path`, with its name: two writers of one path, in one process or two, never share one.
fn temporary_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_file_name(format!(".{name}.{}-{count}.tmp", process::id()));
        match File::create_new(&temporary) {
            // Left by a killed process that had the same number.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            created => return Ok((created?, temporary)),
        }
    }
}

/// Whether a file of this name is what a killed process may have left of writing the file `of`.
pub(crate) fn is_temporary(name: &str, of: &str) -> bool {
    let rest = name.strip_prefix('.').and_then(|name| name.strip_prefix(of));
    let parts = rest.and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".tmp")?.split_once('-'));
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    parts.is_some_and(|(process, count)| number(process) && number(count))
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

/// Writes a file that must not be there yet, whole or not at all. A symbolic link counts as there, wherever it leads.
pub fn write_new(path: &Path, content: &[u8]) -> Result<(), FileError> {
    if path.symlink_metadata().is_ok() {
        return Err(FileError::new("create", path)(ErrorKind::AlreadyExists.into()));
    }
    let mut file = WholeFile::create(path)?;
    file.write_all(content).map_err(FileError::new("write", path))?;
    file.commit_new()
}

/// Opens a file to write after what is in it, and makes it where it is missing.
pub fn append_to(path: &Path) -> Result<File, FileError> {
    let file = File::options().append(true).create(true).open(path);
    file.map_err(FileError::new("write", path))
}

/// Makes a file that must not be there yet, to be written bit by bit.
pub(crate) fn create_new(path: &Path) -> Result<File, FileError> {
    File::create_new(path).map_err(FileError::new("create", path))
}

/// Opens a file to be locked, as it is, and makes it where it is missing.
pub(crate) fn open_to_lock(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// Whether `path` leads to `file`. Whoever waited for a lock finds out with it whether the one that had it has renamed
/// or removed what is locked now.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Makes a directory and those that it is in, where they are missing.
pub fn create_directory(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(FileError::new("create", path))
}

/// Renames a file or directory within its file system, in one step.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::new("rename", from))
}

/// Makes a rename to `path`, of a file or a directory, survive a power failure.
pub(crate) fn sync_parent(path: &Path) -> Result<(), FileError> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

/// Makes what was made, renamed and removed in a directory survive a power failure.
pub(crate) fn sync_directory(path: &Path) -> Result<(), FileError> {
    if cfg!(unix) {
        let synced = File::open(path).and_then(|directory| directory.sync_all());
        synced.map_err(FileError::new("flush", path))?;
    }
    Ok(())
}

/// That `directory` can be made, if it is not there, and files in it.
///
/// This is found out by doing it: a directory with a file in it is made in the nearest directory that there is, and removed
/// again. Permissions do not tell: to root `access(2)` allows everything, also on `/proc`, on `/sys` and on a file system
/// that is full, and the types of file systems that take no files are too many to be known. The names that are missing
/// are looked up in the new directory, so that the file system itself says whether one is too long.
pub(crate) fn can_create_in(directory: &Path) -> io::Result<()> {
    /// What a run and its checkpoints write below has shorter names than this.
    const BELOW: usize = 300;
    /// What the system takes of a path, with the 0 at its end.
    const LONGEST: usize = 4096;

    let length = directory.as_os_str().len();
    if length + BELOW > LONGEST {
        let found = format!(
            "the path has {length} bytes, and with the names of the files in it that is more than the {LONGEST} that \
             the system takes"
        );
        return Err(io::Error::new(ErrorKind::InvalidFilename, found));
    }
    let is_there = |path: &&Path| path.symlink_metadata().is_ok();
    let there = directory.ancestors().find(is_there).unwrap_or(Path::new("."));
    if !fs::metadata(there).is_ok_and(|found| found.is_dir()) {
        let is = if there.is_symlink() && !there.exists() {
            "a link that leads nowhere"
        } else {
            "not a directory"
        };
        let found = format!("{} is {is}", there.display());
        return Err(io::Error::new(ErrorKind::NotADirectory, found));
    }
    let refused = |error: io::Error| {
        let found = format!("nothing can be made in {} ({error})", there.display());
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
    // What cannot be removed is known by its name, and does no harm.
    let _ = fs::remove_dir_all(&trial);
    made
}

/// How the directories begin that [`can_create_in`] makes and removes again; numbers of the process and of the trial follow.
pub(crate) const TRIAL: &str = ".genir-trial-";

fn trial_directory(parent: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let trial = parent.join(format!("{TRIAL}{}-{count}", process::id()));
        match fs::create_dir(&trial) {
            // Left by a killed process that had the same number.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => return made.map(|()| trial),
        }
    }
}

/// Bytes that this process may still write to the disk on which `directory` is or would be made; none where the system
/// does not tell.
pub(crate) fn free_space(directory: &Path) -> Option<u64> {
    let directory = std::path::absolute(directory).ok()?;
    let there = directory.ancestors().find(|path| path.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    // Some file systems have no size: those of the kernel, and some network ones.
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// `~` and `~/..` with the user's home directory put in; every other path as it is.
pub(crate) fn expand_home(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_owned(),
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(&rest[1..]),
        _ => PathBuf::from(path),
    }
}

/// Whether a file that begins with `bytes` is not there itself: Git LFS leaves this in its place until it is pulled.
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

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let [target, link, absent, dangling] =
            ["target", "link", "absent", "dangling"].map(|name| directory.path().join(name));
        fs::write(&target, "old").unwrap();
        symlink("target", &link).unwrap();
        symlink("absent", &dangling).unwrap();
        for (link, target) in [(&link, &target), (&dangling, &absent)] {
            write_whole(link, |file| file.write_all(b"new")).unwrap();
            assert!(link.is_symlink());
            assert!(!target.is_symlink() && fs::read(target).unwrap() == b"new");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4);
        let endless = directory.path().join("endless");
        symlink("endless", &endless).unwrap();
        assert!(write_whole(&endless, |_| Ok(())).is_err());
    }

    #[test]
    fn devices_and_pipes_are_written_to_and_stay() {
        let directory = tempfile::tempdir().unwrap();
        for (device, written) in [("/dev/null", true), ("/dev/full", false)] {
            let written_now = write_whole(Path::new(device), |file| file.write_all(b"gone"));
            assert_eq!(written_now.is_ok(), written, "{device}: {written_now:?}");
            assert!(fs::metadata(device).unwrap().file_type().is_char_device(), "{device}");
        }
        let pipe = directory.path().join("pipe");
        assert!(process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || fs::read_to_string(pipe).unwrap())
        };
        write_whole(&pipe, |file| file.write_all(b"through")).unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

        // A file that is open already: whoever has it open sees what comes.
        let mut open = tempfile::tempfile_in(&directory).unwrap();
        open.write_all(b"first, ").unwrap();
        let path = format!("/proc/self/fd/{}", open.as_raw_fd());
        write_whole(Path::new(&path), |file| file.write_all(b"then")).unwrap();
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
        write_whole(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o604);
        mode(0o444);
        let error = write_whole(&path, |file| file.write_all(b"newer")).unwrap_err().to_string();
        assert!(error.contains("values.json") && error.contains("read-only"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_new_file_takes_nothings_place() {
        let directory = tempfile::tempdir().unwrap();
        let [there, dangling, new] =
            ["there", "dangling", "new"].map(|name| directory.path().join(name));
        fs::write(&there, "old").unwrap();
        symlink("elsewhere", &dangling).unwrap();
        for path in [&there, &dangling, &PathBuf::from("/dev/null")] {
            let error = write_new(path, b"new").unwrap_err();
            assert_eq!(error.source.kind(), ErrorKind::AlreadyExists, "{error}");
        }
        // One that comes while it is written is not replaced either.
        let mut late = WholeFile::create(&new).unwrap();
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
    fn what_a_killed_writer_left_is_known_by_its_name_alone() {
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
