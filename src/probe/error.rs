//! Errors of probes.

use thiserror::Error;

use super::{Probe, describe_candidates};
use crate::component::{SelectorError, Stages, StagesError};
use crate::processes::ProcessesError;
use crate::retrieval::CandidateSet;

/// Errors of running probes.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// Processes that share a measurement could not exchange their results.
    #[error(transparent)]
    Processes(#[from] ProcessesError),
    /// The caller broke off between two batches.
    #[error("the probes were interrupted")]
    Interrupted,
    /// The stages do not fit the decoder.
    #[error("stages: {0}")]
    Stages(#[from] StagesError),
    /// The probe patches by stage, and the decoder has no stages.
    #[error(
        "the probe `{probe}` replaces components by stage, and a decoder of {depth} layer(s) has no stages, which need {} \
         layers; {}, or leave this probe out",
        Stages::LEAST_DEPTH,
        match probe {
            Probe::Circuit => {
                "give a circuit that names layers (`--circuit 'decoder.mlp[0]=mean'`; in a recipe `probes.circuit_patches`)"
            }
            _ => "name layers to replace (`--patch 'decoder.mlp[0]'`; in a recipe `probes.patches`)",
        }
    )]
    NeedsStages {
        /// The probe.
        probe: Probe,
        /// Layers of the decoder.
        depth: usize,
    },
    /// A selector is wrong.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// A selector of parts whose output cannot be replaced.
    #[error(
        "`{selector}` cannot be patched: {reason}; patched are outputs of decoder components, such as \
         `decoder.mlp[II]`, `decoder.layers[3]` or `decoder.cross_attention[4].heads[0,2]`"
    )]
    NotPatchable {
        /// The selector.
        selector: String,
        /// The reason.
        reason: String,
    },
    /// A patch of a circuit that is not of the form `SELECTOR=HOW`.
    #[error(
        "`{patch}` is not a patch: expected SELECTOR=zero, SELECTOR=mean or SELECTOR=base, such as `decoder.mlp[I]=mean`"
    )]
    InvalidPatch {
        /// The value found.
        patch: String,
    },
    /// There is nothing to average over.
    #[error(
        "no correct query: none of {ranked} {set} queries has its relevant docid at rank 1 among {} (best rank \
         {best_rank}, query `{query}`); measure over all queries, {}or train longer",
        describe_candidates(*vocabulary),
        if *vocabulary == CandidateSet::All { "rank docids only, " } else { "" }
    )]
    NoCorrect {
        /// The set's name.
        set: String,
        /// Queries ranked.
        ranked: usize,
        /// The best rank of any relevant docid.
        best_rank: u32,
        /// The query that has it.
        query: String,
        /// The candidate set.
        vocabulary: CandidateSet,
    },
    /// The model has diverged: nothing of it can be ranked.
    #[error(
        "{checkpoint}: logits for the query are NaN or infinite: the model has diverged; take an earlier checkpoint, or \
         train with a lower learning rate"
    )]
    NotFinite {
        /// The checkpoint.
        checkpoint: String,
    },
    /// There are no queries at all.
    #[error("the set `{set}` has no query with a relevant document")]
    NoQueries {
        /// The set's name.
        set: String,
    },
    /// A patch with the base model's outputs, and no base model.
    #[error("`{patch}` needs a base model, and none is given")]
    NoBase {
        /// The probe or option that needs it.
        patch: String,
    },
    /// There is no other encoder.
    #[error("the encoder swap needs another encoder: the base model, or another checkpoint")]
    NoOtherEncoder,
    /// There is no set to evaluate circuits on.
    #[error("the circuit is evaluated on a test set, and there is none with queries")]
    NoTestSet,
    /// Another model does not have the shape of the probed model.
    #[error(
        "{name} has another shape: `{tensor}` is {found:?}, and {expected:?} in the probed model"
    )]
    Shape {
        /// The other model.
        name: String,
        /// The first tensor that differs.
        tensor: String,
        /// Its size there; empty where there is no such tensor.
        found: Vec<usize>,
        /// Its size in the model; for the word embedding, at least so many rows.
        expected: Vec<usize>,
    },
    /// A list of correct queries with nothing in it.
    #[error(
        "the list of correct queries is empty, expected [[docid token, query id], ...] with at least one pair"
    )]
    EmptyList,
    /// A query that the set does not have.
    #[error("correct query {place}: the {set} queries have none with the id `{query}`")]
    UnknownQuery {
        /// The pair's place in the list, from 0.
        place: usize,
        /// The query's id.
        query: String,
        /// The set's name.
        set: String,
    },
    /// A docid that the model does not have.
    #[error(
        "correct query {place}: `{token}` is not a docid of this model, expected @DOC_ID_<id>@"
    )]
    UnknownDocid {
        /// The pair's place in the list, from 0.
        place: usize,
        /// The value found.
        token: String,
    },
}
