//! Memory of callbacks between two steps (evaluations, checkpoints, probes), while no step holds its gradients and
//! activations.

use super::{F32, LoraSizes};
use crate::device::is_host;
use crate::probe::{Over, Probe, ProbeSizes};
use crate::recipe::ProbesSection;
use crate::retrieval::ranks::ranked_bytes;
use crate::t5::T5Config;
use crate::train::callback::Cadence;
use crate::train::checks::splits_to_probe;
use crate::train::plan::Plan;
use crate::train::shards::DOCIDS;

/// Bytes that an evaluation needs at once: the states of a batch of queries, its logits and their comparison.
pub(super) fn evaluation(plan: &Plan, longest: usize, stored: bool, documents: usize) -> usize {
    let (section, config) = (&plan.recipe.evaluate, plan.config());
    // Queries may be longer than any text of training, also by unmasked padding.
    let queries = plan.query_sets.iter().flat_map(|(set, _)| &set.queries);
    let asked = queries.map(|query| query.tokens.len()).max().unwrap_or(0);
    let longest = longest.max(asked).max(section.unmasked_padding.unwrap_or(0));
    let most = plan.query_sets.iter().map(|(set, _)| set.ids.len()).max().unwrap_or(0);
    let batch_size = section.batch_size.min(most);
    let states = batch_size * longest * config.d_model;
    let made = if stored { 0 } else { config.layer_temporaries(batch_size, longest) };
    let ranked = match most {
        0 => 0,
        _ => {
            F32 * (states + made)
                + ranked_bytes(config.vocab_size, batch_size, documents, section.vocabulary)
        }
    };
    ranked.max(held_out(plan))
}

/// Bytes that the denoising loss of a batch of held-out texts needs at once.
fn held_out(plan: &Plan) -> usize {
    let config = plan.config();
    let batch_size = plan.recipe.evaluate.batch_size.min(plan.held_out.len());
    let counts = plan.recipe.task.options().denoising.counts(plan.held_out.longest());
    let (tokens, labels) = (batch_size * counts.source(), batch_size * counts.target());
    let logits = match is_host(&plan.device) {
        true => 0,
        false => 5 * labels * config.vocab_size,
    };
    let layer = config.layer_temporaries(batch_size, counts.source().max(counts.target()));
    F32 * ((tokens + labels) * config.d_model + layer + logits)
}

/// Floats that writing the largest tensor needs: words and docids as one.
pub(super) fn saved(config: &T5Config, documents: usize) -> usize {
    (config.vocab_size + documents) * config.d_model
}

/// Bytes of the base model beside the model, and whether training goes on beside it. Where the run started from it,
/// they share what is frozen.
pub(super) fn base(plan: &Plan) -> (usize, bool) {
    let Some(section) = &plan.recipe.probes else { return (0, false) };
    let using = || section.run.iter().filter(|probe| probe.uses_base());
    let Some(base) = plan.probe_base() else { return (0, false) };
    let between = using().any(|&probe| section.every(probe).is_some());
    let docids = match plan.trained.contains(DOCIDS) {
        true => plan.docids.len() * plan.config().d_model,
        false => 0,
    };
    let lora = LoraSizes::of(plan);
    let own = match base.is_start() {
        true => plan.table.total.trained - docids - lora.factors + lora.adapted,
        false => {
            plan.table.total.parameters - lora.factors - plan.docids.len() * plan.config().d_model
        }
    };
    (F32 * own, section.at_start || between)
}

/// Queries of each set that is probed: those ranked, and those that circuits are judged on.
fn probed(plan: &Plan, section: &ProbesSection, probes: &[Probe]) -> [usize; 2] {
    let Ok((split, test)) = splits_to_probe(section, &plan.corpus) else { return [0, 0] };
    let most = probes.iter().map(|&probe| section.queries(probe)).max().unwrap_or(0);
    let judges = probes.contains(&Probe::Circuit);
    let of = |split| plan.corpus.split(split).len().min(most);
    [of(split), if judges { of(test) } else { 0 }]
}

/// Queries of probes whose frozen prefix is stored: they are read more than once, and no evaluation reads them.
pub(super) fn stored_queries(plan: &Plan) -> usize {
    let Some(section) = &plan.recipe.probes else { return 0 };
    let every = section.run.iter().any(|&probe| section.every(probe).is_some());
    let cadence =
        Cadence { every: every.then_some(1), at_start: section.at_start, at_end: section.at_end };
    let Ok((split, test)) = splits_to_probe(section, &plan.corpus) else { return 0 };
    if cadence.times(2) < 2 {
        return 0;
    }
    let [queries, judged] = probed(plan, section, &section.run);
    let evaluated = |split| plan.recipe.evaluate.splits.contains(&split);
    let of = |split, queries| if evaluated(split) { 0 } else { queries };
    of(split, queries) + of(test, judged)
}

/// Bytes that probes need at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProbesNeed {
    /// Where there is no query to measure over: while none is correct, if the correct ones are measured.
    pub least: usize,
    /// Where all queries are measured.
    pub most: usize,
}

/// The memory that probes need at once. How many queries will be correct is not known at the start.
pub(super) fn probes(
    plan: &Plan,
    section: &ProbesSection,
    longest: usize,
    stored: bool,
) -> ProbesNeed {
    let config = plan.config();
    let [queries, judged] = probed(plan, section, &section.run);
    let sizes = ProbeSizes {
        config,
        documents: plan.docids.len(),
        queries: queries.max(judged),
        batch_size: section.batch_size,
        length: longest,
        vocabulary: section.vocabulary,
    };
    let compares = plan.probe_base().is_some();
    // The model's own and the base's, of both sets; where the encoder is frozen they are one, and the run has them.
    let kept = if stored { 0 } else { (1 + usize::from(compares)) * 2 * sizes.stored() };
    let batch_size = section.batch_size.min(sizes.queries);
    let encoded = if stored { 0 } else { F32 * config.layer_temporaries(batch_size, longest) };
    let most = kept + sizes.measuring(&section.run).max(encoded);
    let least = match section.over {
        Over::All => most,
        // The states of the queries, by the model's own encoder.
        Over::Correct => (if stored { 0 } else { sizes.stored() }) + sizes.ranking().max(encoded),
    };
    ProbesNeed { least, most }
}
