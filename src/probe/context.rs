//! The context of a measurement: the model, its queries in batches, other models, means.

use std::collections::HashSet;

use burn::tensor::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::lens::Lens;
use super::means::{Means, Sums};
use super::overlap::Applied;
use super::patch_tap::{PatchTap, ReplacementSources};
use super::queries::{EncodedQueries, ProbeQueries, QueryEncoder, QueryTarget, States};
use super::trace::Trace;
use super::{ProbeError, ProbeOptions, ProbeResult, QueryRanks, Subject};
use crate::component::ParameterPlace;
use crate::docid::DocidVocabulary;
use crate::processes::{Group, ProcessesError, World};
use crate::t5::weights::{parameters, weights_digest};
use crate::t5::{EncoderStates, GenirModel, Pass, T5};

/// Accumulates one probe's result over batches.
pub(super) trait ProbeAccumulator {
    /// The result of one batch, which may have been measured by another process.
    type OfBatch: Serialize + DeserializeOwned;

    /// Measures one batch of the measured queries.
    fn measure(&self, context: &ProbeContext, batch: &ProbedBatch) -> Self::OfBatch;

    /// Adds the result of the next batch.
    fn add(&mut self, found: Self::OfBatch);

    /// The result over all batches. A probe that has queries of its own measures them now; the processes share them, too.
    ///
    /// # Errors
    /// The processes of the context cannot exchange their results.
    fn finish(self: Box<Self>, context: &ProbeContext) -> Result<ProbeResult, ProcessesError>;
}

/// A [`ProbeAccumulator`] of any probe.
pub(super) trait RunningProbe {
    /// Measures one round: of each process the batch `own`, if it has one.
    ///
    /// # Errors
    /// The processes of the context cannot exchange their results.
    fn add_round(
        &mut self,
        context: &ProbeContext,
        own: Option<&ProbedBatch>,
    ) -> Result<(), ProcessesError>;

    /// As [`ProbeAccumulator::finish`].
    fn finish(self: Box<Self>, context: &ProbeContext) -> Result<ProbeResult, ProcessesError>;
}

impl<P: ProbeAccumulator> RunningProbe for P {
    fn add_round(
        &mut self,
        context: &ProbeContext,
        own: Option<&ProbedBatch>,
    ) -> Result<(), ProcessesError> {
        let own = own.map(|batch| self.measure(context, batch));
        context.group.gather_each(own, |found| self.add(found))
    }

    fn finish(self: Box<Self>, context: &ProbeContext) -> Result<ProbeResult, ProcessesError> {
        ProbeAccumulator::finish(self, context)
    }
}

/// The name that stands for no base model.
pub const NO_BASE: &str = "none";

/// A model that the probed model is compared with.
pub struct ComparisonModel {
    /// The model's name in results.
    pub name: String,
    /// Its weights, off the autodiff graph.
    pub t5: T5,
    /// True if its encoder equals the encoder from which the probed model's training started, bit for bit.
    pub has_same_encoder: bool,
    /// Docid rows of the documents that it was not trained on.
    pub left_out: HashSet<u32>,
}

/// The models that the probed model is compared with: `default()` for none. The base model of a run is opened by
/// [`crate::train::ProbeBase`]; both compute in [`super::PROBE_PRECISION`].
#[derive(Default)]
pub struct ComparisonModels {
    /// The model before it was trained for retrieval.
    pub base: Option<ComparisonModel>,
    /// The model whose encoder replaces the probed model's in the encoder swap.
    pub encoder: Option<ComparisonModel>,
}

impl ComparisonModels {
    /// Checks that all processes of `world` have the same comparison models.
    ///
    /// # Errors
    /// They have not, or MPI failed.
    pub(crate) fn agree(&self, world: &World) -> Result<(), ProcessesError> {
        let describe = |model: &Option<ComparisonModel>| match model {
            Some(model) => format!("{} ({})", weights_digest(&model.t5, None), model.name),
            None => "none".to_owned(),
        };
        let [base, encoder] = [&self.base, &self.encoder].map(describe);
        world.agree(&[
            ("the base model of their probes, by BLAKE3", base),
            ("the other encoder of their probes, by BLAKE3", encoder),
        ])
    }

