//! Checks that a run can evaluate, save, stop and probe as its recipe says.

use std::collections::BTreeSet;

use super::plan_error::PlanError;
use super::query_sets::metrics_of;
use super::shards::DOCIDS;
use crate::component::Stages;
use crate::corpus::{Corpus, Split};
use crate::docid::RowInit;
use crate::probe::{Probe, ProbeError, ProbeOptions, Suite};
use crate::recipe::{OptimizerSettings, ProbesSection, Recipe};
use crate::retrieval::evaluation::QuerySet;
use crate::t5::T5Config;

/// A problem for each split that is to be evaluated and has no queries.
pub(super) fn missing_splits<'a>(
    recipe: &'a Recipe,
    corpus: &'a Corpus,
) -> impl Iterator<Item = PlanError> + 'a {
    let is_missing = move |split: &&Split| corpus.split(**split).is_empty();
    recipe.evaluate.splits.iter().filter(is_missing).map(move |&split| {
        let others = Split::ALL.iter().copied().filter(|other| !corpus.split(*other).is_empty());
        PlanError::NoQueries { split, others: others.collect() }
    })
}

/// A problem for each metric that the run goes by and no evaluation of it gives. `sets` are all that is ranked;
/// `held_out`: texts are held out of denoising.
pub(super) fn missing_metrics(
    recipe: &Recipe,
    corpus: &Corpus,
    sets: &[(QuerySet, Option<Split>)],
    held_out: bool,
) -> Vec<PlanError> {
    let given = metrics_of(sets, held_out);
    let saved = ("save.best_metric", &recipe.save.best_metric);
    let stopped = recipe.stop.iter().map(|stop| ("stop.metric", &stop.metric));
    let mut asked: Vec<(&'static str, &String)> = [saved].into_iter().chain(stopped).collect();
    asked.dedup_by_key(|(_, metric)| *metric);
    // That a split is missing is a problem of its own.
    let of_missing = |metric: &str| {
        let set = metric.split('/').next().unwrap_or_default();
        recipe
            .evaluate
            .splits
            .iter()
            .any(|&split| split.to_string() == set && corpus.split(split).is_empty())
    };
    let missing =
        asked.into_iter().filter(|(_, metric)| !given.contains(metric) && !of_missing(metric));
    let problem = |(key, metric): (&'static str, &String)| PlanError::NoMetric {
        key,
        metric: metric.clone(),
        rankings: sets.iter().flat_map(|(set, _)| set.rankings()).map(|(name, _)| name).collect(),
    };
    missing.map(problem).collect()
}

/// The split whose queries are probed, and the one that circuits are evaluated on.
///
/// # Errors
/// A problem for each of them that has no queries.
pub(super) fn splits_to_probe(
    section: &ProbesSection,
    corpus: &Corpus,
) -> Result<(Split, Split), Vec<PlanError>> {
    let test = match section.test_split {
        Some(test) => test,
        None if corpus.test.is_empty() => section.split,
        None => Split::Test,
    };
    let asked = [("split", Some(section.split)), ("test_split", section.test_split)];
    let is_missing = |split: &Split| corpus.split(*split).is_empty();
    let missing: Vec<PlanError> = asked
        .into_iter()
        .filter_map(|(key, split)| Some((key, split.filter(is_missing)?)))
        .map(|(key, split)| PlanError::NoProbeQueries { key, split })
        .collect();
    if missing.is_empty() { Ok((section.split, test)) } else { Err(missing) }
}

/// A problem for each thing that cannot be done while docid rows are divided among processes. `trained`: the names of the
/// trained parameters.
pub(super) fn unfit_for_shards(recipe: &Recipe, trained: &BTreeSet<String>) -> Vec<PlanError> {
    if recipe.docids.shard && recipe.task.of_docids() == 0 {
        let problem = "no task has docids as its target; remove the key";
        return vec![PlanError::Shard(problem)];
    }
    let Recipe { docids, optimizer, watch, probes, .. } = recipe;
    let adafactor = matches!(optimizer.optimizer, OptimizerSettings::Adafactor { .. });
    let watched = watch.as_ref().and_then(|watch| watch.parameters_every_steps).is_some();
    let problems = [
        (
            !trained.contains(DOCIDS),
            "frozen docid rows cannot be divided; add \"docids\" to trainable.select",
        ),
        (
            adafactor,
            "Adafactor needs all docid rows for its column moments; set optimizer.name = \"adamw\"",
        ),
        (
            docids.rows == RowInit::Encoder,
            "docids.rows = \"encoder\" scales all rows together; use \"random\" or \"text\"",
        ),
        (
            probes.is_some(),
            "probes need all docid rows in one process; remove [probes], and use `genir probe` after the run",
        ),
        (watched, "watch.parameters_every_steps reads all parameters in one process; remove it"),
    ];
    let unfit = problems.into_iter().filter(|(is_unfit, _)| docids.shard && *is_unfit);
    unfit.map(|(_, problem)| PlanError::Shard(problem)).collect()
}

/// The problems of the patches in `[probes]`, and a problem for each probe that needs stages where there
/// are none.
pub(super) fn unfit_probes(
    section: &ProbesSection,
    stages: Option<&Stages>,
    config: &T5Config,
) -> Vec<PlanError> {
    let asked = section.options(stages);
    let depth = config.num_decoder_layers;
    let without = section.run.iter().filter(|probe| probe.needs_stages(&asked)).map(|&probe| {
        PlanError::Probes { key: "run", problem: ProbeError::NeedsStages { probe, depth } }
    });
    let options = ProbeOptions { patches: Vec::new(), circuit: Vec::new(), ..asked.clone() };
    let unfit = |key, probe, options| match Suite::new(&[probe], options, config) {
        Ok(_) => None,
        Err(problem) => Some(PlanError::Probes { key, problem }),
    };
    let patches = section.patches.iter().filter_map(|patch| {
        let options = ProbeOptions { patches: vec![patch.clone()], ..options.clone() };
        unfit("patches", Probe::StagePatching, options)
    });
    let circuit = section.circuit_patches.iter().filter_map(|patch| {
        let options = ProbeOptions { circuit: vec![patch.clone()], ..options.clone() };
        unfit("circuit_patches", Probe::Circuit, options)
    });
    without.chain(patches).chain(circuit).collect()
}
