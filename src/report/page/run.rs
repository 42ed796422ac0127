//! What a run has stored, as far as it can be read: a damaged line is named and left out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::component::{Stages, Trainable, TrainableTable};
use crate::docid::DocidVocabulary;
use crate::files::{read_regular_to_string, read_small_to_string};
use crate::monitor::Scalars;
use crate::probe::{HistoryLine, Inspection, Probe, Record, Skipped};
use crate::recipe::{Recipe, StagesSetting, flat_keys};
use crate::run::{Environment, LATEST, RunDirectory, RunError, RunOutcome, Summary};
use crate::t5::{GenirModel, T5Config};

/// A run as it is reported.
pub struct ReportedRun {
    /// Its directory, as it was given.
    pub path: PathBuf,
    pub directory: RunDirectory,
    /// The name: that of its arm, with the seed if the arm has several.
    pub name: String,
    pub environment: Environment,
    /// The keys of its recipe with their values.
    pub keys: BTreeMap<String, String>,
    pub recipe_text: String,
    /// `None` if the recipe is damaged.
    pub recipe: Option<Recipe>,
    /// `None` if the run has not ended.
    pub summary: Option<Summary>,
    pub scalars: Vec<Scalars>,
    pub records: Vec<Record>,
    pub skipped: Vec<Skipped>,
    /// Queries of `genir inspect`, which no run stores itself.
    pub inspections: Vec<Inspection>,
    /// `None` if there is no checkpoint, or a damaged one.
    pub model: Option<ReportedModel>,
    /// What could not be read, by file and line.
    pub problems: Vec<String>,
}

/// The parameters of a run's model.
pub struct ReportedModel {
    pub config: T5Config,
    pub stages: Option<Stages>,
    pub trainable: Trainable,
    /// All parameters by dotted name.
    pub names: Vec<String>,
    pub table: TrainableTable,
}

impl ReportedRun {
    /// Reads a run.
    ///
    /// # Errors
    /// The directory is not a run directory.
    pub fn read(path: &Path) -> Result<Self, RunError> {
        let directory = RunDirectory::open(path)?;
        let environment = directory.environment()?;
        let mut problems = Vec::new();
        let recipe_text =
            kept(&mut problems, &directory.recipe(), read_small_to_string(&directory.recipe()));
        let recipe_text = recipe_text.unwrap_or_default();
        let recipe =
            match Recipe::from_text(&directory.recipe().display().to_string(), &recipe_text, &[]) {
                Ok(recipe) => Some(recipe),
                Err(errors) => {
                    problems.push(errors.to_string());
                    None
                }
            };
        let summary = match directory.summary().exists() {
            true => noted(&mut problems, Summary::read(&directory.summary())),
            false => None,
        };
        let scalars = lines(&directory.metrics(), &mut problems, |line, place| {
            serde_json::from_str::<Scalars>(line).map_err(|error| format!("{place}: {error}"))
        });
        let (mut records, mut skipped) = (Vec::new(), Vec::new());
        for probe in Probe::ALL {
            let file = directory.probes().join(format!("{probe}.jsonl"));
            if !file.exists() {
                continue;
            }
            let found = lines(&file, &mut problems, |line, place| {
                HistoryLine::parse(line, || place.to_owned()).map_err(|error| error.to_string())
            });
            for line in found {
                match line {
                    HistoryLine::Measured(record) => records.push(*record),
                    HistoryLine::Skipped(line) => skipped.push(line),
                }
            }
        }
        let latest = directory.checkpoints().join(LATEST);
        let model = match (&recipe, latest.exists()) {
            (Some(recipe), true) => noted(&mut problems, ReportedModel::read(&latest, recipe)),
            _ => None,
        };
        Ok(Self {
            name: name_of(path),
            path: path.to_path_buf(),
            keys: flat_keys(&recipe_text),
            directory,
            environment,
            recipe_text,
            recipe,
            summary,
            scalars,
            records,
            skipped,
            inspections: Vec::new(),
            model,
            problems,
        })
    }

    /// Returns a key of the recipe without quotes; empty if it is not set.
    pub fn key(&self, key: &str) -> String {
        key_of(&self.keys, key)
    }

    /// Returns the run, the model that it started from and the collection, for titles of figures.
    pub fn subject(&self) -> String {
        self.subject_of(&self.name)
    }

    /// Names runs like this one with its base and collection.
    pub fn subject_of(&self, name: &str) -> String {
        subject(name, &self.keys)
    }

    /// Returns the name of the model that the run started from.
    pub fn base(&self) -> String {
        base(&self.keys)
    }

    /// Returns the name of the collection.
    pub fn collection(&self) -> String {
        collection(&self.keys)
    }

    /// Describes how far the run has come, if it has not performed all of its updates: what was measured then is not its
    /// result.
    pub fn unfinished(&self) -> Option<String> {
        let last = self.scalars.iter().map(|line| line.step).max().unwrap_or(0);
        let Some(summary) = &self.summary else {
            return Some(format!(
                "has not ended: it is being trained, or was killed. Its last entry is of step {last}"
            ));
        };
        let (steps, total) = (summary.steps, summary.total_steps);
        let how = match summary.ended {
            RunOutcome::Finished | RunOutcome::Stopped => return None,
            RunOutcome::Interrupted => "was interrupted",
            RunOutcome::Failed => "has failed",
        };
        let reason =
            summary.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        Some(format!("{how} after step {steps} of {total}{reason}"))
    }

    /// Returns the values of a scalar by step, finite ones only.
    pub fn curve(&self, name: &str) -> Vec<(f64, f64)> {
        let value = |line: &Scalars| Some((line.step as f64, *line.values.get(name)?));
        self.scalars.iter().filter_map(value).filter(|point| point.1.is_finite()).collect()
    }

