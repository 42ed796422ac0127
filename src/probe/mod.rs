//! Probes: measurements of what a GenIR model does inside, as the paper made them.
//!
//! Definitions: A. Reusch, Y. Belinkov, "Reverse-Engineering the Retrieval Process in GenIR Models", SIGIR 2025
//! (arXiv 2503.19715). One file a probe; each looks at the model through taps and weights only, and gives a typed
//! [`ProbeResult`] that is written as it is ([`Record`]). `docs/probes.md` explains each with a picture.

mod attention_reads;
mod attention_writes;
mod circuit;
mod context;
mod direct_effect;
mod encoder_swap;
mod error;
pub mod files;
mod input_attribution;
mod lens;
mod logit_lens;
mod means;
mod memory;
mod neuron_reads;
mod number;
mod options;
mod overlap;
mod patch;
mod patch_tap;
mod queries;
mod record;
mod residual_contribution;
mod shift;
mod stage_patching;
mod subject;
mod suite;
mod trace;

pub use attention_writes::{AttentionWrites, DocidShare, HeadTokens};
pub use circuit::{Circuit, CircuitScore, Scores};
pub use context::{ComparisonModel, ComparisonModels, NO_BASE};
pub use direct_effect::{ComponentEffect, DirectEffect};
pub use encoder_swap::{EncoderNorm, EncoderSwap, HeldOut, HeldOutScore, Swap};
pub use error::ProbeError;
pub use input_attribution::{
    AverageFirst, InputAttribution, LayerAttribution, Source, SourceShare, StageAttribution,
    StageShare, StageSource, Variant,
};
pub use logit_lens::{LensSite, LogitLens, PopulationRanks, SiteRank, TokenGroup};
pub use memory::ProbeSizes;
pub use options::ProbeOptions;
pub use queries::ProbeQueries;
pub use record::{
    Line, MeasuredOn, NamedQueries, ProbeResult, QueryRanks, Record, RecordError, SCHEMA,
    SkipReason, Skipped, SkippedAt, describe_candidates,
};
pub use residual_contribution::{Contribution, PrimingCosine, ResidualContribution};
pub use shift::RankShift;
pub use stage_patching::{PatchedCell, Replacement, StagePatching};
pub use subject::Subject;
pub use suite::Suite;

use crate::choice::choice;
use crate::device::Precision;

/// In what a GPU computes products for probes. Differences of logits and shares of sums are smaller than what bf16 rounds
/// away; and with products in bf16 a kernel that Burn 0.22.1 makes for them fails on an H100 (docs/gpu.md).
pub const PROBE_PRECISION: Precision = Precision::F32;

choice! {
    /// The probes, in the order of the paper.
    Probe {
        /// P1: how much each component adds to the residual stream, and in which direction.
        ResidualContribution = "residual_contribution",
        /// P2: at which rank the relevant docid stands when the decoder is read off early.
        LogitLens = "logit_lens",
        /// P2b: how far one type of component leads by itself.
        DirectEffect = "direct_effect",
        /// P3: which queries are lost when a component's output is replaced in a stage.
        StagePatching = "stage_patching",
        /// P4: how well the circuit that the paper found retrieves by itself.
        Circuit = "circuit",
        /// P5: how well the decoder retrieves from another model's encoder.
        EncoderSwap = "encoder_swap",
        /// P6: from which earlier components MLP neurons are activated.
        NeuronReads = "neuron_reads",
        /// P7: from which earlier components cross-attention heads take their queries.
        AttentionReads = "attention_reads",
        /// P8: whether cross-attention writes words or docids.
        AttentionWrites = "attention_writes",
    }
}

choice! {
    /// The queries that a probe averages over.
    Over {
        /// Those whose relevant docid has rank 1 without intervention: the paper's way.
        Correct = "correct",
        /// All that have a relevant docid: shows something before the model has learnt to retrieve.
        All = "all",
    }
}
