//! Stored probe results of several arms side by side: which mechanisms differ, and by how much.
//!
//! Each number is a mean over the runs of an arm. Where the results hold the rank of every query (`probes.per_query`),
//! pairs of runs are also compared query by query: on all queries that both were measured on, and on those whose relevant
//! docid is at rank 1 in both.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::significance::{Difference, mean, standard_deviation};
use super::system::System;
use super::{Arm, CompareError};
use crate::monitor::Line;
use crate::probe::{MeasuredOn, Probe, Record, files};
use crate::report::{UNPATCHED, measured_on, points, ranks_by_place};
use crate::run::RunDirectory;

/// The results of one probe in several arms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeComparison {
    /// The probe.
    pub probe: Probe,
    /// The arms that have results of it, as indices.
    pub arms: Vec<usize>,
    /// The step after which each run was measured: the last one at which all of them were, else the last one of each.
    pub steps: Vec<Vec<Option<u64>>>,
    /// The queries that each arm's first run was measured on.
    pub measured_on: Vec<String>,
    /// The numbers, under their tags in TensorBoard.
    pub quantities: Vec<Quantity>,
    /// Comparisons query by query; empty unless the results hold the rank of every query.
    pub pairs: Vec<RankComparison>,
}

/// A number of a probe's result in several arms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quantity {
    /// Its tag, without `probe/<probe>/`.
    pub name: String,
    /// True for a quantity of a single layer.
    #[serde(skip)]
    pub of_layer: bool,
    /// Mean over the runs of each of [`ProbeComparison::arms`]; `None` where it is undefined.
    pub means: Vec<Option<f64>>,
    /// Standard deviation over the seeds; `None` for fewer than two runs.
    pub deviations: Vec<Option<f64>>,
}

/// The share of queries whose relevant docid is not at rank 1, in two runs, over the same queries.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankComparison {
    /// The index of the first arm.
    pub first: usize,
    /// The index of the second arm; a positive difference means that more of its queries are beyond rank 1.
    pub second: usize,
    /// The seed.
    pub seed: Option<String>,
    /// The intervention or the site, such as `mlp III zero`.
    pub of: String,
    /// Over the queries that both runs were measured on; `None` if there is none.
    pub all: Option<Difference>,
    /// Over those whose relevant docid is at rank 1 in both runs, without intervention; `None` if there is none.
    pub correct_in_both: Option<Difference>,
}

/// Records of one run, the last of each probe and step.
type Measured = HashMap<Probe, BTreeMap<Option<u64>, Record>>;

/// Compares the stored results of the arms' runs. `groups` are the indices of the systems of each arm, in the order of
/// [`Arm::runs`]. Also returns doubts.
pub(super) fn compare(
    systems: &[System],
    arms: &[Arm],
) -> Result<(Vec<ProbeComparison>, Vec<String>), CompareError> {
    let mut measured: Vec<Vec<Measured>> = Vec::new();
    for arm in arms {
        let of_run = |run: &super::SystemRun| match systems.iter().find(|one| one.path == run.path)
        {
            Some(system) if system.training.is_some() => read(system),
            _ => Ok(Measured::new()),
        };
        measured.push(arm.runs.iter().map(of_run).collect::<Result<_, _>>()?);
    }
    let (mut found, mut warnings) = (Vec::new(), Vec::new());
    for &probe in Probe::ALL {
        let has = |runs: &[Measured]| runs.iter().any(|run| run.contains_key(&probe));
        let (with, without): (Vec<usize>, Vec<usize>) =
            (0..arms.len()).partition(|&arm| has(&measured[arm]));
        if with.is_empty() {
            continue;
        }
        for arm in
            without.into_iter().filter(|&arm| arms[arm].runs.iter().any(|run| run.seed.is_some()))
        {
            let Arm { name, runs, .. } = &arms[arm];
            let run = runs[0].path.display();
            warnings.push(format!(
                "`{name}` has no results of {probe}: `genir probe {run} --probe {probe} --save` measures them"
            ));
        }
        if with.len() > 1 {
            match of_probe(probe, &with, arms, &measured) {
                Ok(compared) => found.push(compared),
                Err(why) => warnings.push(why),
            }
        }
    }
    Ok((found, warnings))
}

