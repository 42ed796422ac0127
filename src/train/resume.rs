//! Finds the checkpoint from which a run continues.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::checkpoints::step_of;
use super::plan::Plan;
use super::plan_error::PlanErrors;
use super::training_state::{StateError, TrainingState};
use crate::checkpoint::{CheckpointError, Manifest};
use crate::files::{FileError, read_regular_to_string, read_small_to_string};
use crate::recipe::{Recipe, StagesSetting, flat_keys};
use crate::run::{NewRun, Overwrite, RunDirectory, RunError, RunOutcome, Summary};

/// What to do with a run that is already in the run directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Resume {
    /// Continue it if it is unfinished, from its newest complete checkpoint.
    #[default]
    Auto,
    /// Do not continue it.
    Never,
    /// Continue it from this checkpoint, given by its directory or its name.
    From(PathBuf),
}

/// How a training starts.
#[derive(Debug)]
pub enum Start {
    /// As a new run.
    New(Overwrite),
    /// From a checkpoint of the run in the run directory.
    Continue(Box<ResumePoint>),
}

impl Start {
    /// Plans `recipe`, for which this start was found.
    ///
    /// # Errors
    /// All problems of the recipe, its corpus, its base model and its run directory at once.
    pub fn plan(&self, mut recipe: Recipe) -> Result<Plan, PlanErrors> {
        match self {
            Start::New(overwrite) => Plan::to_start(recipe, *overwrite),
            Start::Continue(point) => {
                // Detected when the run was started: they are part of it, and the base may be gone.
                if recipe.stages == Some(StagesSetting::Detect)
                    && let Ok(started) = Recipe::from_text("", &point.state.recipe, &[])
                {
                    recipe.stages = started.stages;
                }
                Plan::to_continue(recipe)
            }
        }
    }
}

/// A checkpoint from which a run continues.
#[derive(Debug)]
pub struct ResumePoint {
    /// The directory of the checkpoint.
    pub directory: PathBuf,
    /// The state in it.
    pub state: TrainingState,
    /// Messages for the user: checkpoints that were passed over, and changed keys.
    pub notes: Vec<String>,
}

