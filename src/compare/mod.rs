//! Compares runs: effectiveness with tests over the same queries, and cost.
//!
//! Runs that differ in nothing but their seed are the seeds of one [`Arm`]. Arms are compared pair by pair, and only runs
//! of the same seed with each other: seeds are averaged, and never pooled as if they were more queries. A TREC run of
//! another system has no seed, and is compared with each seed of the others.
//!
//! A run is represented by its last evaluation: `retrieval/<split>.run`, which ends at `evaluate.run_depth`.

mod arms;
mod cost;
mod error;
mod mechanisms;
mod render;
mod significance;
mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

pub use cost::{Cost, CostToLevel, Reached};
pub use error::CompareError;
pub(crate) use mechanisms::differing_settings;
pub use mechanisms::{ProbeComparison, Quantity, RankComparison};
pub use render::{csv, latex, probes_csv, table, wins_and_losses};
pub use significance::{Difference, holm, mean, standard_deviation};
pub(crate) use significance::{SIGNIFICANT, bootstrap_interval_of, mean_of, p_value};
pub(crate) use system::keys_with_effect;

use crate::corpus::Split;
use crate::retrieval::NamedMeasure;
use arms::{arms, levels, pairs, run};
use system::{Qrels, System, qrels_of};

/// Options of a comparison.
pub struct CompareOptions {
    /// The queries.
    pub split: Split,
    /// The measures; the first one is that of wins and losses, and of significance in LaTeX.
    pub measures: Vec<NamedMeasure>,
    /// Judgements; `None`: those of the runs.
    pub qrels: Option<PathBuf>,
    /// Levels of `<split>/hits@1` for the cost to reach them; `None`: 50, 80, 90 and 95% of the best value of the
    /// first arm that was trained.
    pub levels: Option<Vec<f64>>,
    /// The pairs of arms that are tested.
    pub pairs: Pairs,
}

/// The pairs of arms that are tested against each other. The correction for multiple comparisons is for these.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pairs {
    /// Each arm with each other one.
    #[default]
    All,
    /// Each arm with the first one.
    First,
}

impl FromStr for Pairs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "first" => Ok(Self::First),
            _ => Err("expected all or first".to_owned()),
        }
    }
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
    /// Comparisons of pairs of arms: see [`CompareOptions::pairs`].
    pub pairs: Vec<Pair>,
    /// Keys of the recipes that differ between arms, with the value of each arm; `None` for arms without a recipe.
    pub differing_keys: BTreeMap<String, Vec<Option<String>>>,
    /// The probe results that at least two arms have.
    pub probes: Vec<ProbeComparison>,
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
    /// The 95% bootstrap interval of each mean, over samples of the queries.
    pub intervals: Vec<[f64; 2]>,
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
    let levels = levels(&systems, &groups, &metric, options);
    let arms: Vec<Arm> = groups
        .iter()
        .map(|(name, members)| {
            let runs = members
                .iter()
                .map(|&index| run(&systems[index], &qrels, &metric, &levels, options));
            Arm::of(name.clone(), runs.collect())
        })
        .collect();
    let pairs = pairs(&arms, options);
    let (probes, doubts) = mechanisms::compare(&systems, &arms)?;
    let mut warnings = warnings(&systems, &arms, &pairs);
    warnings.extend(doubts);
    Ok(Comparison {
        split: options.split.to_string(),
        queries: qrels.len(),
        measures: options.measures.iter().map(|measure| measure.name.clone()).collect(),
        differing_keys: differing_keys(&systems, &groups),
        probes,
        warnings,
        query_ids: qrels.into_keys().collect(),
        arms,
        pairs,
    })
}

/// The judgements, which must be the same in all runs, and the file or run that they come from.
fn qrels(systems: &[System], options: &CompareOptions) -> Result<(PathBuf, Qrels), CompareError> {
    let given = options.qrels.as_ref().map(|file| Ok::<_, CompareError>((file, qrels_of(file)?)));
    let given = given.transpose()?;
    let given = given.as_ref().map(|(file, qrels)| (*file, qrels));
    let own =
        systems.iter().filter_map(|system| Some((&system.path, &system.training.as_ref()?.qrels)));
    let mut all = given.into_iter().chain(own);
    let (first, qrels) = all.next().ok_or(CompareError::NoQrels)?;
    if let Some((second, others)) = all.find(|(_, others)| *others != qrels) {
        let (first, second) = (first.clone(), second.clone());
        return Err(CompareError::OtherQueries { first, second, found: difference(qrels, others) });
    }
    Ok((first.clone(), qrels.clone()))
}

/// The difference between the judgements of two runs.
fn difference(first: &Qrels, second: &Qrels) -> String {
    let missing = first.keys().filter(|&query| !second.contains_key(query)).count();
    let more = second.keys().filter(|&query| !first.contains_key(query)).count();
    let other = |(query, relevant): &(&String, &BTreeMap<String, u32>)| {
        second.get(*query).is_some_and(|other| other != *relevant)
    };
    match first.iter().find(other) {
        Some((query, _)) if missing + more == 0 => {
            format!("query `{query}` has other relevant documents")
        }
        _ => format!(
            "of {} and {} judged queries, {missing} are in the first only and {more} in the second only",
            first.len(),
            second.len()
        ),
    }
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
