//! Compares runs: effectiveness with tests over the same queries, and cost.
//!
//! Runs that differ in nothing but their seed are the seeds of one [`Arm`]. Arms are compared pair by pair, and only runs
//! of the same seed with each other: seeds are averaged, and never pooled as if they were more queries. A TREC run of
//! another system has no seed, and is compared with each seed of the others.
//!
//! A run is represented by its last evaluation: `retrieval/<split>.run`, which ends at `evaluate.run_depth`.

mod cost;
mod render;
mod significance;
mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

pub use cost::{Cost, CostToLevel, Reached};
pub use render::{csv, latex, table, wins_and_losses};
pub use significance::{Difference, holm, mean, standard_deviation};

use crate::corpus::Split;
use crate::files::FileError;
use crate::retrieval::NamedMeasure;
use crate::retrieval::run_files::RunFileError;
use crate::run::RunError;
use system::{Qrels, System, qrels_of};

/// Errors of comparing runs.
#[derive(Debug, Error)]
pub enum CompareError {
    /// A run has no rankings of the split.
    #[error(
        "{}: the run has no rankings of the {split} queries; `genir eval {} --split {split} --run FILE --qrels QRELS` \
         ranks them with its best checkpoint, and `genir compare FILE ... --qrels QRELS` compares such files",
        run.display(), run.display()
    )]
    NoRankings {
        /// The run directory.
        run: PathBuf,
        /// The split.
        split: Split,
    },
    /// There are no judgements.
    #[error("none of the inputs is a run directory: give the judgements with --qrels FILE")]
    NoQrels,
    /// The judgements have no query with a relevant document.
    #[error("{}: no query has a relevant document", file.display())]
    NoQueries {
        /// The run directory or the qrels file.
        file: PathBuf,
    },
    /// Runs have other queries or judgements.
    #[error(
        "{} and {} cannot be compared: {found}; evaluate both on the same queries", first.display(), second.display()
    )]
    OtherQueries {
        /// The first run.
        first: PathBuf,
        /// The second run.
        second: PathBuf,
        /// The difference.
        found: String,
    },
    /// Runs rank other documents.
    #[error("{} and {} cannot be compared: {found}", first.display(), second.display())]
    OtherDocuments {
        /// The first run.
        first: PathBuf,
        /// The second run.
        second: PathBuf,
        /// The difference.
        found: String,
    },
    /// Runs were evaluated in another way.
    #[error(
        "{} and {} cannot be compared: {}", first.display(), second.display(), keys.join("; ")
    )]
    OtherEvaluation {
        /// The first run.
        first: PathBuf,
        /// The second run.
        second: PathBuf,
        /// The keys with both values.
        keys: Vec<String>,
    },
    /// A TREC run ranks none of the queries.
    #[error("{}: it ranks none of the {queries} judged queries", file.display())]
    NoQueryRanked {
        /// The file.
        file: PathBuf,
        /// Number of judged queries.
        queries: usize,
    },
    /// A TREC run has a document twice for a query.
    #[error("{}: query `{query}` has the document `{document}` twice", file.display())]
    DocumentTwice {
        /// The file.
        file: PathBuf,
        /// The query.
        query: String,
        /// The document.
        document: String,
    },
    /// Two runs of one arm have the same seed.
    #[error(
        "{} and {} are runs of the same recipe with the same seed: compare runs that differ, or give one of them",
        first.display(), second.display()
    )]
    SameRun {
        /// The first run.
        first: PathBuf,
        /// The second run.
        second: PathBuf,
    },
    /// Fewer than two arms.
    #[error("there is nothing to compare: all runs differ in their seed only")]
    OneArm,
    /// A run directory cannot be read.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A TREC file cannot be read.
    #[error(transparent)]
    RunFile(#[from] RunFileError),
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Options of a comparison.
pub struct CompareOptions {
    /// The queries.
    pub split: Split,
    /// The measures; the first one is that of wins and losses, and of significance in LaTeX.
    pub measures: Vec<NamedMeasure>,
    /// Judgements; `None`: those of the runs.
    pub qrels: Option<PathBuf>,
    /// Levels of `<split>/hits@1` for the cost to reach them; `None`: 50, 80, 90 and 95% of the best value of the arm
    /// whose best value is lowest, which all arms reach.
    pub levels: Option<Vec<f64>>,
}

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The split.
    pub split: String,
    /// Number of queries with a relevant document.
    pub queries: usize,
    /// The names of the measures.
    pub measures: Vec<String>,
    /// The arms, in the order in which their first runs were given.
    pub arms: Vec<Arm>,
    /// Comparisons of all pairs of arms.
    pub pairs: Vec<Pair>,
    /// Keys of the recipes that differ between arms, with the value of each arm; `None` for arms without a recipe.
    pub differing_keys: BTreeMap<String, Vec<Option<String>>>,
    /// Doubts about the comparison.
    pub warnings: Vec<String>,
    /// The ids of the queries, in the order of [`SystemRun::values`].
    #[serde(skip)]
    pub query_ids: Vec<String>,
}

