//! How a run begins, so that no run is ever lost: whoever is stopped at any moment, one whole run is there.
//!
//! A run directory is never moved or removed itself, since files of the user's may lie in it. What an earlier run wrote
//! is moved into a hidden directory inside (so within the file system, by renames), and the name of that directory says
//! how far the start is:
//!
//! | there is | what lies beside it | a start that finds it |
//! | --- | --- | --- |
//! | `.genir-moving` | what is left of the old run | moves the old run's parts back |
//! | `.genir-old` | a new run; the old one is whole in here | with a checkpoint of the new run: keeps it; without: moves what the new one has logged to `failed-run/`, and the old one back |
//! | `.genir-gone` | a new run that is kept | removes the old run's rest |
//! | none of them | a run, or none | |
//!
//! From one state to the next it is one rename. Moving back begins with `.genir-old` becoming `.genir-moving`, after
//! all of the new run is out of the way: so what lies beside `.genir-moving` is always the old run's, and is never
//! removed. A first run in a directory goes the same way, with nothing to be moved.
//!
//! In order: [`NewRun::claim`] takes the lock and undoes or ends what an interrupted start left. Then the caller does all
//! that can fail (reads weights, makes callbacks). [`NewRun::begin`] moves the old run aside and writes the first files.
//! [`NewRun::keep`] is the point of no return: the caller calls it at once where no run is replaced, and else when the
//! new run has a checkpoint ([`NewRun::has_checkpoint`]) or has ended. A `NewRun` that is dropped before, by an error or
//! a panic, undoes itself as the next start would after a kill. All of this happens under the lock, so what is found is
//! never another's work.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::directory::{FAILED, LATEST, LAYOUT, contents, summary};
use super::lock::{LOCK, Lock, LockError};
use super::{Environment, Overwrite, RunDirectory, RunError};
use crate::files::{
    FileError, TRIAL, create_directory, is_temporary, rename, sync_directory, write_whole,
};

const MOVING: &str = ".genir-moving";
const OLD: &str = ".genir-old";
const GONE: &str = ".genir-gone";
/// Becomes [`FAILED`] when all is in it.
const FAILING: &str = ".genir-failed";
const STATES: [&str; 4] = [MOVING, OLD, GONE, FAILING];

/// How often a directory is made that a failed start of another process removes again.
const ATTEMPTS: usize = 100;

/// A run that is about to begin, or has begun: whoever holds it may write into the directory, and nobody else.
///
/// Dropped before [`NewRun::keep`], it leaves the directory as it was found, or none where there was none.
#[derive(Debug)]
pub struct NewRun {
    run: RunDirectory,
    lock: Lock,
    /// Directories that were made for it, the innermost first.
    made: Vec<PathBuf>,
    stage: Stage,
    /// Whether a run was there.
    replaces: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The lock is held, nothing is changed.
    Claimed,
    /// The old run is aside, or on its way there and back.
    Begun,
    /// The old run is given up.
    Kept,
}

impl NewRun {
    /// Takes the directory for a new run, making it where it is not there, and changes nothing that is in it but what an
    /// interrupted start left, which is put in order.
    ///
    /// # Errors
    /// Another process trains there; a run is there and `overwrite` is `Refuse`; or the directory is not empty and no
    /// run of genir, in which case nothing in it is ever touched.
    pub fn claim(path: &Path, overwrite: Overwrite) -> Result<NewRun, RunError> {
        // Without the lock: what is refused here is not even touched.
        Self::check(path, overwrite)?;
        let made = missing(path);
        let lock = lock(path)?;
        let (run, stage) = (RunDirectory::at(path), Stage::Claimed);
        let new = NewRun { run, lock, made, stage, replaces: false };
        new.recover()?;
        look_within(path, overwrite)?;
        Ok(new)
    }

    /// Whether [`NewRun::claim`] would refuse the directory as it is now. Changes nothing.
    pub fn check(path: &Path, overwrite: Overwrite) -> Result<(), RunError> {
        // Asked last: what looks wrong may be another start's work, half done.
        let found = look_within(path, overwrite);
        match Lock::owner(path) {
            Some(owner) => Err(in_use(path, owner)),
            None => found,
        }
    }

    /// Where the run will be. Nothing of it is there before [`NewRun::begin`].
    pub fn directory(&self) -> &RunDirectory {
        &self.run
    }

