//! The options of probes.

use super::{AverageFirst, EncoderNorm, Over, Variant};
use crate::component::Stages;
use crate::retrieval::CandidateSet;

/// Options of [`Suite`](super::Suite). [`ProbeOptions::new`] has the paper's:
///
/// ```
/// use genir::component::Stages;
/// use genir::probe::{Over, ProbeOptions};
///
/// # fn main() -> Result<(), genir::component::StagesError> {
/// let options = ProbeOptions { over: Over::All, ..ProbeOptions::new(Some(Stages::scaled(6)?)) };
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeOptions {
    /// Stages of the decoder; none if it has too few layers. See [`Probe::needs_stages`](super::Probe::needs_stages).
    pub stages: Option<Stages>,
    /// The candidate set that a relevant docid is ranked in.
    pub candidates: CandidateSet,
    /// The queries that means are taken over.
    pub over: Over,
    /// The definition of a source's contribution in [`Probe::NeuronReads`](super::Probe::NeuronReads) and
    /// [`Probe::AttentionReads`](super::Probe::AttentionReads).
    pub variant: Variant,
    /// The order of averaging in the same two probes.
    pub average_first: AverageFirst,
    /// The final RMSNorm that [`Probe::EncoderSwap`](super::Probe::EncoderSwap) applies to the other encoder's states.
    pub encoder_norm: EncoderNorm,
    /// Selectors that [`Probe::StagePatching`](super::Probe::StagePatching) patches in addition to the paper's:
    /// `decoder.layers[3]`, `decoder.cross_attention[4].heads[0]`.
    pub patches: Vec<String>,
    /// A user-defined circuit that [`Probe::Circuit`](super::Probe::Circuit) evaluates in addition to the paper's, as
    /// patches such as `decoder.mlp[I]=mean`; empty for none.
    pub circuit: Vec<String>,
    /// The number of queries for which [`Probe::AttentionWrites`](super::Probe::AttentionWrites) lists the top tokens.
    pub samples: usize,
    /// True if results include the rank for each query.
    pub per_query: bool,
    /// Queries per batch.
    pub batch_size: usize,
}

impl ProbeOptions {
    /// The options of the paper: correct queries only, ranks among text tokens and docids, no further patches. Top
    /// tokens are listed for 3 queries, and a batch has 128.
    pub fn new(stages: Option<Stages>) -> Self {
        Self {
            stages,
            candidates: CandidateSet::All,
            over: Over::Correct,
            variant: Variant::Paper,
            average_first: AverageFirst::Readers,
            encoder_norm: EncoderNorm::Other,
            patches: Vec::new(),
            circuit: Vec::new(),
            samples: 3,
            per_query: false,
            batch_size: 128,
        }
    }
}
