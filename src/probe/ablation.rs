//! Mean ablation of any components of the decoder together, with what it does to each query.

use std::collections::BTreeSet;

use super::context::{ComparisonModels, ProbeContext};
use super::overlap::Applied;
use super::patch::{Patch, PatchedPart};
use super::queries::{ProbeQueries, QueryTarget};
use super::{ProbeError, QueryOutcome, Replacement, Subject, Suite};
use crate::component::Component;

/// A component of a decoder layer.
pub type Place = (usize, Component);

/// A model whose components can be ablated, with the queries that it is measured on.
pub struct Ablation<'a> {
    context: ProbeContext<'a>,
    intact: Vec<QueryOutcome>,
    ranked: usize,
    correct: usize,
}

impl Suite<'_> {
    /// Calls `run` with what ablates components of `subject` and measures it on `queries`. The suite's options say which
    /// queries are measured and in which candidate set; its probes are not run.
    ///
    /// # Errors
    /// No query to measure over; stages that do not fit the decoder.
    pub fn ablate<R>(
        &self,
        subject: &Subject,
        queries: &mut ProbeQueries,
        run: impl FnOnce(&Ablation) -> R,
    ) -> Result<R, ProbeError> {
        let none = ComparisonModels::default();
        self.agree(queries, None, &none)?;
        self.check(subject, &none, true)?;
        let own = self.encoder(subject, &subject.model.t5);
        let states = self.encode(subject, &own, &none, queries)?;
        let targets = self.targets(subject, &own, queries, &states)?;
        let chosen = self.select_queries(subject, &own, queries, &states, &targets)?;
        let measured: Vec<QueryTarget> = chosen.iter().map(|(found, _)| *found).collect();
        let mut context =
            ProbeContext::new(subject, own, &self.options, (queries, &states), &measured);
        context.compute_means()?;
        let correct = targets.iter().filter(|(_, rank)| *rank == 1).count();
        let mut ablation = Ablation { context, intact: Vec::new(), ranked: targets.len(), correct };
        ablation.intact = ablation.without(&[BTreeSet::new()]).pop().unwrap_or_default();
        Ok(run(&ablation))
    }
}

impl Ablation<'_> {
    /// Number of queries that were ranked, and of those with the relevant docid at rank 1.
    pub fn ranked(&self) -> (usize, usize) {
        (self.ranked, self.correct)
    }

    /// The outcome for each measured query without ablation.
    pub fn intact(&self) -> &[QueryOutcome] {
        &self.intact
    }

    /// The outcome for each measured query, in the order of [`Self::intact`], if the outputs of all components of a set
    /// are replaced by their means over the measured queries; for each of `sets`.
    pub fn without(&self, sets: &[BTreeSet<Place>]) -> Vec<Vec<QueryOutcome>> {
        let patch = |places: &BTreeSet<Place>| {
            let places = places.iter().copied().collect();
            let part = PatchedPart { selector: String::new(), places, heads: None };
            let patch = Patch { part, replacement: Replacement::Mean };
            Applied::new(&[patch], self.context.model.t5.config())
        };
        let applied: Vec<Applied> = sets.iter().map(patch).collect();
        let mut outcomes = vec![Vec::new(); sets.len()];
        for batch in self.context.rounds(false).flatten() {
            let outputs =
                applied.iter().map(|applied| self.context.patched_output(&batch, applied));
            let found = self.context.lens().output_outcomes(outputs.collect(), &batch.targets);
            outcomes.iter_mut().zip(found).for_each(|(all, found)| all.extend(found));
        }
        outcomes
    }
}
