//! Starts runs so that none is ever lost: if a process is stopped at any moment, one complete run remains.
//!
//! A run directory itself is never moved or removed, since it may contain files of the user. The files of an earlier
//! run are moved into a hidden directory inside it (by renames within the file system), whose name is the state of the
//! start:
//!
//! | directory | other contents of the run directory | recovery by the next start |
//! | --- | --- | --- |
//! | `.genir-moving` | the rest of the old run | moves the files of the old run back |
//! | `.genir-old` | a new run; this directory has the complete old one | if the new run has a checkpoint, commits it; otherwise moves the logs of the new run to `failed-run/`, and the old run back |
//! | `.genir-gone` | a committed new run | removes the rest of the old run |
//! | none | a run or nothing | |
//!
//! Each transition is one rename. To move the old run back, `.genir-old` is renamed to `.genir-moving` after all files
//! of the new run have been moved away: files next to `.genir-moving` therefore always belong to the old run, and are
//! never removed. The first run in a directory takes the same steps, with no files to move.
//!
//! The steps: [`NewRun::claim`] takes the lock and recovers from an interrupted start. Then the caller does everything
//! that can fail (reads weights, creates callbacks). [`NewRun::begin`] moves the old run aside and writes the first
//! files. [`NewRun::commit`] gives the old run up: the caller calls it immediately if no run is replaced, otherwise
//! once the new run has a checkpoint ([`NewRun::has_checkpoint`]) or has ended. A `NewRun` that is dropped before that,
//! by an error or a panic, is undone as the next start would do after a kill. All steps hold the lock, so that no other
//! process works in the directory.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::directory::{
    CHECKPOINTS, FAILED, FAILING, GONE, LATEST, LAYOUT, MOVING, OLD, contents, exists,
    is_interrupted, summary,
};
use super::environment::Resumption;
use super::lock::{LOCK, Lock, LockError};
use super::{Environment, Overwrite, RunDirectory, RunError};
use crate::files::{
    FileError, TRIAL, can_create_in, create_directory, is_temporary, rename, sync_directory,
    write_atomically,
};

/// Maximum number of attempts to create a directory that failed starts of other processes remove.
const ATTEMPTS: usize = 100;

/// A run that is being started. Its owner has the exclusive right to write to the directory.
///
/// If it is dropped before [`NewRun::commit`], the directory is restored, or removed if it did not exist.
#[derive(Debug)]
pub struct NewRun {
    run: RunDirectory,
    lock: Lock,
    /// Directories that were created for it, the innermost first.
    created: Vec<PathBuf>,
    progress: Progress,
    /// True if an earlier run is replaced.
    replaces: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The lock is held, and nothing has changed.
    Claimed,
    /// The old run has been moved aside, or is being moved aside or back.
    Begun,
    /// The old run has been given up.
    Committed,
}

impl NewRun {
    /// Locks the directory for a new run and creates it if it is missing. It changes nothing in the directory, except
    /// to recover from an interrupted start.
    ///
    /// # Errors
    /// Another process is training there; the directory has a run and `overwrite` is `Refuse`; or the directory is not
    /// empty and not a run directory, in which case nothing in it is ever changed.
    pub fn claim(path: &Path, overwrite: Overwrite) -> Result<NewRun, RunError> {
        // Checked before the lock is taken, so that a refused directory is not changed at all.
        Self::check(path, overwrite)?;
        let created = missing(path);
        let lock = lock(path)?;
        let (run, progress) = (RunDirectory::at(path), Progress::Claimed);
        let new = NewRun { run, lock, created, progress, replaces: false };
        new.recover()?;
        check_contents(path, overwrite)?;
        Ok(new)
    }

