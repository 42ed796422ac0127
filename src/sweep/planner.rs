//! Reads the arms of a sweep, checks every run, and collects all problems.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::arms::{BM25, BM25_KEYS, complete, defined, named, names, varied};
use super::plan::{PlannedArm, PlannedRun, RunKind, SweepOptions, SweepPlan, in_use, read};
use super::{SweepErrors, record};
use crate::corpus::Split;
use crate::recipe::{KeyOrigin, Recipe, Setting, SweepArm, SweepFile, flat_keys};
use crate::run::{Lock, NewRun, RunDirectory, RunError};
use crate::train::{MemoryEstimate, Plan, PlanError, PlanErrors, RunState, Start, run_state};

/// Keys that a sweep sets itself, with what sets them.
const OWN_KEYS: [(&str, &str); 2] = [
    (
        "run.directory",
        "the run directories are SWEEP/ARM-seed-N, and --directory or sweep.directory is SWEEP",
    ),
    ("run.seed", "--seeds or sweep.seeds sets it"),
];

/// Keys that must be the same in all arms: without that, their results cannot be compared.
const SAME_KEYS: [&str; 3] = ["corpus.path", "evaluate.vocabulary", "evaluate.unmasked_padding"];

/// A recipe's name and text.
pub(super) type Text = (String, String);

/// Plans a sweep.
pub(super) struct Planner<'a> {
    pub options: &'a SweepOptions,
    /// The name of the recipe or the file of the sweep, in messages.
    pub file: String,
    pub sweep: Option<SweepFile>,
    /// The recipe of the arms that have none of their own.
    pub base: Text,
    pub errors: SweepErrors,
}

