//! Figures of one run or of several: probes and training, the seeds of an arm as their mean, arms in one figure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::arm_figures::{ArmFigures, History, common_steps, together};
use super::figures::spec::FigureSpec;
use super::figures::{FigureError, FigureWidth, sentences, svg_of};
use super::page::{ReportedArm, ReportedRun, curves, name_of, ranked_split};
use super::skipped as describe_skipped;
use crate::compare::{differing_settings, keys_with_effect};
use crate::files::read_small_to_string;
use crate::probe::files::{self, Stored, StoredError};
use crate::probe::{Probe, Record};
use crate::recipe::flat_keys;
use crate::run::{RunDirectory, RunError};

/// Errors of plotting.
#[derive(Debug, Error)]
pub enum PlotError {
    /// The directory is not a run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The results of probes cannot be read.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// There is nothing to draw.
    #[error("{from}: no probe results found{why}", from = from.display())]
    NoResults {
        /// The run or the file.
        from: PathBuf,
        /// The files that are there instead, or the command that writes the results.
        why: String,
    },
    /// None of the figures that were asked for can be drawn.
    #[error("none of the inputs has what is to be drawn ({0})")]
    Nothing(String),
    /// Two inputs have one name.
    #[error("two inputs are named `{0}`: name them, as in one=PATH other=PATH")]
    SameName(String),
    /// A run is given twice.
    #[error("{first} and {second} are of one arm with the same seed: leave one out, or give each a name of its own", first = first.display(), second = second.display())]
    SameSeed {
        /// One of them.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A figure cannot be drawn.
    #[error(transparent)]
    Figure(#[from] FigureError),
}

/// The figures to draw, and their width.
#[derive(Debug, Clone, Default)]
pub struct PlotOptions {
    /// The probes; `None`: those that have results.
    pub probes: Option<Vec<Probe>>,
    /// True for the curves and costs of training.
    pub training: bool,
    /// The width in a paper; `None`: about 900 to 1300 pixels, for a screen.
    pub width: Option<FigureWidth>,
}

/// A figure that is drawn as SVG.
#[derive(Debug, Clone)]
pub struct DrawnFigure {
    /// The path of its file without extension, relative to the directory of all figures.
    pub name: String,
    /// The drawing.
    pub svg: String,
}

/// Figures, and doubts about them.
#[derive(Debug, Clone)]
pub struct Plots {
    /// The figures, those of training first.
    pub figures: Vec<DrawnFigure>,
    /// Reasons why something could not be drawn.
    pub warnings: Vec<String>,
}

/// An input: a run, or a file of results.
struct Input {
    path: PathBuf,
    given_name: Option<String>,
    /// The run that the results of a file are of, or else the checkpoint.
    measured: Option<String>,
    /// The keys of the recipe; empty if there is none.
    keys: BTreeMap<String, String>,
    stored: Stored,
    /// `None` for a file.
    run: Option<ReportedRun>,
}

struct Arm {
    name: String,
    inputs: Vec<Input>,
}

/// Draws the stored results of runs and of files, given as `(path, name)`. Runs of one name, or that differ in their seed
/// only, are the seeds of one arm, and are drawn as their mean with the standard deviation. Several arms are drawn into one
/// figure, at the last step at which all of their runs were measured.
///
/// # Errors
/// [`PlotError`].
pub fn plot(
    inputs: &[(PathBuf, Option<String>)],
    options: &PlotOptions,
) -> Result<Plots, PlotError> {
    let mut read =
        inputs.iter().map(|(path, name)| Input::read(path, name)).collect::<Result<Vec<_>, _>>()?;
    let has_runs = options.training && read.iter().any(|input| input.run.is_some());
    for input in read.iter().filter(|input| input.stored.records.is_empty()) {
        // Of a run, the curves of its training can be drawn.
        if options.probes.as_ref().is_none_or(|probes| !probes.is_empty()) && !has_runs {
            return Err(no_results(input));
        }
    }
    let mut warnings: Vec<String> = read
        .iter_mut()
        .filter(|_| options.training)
        .filter_map(|input| input.run.as_mut())
        .flat_map(|run| std::mem::take(&mut run.problems))
        .collect();
    if options.probes.is_none() {
        let without = read.iter().filter(|input| input.stored.records.is_empty());
        warnings.extend(without.map(|input| no_results(input).to_string()));
    }
    let mut arms = arms(read)?;
    let mut drawn = Vec::new();
    for &probe in Probe::ALL {
        let is_wanted = options.probes.as_ref().is_none_or(|probes| probes.contains(&probe));
        if is_wanted {
            drawn.extend(of_probe(probe, &arms, options.probes.is_some(), &mut warnings));
        }
    }
    if options.training {
        drawn.splice(0..0, of_training(&mut arms));
    }
    if drawn.is_empty() {
        let mut wanted: Vec<&str> =
            options.probes.iter().flatten().map(|probe| probe.name()).collect();
        wanted.extend(options.training.then_some("training"));
        return Err(PlotError::Nothing(sentences(&[&wanted.join(", "), &warnings.join("; ")])));
    }
    let draw = |spec: FigureSpec| -> Result<DrawnFigure, FigureError> {
        Ok(DrawnFigure { svg: svg_of(&spec, options.width)?, name: spec.name })
    };
    Ok(Plots { figures: drawn.into_iter().map(draw).collect::<Result<_, _>>()?, warnings })
}

/// Draws results that were just measured, named with their run, as [`plot`] does for a file of them.
///
/// # Errors
/// [`FigureError`].
pub fn plot_stored(stored: &Stored) -> Result<Vec<DrawnFigure>, FigureError> {
    let checkpoint = stored.records.first().map(|record| record.measured_on.checkpoint.clone());
    let (name, keys) = run_of(Path::new(&checkpoint.unwrap_or_default()));
    let mut drawn = Vec::new();
    for &probe in Probe::ALL {
        let records = of_probe_in(stored, probe);
        let history = History { keys: &keys, records, skipped: &stored.skipped };
        let runs = if history.records.is_empty() { Vec::new() } else { vec![history] };
        let arm: Vec<ArmFigures> = ArmFigures::of(&name, runs).into_iter().collect();
        for spec in together(&arm) {
            drawn.push(DrawnFigure { svg: svg_of(&spec, None)?, name: spec.name });
        }
    }
    Ok(drawn)
}

fn of_probe_in(stored: &Stored, probe: Probe) -> Vec<Record> {
    stored.records.iter().filter(|record| record.result.probe() == probe).cloned().collect()
}

/// Returns the name and the recipe's keys of the run that a path is in; without a run, the path itself.
fn run_of(path: &Path) -> (String, BTreeMap<String, String>) {
    for directory in path.ancestors().filter(|directory| !directory.as_os_str().is_empty()) {
        if let Ok(run) = RunDirectory::open(directory) {
            let recipe = read_small_to_string(&run.recipe()).unwrap_or_default();
            return (name_of(directory), flat_keys(&recipe));
        }
    }
    (path.display().to_string(), BTreeMap::new())
}

fn no_results(input: &Input) -> PlotError {
    let why = match input.stored.skipped.last() {
        None => " ([probes] in a recipe and `genir probe --format json` write them)".to_owned(),
        Some(last) => format!(
            ": all probes were {}; reason of the last: {}",
            describe_skipped(&input.stored.skipped).unwrap_or_default(),
            last.skipped.message
        ),
    };
    PlotError::NoResults { from: input.path.clone(), why }
}

impl Input {
    fn read(path: &Path, given_name: &Option<String>) -> Result<Self, PlotError> {
        let (stored, run, (measured, keys)) = if path.is_dir() {
            let stored = files::read_histories(&RunDirectory::open(path)?.probes())?;
            let run = ReportedRun::read(path)?;
            let keys = run.keys.clone();
            (stored, Some(run), (None, keys))
        } else {
            let stored = files::read_all(path)?;
            let checkpoint = stored.records.first().map(|record| &record.measured_on.checkpoint);
            let of_file = run_of(path);
            let (name, keys) = match (of_file.1.is_empty(), checkpoint) {
                (true, Some(checkpoint)) => run_of(Path::new(checkpoint)),
                _ => of_file,
            };
            (stored, None, (Some(name), keys))
        };
        let (path, given_name) = (path.to_path_buf(), given_name.clone());
        Ok(Self { path, given_name, measured, keys, stored, run })
    }

    /// Returns the name of the directory, or that of the file without its extension.
    fn name(&self) -> String {
        let name = name_of(&self.path);
        match self.run {
            Some(_) => name,
            None => Path::new(&name).file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }

    fn seed(&self) -> Option<&String> {
        self.keys.get("run.seed")
    }
}

/// Groups inputs to arms: those of one name, and runs whose recipes differ in the seed only.
fn arms(inputs: Vec<Input>) -> Result<Vec<Arm>, PlotError> {
    let mut arms: Vec<Arm> = Vec::new();
    for input in inputs {
        let belongs = |arm: &&mut Arm| {
            let other = &arm.inputs[0];
            match (&input.given_name, &other.given_name) {
                (None, None) => {
                    input.run.is_some()
                        && other.run.is_some()
                        && keys_with_effect(&input.keys) == keys_with_effect(&other.keys)
                }
                (own, other) => own == other,
            }
        };
        match arms.iter_mut().find(belongs) {
            Some(arm) => {
                let same = arm.inputs.iter().find(|other| {
                    other.run.is_some() && input.run.is_some() && other.seed() == input.seed()
                });
                if let Some(other) = same {
                    let (first, second) = (other.path.clone(), input.path);
                    return Err(PlotError::SameSeed { first, second });
                }
                arm.inputs.push(input);
            }
            None => arms.push(Arm { name: String::new(), inputs: vec![input] }),
        }
    }
    let select = |arm: &Arm| {
        let select = arm.inputs[0].keys.get("trainable.select")?;
        Some(select.trim_matches(['[', ']']).replace('"', ""))
    };
    let selects: Vec<Option<String>> = arms.iter().map(select).collect();
    let mut used = BTreeSet::new();
    let is_alone = arms.len() == 1;
    for (arm, select) in arms.iter_mut().zip(&selects) {
        let is_unique = selects.iter().filter(|other| *other == select).count() == 1;
        arm.name = match (&arm.inputs[0].given_name, arm.inputs.len(), select) {
            (Some(name), ..) => name.clone(),
            (None, 2.., Some(select)) if is_unique => select.clone(),
            // Several files may be of one run.
            _ => match arm.inputs[0].measured.as_ref().filter(|_| is_alone) {
                Some(run) => run.clone(),
                None => arm.inputs[0].name(),
            },
        };
        if !used.insert(arm.name.clone()) {
            return Err(PlotError::SameName(arm.name.clone()));
        }
    }
    Ok(arms)
}

/// Returns the figures of a probe; says which arms have no results, and which cannot be drawn together.
fn of_probe(
    probe: Probe,
    arms: &[Arm],
    is_named: bool,
    warnings: &mut Vec<String>,
) -> Vec<FigureSpec> {
    let history = |input: &Input| of_probe_in(&input.stored, probe);
    let has = |arm: &&Arm| arm.inputs.iter().any(|input| !history(input).is_empty());
    let (with, without): (Vec<&Arm>, Vec<&Arm>) = arms.iter().partition(has);
    for arm in without.iter().filter(|_| is_named || !with.is_empty()) {
        let path = arm.inputs[0].path.display();
        let command = match arm.inputs[0].run {
            Some(_) => format!(": `genir probe {path} --probe {probe} --save` measures them"),
            None => String::new(),
        };
        warnings.push(format!("`{}` has no results of {probe}{command}", arm.name));
    }
    let mut runs: Vec<(usize, History)> = Vec::new();
    let inputs =
        with.iter().enumerate().flat_map(|(at, arm)| arm.inputs.iter().map(move |i| (at, i)));
    for (arm, input) in inputs {
        let records = history(input);
        if !records.is_empty() {
            let skipped = &input.stored.skipped;
            runs.push((arm, History { keys: &input.keys, records, skipped }));
        }
    }
    if with.len() > 1 {
        if let Err(why) = at_one_step(probe, &with, &mut runs) {
            warnings.push(why);
        }
        let newest: Vec<_> = runs
            .iter()
            .filter_map(|(arm, run)| Some((*arm, &run.records.last()?.measured_on)))
            .collect();
        for (arm, found) in newest.iter().skip(1) {
            let differing = differing_settings(newest[0].1, found);
            if !differing.is_empty() {
                let [one, other] = [newest[0].0, *arm].map(|arm| &with[arm].name);
                warnings.push(format!(
                    "the results of {probe} of `{one}` and `{other}` are not drawn: {}; plot them separately",
                    differing.join("; ")
                ));
                return Vec::new();
            }
        }
    }
    let mut by_arm: Vec<Vec<History>> = with.iter().map(|_| Vec::new()).collect();
    for (arm, run) in runs {
        by_arm[arm].push(run);
    }
    let figures: Vec<ArmFigures> =
        with.iter().zip(by_arm).filter_map(|(arm, runs)| ArmFigures::of(&arm.name, runs)).collect();
    together(&figures)
}

/// Ends the histories of several arms with the last step at which all of their runs were measured; an error says that
/// there is none.
fn at_one_step(probe: Probe, arms: &[&Arm], runs: &mut [(usize, History)]) -> Result<(), String> {
    let common = common_steps(runs.iter().map(|(_, run)| run));
    let Some(last) = common.last() else {
        let names: Vec<&str> = arms.iter().map(|arm| arm.name.as_str()).collect();
        return Err(format!(
            "{probe}: {} were not measured at the same step; each is drawn at its last",
            names.join(", ")
        ));
    };
    for (_, run) in runs {
        run.records.retain(|record| record.measured_on.step <= *last);
        run.records.sort_by_key(|record| record.measured_on.step);
    }
    Ok(())
}

/// Returns the curves and the costs of training of the inputs that are runs.
fn of_training(arms: &mut [Arm]) -> Vec<FigureSpec> {
    let mut reported: Vec<ReportedArm> = Vec::new();
    for arm in arms {
        let several = arm.inputs.len() > 1;
        let mut runs: Vec<ReportedRun> =
            arm.inputs.iter_mut().filter_map(|input| input.run.take()).collect();
        for run in &mut runs {
            run.name = match several {
                true => format!("{}, seed {}", arm.name, run.key("run.seed")),
                false => arm.name.clone(),
            };
        }
        if !runs.is_empty() {
            reported.push(ReportedArm { name: arm.name.clone(), runs });
        }
    }
    if reported.is_empty() {
        return Vec::new();
    }
    let split = ranked_split(reported.iter().flat_map(|arm| &arm.runs));
    let mut figures = curves::figures(&reported, split.name());
    figures.push(curves::costs(&reported));
    figures.retain(|figure| !figure.panels.is_empty());
    figures
}