/// Errors of continuing a run.
#[derive(Debug, Error)]
pub enum ResumeError {
    /// The run was started from another recipe.
    #[error(
        "{} holds an unfinished run of another recipe; these keys differ:\n  {}\nrestore them to continue that run, or \
         choose another run.directory, or give --overwrite to replace it", directory.display(), keys.join("\n  ")
    )]
    OtherRecipe {
        /// The run directory.
        directory: PathBuf,
        /// The keys with their values.
        keys: Vec<String>,
    },
    /// The corpus has changed.
    #[error(
        "{}: the training examples are not those of the run: the corpus at corpus.path or the tokenizer has changed \
         since it was started; restore it to continue the run, or give --overwrite to replace it", directory.display()
    )]
    OtherExamples {
        /// The run directory.
        directory: PathBuf,
    },
    /// The run is longer than the recipe now says.
    #[error(
        "{} has {steps} steps already, and the recipe has {total}: give train.steps = {steps} or more to continue that run, \
         choose another run.directory, or give --overwrite to replace it", directory.display()
    )]
    TooShort {
        /// The run directory.
        directory: PathBuf,
        /// Number of updates at the checkpoint.
        steps: u64,
        /// Number of updates in the recipe.
        total: u64,
    },
    /// The base model has another configuration.
    #[error(
        "{}: model.base has another configuration than the run: {found}", directory.display()
    )]
    OtherModel {
        /// The run directory.
        directory: PathBuf,
        /// The differences or the problem.
        found: String,
    },
    /// No checkpoint has a usable state.
    #[error(
        "{} holds an unfinished run, but none of its checkpoints can be continued:\n  {}\ngive --overwrite to replace the \
         run, or start another one from a checkpoint (model.base)", directory.display(), problems.join("\n  ")
    )]
    NoCheckpoint {
        /// The run directory.
        directory: PathBuf,
        /// The checkpoints, each with its problem.
        problems: Vec<String>,
    },
    /// The checkpoint that was named is not one of the run, or cannot be continued.
    #[error("--resume {}: {reason}", path.display())]
    Named {
        /// The path as it was given.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// Another process trains in the run directory.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The run directory cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The recipe cannot be written as TOML.
    #[error("the recipe cannot be written as TOML: {0}")]
    Recipe(#[from] toml::ser::Error),
}

/// Finds how a training of `recipe` starts: as a new run, or from a checkpoint of an unfinished run in its directory. A
/// finished run continues only from a checkpoint that is named. Nothing is written.
///
/// # Errors
/// There is an unfinished run that cannot continue: its recipe differs in a key that would change the meaning of the
/// run (`docs/reliability.md` lists the others), or no checkpoint is usable.
pub fn find_start(recipe: &Recipe, overwrite: bool, resume: &Resume) -> Result<Start, ResumeError> {
    let path = &recipe.run.directory;
    let run = match (overwrite, resume, RunDirectory::open(path)) {
        (true, ..) => return Ok(Start::New(Overwrite::Replace)),
        (_, Resume::From(named), Err(error)) => {
            let reason = format!("there is no run to continue: {error}");
            return Err(ResumeError::Named { path: named.clone(), reason });
        }
        (_, Resume::Never, _) | (_, _, Err(_)) => return Ok(Start::New(Overwrite::Refuse)),
        (_, _, Ok(run)) => run,
    };
    // Its files change while another process trains.
    NewRun::check_free(path)?;
    let found = match resume {
        Resume::From(named) => Found { point: Some(named_point(&run, named)?), ..Found::default() },
        _ => newest_point(&run)?,
    };
    let Some(mut point) = found.point else {
        return match (outcome(&run), found.problems) {
            (Some(RunOutcome::Finished | RunOutcome::Stopped), _) => {
                Ok(Start::New(Overwrite::Refuse))
            }
            (_, problems) if !problems.is_empty() => {
                Err(ResumeError::NoCheckpoint { directory: path.clone(), problems })
            }
            // It was interrupted before its first checkpoint: there is nothing to continue, and nothing to lose.
            _ => match other_recipe(&fs_recipe(&run)?, recipe)? {
                Changes { refused, .. } if refused.is_empty() => {
                    Ok(Start::New(Overwrite::WithoutCheckpoint))
                }
                Changes { refused: keys, .. } => {
                    Err(ResumeError::OtherRecipe { directory: path.clone(), keys })
                }
            },
        };
    };
    let changes = other_recipe(&point.state.recipe, recipe)?;
    let is_over = matches!(outcome(&run), Some(RunOutcome::Finished | RunOutcome::Stopped));
    let stops = |key: &String| key.starts_with("stop") || key.starts_with("watch");
    if is_over && *resume == Resume::Auto {
        return Ok(Start::New(Overwrite::Refuse));
    }
    if !changes.refused.is_empty() {
        return Err(ResumeError::OtherRecipe { directory: path.clone(), keys: changes.refused });
    }
    if changes.allowed.iter().any(stops) {
        point.state.stopped = None;
    }
    point.notes =
        found.problems.into_iter().map(|problem| format!("passed over: {problem}")).collect();
    if !changes.allowed.is_empty() {
        point
            .notes
            .push(format!("changed since the run was started: {}", changes.allowed.join(", ")));
    }
    Ok(Start::Continue(Box::new(point)))
}

/// The state of a run directory in which a recipe is to be trained to its end, as a sweep does.
#[derive(Debug)]
pub(crate) enum RunState {
    /// The run of this recipe has ended by itself.
    Done,
    /// A training can start, or continue.
    Open(Start),
    /// The run of another recipe has ended by itself; keys with both values.
    Other(Vec<String>),
}

/// Keys, and sections with all of their keys, that do not change what a finished run has learnt or how it was evaluated.
const WITHOUT_EFFECT: [&str; 7] = [
    "run.directory",
    "run.device",
    "evaluate.batch_size",
    "save.every_steps",
    "save.keep_last",
    "log",
    "cache",
];

/// Finds out what is to be done to train `recipe` to its end in its directory. Nothing is written.
///
/// # Errors
/// Those of [`find_start`].
pub(crate) fn run_state(recipe: &Recipe) -> Result<RunState, ResumeError> {
    let path = &recipe.run.directory;
    if let Ok(run) = RunDirectory::open(path)
        && matches!(outcome(&run), Some(RunOutcome::Finished | RunOutcome::Stopped))
    {
        NewRun::check_free(path)?;
        let changes = changes(&fs_recipe(&run)?, recipe, &WITHOUT_EFFECT)?;
        return Ok(match changes.refused.is_empty() {
            true => RunState::Done,
            false => RunState::Other(changes.refused),
        });
    }
    Ok(RunState::Open(find_start(recipe, false, &Resume::Auto)?))
}

/// The newest usable checkpoint of a run, and newer ones that are not, with their problems.
#[derive(Default)]
struct Found {
    point: Option<ResumePoint>,
    problems: Vec<String>,
}

fn newest_point(run: &RunDirectory) -> Result<Found, ResumeError> {
    let mut found = Found::default();
    for path in checkpoints_in(&run.checkpoints())?.into_values().rev() {
        match point_at(&path) {
            Ok(point) => {
                found.point = Some(point);
                break;
            }
            Err(problem) => found.problems.push(problem),
        }
    }
    Ok(found)
}

/// The paths of all checkpoints in `directory`, by their number of updates; none if it does not exist.
pub(super) fn checkpoints_in(directory: &Path) -> Result<BTreeMap<u64, PathBuf>, FileError> {
    let mut steps = BTreeMap::new();
    if directory.is_dir() {
        for entry in fs::read_dir(directory).map_err(FileError::new("list", directory))? {
            let path = entry.map_err(FileError::new("list", directory))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            steps.extend(step_of(&name).map(|step| (step, path)));
        }
    }
    Ok(steps)
}

fn named_point(run: &RunDirectory, named: &Path) -> Result<ResumePoint, ResumeError> {
    let refuse = |reason: String| ResumeError::Named { path: named.to_path_buf(), reason };
    let checkpoints = run.checkpoints();
    let as_name = checkpoints.join(named);
    let path = if as_name.is_dir() { as_name } else { named.to_path_buf() };
    let real = |path: &Path| {
        fs::canonicalize(path).map_err(|error| refuse(format!("{}: {error}", path.display())))
    };
    let (real_path, parent) = (real(&path)?, real(&checkpoints)?);
    if real_path.parent() != Some(&parent) {
        let expected = checkpoints.display();
        return Err(refuse(format!(
            "not a checkpoint of this run: expected the name or the path of a directory in {expected}; to start a new \
             run from another checkpoint, give it as model.base"
        )));
    }
    // The directory itself, not a link to it.
    let own = checkpoints.join(real_path.file_name().unwrap_or_default());
    point_at(&own).map_err(refuse)
}

/// Reads the checkpoint at `path`, all of whose files must be as they were written.
pub(super) fn point_at(path: &Path) -> Result<ResumePoint, String> {
    let name = path.display();
    let verified = Manifest::read(path).and_then(|manifest| match manifest {
        Some(manifest) => manifest.verify(path).map(|()| true),
        None => Ok(false),
    });
    match verified {
        Ok(true) => {}
        Ok(false) => return Err(format!("{name} has no manifest of genir")),
        Err(error @ CheckpointError::Changed { .. }) => return Err(error.to_string()),
        Err(error) => return Err(format!("{name}: {error}")),
    }
    match TrainingState::read(path) {
        Ok(Some(state)) => {
            Ok(ResumePoint { directory: path.to_path_buf(), state, notes: Vec::new() })
        }
        Ok(None) => Err(format!(
            "{name} has no training state: it was written by an earlier version of genir, or its state was removed"
        )),
        Err(
            error @ (StateError::File(_) | StateError::Wrong { .. } | StateError::Format { .. }),
        ) => Err(error.to_string()),
    }
}

/// How the run ended, if it did.
fn outcome(run: &RunDirectory) -> Option<RunOutcome> {
    let text = read_small_to_string(&run.summary()).ok()?;
    serde_json::from_str::<Summary>(&text).ok().map(|summary| summary.ended)
}

fn fs_recipe(run: &RunDirectory) -> Result<String, FileError> {
    let path = run.recipe();
    read_regular_to_string(&path).map_err(FileError::new("read", &path))
}

/// Keys that differ between two recipes.
struct Changes {
    /// Keys that may change when a run continues.
    allowed: Vec<String>,
    /// Others, with their values.
    refused: Vec<String>,
}

/// Keys, and sections with all of their keys, that may change when a run continues: what computes the same updates, and
/// how many there are.
pub const MAY_CHANGE: [&str; 20] = [
    "run.directory",
    "run.device",
    "corpus.path",
    "docids.shard",
    "train.steps",
    "train.epochs",
    "evaluate.every_steps",
    "evaluate.every_epochs",
    "evaluate.at_start",
    "evaluate.batch_size",
    "evaluate.run_depth",
    "save.every_steps",
    "save.keep_last",
    "stop",
    "watch",
    "log",
    "probes",
    "cache",
    "model.base",
    "model.revision",
];

fn other_recipe(before: &str, now: &Recipe) -> Result<Changes, ResumeError> {
    changes(before, now, &MAY_CHANGE)
}

fn changes(before: &str, now: &Recipe, may_change: &[&str]) -> Result<Changes, ResumeError> {
    let detects = now.stages == Some(StagesSetting::Detect);
    // A run of an earlier version has not all keys: those that it lacks have their defaults.
    let with_defaults = Recipe::from_text("recipe.toml", before, &[])
        .ok()
        .and_then(|recipe| recipe.to_toml().ok())
        .unwrap_or_else(|| before.to_owned());
    let (before, mut now) = (flat_keys(&with_defaults), flat_keys(&now.to_toml()?));
    if detects {
        // The recipe of a run has the numbers that were found when it was started.
        let found = before.iter().filter(|(key, _)| key.starts_with("stages."));
        let found: Vec<(String, String)> = found.map(|(k, v)| (k.clone(), v.clone())).collect();
        if !found.is_empty() {
            now.remove("stages");
            now.extend(found);
        }
    }
    let may_change = |key: &str| {
        may_change.iter().any(|&allowed| {
            let rest = key.strip_prefix(allowed);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    let mut changes = Changes { allowed: Vec::new(), refused: Vec::new() };
    let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    for key in keys {
        let (old, new) = (before.get(key), now.get(key));
        if old == new {
            continue;
        }
        if may_change(key) {
            changes.allowed.push(key.clone());
        } else {
            let show = |value: Option<&String>| value.cloned().unwrap_or("not set".to_owned());
            changes.refused.push(format!("{key}: {} in the run, {} now", show(old), show(new)));
        }
    }
    Ok(changes)
}
