//! Runs that differ in their seed only are the seeds of one arm; arms are compared pair by pair, seed by seed.

use std::collections::BTreeMap;
use std::path::Path;

use super::significance::{Difference, bootstrap_interval, holm, mean, standard_deviation};
use super::system::{Qrels, System};
use super::{Arm, CompareError, CompareOptions, Pair, Pairs, SeedComparison, SystemRun};

/// The arms: names, and indices of their systems.
pub(super) fn arms(systems: &[System]) -> Result<Vec<(String, Vec<usize>)>, CompareError> {
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

/// The levels that were asked for, or else shares of the best value of the first arm that was trained: the mean of its seeds.
pub(super) fn levels(
    systems: &[System],
    groups: &[(String, Vec<usize>)],
    metric: &str,
    options: &CompareOptions,
) -> Vec<f64> {
    if let Some(levels) = &options.levels {
        return levels.clone();
    }
    let best = |&index: &usize| {
        let curve = systems[index].training.as_ref()?.cost.curve(metric);
        curve.into_iter().map(|(_, value)| value).reduce(f64::max)
    };
    let mut of_arms =
        groups.iter().map(|(_, runs)| runs.iter().filter_map(best).collect::<Vec<_>>());
    let reference = of_arms.find(|best| !best.is_empty());
    match reference.map(|best| mean(&best)) {
        Some(best) if best > 0.0 => [0.5, 0.8, 0.9, 0.95].map(|share| share * best).to_vec(),
        _ => Vec::new(),
    }
}

pub(super) fn run(
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
        intervals: values.iter().map(|values| bootstrap_interval(values)).collect(),
        cost: training.and_then(|training| training.cost.total()),
        to_levels: levels.iter().filter_map(to_level).collect(),
        values,
    }
}

impl Arm {
    pub(super) fn of(name: String, mut runs: Vec<SystemRun>) -> Self {
        runs.sort_by_key(|run| run.seed.as_ref().map(|seed| (seed.len(), seed.clone())));
        let measures = runs[0].means.len();
        let of = |measure: usize| runs.iter().map(|run| run.means[measure]).collect::<Vec<_>>();
        let means = (0..measures).map(|measure| mean(&of(measure))).collect();
        let deviations = (0..measures).map(|measure| standard_deviation(&of(measure))).collect();
        Self { name, runs, means, deviations }
    }

    /// A measure as text: the mean with the standard deviation over the seeds, or with the bootstrap interval of a single run.
    pub(crate) fn shown(&self, measure: usize) -> String {
        let (mean, [low, high]) = (self.means[measure], self.runs[0].intervals[measure]);
        match self.deviations[measure] {
            Some(deviation) => format!("{mean:.4} ± {deviation:.4}"),
            None => format!("{mean:.4} [{low:.4}, {high:.4}]"),
        }
    }
}

/// Compares pairs of arms, and corrects the p-values of each measure over all comparisons.
pub(super) fn pairs(arms: &[Arm], options: &CompareOptions) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let references = match options.pairs {
        Pairs::All => arms.len(),
        Pairs::First => 1,
    };
    for first in 0..references {
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
    for measure in 0..options.measures.len() {
        let all = pairs.iter().flat_map(|pair| &pair.seeds);
        let p_values: Vec<f64> = all.map(|found| found.differences[measure].p).collect();
        let all = pairs.iter_mut().flat_map(|pair| &mut pair.seeds);
        all.zip(holm(&p_values)).for_each(|(found, p)| found.corrected.push(p));
    }
    pairs
}