/// Runs that differ in their seed only, or one system without a seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Arm {
    /// Its name.
    pub name: String,
    /// Its runs, by seed.
    pub runs: Vec<SystemRun>,
    /// The mean of each measure over the runs.
    pub means: Vec<f64>,
    /// Its standard deviation over the seeds; `None` for a single run.
    pub deviations: Vec<Option<f64>>,
}

/// One run, or one ranking.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SystemRun {
    /// The run directory or the TREC run file.
    pub path: PathBuf,
    /// Its seed; `None` for another system.
    pub seed: Option<String>,
    /// The mean of each measure over the queries.
    pub means: Vec<f64>,
    /// The cost of its training.
    pub cost: Option<Cost>,
    /// The cost of reaching levels of `<split>/hits@1`.
    pub to_levels: Vec<CostToLevel>,
    /// The value of each measure for each query: `values[measure][query]`.
    #[serde(skip)]
    pub values: Vec<Vec<f64>>,
}

/// The comparison of two arms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// The index of the first arm.
    pub first: usize,
    /// The index of the second arm; a positive difference means that it is better.
    pub second: usize,
    /// The comparisons of runs of the same seed.
    pub seeds: Vec<SeedComparison>,
}

/// The comparison of two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SeedComparison {
    /// The seed.
    pub seed: Option<String>,
    /// The difference in each measure.
    pub differences: Vec<Difference>,
    /// The p-value of each measure, corrected by Holm's method over all comparisons of this measure.
    pub corrected: Vec<f64>,
}

/// Compares runs of genir and TREC runs of other systems, given as `(path, name)`; runs of one name are the seeds of one
/// arm.
///
/// # Errors
/// [`CompareError`]: an input cannot be read, or the inputs cannot be compared.
pub fn compare(
    inputs: &[(PathBuf, Option<String>)],
    options: &CompareOptions,
) -> Result<Comparison, CompareError> {
    let systems: Vec<System> = inputs
        .iter()
        .map(|(path, name)| System::read(path, name.clone(), options.split))
        .collect::<Result<_, _>>()?;
    let (source, qrels) = qrels(&systems, options)?;
    if qrels.is_empty() {
        return Err(CompareError::NoQueries { file: source });
    }
    check_evaluation(&systems)?;
    for system in &systems {
        if !system.has_any_of(&qrels) {
            return Err(CompareError::NoQueryRanked {
                file: system.path.clone(),
                queries: qrels.len(),
            });
        }
    }
    let groups = arms(&systems)?;
    if groups.len() < 2 {
        return Err(CompareError::OneArm);
    }
    let metric = format!("{}/hits@1", options.split);
    let levels = levels(&systems, &metric, options);
    let arms: Vec<Arm> = groups
        .iter()
        .map(|(name, members)| {
            let runs = members
                .iter()
                .map(|&index| run(&systems[index], &qrels, &metric, &levels, options));
            Arm::of(name.clone(), runs.collect())
        })
        .collect();
    let pairs = pairs(&arms, options.measures.len());
    Ok(Comparison {
        split: options.split.to_string(),
        queries: qrels.len(),
        measures: options.measures.iter().map(|measure| measure.name.clone()).collect(),
        differing_keys: differing_keys(&systems, &groups),
        warnings: warnings(&systems, &arms, &pairs),
        query_ids: qrels.into_keys().collect(),
        arms,
        pairs,
    })
}

/// The judgements, which must be the same in all runs, and the file or run that they come from.
fn qrels(systems: &[System], options: &CompareOptions) -> Result<(PathBuf, Qrels), CompareError> {
    let own =
        |system: &System| Some((system.path.clone(), system.training.as_ref()?.qrels.clone()));
    let mut all: Vec<(PathBuf, Qrels)> = systems.iter().filter_map(own).collect();
    if let Some(file) = &options.qrels {
        all.insert(0, (file.clone(), qrels_of(file)?));
    }
    let mut all = all.into_iter();
    let (first, qrels) = all.next().ok_or(CompareError::NoQrels)?;
    for (second, others) in all {
        if others != qrels {
            let missing = qrels.keys().filter(|&query| !others.contains_key(query)).count();
            let more = others.keys().filter(|&query| !qrels.contains_key(query)).count();
            let found = match qrels.iter().find(|(query, relevant)| {
                others.get(*query).is_some_and(|other| other != *relevant)
            }) {
                _ if missing + more > 0 => format!(
                    "of {} and {} judged queries, {missing} are in the first only and {more} in the second only",
                    qrels.len(),
                    others.len()
                ),
                Some((query, _)) => format!("query `{query}` has other relevant documents"),
                None => "their judgements differ".to_owned(),
            };
            return Err(CompareError::OtherQueries { first, second, found });
        }
    }
    Ok((first, qrels))
}