    /// Returns the seconds of training (updates, and computing the frozen prefix) until a step, on straight lines between
    /// the steps at which they were logged.
    pub fn seconds(&self) -> impl Fn(f64) -> f64 + use<> {
        let prefix = self.curve("time/prefix_seconds").first().map_or(0.0, |point| point.1);
        let logged = self.curve("time/steps_seconds");
        move |step| {
            let mut before = (0.0, 0.0);
            for &point in &logged {
                if point.0 >= step {
                    let share = match point.0 > before.0 {
                        true => (step - before.0) / (point.0 - before.0),
                        false => 1.0,
                    };
                    return prefix + before.1 + (point.1 - before.1) * share;
                }
                before = point;
            }
            match before.0 > 0.0 {
                true => prefix + before.1 * step / before.0,
                false => f64::NAN,
            }
        }
    }

    /// Returns the records of a probe, oldest first.
    pub fn history(&self, probe: Probe) -> Vec<Record> {
        self.records.iter().filter(|record| record.result.probe() == probe).cloned().collect()
    }

    /// Returns the newest record of a probe.
    pub fn newest(&self, probe: Probe) -> Option<&Record> {
        self.records.iter().rfind(|record| record.result.probe() == probe)
    }
}

impl ReportedModel {
    fn read(checkpoint: &Path, recipe: &Recipe) -> Result<Self, String> {
        let config = T5Config::read(checkpoint).map_err(|error| error.to_string())?;
        let file = checkpoint.join("config.json");
        let json =
            read_small_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let json: serde_json::Value =
            serde_json::from_str(&json).map_err(|error| format!("{}: {error}", file.display()))?;
        let tied = json["tie_word_embeddings"].as_bool().unwrap_or(true);
        let docids = DocidVocabulary::read(&checkpoint.join("docids.json"));
        let documents = docids.map_err(|error| error.to_string())?.len();
        let words = config.vocab_size.saturating_sub(documents);
        let mut parameters =
            GenirModel::parameter_shapes(&config.with_words(words.max(1)), tied, documents.max(1));
        let depth = config.num_decoder_layers;
        let given = recipe.stages.as_ref().and_then(StagesSetting::given).cloned();
        let stages = given.or_else(|| Stages::scaled(depth).ok());
        let stages = stages.filter(|stages| stages.depth() == depth);
        let trainable = Trainable::of(&recipe.trainable.select, stages.as_ref(), &parameters)
            .map_err(|error| format!("{}: {error}", checkpoint.display()))?;
        parameters.extend(trainable.factors(&parameters));
        let sizes: Vec<(String, usize)> =
            parameters.into_iter().map(|(name, shape)| (name, shape.iter().product())).collect();
        let table = TrainableTable::new(&sizes, &trainable.trained, stages.as_ref());
        let names = sizes.into_iter().map(|(name, _)| name).collect();
        Ok(Self { config, stages, trainable, names, table })
    }
}

/// Returns a run's name, the model that it started from and the collection, by the keys of its recipe.
pub fn subject(name: &str, keys: &BTreeMap<String, String>) -> String {
    format!("{name} \u{b7} {} \u{b7} {}", base(keys), collection(keys))
}

fn key_of(keys: &BTreeMap<String, String>, key: &str) -> String {
    keys.get(key).map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
}

fn base(keys: &BTreeMap<String, String>) -> String {
    let is_scratch = key_of(keys, "model.init") == "scratch";
    let from_scratch = if is_scratch { " (from scratch)" } else { "" };
    format!("{}{from_scratch}", short(&key_of(keys, "model.base")))
}

fn collection(keys: &BTreeMap<String, String>) -> String {
    short(&key_of(keys, "corpus.path"))
}

/// Returns the last part of a path; other names as they are.
fn short(text: &str) -> String {
    let is_path = text.starts_with(['/', '.', '~']);
    match text.trim_end_matches('/').rsplit_once('/') {
        Some((_, last)) if is_path && !last.is_empty() => last.to_owned(),
        _ => text.to_owned(),
    }
}

/// Returns the name of a directory.
pub fn name_of(path: &Path) -> String {
    let full = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    full.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn noted<T>(problems: &mut Vec<String>, read: Result<T, impl ToString>) -> Option<T> {
    read.map_err(|error| problems.push(error.to_string())).ok()
}

fn kept(problems: &mut Vec<String>, path: &Path, read: std::io::Result<String>) -> Option<String> {
    noted(problems, read.map_err(|error| format!("{}: {error}", path.display())))
}

/// Reads the lines of a file that can be parsed; the others are named in `problems`, except for a last line that a run
/// has not written to its end.
fn lines<T>(
    path: &Path,
    problems: &mut Vec<String>,
    parse: impl Fn(&str, &str) -> Result<T, String>,
) -> Vec<T> {
    /// Problems of one file that are named each.
    const NAMED: usize = 3;
    let Some(text) = kept(problems, path, read_regular_to_string(path)) else { return Vec::new() };
    let is_whole = text.ends_with('\n');
    let count = text.lines().count();
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if line.trim().is_empty() || (number == count && !is_whole) {
            continue;
        }
        match parse(line, &format!("{}, line {number}", path.display())) {
            Ok(value) => found.push(value),
            Err(error) => failed.push(error),
        }
    }
    let more = failed.len().saturating_sub(NAMED);
    problems.extend(failed.into_iter().take(NAMED));
    if more > 0 {
        problems.push(format!("{}: {more} more lines cannot be read", path.display()));
    }
    found
}
