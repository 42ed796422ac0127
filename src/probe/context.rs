//! What a measurement has on its context: the model, its queries in batches, other models, means.

use std::collections::HashSet;

use burn::tensor::Tensor;

use super::lens::Lens;
use super::means::Means;
use super::overlap::Applied;
use super::patch_tap::{PatchTap, Supply};
use super::queries::{EncodedQueries, ProbeQueries, QueryEncoder, QueryTarget, States};
use super::trace::Trace;
use super::{ProbeError, ProbeOptions, ProbeResult, QueryRanks};
use crate::component::ParameterPlace;
use crate::docid::DocidVocabulary;
use crate::t5::weights::parameters;
use crate::t5::{EncoderStates, GenirModel, Pass, T5};

/// One probe while it measures.
pub(super) trait ProbeAccumulator {
    /// Takes in one batch of the measured queries.
    fn add_batch(&mut self, context: &ProbeContext, batch: &ProbedBatch);

    /// The result over all that was seen.
    fn finish(self: Box<Self>, context: &ProbeContext) -> ProbeResult;
}

/// The word that does without a base model.
pub const NO_BASE: &str = "none";

/// A model beside the one that is looked at.
pub struct ComparisonModel {
    /// What it is called in results.
    pub name: String,
    /// Its weights, off the autodiff graph.
    pub t5: T5,
    /// Whether its encoder is the one that the model began with, bit for bit.
    pub has_same_encoder: bool,
    /// Docid rows of the documents that its training left out.
    pub left_out: HashSet<u32>,
}

/// The models beside the one that is looked at.
#[derive(Default)]
pub struct ComparisonModels {
    /// The model before it was trained to retrieve.
    pub base: Option<ComparisonModel>,
    /// One whose encoder takes the place of the model's own.
    pub encoder: Option<ComparisonModel>,
}

impl ComparisonModels {
    /// That the other models fit `model`: the base in every weight, the other encoder in its width.
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
                other.compare(WORDS, found, &model.shared.weight.dims())
            }
            None => Ok(()),
        }
    }
}

/// Name of the word embedding.
const WORDS: &str = "shared.weight";

impl ComparisonModel {
    /// That a tensor of this model has the shape `expected`; the word embedding may have more rows.
    fn compare(
        &self,
        tensor: &str,
        found: Vec<usize>,
        expected: &[usize],
    ) -> Result<(), ProbeError> {
        let fits = match (tensor, found.as_slice(), expected) {
            (WORDS, [rows, width], [least, expected]) => rows >= least && width == expected,
            _ => found == expected,
        };
        if fits {
            return Ok(());
        }
        let (name, tensor) = (self.name.clone(), tensor.to_owned());
        Err(ProbeError::Shape { name, tensor, found, expected: expected.to_vec() })
    }
}

/// All that probes of one call share.
pub(super) struct ProbeContext<'a> {
    pub model: &'a GenirModel,
    /// How the model encodes queries.
    pub own: QueryEncoder<'a>,
    /// The model's docids.
    pub docids: &'a DocidVocabulary,
    pub options: &'a ProbeOptions,
    pub queries: &'a ProbeQueries,
    /// What encoders make of the queries.
    pub states: &'a EncodedQueries,
    /// What means are over.
    pub measured: &'a [QueryTarget],
    /// The set that circuits are judged on, and what encoders make of it.
    pub test: Option<(&'a ProbeQueries, &'a EncodedQueries)>,
    /// Over the measured queries; none where no probe asks.
    pub means: Option<Means>,
    pub base: Option<&'a ComparisonModel>,
    pub encoder: Option<&'a ComparisonModel>,
}

/// Some queries at once, with what the model did for them.
pub(super) struct ProbedBatch {
    pub measured: Vec<QueryTarget>,
    /// The docid row of each query.
    pub targets: Vec<u32>,
    pub states: EncoderStates,
    /// The model's pass without intervention.
    pub trace: Trace,
    /// The base model's; none where no probe asks.
    pub base: Option<Trace>,
}

impl<'a> ProbeContext<'a> {
    /// Layers of the decoder.
    pub fn depth(&self) -> usize {
        self.model.t5.decoder.layers.len()
    }

    /// The model's logit lens.
    pub fn lens(&self) -> Lens<'a> {
        Lens { model: self.model, vocabulary: self.options.candidates }
    }

    /// Ranks of docid row `docid` for a query of `queries`, by their names.
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

    /// One batch of a set, which comes with what encoders make of it.
    pub fn batch(
        &self,
        (queries, states): (&ProbeQueries, &EncodedQueries),
        measured: Vec<QueryTarget>,
        with_base: bool,
    ) -> ProbedBatch {
        let asked: Vec<usize> = measured.iter().map(|found| found.query).collect();
        let targets = measured.iter().map(|found| found.target).collect();
        let base = self.base.filter(|_| with_base).map(|base| {
            let states = self.states(&states.base, &base.t5, queries, &asked);
            Trace::record(&base.t5, &states)
        });
        let states = self.states(&states.own, &self.model.t5, queries, &asked);
        ProbedBatch {
            targets,
            trace: Trace::record(&self.model.t5, &states),
            measured,
            states,
            base,
        }
    }

    /// States of some queries by the encoder of `t5`.
    pub fn states(
        &self,
        stored: &States,
        t5: &T5,
        queries: &ProbeQueries,
        asked: &[usize],
    ) -> EncoderStates {
        stored.of(&QueryEncoder { t5, ..self.own }, &queries.questions, asked)
    }

    /// The decoder's output with `applied` in place, `[batch, d_model]`, computed from the first patched layer on.
    pub fn patched_output(&self, batch: &ProbedBatch, applied: &Applied) -> Tensor<2> {
        let base = self.base.map(|base| &base.t5).zip(batch.base.as_ref());
        let supply = Supply { model: &self.model.t5, means: self.means.as_ref(), base };
        let Some(first) = applied.first_layer() else { return batch.trace.output.clone() };
        let mut tap = PatchTap::new(applied, &supply);
        let residual = batch.trace.layers[first].residual_pre.clone();
        let mut pass = Pass::evaluate(&mut tap);
        self.model.t5.decode_from(first, residual, &batch.states, &mut pass)
    }
}