    /// Returns the error of [`NewRun::claim`] for the current directory, if any. Changes nothing.
    ///
    /// # Errors
    /// [`RunError::InUse`] if another process trains there; [`RunError::Exists`] for a run that `overwrite` does not
    /// allow to replace; [`RunError::Foreign`] for a directory of anything else; [`RunError::File`] if it cannot be
    /// read.
    pub fn check(path: &Path, overwrite: Overwrite) -> Result<(), RunError> {
        // The lock is checked last: apparent problems may be the unfinished work of another start.
        let found = check_contents(path, overwrite);
        match Lock::owner(path) {
            Some(owner) => Err(in_use(path, owner)),
            None => found,
        }
    }

    /// Locks the directory of an existing run to continue it. Recovers from an interrupted start first, which may
    /// restore an earlier run.
    ///
    /// # Errors
    /// Another process is training there, or there is no run.
    pub fn resume(path: &Path) -> Result<NewRun, RunError> {
        Self::check_resume(path)?;
        let lock = lock(path)?;
        // Nothing is undone when the value is dropped: the run stays.
        let progress = Progress::Committed;
        let run = RunDirectory::at(path);
        let new = NewRun { run, lock, created: Vec::new(), progress, replaces: false };
        new.recover()?;
        RunDirectory::open(path)?;
        Ok(new)
    }

    /// Returns the error of [`NewRun::resume`] for the current directory, if any. Changes nothing.
    ///
    /// # Errors
    /// Those of [`NewRun::resume`].
    pub fn check_resume(path: &Path) -> Result<(), RunError> {
        can_create_in(path).map_err(FileError::new("create", path))?;
        Self::check_free(path)?;
        RunDirectory::open(path).map(|_| ())
    }

    /// Returns an error if another process is training in the directory. Changes nothing.
    ///
    /// # Errors
    /// [`RunError::InUse`], with the owner.
    pub(crate) fn check_free(path: &Path) -> Result<(), RunError> {
        Lock::owner(path).map_or(Ok(()), |owner| Err(in_use(path, owner)))
    }

