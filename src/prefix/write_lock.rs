//! The exclusive right to write a file: a lock on its temporary file.
//!
//! The lock goes with the process, however it ends. So a temporary file that nobody holds is that of a build that
//! was killed: it is written anew or removed, never read.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::files::{
    FileError, create_directory, is_same_file, open_lock_file, rename, sync_parent,
};

/// The end of the name of a file, after the first 32 hex digits of its key.
const SUFFIX: &str = ".prefix";
const TEMPORARY: &str = ".tmp";

/// How long the process that holds a lock may write nothing: it may be stopped, or on another machine that is gone.
const PATIENCE: Duration = Duration::from_secs(120);

/// An exclusive lock for writing a file, held until it is committed or dropped.
#[derive(Debug)]
pub(super) struct WriteLock {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
    /// True if another held it before.
    pub waited: bool,
}

/// The name of the file with this key.
pub(super) fn name_of(key: &[u8]) -> String {
    let hex: String = key[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}{SUFFIX}")
}

/// Returns whether a file of this name is one of stored prefixes.
pub(super) fn is_name(name: &str) -> bool {
    let hex = |digit: u8| digit.is_ascii_hexdigit();
    name.strip_suffix(SUFFIX).is_some_and(|key| key.len() == 32 && key.bytes().all(hex))
}

impl WriteLock {
    /// Takes the right to write `path`, making its directory where it is not there; waits while another run has it and
    /// makes progress, after a call of `waiting`. What killed builds have left in the directory is removed.
    ///
    /// # Errors
    /// The directory or the file cannot be written, or the other run has written nothing for two minutes.
    pub fn take(path: &Path, waiting: &mut dyn FnMut()) -> Result<Self, FileError> {
        Self::take_within(path, PATIENCE, waiting)
    }

    fn take_within(
        path: &Path,
        patience: Duration,
        waiting: &mut dyn FnMut(),
    ) -> Result<Self, FileError> {
        let directory = path.parent().unwrap_or(Path::new("."));
        create_directory(directory)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}{TEMPORARY}"));
        sweep(directory, &temporary);
        let mut waited = false;
        loop {
            let file = open_lock_file(&temporary).map_err(FileError::new("write", &temporary))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if !waited {
                        waiting();
                    }
                    waited = true;
                    wait_for(&file, patience).map_err(FileError::new("lock", &temporary))?;
                }
                Err(TryLockError::Error(error)) => {
                    return Err(FileError::new("lock", &temporary)(error));
                }
            }
            // The one that had it may have renamed or removed what is locked now.
            if is_same_file(&file, &temporary) {
                file.set_len(0).map_err(FileError::new("write", &temporary))?;
                let path = path.to_owned();
                return Ok(Self { file, temporary, path, committed: false, waited });
            }
        }
    }

    /// Where to write.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Flushes what was written to disk and puts it at its path.
    pub fn commit(mut self) -> Result<(), FileError> {
        self.file.sync_all().map_err(FileError::new("write", &self.path))?;
        rename(&self.temporary, &self.path)?;
        self.committed = true;
        sync_parent(&self.path)
    }
}

impl Drop for WriteLock {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing more can be done about one that cannot be removed.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Waits for the lock of `file` while its size changes.
fn wait_for(file: &File, patience: Duration) -> io::Result<()> {
    let (mut size, mut since) = (file.metadata()?.len(), Instant::now());
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
            Ok(()) => return Ok(()),
        }
        let now = file.metadata()?.len();
        if now != size {
            (size, since) = (now, Instant::now());
        }
        if since.elapsed() > patience {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "another process holds it and has written nothing for {} s",
                    patience.as_secs()
                ),
            ));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Removes the temporary files in `directory` that no running build holds, but not `own`.
#[allow(clippy::disallowed_methods, reason = "it opens what is there, and makes nothing")]
pub(super) fn sweep(directory: &Path, own: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let of = name.strip_prefix('.').and_then(|name| name.strip_suffix(TEMPORARY));
        // Opening a pipe would wait for its reader.
        let is_file = path.symlink_metadata().is_ok_and(|found| found.is_file());
        if path == own || !is_file || !of.is_some_and(is_name) {
            continue;
        }
        if let Ok(file) = File::options().write(true).open(&path)
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn what_a_killed_build_left_is_written_anew_or_removed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(name_of(&[1; 32]));
        let other = format!(".{}.tmp", name_of(&[2; 32]));
        fs::write(home.path().join(format!(".{}.tmp", name_of(&[1; 32]))), "half").unwrap();
        fs::write(home.path().join(&other), "half").unwrap();
        fs::write(home.path().join("notes.tmp"), "not ours").unwrap();
        let claim = WriteLock::take(&path, &mut || panic!("nobody holds it")).unwrap();
        assert!(!names(home.path()).contains(&other));
        claim.file().write_all(b"new").unwrap();
        assert!(!path.exists());
        claim.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let mut left = names(home.path());
        left.sort();
        assert_eq!(left, [name_of(&[1; 32]), "notes.tmp".to_owned()]);
    }

    #[test]
    fn the_second_waits_for_the_first_and_a_running_build_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(name_of(&[1; 32]));
        let first = WriteLock::take(&path, &mut || panic!("nobody holds it")).unwrap();
        // Another file's builder does not take it for the rest of a killed one.
        let other = home.path().join(name_of(&[2; 32]));
        drop(WriteLock::take(&other, &mut || panic!("nobody holds it")).unwrap());
        assert_eq!(names(home.path()).len(), 1);
        std::thread::scope(|scope| {
            let (told, waits) = std::sync::mpsc::channel();
            let path = &path;
            let second = scope.spawn(move || {
                let claim = WriteLock::take(path, &mut || told.send(()).unwrap()).unwrap();
                (claim.waited, fs::read(path).unwrap())
            });
            waits.recv().unwrap();
            first.file().write_all(b"whole").unwrap();
            first.commit().unwrap();
            assert_eq!(second.join().unwrap(), (true, b"whole".to_vec()));
        });
        assert_eq!(names(home.path()), [name_of(&[1; 32])]);
    }

    #[test]
    fn an_owner_that_has_stopped_writing_is_not_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(name_of(&[1; 32]));
        let first = WriteLock::take(&path, &mut || panic!("nobody holds it")).unwrap();
        let patience = Duration::from_millis(900);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let begun = Instant::now();
                let refused = WriteLock::take_within(&path, patience, &mut || ()).unwrap_err();
                done.store(true, std::sync::atomic::Ordering::SeqCst);
                (begun.elapsed(), refused.to_string())
            });
            // While it writes, it is waited for, however long.
            for _ in 0..6 {
                thread::sleep(patience / 3);
                first.file().write_all(b"more").unwrap();
                assert!(!done.load(std::sync::atomic::Ordering::SeqCst));
            }
            let (waited, refused) = waits.join().unwrap();
            assert!(waited > 2 * patience, "{waited:?}");
            assert!(refused.contains("has written nothing for"), "{refused}");
        });
    }
}