/// Keys of a recipe that say how rankings are made.
const OF_EVALUATION: [&str; 2] = ["evaluate.vocabulary", "evaluate.unmasked_padding"];

/// Checks that runs of genir rank the same documents in the same way.
fn check_evaluation(systems: &[System]) -> Result<(), CompareError> {
    let mut trained = systems.iter().filter_map(|system| Some((system, system.training.as_ref()?)));
    let Some((first, of_first)) = trained.next() else { return Ok(()) };
    for (second, of_second) in trained {
        if let (Some(one), Some(other)) = (&of_first.docids, &of_second.docids)
            && one != other
        {
            let found = match (one.0, other.0) {
                (one, other) if one == other => "they rank other documents".to_owned(),
                (one, other) => format!("they rank {one} and {other} documents"),
            };
            let (first, second) = (first.path.clone(), second.path.clone());
            return Err(CompareError::OtherDocuments { first, second, found });
        }
        let keys: Vec<String> = OF_EVALUATION
            .iter()
            .filter(|&&key| of_first.keys.get(key) != of_second.keys.get(key))
            .map(|&key| {
                let show = |keys: &BTreeMap<String, String>| {
                    keys.get(key).cloned().unwrap_or("not set".to_owned())
                };
                format!("{key} is {} and {}", show(&of_first.keys), show(&of_second.keys))
            })
            .collect();
        if !keys.is_empty() {
            let (first, second) = (first.path.clone(), second.path.clone());
            return Err(CompareError::OtherEvaluation { first, second, keys });
        }
    }
    Ok(())
}

/// The arms: names, and indices of their systems.
fn arms(systems: &[System]) -> Result<Vec<(String, Vec<usize>)>, CompareError> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, system) in systems.iter().enumerate() {
        let belongs = |group: &&mut Vec<usize>| {
            let other = &systems[group[0]];
            match (&system.given_name, &other.given_name) {
                (None, None) => match (&system.training, &other.training) {
                    (Some(own), Some(other)) => own.keys == other.keys,
                    _ => false,
                },
                (own, other) => own == other,
            }
        };
        match groups.iter_mut().find(belongs) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    for group in &groups {
        let mut seeds: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        for &index in group {
            let seed = systems[index].training.as_ref().map(|training| training.seed.as_str());
            if let Some(earlier) = seeds.insert(seed, index) {
                let [first, second] = [earlier, index].map(|index| systems[index].path.clone());
                return Err(CompareError::SameRun { first, second });
            }
        }
    }
    let selects: Vec<Option<&str>> = groups
        .iter()
        .map(|group| systems[group[0]].training.as_ref().map(|training| training.select.as_str()))
        .collect();
    let is_unique =
        |select: &str| selects.iter().filter(|other| **other == Some(select)).count() == 1;
    Ok(groups
        .iter()
        .zip(&selects)
        .map(|(group, select)| {
            let first = &systems[group[0]];
            let name = match (&first.given_name, select) {
                (Some(name), _) => name.clone(),
                (None, Some(select)) if is_unique(select) => {
                    select.trim_matches(['[', ']']).replace('"', "")
                }
                (None, Some(_)) => file_name(&first.path),
                (None, None) if first.tag.is_empty() => file_name(&first.path),
                (None, None) => first.tag.clone(),
            };
            (name, group.clone())
        })
        .collect())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn levels(systems: &[System], metric: &str, options: &CompareOptions) -> Vec<f64> {
    if let Some(levels) = &options.levels {
        return levels.clone();
    }
    let best = systems.iter().filter_map(|system| {
        let curve = system.training.as_ref()?.cost.curve(metric);
        curve.into_iter().map(|(_, value)| value).reduce(f64::max)
    });
    match best.reduce(f64::min) {
        Some(lowest) if lowest > 0.0 => [0.5, 0.8, 0.9, 0.95].map(|share| share * lowest).to_vec(),
        _ => Vec::new(),
    }
}

fn run(
    system: &System,
    qrels: &Qrels,
    metric: &str,
    levels: &[f64],
    options: &CompareOptions,
) -> SystemRun {
    let measures = || options.measures.iter().map(|measure| measure.measure);
    let by_query: Vec<Vec<f64>> =
        system.judged(qrels).iter().map(|judged| judged.values(measures())).collect();
    let values: Vec<Vec<f64>> = (0..options.measures.len())
        .map(|measure| by_query.iter().map(|values| values[measure]).collect())
        .collect();
    let training = system.training.as_ref();
    let to_level = |&level: &f64| Some(training?.cost.to_level(metric, level));
    SystemRun {
        path: system.path.clone(),
        seed: training.map(|training| training.seed.clone()),
        means: values.iter().map(|values| mean(values)).collect(),
        cost: training.and_then(|training| training.cost.total()),
        to_levels: levels.iter().filter_map(to_level).collect(),
        values,
    }
}

impl Arm {
    fn of(name: String, mut runs: Vec<SystemRun>) -> Self {
        runs.sort_by_key(|run| run.seed.as_ref().map(|seed| (seed.len(), seed.clone())));
        let measures = runs[0].means.len();
        let of = |measure: usize| runs.iter().map(|run| run.means[measure]).collect::<Vec<_>>();
        let means = (0..measures).map(|measure| mean(&of(measure))).collect();
        let deviations = (0..measures).map(|measure| standard_deviation(&of(measure))).collect();
        Self { name, runs, means, deviations }
    }
}

/// Compares all pairs of arms, and corrects the p-values of each measure over all comparisons.
fn pairs(arms: &[Arm], measures: usize) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for first in 0..arms.len() {
        for second in first + 1..arms.len() {
            let compared = arms[first].runs.iter().flat_map(|one| {
                let same = |other: &&SystemRun| {
                    one.seed.is_none() || other.seed.is_none() || one.seed == other.seed
                };
                arms[second].runs.iter().filter(same).map(move |other| SeedComparison {
                    seed: one.seed.clone().or(other.seed.clone()),
                    differences: one
                        .values
                        .iter()
                        .zip(&other.values)
                        .map(|(one, other)| Difference::of(one, other))
                        .collect(),
                    corrected: Vec::new(),
                })
            });
            pairs.push(Pair { first, second, seeds: compared.collect() });
        }
    }
    for measure in 0..measures {
        let all = pairs.iter().flat_map(|pair| &pair.seeds);
        let p_values: Vec<f64> = all.map(|found| found.differences[measure].p).collect();
        let all = pairs.iter_mut().flat_map(|pair| &mut pair.seeds);
        all.zip(holm(&p_values)).for_each(|(found, p)| found.corrected.push(p));
    }
    pairs
}

