//! Estimates the peak memory of probes from sizes, for `genir check`.

use super::queries::STORED_BYTES;
use super::{Probe, lens};
use crate::retrieval::CandidateSet;
use crate::retrieval::ranks::ranked_bytes;
use crate::t5::T5Config;

const F32: usize = size_of::<f32>();

/// Replacements in the paper's table of stage patching, by component and stage.
const CELLS: usize = 27;

/// The sizes that decide what probes need.
pub struct ProbeSizes<'a> {
    /// Of the model.
    pub config: &'a T5Config,
    /// Docids.
    pub documents: usize,
    /// Queries that are ranked.
    pub queries: usize,
    /// Queries at once.
    pub batch_size: usize,
    /// Tokens of a query, at most.
    pub length: usize,
    /// The candidate set.
    pub vocabulary: CandidateSet,
}

impl ProbeSizes<'_> {
    /// Peak bytes of measuring `probes`: the recorded activations of a batch, and the temporaries of the probe that
    /// needs most.
    pub fn measuring(&self, probes: &[Probe]) -> usize {
        let passes = if probes.iter().any(|probe| probe.uses_base()) { 2 } else { 1 };
        let temporaries = probes.iter().map(|&probe| self.temporaries(probe)).max().unwrap_or(0);
        passes * (self.states() + self.trace()) + temporaries.max(self.ranked(1))
    }

    /// Bytes that ranking the queries needs at once, which comes first: all that is done where none is to be measured.
    pub fn ranking(&self) -> usize {
        self.states() + self.ranked(1)
    }

    /// Bytes of the states that one encoder's are kept as, where that is done.
    pub fn stored(&self) -> usize {
        let bytes = F32 * self.queries * self.length * self.config.d_model;
        if bytes > STORED_BYTES { 0 } else { bytes }
    }

    /// Queries of a batch.
    fn rows(&self) -> usize {
        self.batch_size.min(self.queries)
    }

    /// A batch's encoder states.
    fn states(&self) -> usize {
        F32 * self.rows() * self.length * self.config.d_model
    }

    /// Activations of a pass of the decoder (`trace.rs`).
    fn trace(&self) -> usize {
        let config = self.config;
        let layer =
            7 * config.d_model + config.d_ff + config.num_heads * self.length + 2 * config.inner();
        F32 * self.rows() * config.num_decoder_layers * layer
    }

    /// Ranks under that many vectors a query.
    fn ranked(&self, vectors: usize) -> usize {
        let rows = lens::rows_at_once(self.rows(), vectors, self.documents);
        let outputs = F32 * vectors * self.rows() * self.config.d_model;
        2 * outputs + ranked_bytes(self.config.vocab_size, rows, self.documents, self.vocabulary)
    }

    /// Logits of text tokens and docids under that many vectors a query.
    fn logits(&self, vectors: usize) -> usize {
        let tokens = self.config.vocab_size + self.documents;
        let rows = vectors * lens::rows_of_part(self.rows(), vectors, tokens);
        let stacked = 3 * vectors * self.rows() * self.config.d_model;
        // On each thread the logits of a sum, and both kinds of tokens in order.
        let of_threads = 2 * rayon::current_num_threads() * tokens;
        F32 * (rows * tokens + stacked + of_threads)
    }

    fn temporaries(&self, probe: Probe) -> usize {
        let (config, rows) = (self.config, self.rows());
        let sources = 3 * config.num_decoder_layers;
        match probe {
            Probe::ResidualContribution => 0,
            Probe::LogitLens => self.logits(1 + sources),
            Probe::DirectEffect => self.ranked(2),
            Probe::StagePatching => self.ranked(CELLS),
            Probe::Circuit | Probe::EncoderSwap => self.ranked(1),
            // What every neuron reads of every source, what of it is positive, and its shares.
            Probe::NeuronReads => F32 * 3 * rows * sources * config.d_ff,
            Probe::AttentionReads => F32 * 2 * rows * (sources + config.num_heads) * config.d_model,
            Probe::AttentionWrites => self.logits(config.num_heads),
        }
    }
}