    /// Checks that the comparison models fit `model`: the base model in every weight, the other encoder in its width.
    pub(super) fn check(&self, model: &T5) -> Result<(), ProbeError> {
        if let Some(base) = &self.base {
            let own = parameters(model);
            let found = parameters(&base.t5);
            let size = |name: &str| found.iter().find(|parameter| parameter.name == name);
            let is_head = |name: &str| ParameterPlace::of(name) == Some(ParameterPlace::Head);
            for parameter in own.iter().filter(|parameter| !is_head(&parameter.name)) {
                let found = size(&parameter.name).map_or(Vec::new(), |found| found.shape.clone());
                base.compare(&parameter.name, found, &parameter.shape)?;
            }
            let too_deep = found.iter().find(|parameter| {
                !is_head(&parameter.name) && own.iter().all(|known| known.name != parameter.name)
            });
            if let Some(parameter) = too_deep {
                base.compare(&parameter.name, parameter.shape.clone(), &[])?;
            }
        }
        match &self.encoder {
            Some(other) => {
                let found = other.t5.shared.weight.dims().to_vec();
                other.compare(EMBEDDING, found, &model.shared.weight.dims())
            }
            None => Ok(()),
        }
    }
}

/// Name of the token embedding.
const EMBEDDING: &str = "shared.weight";

impl ComparisonModel {
    /// Checks that a tensor of this model has the shape `expected`; the token embedding may have more rows.
    fn compare(
        &self,
        tensor: &str,
        found: Vec<usize>,
        expected: &[usize],
    ) -> Result<(), ProbeError> {
        let fits = match (tensor, found.as_slice(), expected) {
            (EMBEDDING, [rows, width], [least, expected]) => rows >= least && width == expected,
            _ => found == expected,
        };
        if fits {
            return Ok(());
        }
        let (name, tensor) = (self.name.clone(), tensor.to_owned());
        Err(ProbeError::Shape { name, tensor, found, expected: expected.to_vec() })
    }
}

/// Everything that the probes of one measurement share.
pub(super) struct ProbeContext<'a> {
    pub model: &'a GenirModel,
    /// The processes that share the batches.
    pub group: Group<'a>,
    /// Encodes queries with the model's own encoder.
    pub own: QueryEncoder<'a>,
    /// The model's docids.
    pub docids: &'a DocidVocabulary,
    pub options: &'a ProbeOptions,
    pub queries: &'a ProbeQueries,
    /// The encoder states of the queries.
    pub states: &'a EncodedQueries,
    /// The queries that means are taken over.
    pub measured: &'a [QueryTarget],
    /// The set that circuits are evaluated on, with its encoder states.
    pub test: Option<(&'a ProbeQueries, &'a EncodedQueries)>,
    /// Means over the measured queries; none if no probe needs them.
    pub means: Option<Means>,
    pub base: Option<&'a ComparisonModel>,
    pub encoder: Option<&'a ComparisonModel>,
}

/// A batch of queries with the model's activations for them.
pub(super) struct ProbedBatch {
    pub measured: Vec<QueryTarget>,
    /// The docid row of each query.
    pub targets: Vec<u32>,
    pub states: EncoderStates,
    /// Activations of the model without intervention.
    pub trace: Trace,
    /// Activations of the base model; none if no probe needs them.
    pub base: Option<Trace>,
}

impl<'a> ProbeContext<'a> {
    /// The context of measuring `measured` of the set `queries`, without means, other models and a test set.
    pub fn new(
        subject: &Subject<'a>,
        own: QueryEncoder<'a>,
        options: &'a ProbeOptions,
        (queries, states): (&'a ProbeQueries, &'a EncodedQueries),
        measured: &'a [QueryTarget],
    ) -> Self {
        Self {
            model: subject.model,
            group: Group::default(),
            own,
            docids: subject.docids,
            options,
            queries,
            states,
            measured,
            test: None,
            means: None,
            base: None,
            encoder: None,
        }
    }