    /// Refuses inputs (each with its key) that lie in what replacing the run at `path` removes, through links or not.
    /// Where no run is, nothing is removed.
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
            inputs.into_iter().filter(|(_, input)| ways_to(input).any(|way| is_removed(&way)));
        let inputs: Vec<String> =
            inputs.map(|(key, input)| format!("{key} ({})", input.display())).collect();
        match inputs.is_empty() {
            true => Ok(()),
            false => Err(RunError::Inputs { path: path.to_path_buf(), inputs }),
        }
    }

    /// Moves the old run aside and writes `recipe.toml` and `environment.json`.
    pub fn begin(&mut self, recipe: &str, environment: &Environment) -> Result<(), RunError> {
        self.stage = Stage::Begun;
        create_directory(&self.at(MOVING))?;
        for name in LAYOUT {
            if is_there(&self.at(name)) {
                rename(&self.at(name), &self.at(MOVING).join(name))?;
                self.replaces = true;
            }
        }
        self.advance(MOVING, OLD)?;
        write_whole(&self.run.environment_path(), |file| {
            serde_json::to_writer_pretty(&mut *file, environment)?;
            file.write_all(b"\n")
        })?;
        write_whole(&self.run.recipe(), |file| file.write_all(recipe.as_bytes()))?;
        for directory in [self.run.tensorboard(), self.run.checkpoints(), self.run.retrieval()] {
            create_directory(&directory)?;
        }
        Ok(())
    }

    /// Whether an earlier run is aside, since [`NewRun::begin`].
    pub fn replaces(&self) -> bool {
        self.replaces && self.stage == Stage::Begun
    }

    /// Whether the new run has a checkpoint that is complete.
    pub fn has_checkpoint(&self) -> bool {
        // The link is made when the first one is complete.
        self.stage != Stage::Claimed && is_there(&self.run.checkpoints().join(LATEST))
    }

    /// Gives the old run up: from here on the new one is what the directory holds. Does nothing the second time.
    pub fn keep(&mut self) -> Result<(), RunError> {
        if self.stage == Stage::Kept {
            return Ok(());
        }
        self.advance(OLD, GONE)?;
        self.stage = Stage::Kept;
        if let Err(error) = remove(&self.at(GONE)) {
            tracing::warn!(
                "what is left of the replaced run is removed by the next start: {error}"
            );
        }
        Ok(())
    }

    /// Ends or undoes what an interrupted start left; an undone one leaves the old run, or nothing.
    fn recover(&self) -> Result<(), RunError> {
        let path = self.run.path();
        for name in contents(path)?.iter().map(|name| name.trim_end_matches('/')) {
            if is_leftover(name) {
                remove(&path.join(name))?;
            }
        }
        let mut comes_back = false;
        if is_there(&self.at(OLD)) {
            if is_there(&self.run.checkpoints().join(LATEST)) {
                self.advance(OLD, GONE)?;
            } else {
                comes_back = !contents(&self.at(OLD))?.is_empty();
                self.put_away_failed()?;
                self.advance(OLD, MOVING)?;
            }
        }
        remove(&self.at(GONE))?;
        self.move_back()?;
        let mut logged = String::new();
        if is_there(&self.at(FAILING)) {
            let name = self.free_name(FAILED);
            self.advance(FAILING, &name)?;
            logged = format!("; what it has logged is in {}", self.at(&name).display());
        }
        if comes_back {
            tracing::warn!(
                "{}: the run that was to replace the one in here has no checkpoint, so that the earlier one is here \
                 again{logged}",
                path.display()
            );
        }
        Ok(())
    }

    /// `name`, or with a number behind it where that is taken.
    fn free_name(&self, name: &str) -> String {
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let mut names = [name.to_owned()].into_iter().chain(numbered);
        names.find(|name| !is_there(&self.at(name))).unwrap_or_else(|| name.to_owned())
    }

    /// Moves what a new run without a checkpoint has logged out of the way of the old one, if it has come to training,
    /// and removes the rest.
    fn put_away_failed(&self) -> Result<(), RunError> {
        let has_logged = fs::metadata(self.run.metrics()).is_ok_and(|file| file.len() > 0);
        remove(&self.run.checkpoints())?;
        if has_logged {
            create_directory(&self.at(FAILING))?;
        }
        // The metrics last: by them the next start knows, if this one is killed.
        let metrics = |name: &&str| self.at(name) == self.run.metrics();
        let (last, first): (Vec<&str>, Vec<&str>) = LAYOUT.iter().copied().partition(metrics);
        for name in first.into_iter().chain(last).filter(|name| is_there(&self.at(name))) {
            match has_logged {
                true => rename(&self.at(name), &self.at(FAILING).join(name))?,
                false => remove(&self.at(name))?,
            }
        }
        Ok(())
    }

    /// Moves the old run back, of which all or a part is aside.
    fn move_back(&self) -> Result<(), RunError> {
        let path = self.run.path();
        if !is_there(&self.at(MOVING)) {
            return Ok(());
        }
        for entry in fs::read_dir(self.at(MOVING)).map_err(FileError::new("list", path))? {
            let aside = entry.map_err(FileError::new("list", path))?.path();
            let back = path.join(aside.file_name().unwrap_or_default());
            if is_there(&back) {
                return Err(RunError::Twice { path: back, aside });
            }
            rename(&aside, &back)?;
        }
        sync_directory(path)?;
        remove(&self.at(MOVING))?;
        Ok(())
    }

    /// From one state to the next, with all that was renamed before on the disk.
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
        if self.stage == Stage::Begun
            && let Err(error) = self.recover()
        {
            tracing::error!(
                "{path}: the run that was there is in {path}/{OLD} or {path}/{MOVING} and cannot be put back now, the \
                 next start tries again: {error}",
                path = self.run.path().display()
            );
        }
        self.lock.remove_file();
        if self.stage != Stage::Kept {
            for directory in &self.made {
                // What another process has put there meanwhile stays, and the directory with it.
                let _ = fs::remove_dir(directory);
            }
        }
    }
}