    /// Records in `environment.json` that the run continues in `environment` from `step`, stores `recipe` as that of
    /// the run, and removes the summary of the process before.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn continue_from(
        &self,
        step: u64,
        recipe: &str,
        environment: Environment,
    ) -> Result<(), RunError> {
        let mut first = self.run.environment()?;
        first.resumed.push(Resumption { step, environment: Box::new(environment) });
        write_json(&self.run.environment_path(), &first)?;
        write_atomically(&self.run.recipe(), |file| file.write_all(recipe.as_bytes()))?;
        remove(&self.run.summary())?;
        for directory in [self.run.tensorboard(), self.run.checkpoints(), self.run.retrieval()] {
            create_directory(&directory)?;
        }
        Ok(())
    }

    /// Returns the run directory. It has no files of the run before [`NewRun::begin`].
    pub fn directory(&self) -> &RunDirectory {
        &self.run
    }

    /// Refuses inputs (each with its recipe key) that replacing the run at `path` would remove, directly or through
    /// symbolic links. Without a run at `path`, nothing is removed.
    ///
    /// # Errors
    /// [`RunError::Inputs`] with all such inputs and their keys; [`RunError::File`] if `path` cannot be resolved.
    pub fn refuse_inputs<'a>(
        path: &Path,
        inputs: impl IntoIterator<Item = (&'a str, PathBuf)>,
    ) -> Result<(), RunError> {
        if !path.is_dir() {
            return Ok(());
        }
        let real = fs::canonicalize(path).map_err(FileError::new("read", path))?;
        let typed = std::path::absolute(path).map_err(FileError::new("read", path))?;
        let removed: Vec<PathBuf> =
            [real, typed].iter().flat_map(|path| LAYOUT.map(|name| path.join(name))).collect();
        let is_removed = |path: &Path| removed.iter().any(|removed| path.starts_with(removed));
        let inputs =
            inputs.into_iter().filter(|(_, input)| paths_to(input).any(|path| is_removed(&path)));
        let inputs: Vec<String> =
            inputs.map(|(key, input)| format!("{key} ({})", input.display())).collect();
        match inputs.is_empty() {
            true => Ok(()),
            false => Err(RunError::Inputs { path: path.to_path_buf(), inputs }),
        }
    }

    /// Moves the old run aside and writes `recipe.toml` and `environment.json`.
    ///
    /// # Errors
    /// [`RunError::File`] if a file of the old run cannot be moved, or one of the new run cannot be created or written.
    pub fn begin(&mut self, recipe: &str, environment: &Environment) -> Result<(), RunError> {
        self.progress = Progress::Begun;
        // A run without a checkpoint is not restored, whatever becomes of the new one.
        self.replaces = has_checkpoint(self.run.path());
        create_directory(&self.at(MOVING))?;
        for name in LAYOUT {
            if exists(&self.at(name)) {
                rename(&self.at(name), &self.at(MOVING).join(name))?;
            }
        }
        self.advance(MOVING, OLD)?;
        write_json(&self.run.environment_path(), environment)?;
        write_atomically(&self.run.recipe(), |file| file.write_all(recipe.as_bytes()))?;
        for directory in [self.run.tensorboard(), self.run.checkpoints(), self.run.retrieval()] {
            create_directory(&directory)?;
        }
        Ok(())
    }

    /// Returns whether an earlier run has been moved aside by [`NewRun::begin`].
    pub fn replaces(&self) -> bool {
        self.replaces && self.progress == Progress::Begun
    }

    /// Returns whether the new run has a complete checkpoint.
    pub fn has_checkpoint(&self) -> bool {
        // The link is created when the first checkpoint is complete.
        self.progress != Progress::Claimed && exists(&self.run.checkpoints().join(LATEST))
    }

    /// Gives the old run up: the directory now holds the new run. Later calls do nothing.
    ///
    /// # Errors
    /// [`RunError::File`] if the directory of the old run cannot be renamed. Files of it that cannot be removed are a
    /// warning.
    pub fn commit(&mut self) -> Result<(), RunError> {
        if self.progress == Progress::Committed {
            return Ok(());
        }
        self.advance(OLD, GONE)?;
        self.progress = Progress::Committed;
        if let Err(error) = remove(&self.at(GONE)) {
            tracing::warn!(
                "the rest of the replaced run will be removed by the next start: {error}"
            );
        }
        Ok(())
    }

    /// Completes or undoes an interrupted start. Undoing one restores the old run, or an empty directory.
    fn recover(&self) -> Result<(), RunError> {
        let path = self.run.path();
        for name in contents(path)?.iter().map(|name| name.trim_end_matches('/')) {
            if is_leftover(name) {
                remove(&path.join(name))?;
            }
        }
        let mut restores = false;
        if exists(&self.at(OLD)) {
            if exists(&self.run.checkpoints().join(LATEST)) {
                self.advance(OLD, GONE)?;
            } else {
                restores = !contents(&self.at(OLD))?.is_empty();
                self.set_aside_failed()?;
                self.advance(OLD, MOVING)?;
            }
        }
        remove(&self.at(GONE))?;
        self.move_back()?;
        let mut logged = String::new();
        if exists(&self.at(FAILING)) {
            let name = self.free_name(FAILED);
            self.advance(FAILING, &name)?;
            logged = format!(
                "; what the failed run wrote (its logs, and the state before a failed step) is in {}",
                self.at(&name).display()
            );
        }
        if restores {
            tracing::warn!(
                "{}: the run that should replace the one in this directory has no checkpoint, so the earlier run was \
             restored{logged}",
                path.display()
            );
        }
        Ok(())
    }

    /// Returns `name`, with a number appended if the name is taken.
    fn free_name(&self, name: &str) -> String {
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let mut names = [name.to_owned()].into_iter().chain(numbered);
        names.find(|name| !exists(&self.at(name))).unwrap_or_else(|| name.to_owned())
    }

    /// Moves the logs of a new run without a checkpoint aside if it has started to train, and otherwise removes its
    /// files.
    fn set_aside_failed(&self) -> Result<(), RunError> {
        let has_logged = fs::metadata(self.run.metrics()).is_ok_and(|file| file.len() > 0);
        remove(&self.run.checkpoints())?;
        if has_logged {
            create_directory(&self.at(FAILING))?;
        }
        // The metrics are moved last: if this process is killed, they tell the next start that the run had trained.
        let metrics = |name: &&str| self.at(name) == self.run.metrics();
        let (last, first): (Vec<&str>, Vec<&str>) = LAYOUT.iter().copied().partition(metrics);
        for name in first.into_iter().chain(last).filter(|name| exists(&self.at(name))) {
            match has_logged {
                true => rename(&self.at(name), &self.at(FAILING).join(name))?,
                false => remove(&self.at(name))?,
            }
        }
        Ok(())
    }

    /// Moves the files of the old run that are aside back.
    fn move_back(&self) -> Result<(), RunError> {
        let path = self.run.path();
        if !exists(&self.at(MOVING)) {
            return Ok(());
        }
        for entry in fs::read_dir(self.at(MOVING)).map_err(FileError::new("list", path))? {
            let aside = entry.map_err(FileError::new("list", path))?.path();
            let back = path.join(aside.file_name().unwrap_or_default());
            if exists(&back) {
                return Err(RunError::BothExist { path: back, aside });
            }
            rename(&aside, &back)?;
        }
        sync_directory(path)?;
        remove(&self.at(MOVING))?;
        Ok(())
    }

    /// Renames a state directory, after all earlier renames have been flushed to disk.
    fn advance(&self, from: &str, to: &str) -> Result<(), FileError> {
        sync_directory(&self.at(from))?;
        sync_directory(self.run.path())?;
        rename(&self.at(from), &self.at(to))?;
        sync_directory(self.run.path())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.run.path().join(name)
    }
}