/// Keys that have another value in some arm than in the others.
fn differing_keys(
    systems: &[System],
    groups: &[(String, Vec<usize>)],
) -> BTreeMap<String, Vec<Option<String>>> {
    let recipes: Vec<Option<&BTreeMap<String, String>>> = groups
        .iter()
        .map(|(_, group)| systems[group[0]].training.as_ref().map(|training| &training.keys))
        .collect();
    let keys: BTreeSet<&String> = recipes.iter().flatten().flat_map(|keys| keys.keys()).collect();
    let mut differing = BTreeMap::new();
    for key in keys {
        let values: Vec<Option<&String>> =
            recipes.iter().flatten().map(|keys| keys.get(key)).collect();
        if values.windows(2).any(|pair| pair[0] != pair[1]) {
            let of_arm = |keys: &Option<&BTreeMap<String, String>>| {
                keys.map(|keys| keys.get(key).cloned().unwrap_or("not set".to_owned()))
            };
            differing.insert(key.clone(), recipes.iter().map(of_arm).collect());
        }
    }
    differing
}

fn warnings(systems: &[System], arms: &[Arm], pairs: &[Pair]) -> Vec<String> {
    let mut warnings = Vec::new();
    let machines: BTreeSet<&str> = systems
        .iter()
        .filter_map(|system| Some(system.training.as_ref()?.machine.as_str()))
        .collect();
    if machines.len() > 1 {
        let machines: Vec<&str> = machines.into_iter().collect();
        warnings
            .push(format!("times and memory are of different machines: {}", machines.join("; ")));
    }
    for system in systems {
        let Some(training) = &system.training else { continue };
        let path = system.path.display();
        match &training.cost.summary {
            None => warnings.push(format!("{path} has not ended: its costs are unknown")),
            Some(summary)
                if !matches!(
                    summary.ended,
                    crate::run::RunOutcome::Finished | crate::run::RunOutcome::Stopped
                ) =>
            {
                warnings.push(format!(
                    "{path} ended after step {} of {}",
                    summary.steps, summary.total_steps
                ));
            }
            Some(_) => {}
        }
    }
    for pair in pairs.iter().filter(|pair| pair.seeds.is_empty()) {
        let [first, second] = [pair.first, pair.second].map(|arm| &arms[arm].name);
        warnings.push(format!(
            "`{first}` and `{second}` have no seed in common, so that they are not tested"
        ));
    }
    warnings
}