fn read(system: &System) -> Result<Measured, CompareError> {
    let run = RunDirectory::open(&system.path)?;
    let mut measured = Measured::new();
    for record in files::read_histories(&run.probes())?.records {
        let of_probe = measured.entry(record.result.probe()).or_default();
        of_probe.insert(record.measured_on.step, record);
    }
    Ok(measured)
}

/// Compares the results of one probe; an error says why they cannot be compared.
fn of_probe<'a>(
    probe: Probe,
    with: &[usize],
    arms: &[Arm],
    measured: &'a [Vec<Measured>],
) -> Result<ProbeComparison, String> {
    let histories: Vec<Vec<&BTreeMap<Option<u64>, Record>>> = with
        .iter()
        .map(|&arm| measured[arm].iter().filter_map(|run| run.get(&probe)).collect())
        .collect();
    let mut common: Option<BTreeSet<Option<u64>>> = None;
    for history in histories.iter().flatten() {
        let steps: BTreeSet<Option<u64>> = history.keys().copied().collect();
        common = Some(common.map_or(steps.clone(), |common| &common & &steps));
    }
    let step = common.and_then(|common| common.last().copied());
    let records: Vec<Vec<&Record>> = histories
        .iter()
        .map(|runs| {
            let record = |history: &&'a BTreeMap<Option<u64>, Record>| match step {
                Some(step) => history.get(&step),
                None => history.values().next_back(),
            };
            runs.iter().filter_map(record).collect()
        })
        .collect();
    check(probe, with, arms, &records)?;
    let steps = |runs: &Vec<&Record>| runs.iter().map(|record| record.measured_on.step).collect();
    Ok(ProbeComparison {
        probe,
        arms: with.to_vec(),
        steps: records.iter().map(steps).collect(),
        measured_on: records
            .iter()
            .map(|runs| runs.first().map_or_else(String::new, |record| measured_on(record)))
            .collect(),
        quantities: quantities(probe, &records),
        pairs: by_query(probe, with, arms, measured, &records),
    })
}

/// Describes the settings that change what a probe's numbers mean, and in which two measurements differ.
pub(crate) fn differing_settings(one: &MeasuredOn, other: &MeasuredOn) -> Vec<String> {
    let pairs = settings(one).into_iter().zip(settings(other));
    pairs
        .filter(|(one, other)| one != other)
        .map(|((name, one), (_, other))| format!("{name} is {one} and {other}"))
        .collect()
}