impl Drop for NewRun {
    fn drop(&mut self) {
        if self.progress == Progress::Begun
            && let Err(error) = self.recover()
        {
            tracing::error!(
                "{path}: the earlier run is in {path}/{OLD} or {path}/{MOVING} and cannot be restored now; the \
             next start will try again: {error}",
                path = self.run.path().display()
            );
        }
        self.lock.remove_file();
        if self.progress != Progress::Committed {
            for directory in &self.created {
                // A directory in which another process has created files in the meantime remains.
                let _ = fs::remove_dir(directory);
            }
        }
    }
}

/// Returns whether the run in `path` has a complete checkpoint: an unfinished one has a hidden name.
fn has_checkpoint(path: &Path) -> bool {
    let entries = fs::read_dir(path.join(CHECKPOINTS)).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
}

/// Refuses a directory in which no run may be started.
fn check_contents(path: &Path, overwrite: Overwrite) -> Result<(), RunError> {
    let mut names = match contents(path) {
        Err(error) if error.source.kind() == ErrorKind::NotFound => return Ok(()),
        names => names?,
    };
    if is_interrupted(path) {
        // Only the owner of the lock may recover from it.
        return Ok(());
    }
    names.retain(|name| name != LOCK && !is_leftover(name));
    if names.is_empty() {
        return Ok(());
    }
    let (path, contents) = (path.to_path_buf(), summary(&names));
    match (RunDirectory::at(&path).environment(), overwrite) {
        (Err(_), _) => Err(RunError::Foreign { path, contents }),
        (Ok(_), Overwrite::Replace) => Ok(()),
        (Ok(_), Overwrite::WithoutCheckpoint) if !has_checkpoint(&path) => Ok(()),
        (Ok(_), Overwrite::Refuse | Overwrite::WithoutCheckpoint) => {
            Err(RunError::Exists { path, contents })
        }
    }
}

