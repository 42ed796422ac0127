//! The stages of a run; `stages = "detect"` measures those of the base model before it.

use super::base::Base;
use super::plan_error::PlanError;
use super::query_sets::QuerySource;
use crate::advise::StageDetection;
use crate::component::Stages;
use crate::corpus::{LoadedCorpus, Split};
use crate::device::ComputeDevice;
use crate::docid::{DocidVocabulary, TextTokenizer};
use crate::probe::{Over, PROBE_PRECISION, ProbeOptions, ProbeQueries, Subject};
use crate::recipe::{Recipe, StagesSetting};
use crate::retrieval::evaluation::QuerySet;
use crate::t5::{GenirModel, T5, weights};

/// Queries that are measured at most; they are drawn by the run's seed. The ratios of P1 are means of values between
/// about 0.2 and 1, so that 200 give them within 0.05.
const MOST_QUERIES: usize = 200;

/// Puts the stages into `recipe` that it asks to detect, if it does, and returns how they were found.
///
/// # Errors
/// Those of detection: see [`detect_stages`].
pub(super) fn resolve_stages(
    recipe: &mut Recipe,
    loaded: &LoadedCorpus,
    (tokenizer, base): &(TextTokenizer, Base),
    device: &ComputeDevice,
) -> Result<Option<StageDetection>, PlanError> {
    if recipe.stages != Some(StagesSetting::Detect) {
        return Ok(None);
    }
    let (corpus, left_out) = (&loaded.corpus, &loaded.left_out);
    let source = QuerySource { recipe, corpus, left_out, tokenizer };
    let found = detect_stages(&source, base, device)?;
    recipe.stages = Some(StagesSetting::Given(found.found.stages.clone()));
    Ok(Some(found))
}

/// The stages of a decoder of `depth` layers; none where it has too few and the recipe gives none.
pub(super) fn stages_of(recipe: &Recipe, depth: usize) -> Result<Option<Stages>, PlanError> {
    match &recipe.stages {
        Some(StagesSetting::Given(stages)) => {
            stages.check_depth(depth)?;
            Ok(Some(stages.clone()))
        }
        // They were not detected because of a problem, which is reported.
        Some(StagesSetting::Detect) => Ok(Stages::scaled(depth).ok()),
        None if depth < Stages::LEAST_DEPTH => Ok(None),
        None => Ok(Some(Stages::scaled(depth)?)),
    }
}

/// Measures the stages of `base` on queries of the recipe: of the validation set, or else training queries.
///
/// A base that has docids of the corpus is measured on the queries that it answers correctly, and P3 must confirm its
/// stages. Otherwise P1 is measured alone, which needs no docids.
///
/// # Errors
/// There are no queries, the base cannot be read, or its stages are not clear or not confirmed.
fn detect_stages(
    source: &QuerySource,
    base: &Base,
    device: &ComputeDevice,
) -> Result<StageDetection, PlanError> {
    let has_queries = |split: &Split| !source.corpus.split(*split).is_empty();
    let split = [Split::Validation, Split::Train].into_iter().find(has_queries);
    let split = split.ok_or(PlanError::NoQueriesForStages)?;
    let compute = ComputeDevice { device: device.device.clone(), precision: PROBE_PRECISION };
    let t5 = base.t5(source.recipe.run.seed, compute)?;
    let set = || source.of_split(split, Some(MOST_QUERIES));
    if let Some((known, rows)) = base.known_docids()? {
        let queries = ProbeQueries::new(with_known_docids(set()?, source, known));
        if !queries.is_empty() {
            let found = measure(source, device, (&t5, rows), known, queries, Over::Correct)?;
            return match found.confirmation.as_ref().is_none_or(|it| it.is_confirmed) {
                true => Ok(found),
                false => Err(PlanError::StagesNotConfirmed {
                    found: found.describe(),
                    depth: base.config.num_decoder_layers,
                }),
            };
        }
    }
    // A single docid stands for all that the base does not have. P1 over all queries reads no rank of it.
    let no_docids = DocidVocabulary::new(["0"])?;
    let mut set = set()?;
    set.queries.iter_mut().for_each(|query| query.relevant = vec![0]);
    let row = vec![0.0; base.config.d_model];
    measure(source, device, (&t5, row), &no_docids, ProbeQueries::new(set), Over::All)
}

/// The queries with the rows that `known` has for their relevant documents; a query without any has none.
fn with_known_docids(mut set: QuerySet, source: &QuerySource, known: &DocidVocabulary) -> QuerySet {
    for query in &mut set.queries {
        let row = |row: &u32| known.row(&source.corpus.documents.get(*row as usize)?.id);
        query.relevant = query.relevant.iter().filter_map(row).collect();
    }
    set
}

fn measure(
    source: &QuerySource,
    device: &ComputeDevice,
    (t5, rows): (&T5, Vec<f32>),
    docids: &DocidVocabulary,
    mut queries: ProbeQueries,
    over: Over,
) -> Result<StageDetection, PlanError> {
    let rows = weights::docids_from(rows, t5.config().d_model, &device.device);
    let model = GenirModel { t5: t5.clone(), docids: rows };
    let subject = Subject {
        model: &model,
        device: &device.device,
        tokenizer: source.tokenizer,
        docids,
        checkpoint: String::new(),
        step: None,
        encoder_is_frozen: true,
    };
    let options = ProbeOptions { over, ..ProbeOptions::new(None) };
    Ok(StageDetection::measure(&subject, &mut queries, &options)?)
}
