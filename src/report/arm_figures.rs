//! Figures of a probe's results in the runs of an arm, and in several arms.

use std::collections::{BTreeMap, BTreeSet};

use super::figures::combine::{beside, describe_seeds, over_seeds};
use super::figures::spec::FigureSpec;
use super::figures::{sentences, specs};
use super::measured_on;
use super::page::subject;
use crate::probe::{Record, Skipped};

/// The results of one probe in one run, oldest first.
pub struct History<'a> {
    /// The keys of its recipe.
    pub keys: &'a BTreeMap<String, String>,
    pub records: Vec<Record>,
    pub skipped: &'a [Skipped],
}

/// The figures of one probe in one arm: of its run, or means over its seeds.
pub struct ArmFigures {
    name: String,
    /// The arm, its base model, the collection, and the queries that were measured.
    about: String,
    seeds: usize,
    figures: Vec<FigureSpec>,
}

impl ArmFigures {
    /// Returns the figures of runs that differ in their seed; `None` without runs. Of several runs, those steps are drawn at
    /// which all of them were measured, or else the newest of each.
    pub fn of(name: &str, mut runs: Vec<History>) -> Option<Self> {
        if runs.len() > 1 {
            align(&mut runs);
        }
        let first = runs.first()?;
        let seeds: Vec<String> =
            runs.iter().filter_map(|run| run.keys.get("run.seed").cloned()).collect();
        let arm = match (runs.len(), seeds.len()) {
            (1, _) => name.to_owned(),
            (count, 0) => format!("{name} ({count} seeds)"),
            _ => format!("{name} (seeds {})", seeds.join(", ")),
        };
        let about = match first.keys.is_empty() {
            true => arm,
            false => subject(&arm, first.keys),
        };
        let measured: Vec<String> =
            runs.iter().filter_map(|run| run.records.last()).map(measured_on).collect();
        let measured = merged(&measured);
        let by_seed: Vec<Vec<FigureSpec>> =
            runs.iter().map(|run| specs(&run.records, run.skipped)).collect();
        let figures = by_seed[0].iter().filter_map(|figure| {
            let same = by_seed.iter().map(|seed| seed.iter().find(|f| f.name == figure.name));
            over_seeds(&same.map(|figure| figure.cloned()).collect::<Option<Vec<_>>>()?)
        });
        Some(Self {
            name: name.to_owned(),
            about: format!("{about}: {measured}"),
            seeds: runs.len(),
            figures: figures.filter(|figure| !figure.panels.is_empty()).collect(),
        })
    }
}

/// Describes the measurements of several seeds in one phrase, which has the values of all seeds where they differ: `step 670, 6 /
/// 5 / 2 correct of 100 queries`.
fn merged(descriptions: &[String]) -> String {
    let words: Vec<Vec<&str>> = descriptions.iter().map(|text| text.split(' ').collect()).collect();
    if words.iter().any(|other| other.len() != words[0].len()) {
        return descriptions.join("; ");
    }
    let at = |place: usize| {
        let of_seeds: Vec<&str> = words.iter().map(|words| words[place]).collect();
        match of_seeds.iter().all(|word| *word == of_seeds[0]) {
            true => of_seeds[0].to_owned(),
            false => of_seeds.join(" / "),
        }
    };
    (0..words[0].len()).map(at).collect::<Vec<_>>().join(" ")
}

/// Leaves of each history the last measurement of each step at which all were measured; if there is no such step, the
/// newest of each.
fn align(runs: &mut [History]) {
    let common = common_steps(runs.iter());
    for run in runs {
        let newest = run.records.last().cloned();
        let by_step: BTreeMap<Option<u64>, Record> =
            run.records.drain(..).map(|record| (record.measured_on.step, record)).collect();
        run.records = by_step
            .into_iter()
            .filter(|(step, _)| common.contains(step))
            .map(|(_, record)| record)
            .collect();
        if run.records.is_empty() {
            run.records.extend(newest);
        }
    }
}

/// Returns the steps at which all of the runs were measured.
pub fn common_steps<'a>(runs: impl Iterator<Item = &'a History<'a>>) -> BTreeSet<Option<u64>> {
    let steps = runs.map(|run| {
        run.records.iter().map(|record| record.measured_on.step).collect::<BTreeSet<_>>()
    });
    steps.reduce(|all, run| &all & &run).unwrap_or_default()
}

/// Returns the figures of one probe in several arms, each in one figure with the notes of all of them.
pub fn together(arms: &[ArmFigures]) -> Vec<FigureSpec> {
    let mut names: Vec<&str> = Vec::new();
    for figure in arms.iter().flat_map(|arm| &arm.figures) {
        if !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    let figure = |name: &&str| {
        let of_arm = |arm: &ArmFigures| {
            let found = arm.figures.iter().find(|figure| figure.name == **name)?;
            Some((arm.name.clone(), found.clone()))
        };
        let found: Vec<(String, FigureSpec)> = arms.iter().filter_map(of_arm).collect();
        let mut hints: Vec<String> = found.iter().map(|(_, figure)| figure.note.clone()).collect();
        match hints.iter().all(|hint| *hint == hints[0]) {
            true => hints.truncate(1),
            false => {
                for (hint, (name, _)) in hints.iter_mut().zip(&found) {
                    *hint = format!("{name}: {hint}");
                }
            }
        }
        let about: Vec<&str> = arms.iter().map(|arm| arm.about.as_str()).collect();
        let seeds = arms.iter().map(|arm| arm.seeds).max().unwrap_or(1);
        let means = if seeds > 1 { describe_seeds(seeds) } else { String::new() };
        let note = sentences(&[&about.join("; "), &hints.join("; "), &means]);
        Some(FigureSpec { note, ..beside(&found)? })
    };
    names.iter().filter_map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::merged;

    #[test]
    fn measurements_of_several_seeds_are_described_in_one_phrase() {
        let of =
            |texts: &[&str]| merged(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["step 9, 6 correct"]), "step 9, 6 correct");
        assert_eq!(of(&["step 9, 6 correct", "step 9, 5 correct"]), "step 9, 6 / 5 correct");
        assert_eq!(of(&["step 9, 6 correct", "step 9"]), "step 9, 6 correct; step 9");
    }
}