impl RunDirectory {
    /// Creates the directory of a new run in one step. Callers with fallible steps in between use [`NewRun`].
    ///
    /// # Errors
    /// Those of [`NewRun::claim`], [`NewRun::begin`] and [`NewRun::commit`].
    pub fn create(
        path: &Path,
        overwrite: Overwrite,
        recipe: &str,
        environment: &Environment,
    ) -> Result<RunDirectory, RunError> {
        let mut new = NewRun::claim(path, overwrite)?;
        new.begin(recipe, environment)?;
        new.commit()?;
        Ok(new.directory().clone())
    }

    /// Checks that a run can be started in `path`, which need not exist; nothing is written.
    ///
    /// # Errors
    /// The errors of [`RunDirectory::create`] that can be foreseen: an existing run that may not be replaced, files
    /// that do not belong to a run, a file with that name, a directory that is not writable.
    pub fn can_start(path: &Path, overwrite: Overwrite) -> Result<(), RunError> {
        can_create_in(path).map_err(FileError::new("create", path))?;
        NewRun::check(path, overwrite)
    }
}

fn write_json(path: &Path, environment: &Environment) -> Result<(), FileError> {
    write_atomically(path, |file| {
        serde_json::to_writer_pretty(&mut *file, environment)?;
        file.write_all(b"\n")
    })
}

fn in_use(path: &Path, owner: String) -> RunError {
    let owner = if owner.is_empty() { "another process".to_owned() } else { owner };
    RunError::InUse { path: path.to_path_buf(), owner }
}

impl RunDirectory {
    /// Calls `write` while no training in the directory can write, which is refused meanwhile.
    ///
    /// # Errors
    /// [`RunError::InUse`] if a process trains there; [`RunError::File`] if the lock cannot be acquired; those of `write`.
    pub fn while_nothing_trains<E: From<RunError>>(
        &self,
        write: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let lock = lock(self.path())?;
        let written = write();
        lock.remove_file();
        written
    }
}

/// Creates the directory and acquires its lock.
///
/// # Errors
/// [`RunError::InUse`] if another process holds the lock; [`RunError::File`] if it cannot be created.
pub(crate) fn lock(path: &Path) -> Result<Lock, RunError> {
    let mut attempt = 0;
    loop {
        create_directory(path)?;
        attempt += 1;
        return match Lock::acquire(path) {
            // Another start has failed and removed the directory that it had created.
            Err(LockError::File(error))
                if error.kind() == ErrorKind::NotFound && attempt < ATTEMPTS =>
            {
                continue;
            }
            Err(LockError::File(error)) => Err(FileError::new("lock", path)(error).into()),
            Err(LockError::Held(owner)) => Err(in_use(path, owner)),
            Ok(lock) => Ok(lock),
        };
    }
}

/// Returns the missing directories among `path` and its parents, the innermost first.
fn missing(path: &Path) -> Vec<PathBuf> {
    let directories = path.ancestors().filter(|path| !path.as_os_str().is_empty());
    directories.take_while(|path| !exists(path)).map(Path::to_path_buf).collect()
}

/// Returns whether a killed start may have left a file with this name: a temporary file of a run, or a trial
/// directory.
fn is_leftover(name: &str) -> bool {
    name.starts_with(TRIAL) || LAYOUT.iter().any(|of| is_temporary(name, of))
}

/// Returns the paths of `input` and, if it is a directory, of its entries: as given, and with links resolved.
fn paths_to(input: &Path) -> impl Iterator<Item = PathBuf> {
    let inside = fs::read_dir(input).into_iter().flatten().flatten().map(|entry| entry.path());
    let all = [input.to_path_buf()].into_iter().chain(inside);
    all.flat_map(|path| [std::path::absolute(&path), fs::canonicalize(&path)]).flatten()
}

/// Removes a file, or a directory with its contents, if it exists. Symbolic links are not followed.
fn remove(path: &Path) -> Result<(), FileError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(entry) if entry.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(FileError::new("delete", path)),
    }
}
