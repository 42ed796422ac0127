//! Limits a run directory to one training process, by a kernel lock on a file in it. The kernel releases the lock when
//! the process ends for any reason.
//!
//! The file names its owner as text. It is in the run directory itself, which is never moved: only the files of runs
//! are (see [`super::start`]). The owner removes the file at the end, while it holds the lock. A process that opened
//! the file just before gets the lock of a removed file, detects that, and retries with the new file, so that two
//! processes never hold the lock. A killed owner leaves an unlocked file, which has no effect. Readers of a run need no
//! lock.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, SystemTime};

use super::environment::{host, utc};
use crate::files::{is_same_file, open_lock_file};

/// The file's name in a run directory.
pub(super) const LOCK: &str = ".genir.lock";

/// The pause before each attempt: the owner may be about to end or to write its name, or may only have checked the
/// lock.
const PAUSES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
];

/// The exclusive right to write to a run directory, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Holds the kernel lock while it is open.
    _file: File,
    path: PathBuf,
    /// True if this process removes the lock file.
    owned: bool,
}

/// Errors of acquiring a lock.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process, described as text, holds the lock.
    Held(String),
    /// The file cannot be created.
    File(io::Error),
}

impl Lock {
    /// Acquires the lock of `directory`. On a file system without locks (such as some network file systems) it logs a
    /// warning instead.
    pub fn acquire(directory: &Path) -> Result<Self, LockError> {
        Self::acquire_with(directory, File::try_lock)
    }

    fn acquire_with(
        directory: &Path,
        try_lock: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> Result<Self, LockError> {
        let path = directory.join(LOCK);
        let mut owner = String::new();
        for pause in PAUSES {
            thread::sleep(pause);
            let mut file = open_lock_file(&path).map_err(LockError::File)?;
            match try_lock(&file) {
                Ok(()) if is_same_file(&file, &path) => {
                    file.set_len(0)
                        .and_then(|()| write_owner(&mut file))
                        .map_err(LockError::File)?;
                    return Ok(Self { _file: file, path, owned: true });
                }
                // The owner has just removed the file.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => owner = read_owner(&mut file),
                Err(TryLockError::Error(error)) => return Self::without(file, path, error),
            }
        }
        Err(LockError::Held(owner))
    }

    /// Continues without a lock on a file system that has none.
    fn without(mut file: File, path: PathBuf, error: io::Error) -> Result<Self, LockError> {
        let owner = read_owner(&mut file);
        let owned = owner.is_empty();
        let mut warning = format!(
            "{}: the file system has no locks ({error}), so a second training process in this directory is not prevented",
            path.display()
        );
        match owned {
            true => write_owner(&mut file).map_err(LockError::File)?,
            false => warning += &format!("; it may be in use by {owner}"),
        }
        tracing::warn!("{warning}");
        Ok(Self { _file: file, path, owned })
    }

    /// Returns the process that is training in `directory`, as text; `None` if there is none or it is unknown.
    pub fn owner(directory: &Path) -> Option<String> {
        let mut file = File::open(directory.join(LOCK)).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(read_owner(&mut file)),
            _ => None,
        }
    }

    /// Removes the file. The lock is held until `self` is dropped.
    pub fn remove_file(&self) {
        if self.owned {
            // A file that remains has no effect.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes the id, the host and the current time of this process.
fn write_owner(file: &mut File) -> io::Result<()> {
    let host = host().unwrap_or_else(|| "an unknown host".to_owned());
    let (process, since) = (process::id(), utc(SystemTime::now()));
    file.write_all(format!("process {process} on {host} since {since}\n").as_bytes())
}

/// Reads the owner's text.
fn read_owner(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // The file may have any content, so only the length of an owner's text is read.
    let read = file.rewind().and_then(|()| file.take(300).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    match read {
        Ok(_) => text,
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn concurrent_processes_never_hold_the_lock_together() {
        let home = tempfile::tempdir().unwrap();
        let (inside, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let Ok(lock) = Lock::acquire(home.path()) else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two are inside");
                        thread::yield_now();
                        taken.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        lock.remove_file();
                    }
                });
            }
        });
        assert!(taken.into_inner() >= 16);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_lock_on_a_file_that_its_owner_has_just_removed_is_not_accepted() {
        let home = tempfile::tempdir().unwrap();
        let first = RefCell::new(Some(Lock::acquire(home.path()).unwrap()));
        let next = RefCell::new(None);
        // The file is open. Before it is locked, its owner ends, and another process starts.
        let late = |file: &File| {
            if let Some(first) = first.take() {
                first.remove_file();
                drop(first);
                next.replace(Some(Lock::acquire(home.path()).unwrap()));
            }
            file.try_lock()
        };
        let taken = Lock::acquire_with(home.path(), late);
        assert!(matches!(taken, Err(LockError::Held(_))), "{taken:?}");
    }

    #[test]
    fn the_owner_is_named_and_the_file_of_a_dead_owner_is_not_a_lock() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(LOCK), "process 1 on a machine that lost power, and more")
            .unwrap();
        assert_eq!(Lock::owner(home.path()), None);
        let lock = Lock::acquire(home.path()).unwrap();
        let Err(LockError::Held(owner)) = Lock::acquire(home.path()) else { panic!("it is held") };
        let start = format!("process {} on {} since 2", process::id(), host().unwrap());
        assert!(owner.starts_with(&start) && owner.ends_with('Z'), "{owner}");
        assert_eq!(Lock::owner(home.path()), Some(owner));
        drop(lock);
        assert_eq!(Lock::owner(home.path()), None);
    }

    #[test]
    fn without_locks_training_continues_and_leaves_the_file_of_another_process() {
        let home = tempfile::tempdir().unwrap();
        let none = |_: &File| Err(TryLockError::Error(io::Error::other("No locks available")));
        let first = Lock::acquire_with(home.path(), none).unwrap();
        let signed = fs::read_to_string(home.path().join(LOCK)).unwrap();
        assert!(signed.starts_with(&format!("process {}", process::id())), "{signed}");
        let second = Lock::acquire_with(home.path(), none).unwrap();
        second.remove_file();
        assert_eq!(fs::read_to_string(home.path().join(LOCK)).unwrap(), signed);
        first.remove_file();
        assert!(!home.path().join(LOCK).exists());
    }
}
