//! The context of a measurement: the model, its queries in batches, other models, means.

use std::collections::HashSet;

use burn::tensor::Tensor;

use super::lens::Lens;
use super::means::Means;
use super::overlap::Applied;
use super::patch_tap::{PatchTap, ReplacementSources};
use super::queries::{EncodedQueries, ProbeQueries, QueryEncoder, QueryTarget, States};
use super::trace::Trace;
use super::{ProbeError, ProbeOptions, ProbeResult, QueryRanks, Subject};
use crate::component::ParameterPlace;
use crate::docid::DocidVocabulary;
use crate::t5::weights::parameters;
use crate::t5::{EncoderStates, GenirModel, Pass, T5};

/// Accumulates one probe's result over batches.
pub(super) trait ProbeAccumulator {
    /// Adds one batch of the measured queries.
    fn add_batch(&mut self, context: &ProbeContext, batch: &ProbedBatch);

    /// The result over all batches.
    fn finish(self: Box<Self>, context: &ProbeContext) -> ProbeResult;
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

    /// The measured queries, batch by batch.
    pub fn batches(&self, with_base: bool) -> impl Iterator<Item = ProbedBatch> {
        let batches = self.queries.batches(self.measured.to_vec(), self.options.batch_size);
        let set = (self.queries, self.states);
        batches.into_iter().map(move |measured| self.batch(set, measured, with_base))
    }

    /// Computes the means of patches over the measured queries.
    pub fn compute_means(&mut self) {
        let mut means = Means::new(self.depth(), self.own.device);
        self.batches(false).for_each(|batch| means.add(&batch.trace));
        self.means = Some(means);
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
