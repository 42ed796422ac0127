//! What a sweep is made of, and what is planned.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::SweepErrors;
use super::planner::{Planner, Text};
use crate::compare::Pairs;
use crate::corpus::Split;
use crate::recipe::{Recipe, RecipeErrors, ShippedRecipe, SweepFile};
use crate::train::ArmCosts;

/// What a sweep is made of.
#[derive(Debug, Clone, Default)]
pub struct SweepOptions {
    /// A recipe, or a file with a section `[sweep]`: a path, or the name of one that comes with genir.
    pub recipe: PathBuf,
    /// Keys that are set in all arms, the last of all.
    pub overrides: Vec<String>,
    /// Lists of arms: names of the file, of trainable sets, or selectors. Empty: all arms of the file.
    pub arms: Vec<String>,
    /// Definitions of arms, `NAME: KEY=VALUE ...`.
    pub defined: Vec<String>,
    /// Variations, `KEY=VALUE,VALUE,...`: each arm becomes one arm for each value.
    pub vary: Vec<String>,
    /// The seeds; `None`: those of the file, else the recipe's seed.
    pub seeds: Option<Vec<u64>>,
    /// The directory of the sweep; `None`: that of the file, else `runs/NAME`.
    pub directory: Option<PathBuf>,
    /// The queries of the comparison; `None`: those of the file, else the validation queries.
    pub split: Option<Split>,
    /// The metrics of the comparison, as `genir compare --metrics`.
    pub metrics: Option<String>,
    /// The pairs of arms to test; `None`: those of the file, else all.
    pub pairs: Option<Pairs>,
}

/// A sweep that can start.
#[derive(Debug)]
pub struct SweepPlan {
    /// The directory of the sweep.
    pub directory: PathBuf,
    /// The queries of the comparison.
    pub split: Split,
    /// The metrics of the comparison; `None`: those of every evaluation.
    pub metrics: Option<String>,
    /// The pairs of arms to test.
    pub pairs: Pairs,
    /// The arms, in the order in which they were given.
    pub arms: Vec<PlannedArm>,
    /// The runs, in the order in which they run: all arms of the first seed, then those of the next.
    pub runs: Vec<PlannedRun>,
    /// Keys of the recipes that differ between trained arms, with the value of each arm (`None` for BM25).
    pub differing_keys: BTreeMap<String, Vec<Option<String>>>,
    /// Doubts about the corpus and the recipe, each once.
    pub warnings: Vec<String>,
}

/// An arm of a sweep.
#[derive(Debug)]
pub struct PlannedArm {
    /// Its name.
    pub name: String,
    /// The costs of an update; `None` for BM25.
    pub costs: Option<ArmCosts>,
    /// Updates of a run.
    pub steps: u64,
    /// An estimate of the operations of a run; 0 for BM25.
    pub operations: f64,
}

/// A run of a sweep.
#[derive(Debug)]
pub struct PlannedRun {
    /// The index of its arm.
    pub arm: usize,
    /// The name of its directory: `ARM-seed-N`.
    pub name: String,
    /// Its seed; `None` for BM25.
    pub seed: Option<u64>,
    /// The run directory, or BM25's run file.
    pub path: PathBuf,
    /// The resolved recipe as TOML.
    pub recipe: String,
    /// What it is.
    pub kind: RunKind,
}

/// What a run of a sweep is, and what is left of it to do.
#[derive(Debug, Clone, PartialEq)]
pub enum RunKind {
    /// A training that has ended by itself.
    Done,
    /// A training that starts anew, or from the checkpoint after an update.
    Training {
        /// Updates that are done.
        from: u64,
    },
    /// BM25, with these options of `genir eval`.
    Bm25(Vec<String>),
}

impl SweepPlan {
    /// Reads the experiment and checks every run of it as `genir check` does. Nothing is written.
    ///
    /// # Errors
    /// All problems of all arms at once.
    pub fn new(options: &SweepOptions) -> Result<Self, SweepErrors> {
        let failed = |text: String| {
            let mut errors = SweepErrors::default();
            errors.add(None, text);
            errors
        };
        let (file, text) = read(&options.recipe).map_err(|errors| failed(errors.to_string()))?;
        let sweep =
            SweepFile::from_text(&file, &text).map_err(|errors| failed(errors.to_string()))?;
        let base = match sweep.as_ref().and_then(|sweep| sweep.recipe.as_ref()) {
            Some(recipe) => read(Path::new(recipe))
                .map_err(|errors| failed(format!("sweep.recipe: {errors}")))?,
            None => (file.clone(), text),
        };
        Planner { options, file, sweep, base, errors: SweepErrors::default() }.plan()
    }
}

/// Returns the name and the text of a recipe that comes with genir, or of a file, which takes precedence.
pub(super) fn read(path: &Path) -> Result<Text, RecipeErrors> {
    let name = path.to_string_lossy().into_owned();
    let shipped = ShippedRecipe::find(&name).or_else(|| ShippedRecipe::find_sweep(&name));
    match shipped {
        Some(shipped) if !path.is_file() => Ok((name, shipped.text.to_owned())),
        _ => Recipe::text_of(path).map(|text| (name, text)),
    }
}

/// The message that another process works in a directory.
pub(crate) fn in_use(directory: &Path, owner: &str) -> String {
    let owner = if owner.is_empty() { "another process" } else { owner };
    format!(
        "{} is in use by {owner}; wait until it ends, stop it, or choose another directory for the sweep",
        directory.display()
    )
}

/// Returns whether there is anything at `path`.
pub(super) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