impl Planner<'_> {
    pub fn plan(mut self) -> Result<SweepPlan, SweepErrors> {
        let directory = self.directory();
        // First: what another process is just doing there would be reported as problems.
        if let Some(owner) = Lock::owner(&directory) {
            self.errors.add(None, in_use(&directory, &owner));
            return Err(self.errors);
        }
        if let Err(text) = record::check_directory(&directory) {
            self.errors.add(None, text);
        }
        let of_file = self.sweep.as_ref();
        let split = self.options.split.or(of_file.and_then(|sweep| sweep.split));
        let metrics = self
            .options
            .metrics
            .clone()
            .or_else(|| of_file.and_then(|sweep| sweep.metrics.clone()));
        let pairs = self.options.pairs.or(of_file.and_then(|sweep| sweep.pairs));
        let mut plan = SweepPlan {
            directory,
            split: split.unwrap_or(Split::Validation),
            metrics,
            pairs: pairs.unwrap_or_default(),
            arms: Vec::new(),
            runs: Vec::new(),
            differing_keys: BTreeMap::new(),
            warnings: Vec::new(),
        };
        for setting in self.options.overrides.iter().map(|text| Setting::from_command_line(text)) {
            self.refuse_own_keys(None, &[setting]);
        }
        let arms = self.arms();
        self.errors.arms = arms.len();
        let mut of_arms = Vec::new();
        for arm in &arms {
            of_arms.push(match arm.name == BM25 {
                true => self.bm25(arm, &mut plan),
                false => self.train(arm, &mut plan),
            });
        }
        self.check_together(&arms, &of_arms, &mut plan);
        // All arms of the first seed first: what is done when a sweep is interrupted can be compared. BM25 takes seconds.
        let mut seeds: Vec<Option<u64>> = Vec::new();
        for run in &plan.runs {
            if !seeds.contains(&run.seed) {
                seeds.push(run.seed);
            }
        }
        plan.runs.sort_by_key(|run| {
            (run.seed.is_some(), seeds.iter().position(|seed| *seed == run.seed), run.arm)
        });
        match self.errors.problems.is_empty() {
            true => Ok(plan),
            false => Err(self.errors),
        }
    }

    fn directory(&self) -> PathBuf {
        let of_file = || self.sweep.as_ref()?.directory.as_ref().map(PathBuf::from);
        self.options.directory.clone().or_else(of_file).unwrap_or_else(|| {
            let stem = Path::new(&self.file).file_stem().unwrap_or_default().to_string_lossy();
            let suffix = if self.sweep.is_some() { "" } else { "-sweep" };
            Path::new("runs").join(format!("{stem}{suffix}"))
        })
    }

    /// Returns the arms, each with its trainable set.
    fn arms(&mut self) -> Vec<SweepArm> {
        let mut known: Vec<SweepArm> =
            self.sweep.iter().flat_map(|sweep| sweep.arms.clone()).collect();
        let mut chosen: Vec<SweepArm> = match self.options.arms.is_empty() {
            true => known.clone(),
            false => Vec::new(),
        };
        for text in &self.options.defined {
            match defined(text) {
                Ok(arm) => {
                    // The command line replaces an arm of the file.
                    chosen.retain(|other| other.name != arm.name);
                    known.retain(|other| other.name != arm.name);
                    known.push(arm.clone());
                    chosen.push(arm);
                }
                Err(text) => self.errors.add(None, text),
            }
        }
        for word in self.options.arms.iter().flat_map(|list| names(list)) {
            match named(&word, &known) {
                // One that --arm has defined is there already.
                Ok(arm) if self.options.defined.iter().any(|text| is_named(text, &arm.name)) => {}
                Ok(arm) => chosen.push(arm),
                Err(text) => self.errors.add(None, format!("--arms: {text}")),
            }
        }
        let mut complete_arms: Vec<SweepArm> = Vec::new();
        let mut seen = BTreeSet::new();
        for arm in chosen {
            let name = arm.name.clone();
            if !seen.insert(name.clone()) {
                self.errors.add(None, format!("the arm {name} is given twice"));
                continue;
            }
            match complete(arm) {
                Ok(arm) => complete_arms.push(arm),
                Err(text) => self.errors.add(Some(&name), text),
            }
        }
        let of_file = self.sweep.iter().flat_map(|sweep| sweep.vary.clone());
        for text in
            of_file.chain(self.options.vary.iter().map(|text| Setting::from_command_line(text)))
        {
            match varied(&complete_arms, &text) {
                Ok(arms) => complete_arms = arms,
                Err(message) => self.errors.add(None, format!("{}: {message}", self.place(&text))),
            }
        }
        if complete_arms.is_empty() && self.errors.problems.is_empty() {
            let text =
                "there are no arms: give --arms full,restricted, or a file with [sweep.arms.NAME]";
            self.errors.add(None, text);
        }
        complete_arms
    }

    fn refuse_own_keys(&mut self, arm: Option<&str>, settings: &[Setting]) {
        for setting in settings {
            if let Some((key, why)) = OWN_KEYS.iter().find(|(key, _)| setting.key() == *key) {
                self.errors
                    .add(arm, format!("{}: {key} cannot be set: {why}", self.place(setting)));
            }
        }
    }

    /// Where a setting stands.
    fn place(&self, setting: &Setting) -> String {
        match setting.origin {
            KeyOrigin::Line(line) => format!("{} line {line}", self.file),
            KeyOrigin::CommandLine => "command line".to_owned(),
        }
    }

    /// Reads the recipe of a run.
    fn recipe(&self, arm: &SweepArm, seed: Option<u64>, path: &Path) -> Result<Recipe, String> {
        let (name, text) = match &arm.recipe {
            None => self.base.clone(),
            Some(recipe) => read(Path::new(recipe)).map_err(|errors| errors.to_string())?,
        };
        let mut settings = Vec::new();
        if SweepFile::from_text(&name, &text).is_ok_and(|sweep| sweep.is_some()) {
            settings.push(Setting::from_command_line("~sweep"));
        }
        settings.extend(self.sweep.iter().flat_map(|sweep| sweep.shared.clone()));
        if arm.name != BM25 {
            settings.extend(arm.settings.clone());
        }
        settings.extend(self.options.overrides.iter().map(|text| Setting::from_command_line(text)));
        settings.push(Setting::from_command_line(&format!(
            "run.directory={}",
            toml::Value::from(path.to_string_lossy().as_ref())
        )));
        settings.extend(seed.map(|seed| Setting::from_command_line(&format!("run.seed={seed}"))));
        let texts: Vec<String> = settings.iter().map(|setting| setting.text.clone()).collect();
        Recipe::from_text(&name, &text, &texts).map_err(|errors| {
            let lines = errors.problems.iter().map(|problem| {
                let of = |setting: &&Setting| problem.key.starts_with(setting.key());
                match (problem.origin, settings.iter().rev().find(of)) {
                    // The settings of the file are given as if they were on the command line.
                    (Some(KeyOrigin::CommandLine), Some(setting)) => {
                        let mut problem = problem.clone();
                        problem.origin = None;
                        format!("{}: {problem}", self.place(setting))
                    }
                    (Some(KeyOrigin::Line(_)), _) => format!("{name} {problem}"),
                    _ => problem.to_string(),
                }
            });
            lines.collect::<Vec<_>>().join("\n")
        })
    }

    /// Adds the runs of a trained arm to the plan; returns the keys of its recipe.
    fn train(&mut self, arm: &SweepArm, plan: &mut SweepPlan) -> Option<Recipe> {
        self.refuse_own_keys(Some(&arm.name), &arm.settings);
        let of_file = self.sweep.as_ref().and_then(|sweep| sweep.seeds.clone());
        let seeds = self.options.seeds.clone().or(of_file);
        let seeds: Vec<u64> = match seeds {
            Some(seeds) => seeds,
            None => match self.recipe(arm, None, &plan.directory) {
                Ok(recipe) => vec![recipe.run.seed],
                Err(text) => {
                    self.add_lines(&arm.name, &text);
                    return None;
                }
            },
        };
        let index = plan.arms.len();
        let (mut first, mut planned) = (None, None);
        for seed in seeds {
            let name = format!("{}-seed-{seed}", arm.name);
            let path = plan.directory.join(&name);
            let recipe = match self.recipe(arm, Some(seed), &path) {
                Ok(recipe) => recipe,
                Err(text) => {
                    self.add_lines(&arm.name, &text);
                    return None;
                }
            };
            let Some(kind) = self.state(&arm.name, &name, &recipe, &mut planned) else {
                // Its recipe is still compared with those of the other arms.
                return Some(recipe);
            };
            let text = match recipe.to_toml() {
                Ok(text) => text,
                Err(error) => {
                    self.errors
                        .add(Some(&arm.name), format!("the recipe cannot be written: {error}"));
                    return None;
                }
            };
            plan.runs.push(PlannedRun {
                arm: index,
                name,
                seed: Some(seed),
                path,
                recipe: text,
                kind,
            });
            first.get_or_insert(recipe);
        }
        let first = first?;
        // If all runs are done, the recipe alone says what they cost.
        let planned = match planned {
            Some(planned) => planned,
            None => Plan::new(first.clone())
                .inspect_err(|errors| self.add_all(&arm.name, errors))
                .ok()?,
        };
        let costs = planned.costs(&MemoryEstimate::of(&planned));
        let examples = planned.total_steps() as f64
            * (planned.recipe.train.batch_size * planned.recipe.train.accumulate) as f64;
        plan.arms.push(PlannedArm {
            name: arm.name.clone(),
            operations: costs.operations * examples,
            costs: Some(costs),
            steps: planned.total_steps(),
        });
        for warning in planned.warnings() {
            if !plan.warnings.contains(&warning) {
                plan.warnings.push(warning);
            }
        }
        Some(first)
    }

    /// Returns what is left to do of a run. The first one that is not done is planned in full: the others differ in
    /// nothing but their seed and their directory.
    fn state(
        &mut self,
        arm: &str,
        name: &str,
        recipe: &Recipe,
        planned: &mut Option<Plan>,
    ) -> Option<RunKind> {
        let start = match run_state(recipe) {
            Ok(RunState::Done) => return Some(RunKind::Done),
            Ok(RunState::Open(start)) => start,
            Ok(RunState::Other(keys)) => {
                self.errors.add(
                    Some(arm),
                    format!(
                        "{} holds a finished run of another recipe; these keys differ:\n  {}\nrestore them, remove or \
                         rename that run, or choose another directory for the sweep",
                        recipe.run.directory.display(),
                        keys.join("\n  ")
                    ),
                );
                return None;
            }
            Err(error) => {
                self.errors.add(Some(arm), error);
                return None;
            }
        };
        let from = match &start {
            Start::New(_) => 0,
            Start::Continue(point) => point.state.step,
        };
        match planned {
            None => {
                let checked = start.plan(recipe.clone()).and_then(|plan| {
                    plan.check_values()?;
                    Ok(plan)
                });
                match checked {
                    Ok(plan) => *planned = Some(plan),
                    Err(errors) => {
                        self.add_all(arm, &errors);
                        return None;
                    }
                }
            }
            Some(_) => {
                let path = &recipe.run.directory;
                let checked = match &start {
                    Start::New(overwrite) => RunDirectory::can_start(path, *overwrite),
                    Start::Continue(_) => NewRun::check_resume(path),
                };
                if let Err(error) = checked {
                    self.errors.add(Some(arm), format!("{name}: {error}"));
                    return None;
                }
            }
        }
        Some(RunKind::Training { from })
    }

    /// Adds BM25 to the plan.
    fn bm25(&mut self, arm: &SweepArm, plan: &mut SweepPlan) -> Option<Recipe> {
        let mut options = Vec::new();
        for setting in &arm.settings {
            let known = BM25_KEYS.iter().find(|(key, _)| setting.key() == *key);
            match (known, setting.text.split_once('=')) {
                (Some((_, option)), Some((_, value))) => {
                    options.push(format!("{option}={}", value.trim().trim_matches('"')));
                }
                _ => {
                    let text = format!(
                        "{}: `{}` is not a key of BM25, which has k1, b and language",
                        self.place(setting),
                        setting.key()
                    );
                    self.errors.add(Some(BM25), text);
                }
            }
        }
        let path = plan.directory.join("bm25.run");
        let recipe = match self.recipe(arm, None, &path) {
            Ok(recipe) => recipe,
            Err(text) => {
                self.add_lines(BM25, &text);
                return None;
            }
        };
        let depth = recipe.evaluate.run_depth;
        options.extend([format!("--split={}", plan.split), format!("--depth={depth}")]);
        let text = recipe.to_toml().unwrap_or_default();
        let index = plan.arms.len();
        let name = BM25.to_owned();
        plan.runs.push(PlannedRun {
            arm: index,
            name: name.clone(),
            seed: None,
            path,
            recipe: text,
            kind: RunKind::Bm25(options),
        });
        plan.arms.push(PlannedArm { name, costs: None, steps: 0, operations: 0.0 });
        Some(recipe)
    }

    /// Reports what would keep the arms from being compared when all of them are done.
    fn check_together(
        &mut self,
        arms: &[SweepArm],
        recipes: &[Option<Recipe>],
        plan: &mut SweepPlan,
    ) {
        let mut flat = Vec::new();
        for (arm, recipe) in arms.iter().zip(recipes) {
            let Some(recipe) = recipe else { continue };
            let keys = flat_keys(&recipe.to_toml().unwrap_or_default());
            let splits = &recipe.evaluate.splits;
            if arm.name != BM25 && !splits.contains(&plan.split) {
                let shown = keys.get("evaluate.splits").cloned().unwrap_or_default();
                let text = format!(
                    "evaluate.splits = {shown}: the sweep compares the arms on the {split} queries, so each run must rank \
                     them: add \"{split}\", or give another --split (sweep.split)",
                    split = plan.split
                );
                self.errors.add(Some(&arm.name), text);
            }
            flat.push((arm, keys));
        }
        for key in SAME_KEYS {
            let mut values: Vec<(String, &str)> = Vec::new();
            for (arm, keys) in &flat {
                let value = keys.get(key).cloned().unwrap_or("not set".to_owned());
                if values.iter().all(|(known, _)| *known != value) {
                    values.push((value, &arm.name));
                }
            }
            if let [(one, first), (other, second), ..] = values.as_slice() {
                let text = format!(
                    "{key} is {one} in the arm {first} and {other} in the arm {second}, so they could not be compared"
                );
                self.errors.add(None, text);
            }
        }
        let trained = || flat.iter().filter(|(arm, _)| arm.name != BM25);
        let keys: BTreeSet<&String> = trained().flat_map(|(_, keys)| keys.keys()).collect();
        for key in keys.into_iter().filter(|key| !key.starts_with("run.")) {
            let of = |(arm, keys): &(&SweepArm, BTreeMap<String, String>)| match arm.name == BM25 {
                true => None,
                false => Some(keys.get(key).cloned().unwrap_or("not set".to_owned())),
            };
            let values: Vec<Option<String>> = flat.iter().map(of).collect();
            if trained().map(of).collect::<BTreeSet<_>>().len() > 1 {
                plan.differing_keys.insert(key.clone(), values);
            }
        }
    }

    fn add_all(&mut self, arm: &str, errors: &PlanErrors) {
        for error in &errors.0 {
            match error {
                PlanError::Run(RunError::InUse { path, owner }) => {
                    self.errors.add(Some(arm), in_use(path, owner));
                }
                error => self.errors.add(Some(arm), error),
            }
        }
    }

    fn add_lines(&mut self, arm: &str, text: &str) {
        text.lines().for_each(|line| self.errors.add(Some(arm), line));
    }
}

/// Returns whether `definition` defines the arm `name`.
fn is_named(definition: &str, name: &str) -> bool {
    definition.split_once(':').map_or(definition, |(own, _)| own).trim() == name
}