    /// Number of decoder layers.
    pub fn depth(&self) -> usize {
        self.model.t5.decoder.layers.len()
    }

    /// The model's logit lens.
    pub fn lens(&self) -> Lens<'a> {
        Lens { model: self.model, candidates: self.options.candidates }
    }

    /// A [`QueryRanks`] of docid row `docid` for a query of `queries`.
    pub fn query_ranks(
        &self,
        queries: &ProbeQueries,
        query: usize,
        docid: u32,
        ranks: Vec<u32>,
    ) -> QueryRanks {
        QueryRanks { query: queries.ids[query].clone(), docid: self.docids.token(docid), ranks }
    }

    /// The measured queries in rounds: of each the batch of this process, if it has one.
    pub fn rounds(&self, with_base: bool) -> impl Iterator<Item = Option<ProbedBatch>> {
        let batches = self.queries.batches(self.measured.to_vec(), self.options.batch_size);
        let set = (self.queries, self.states);
        let rounds: Vec<Option<Vec<QueryTarget>>> =
            self.group.rounds(&batches).map(Option::<&_>::cloned).collect();
        let batch = move |measured| self.batch(set, measured, with_base);
        rounds.into_iter().map(move |own| own.map(batch))
    }

    /// Computes the means of patches over the measured queries.
    ///
    /// # Errors
    /// The processes cannot exchange their sums.
    pub fn compute_means(&mut self) -> Result<(), ProcessesError> {
        let mut means = Means::new(self.depth(), self.own.device);
        for own in self.rounds(false) {
            let own = own.map(|batch| Sums::of(&batch.trace));
            self.group.gather_each(own, |sums: Sums| means.add(&sums))?;
        }
        self.means = Some(means);
        Ok(())
    }

    /// One batch of a set, given with its encoder states.
    pub fn batch(
        &self,
        (queries, states): (&ProbeQueries, &EncodedQueries),
        measured: Vec<QueryTarget>,
        with_base: bool,
    ) -> ProbedBatch {
        let batch_queries: Vec<usize> = measured.iter().map(|found| found.query).collect();
        let targets = measured.iter().map(|found| found.target).collect();
        let base = self.base.filter(|_| with_base).map(|base| {
            let states = self.states(&states.base, &base.t5, queries, &batch_queries);
            Trace::record(&base.t5, &states)
        });
        let states = self.states(&states.own, &self.model.t5, queries, &batch_queries);
        ProbedBatch {
            targets,
            trace: Trace::record(&self.model.t5, &states),
            measured,
            states,
            base,
        }
    }

    /// States of `batch` by the encoder of `t5`.
    pub fn states(
        &self,
        stored: &States,
        t5: &T5,
        queries: &ProbeQueries,
        batch: &[usize],
    ) -> EncoderStates {
        stored.of(&QueryEncoder { t5, ..self.own }, &queries.questions, batch)
    }

    /// The decoder's output under the patches `applied`, `[batch, d_model]`. Layers before the first patched one are
    /// not recomputed.
    pub fn patched_output(&self, batch: &ProbedBatch, applied: &Applied) -> Tensor<2> {
        let base = self.base.map(|base| &base.t5).zip(batch.base.as_ref());
        let supply = ReplacementSources { model: &self.model.t5, means: self.means.as_ref(), base };
        let Some(first) = applied.first_layer() else { return batch.trace.output.clone() };
        let mut tap = PatchTap::new(applied, &supply);
        let residual = batch.trace.layers[first].residual_pre.clone();
        let mut pass = Pass::evaluate(&mut tap);
        self.model.t5.decode_from(first, residual, &batch.states, &mut pass)
    }
}