fn settings(on: &MeasuredOn) -> [(&'static str, String); 4] {
    let stages = on.stages.as_ref().map(|stages| stages.to_string());
    [
        ("queries", on.queries.clone()),
        ("over", on.over.to_string()),
        ("vocabulary", on.vocabulary.to_string()),
        ("stages", stages.unwrap_or_else(|| "none".to_owned())),
    ]
}

fn check(
    probe: Probe,
    with: &[usize],
    arms: &[Arm],
    records: &[Vec<&Record>],
) -> Result<(), String> {
    let all =
        || with.iter().zip(records).flat_map(|(&arm, runs)| runs.iter().map(move |run| (arm, run)));
    let Some((first, record)) = all().next() else { return Ok(()) };
    for (other, found) in all() {
        let differing = differing_settings(&record.measured_on, &found.measured_on);
        if !differing.is_empty() {
            return Err(format!(
                "the results of {probe} of `{}` and `{}` are not compared: {}",
                arms[first].name,
                arms[other].name,
                differing.join("; ")
            ));
        }
    }
    Ok(())
}

fn quantities(probe: Probe, records: &[Vec<&Record>]) -> Vec<Quantity> {
    let prefix = format!("probe/{probe}/");
    let mut order: Vec<(String, bool)> = Vec::new();
    let mut values: HashMap<String, Vec<Vec<f64>>> = HashMap::new();
    for (arm, record) in
        records.iter().enumerate().flat_map(|(arm, runs)| runs.iter().map(move |run| (arm, run)))
    {
        for point in points(record) {
            let tag = point.tag();
            let name = tag.strip_prefix(&prefix).unwrap_or(&tag).to_owned();
            let of_name = values.entry(name.clone()).or_insert_with(|| {
                order.push((name, matches!(point.line, Line::Layer(_))));
                vec![Vec::new(); records.len()]
            });
            of_name[arm].push(point.value);
        }
    }
    order
        .into_iter()
        .filter_map(|(name, of_layer)| {
            let by_arm = values.remove(&name)?;
            let means = by_arm.iter().map(|values| (!values.is_empty()).then(|| mean(values)));
            let deviations = by_arm.iter().map(|values| standard_deviation(values));
            Some(Quantity {
                means: means.collect(),
                deviations: deviations.collect(),
                name,
                of_layer,
            })
        })
        .collect()
}

/// The rank of each query and docid, by intervention or site.
type Ranks = BTreeMap<String, HashMap<(String, String), u32>>;

fn ranks(record: &Record) -> Ranks {
    let mut ranks = Ranks::new();
    for (of, found, rank) in ranks_by_place(record) {
        ranks.entry(of).or_default().insert((found.query.clone(), found.docid.clone()), rank);
    }
    ranks
}

fn by_query(
    probe: Probe,
    with: &[usize],
    arms: &[Arm],
    measured: &[Vec<Measured>],
    records: &[Vec<&Record>],
) -> Vec<RankComparison> {
    // Runs without results of the probe are not among `records`.
    let seeds = |arm: usize| {
        let runs = arms[arm].runs.iter().zip(&measured[arm]);
        runs.filter(|(_, found)| found.contains_key(&probe)).map(|(run, _)| run.seed.clone())
    };
    let of_run: Vec<Vec<_>> = with
        .iter()
        .zip(records)
        .map(|(&arm, runs)| seeds(arm).zip(runs.iter().map(|record| ranks(record))).collect())
        .collect();
    let mut compared = Vec::new();
    for (place, &first) in with.iter().enumerate() {
        for (other_place, &second) in with.iter().enumerate().skip(place + 1) {
            for (seed, one) in &of_run[place] {
                let same = of_run[other_place].iter().filter(|(other, _)| other == seed);
                for (_, other) in same {
                    compared.extend(compare_ranks(one, other).into_iter().map(
                        |(of, all, correct_in_both)| RankComparison {
                            first,
                            second,
                            seed: seed.clone(),
                            of,
                            all,
                            correct_in_both,
                        },
                    ));
                }
            }
        }
    }
    compared
}

/// The differences of each intervention that both runs have.
fn compare_ranks(
    one: &Ranks,
    other: &Ranks,
) -> Vec<(String, Option<Difference>, Option<Difference>)> {
    let beyond_1 = |rank: &u32| f64::from(u8::from(*rank > 1));
    let unpatched = one.get(UNPATCHED).zip(other.get(UNPATCHED));
    let is_correct = |key: &(String, String)| {
        unpatched.is_some_and(|(one, other)| one.get(key) == Some(&1) && other.get(key) == Some(&1))
    };
    let interventions = one.iter().filter_map(|(of, ranks)| Some((of, ranks, other.get(of)?)));
    interventions
        .map(|(of, one, other)| {
            let mut both: Vec<&(String, String)> =
                one.keys().filter(|key| other.contains_key(*key)).collect();
            both.sort_unstable();
            let difference = |keys: Vec<&(String, String)>| {
                let of = |ranks: &HashMap<(String, String), u32>| {
                    keys.iter().map(|key| beyond_1(&ranks[*key])).collect::<Vec<_>>()
                };
                (!keys.is_empty()).then(|| Difference::of(&of(one), &of(other)))
            };
            let correct = both.iter().copied().filter(|key| is_correct(key)).collect();
            (of.clone(), difference(both), difference(correct))
        })
        .collect()
}
