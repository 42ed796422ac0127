//! One training a run directory: a lock of the kernel's on a file in it, which goes with its owner however that ends.
//!
//! The file holds in words who has it. It lies in the run directory itself, which is never moved: only what runs write is
//! (see [`super::start`]). Its owner removes it at the end, while the lock is held. Whoever opened it just before then
//! gets the lock of a file that is no longer there, sees that, and tries again with the new one; so never do two hold it.
//! A killed owner leaves the file, unlocked, which is as good as none. Readers of a run need no lock.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, SystemTime};

use super::environment::{host, utc};
use crate::files::{is_at, open_to_lock};

/// The file's name in a run directory.
pub(super) const LOCK: &str = ".genir.lock";

/// Before each attempt: an owner may be about to end, or to say who it is, or it only looked.
const PAUSES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
];

/// The right to write into a run directory, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    /// Holds the kernel's lock as long as it is open.
    _file: File,
    path: PathBuf,
    /// Whether the lock file is ours to remove.
    ours: bool,
}

/// Why there is no lock.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another process holds it: which one, in words.
    Held(String),
    /// The file cannot be made.
    File(io::Error),
}

impl Lock {
    /// Takes the lock of `directory`. On a file system without locks (some network ones) a warning takes its place.
    pub fn take(directory: &Path) -> Result<Self, LockError> {
        Self::take_with(directory, File::try_lock)
    }

    fn take_with(
        directory: &Path,
        try_lock: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> Result<Self, LockError> {
        let path = directory.join(LOCK);
        let mut owner = String::new();
        for pause in PAUSES {
            thread::sleep(pause);
            let mut file = open_to_lock(&path).map_err(LockError::File)?;
            match try_lock(&file) {
                Ok(()) if is_at(&file, &path) => {
                    file.set_len(0).and_then(|()| sign(&mut file)).map_err(LockError::File)?;
                    return Ok(Self { _file: file, path, ours: true });
                }
                // Its owner has just removed it.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => owner = words(&mut file),
                Err(TryLockError::Error(error)) => return Self::without(file, path, error),
            }
        }
        Err(LockError::Held(owner))
    }

    /// Goes on where there are no locks.
    fn without(mut file: File, path: PathBuf, error: io::Error) -> Result<Self, LockError> {
        let owner = words(&mut file);
        let ours = owner.is_empty();
        let mut warning = format!(
            "{}: the file system has no locks ({error}), so nothing keeps a second training out of this directory",
            path.display()
        );
        match ours {
            true => sign(&mut file).map_err(LockError::File)?,
            false => warning += &format!("; it may be in use by {owner}"),
        }
        tracing::warn!("{warning}");
        Ok(Self { _file: file, path, ours })
    }

    /// Who trains in `directory` now, in words; none where nobody does, or that cannot be known.
    pub fn owner(directory: &Path) -> Option<String> {
        let mut file = File::open(directory.join(LOCK)).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(words(&mut file)),
            _ => None,
        }
    }

    /// Removes the file. The lock is held until `self` is dropped.
    pub fn remove_file(&self) {
        if self.ours {
            // One that stays does no harm.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes who this process is.
fn sign(file: &mut File) -> io::Result<()> {
    let host = host().unwrap_or_else(|| "an unknown host".to_owned());
    let (process, since) = (process::id(), utc(SystemTime::now()));
    file.write_all(format!("process {process} on {host} since {since}\n").as_bytes())
}

/// What the owner wrote.
fn words(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // Not more than a signature: what is there might be anything.
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
    fn the_lock_has_one_owner_at_a_time_however_many_try() {
        let home = tempfile::tempdir().unwrap();
        let (inside, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let Ok(lock) = Lock::take(home.path()) else { continue };
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
    fn the_lock_of_a_file_that_its_owner_has_just_removed_is_none() {
        let home = tempfile::tempdir().unwrap();
        let first = RefCell::new(Some(Lock::take(home.path()).unwrap()));
        let next = RefCell::new(None);
        // The file is open. Before it is locked, its owner ends, and another process starts.
        let late = |file: &File| {
            if let Some(first) = first.take() {
                first.remove_file();
                drop(first);
                next.replace(Some(Lock::take(home.path()).unwrap()));
            }
            file.try_lock()
        };
        let taken = Lock::take_with(home.path(), late);
        assert!(matches!(taken, Err(LockError::Held(_))), "{taken:?}");
    }

    #[test]
    fn the_owner_is_named_and_a_dead_ones_file_is_no_lock() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(LOCK), "process 1 on a machine that lost power, and more")
            .unwrap();
        assert_eq!(Lock::owner(home.path()), None);
        let lock = Lock::take(home.path()).unwrap();
        let Err(LockError::Held(owner)) = Lock::take(home.path()) else { panic!("it is held") };
        let start = format!("process {} on {} since 2", process::id(), host().unwrap());
        assert!(owner.starts_with(&start) && owner.ends_with('Z'), "{owner}");
        assert_eq!(Lock::owner(home.path()), Some(owner));
        drop(lock);
        assert_eq!(Lock::owner(home.path()), None);
    }

    #[test]
    fn where_there_are_no_locks_training_goes_on_and_leaves_anothers_file() {
        let home = tempfile::tempdir().unwrap();
        let none = |_: &File| Err(TryLockError::Error(io::Error::other("No locks available")));
        let first = Lock::take_with(home.path(), none).unwrap();
        let signed = fs::read_to_string(home.path().join(LOCK)).unwrap();
        assert!(signed.starts_with(&format!("process {}", process::id())), "{signed}");
        let second = Lock::take_with(home.path(), none).unwrap();
        second.remove_file();
        assert_eq!(fs::read_to_string(home.path().join(LOCK)).unwrap(), signed);
        first.remove_file();
        assert!(!home.path().join(LOCK).exists());
    }
}