/// Refuses a directory in which no run may begin.
fn look_within(path: &Path, overwrite: Overwrite) -> Result<(), RunError> {
    let mut names = match contents(path) {
        Err(error) if error.source.kind() == ErrorKind::NotFound => return Ok(()),
        names => names?,
    };
    if is_interrupted(path) {
        // What only the holder of the lock may put in order.
        return Ok(());
    }
    names.retain(|name| name != LOCK && !is_leftover(name));
    if names.is_empty() {
        return Ok(());
    }
    let (path, contents) = (path.to_path_buf(), summary(&names));
    match (RunDirectory::at(&path).environment(), overwrite) {
        (Err(_), _) => Err(RunError::Foreign { path, contents }),
        (Ok(_), Overwrite::Refuse) => Err(RunError::Exists { path, contents }),
        (Ok(_), Overwrite::Replace) => Ok(()),
    }
}

/// Whether a start that was interrupted, or is under way, has left a directory in between two runs.
pub(super) fn is_interrupted(path: &Path) -> bool {
    STATES.iter().any(|name| is_there(&path.join(name)))
}

fn in_use(path: &Path, owner: String) -> RunError {
    let owner = if owner.is_empty() { "another process".to_owned() } else { owner };
    RunError::InUse { path: path.to_path_buf(), owner }
}

/// Makes the directory and takes its lock.
fn lock(path: &Path) -> Result<Lock, RunError> {
    let mut attempt = 0;
    loop {
        create_directory(path)?;
        attempt += 1;
        return match Lock::take(path) {
            // Another start has failed and removed what it had made.
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

/// The directories on the way to `path` that are not there, the innermost first.
fn missing(path: &Path) -> Vec<PathBuf> {
    let ways = path.ancestors().filter(|path| !path.as_os_str().is_empty());
    ways.take_while(|path| !is_there(path)).map(Path::to_path_buf).collect()
}

/// Whether a killed start may have left what has this name: the beginning of a file of a run's own, or a trial.
fn is_leftover(name: &str) -> bool {
    name.starts_with(TRIAL) || LAYOUT.iter().any(|of| is_temporary(name, of))
}

/// The paths that lead to `input`, and to what is in it, if it is a directory: as typed, and without links.
fn ways_to(input: &Path) -> impl Iterator<Item = PathBuf> {
    let inside = fs::read_dir(input).into_iter().flatten().flatten().map(|entry| entry.path());
    let all = [input.to_path_buf()].into_iter().chain(inside);
    all.flat_map(|path| [std::path::absolute(&path), fs::canonicalize(&path)]).flatten()
}

/// Whether anything is at `path`, a link that leads nowhere too.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Removes a file or a directory with all that is in it, if it is there. Of a link only the link.
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
