//! Probes: measurements of the activations and components of a GenIR model, as in the paper.
//!
//! Definitions: A. Reusch, Y. Belinkov, "Reverse-Engineering the Retrieval Process in GenIR Models", SIGIR 2025 (arXiv
//! 2503.19715). Each probe has a file of its own, reads the model through taps and weights only, and returns a typed
//! [`ProbeResult`], which is stored as a [`Record`]. `docs/probes.md` explains each with a figure.

mod ablation;
mod attention_reads;
mod attention_writes;
mod circuit;
mod context;
mod direct_effect;
mod encoder_swap;
mod error;
pub mod files;
mod input_attribution;
mod inspect;
mod inspection;
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

pub use ablation::{Ablation, Place};
pub use attention_writes::{AttentionWrites, DocidShare, HeadTokens};
pub use circuit::{Circuit, CircuitScore, Scores};
pub use context::{ComparisonModel, ComparisonModels, NO_BASE};
pub use direct_effect::{ComponentEffect, DirectEffect};
pub use encoder_swap::{EncoderNorm, EncoderSwap, HeldOut, HeldOutScore, Swap};
pub use error::ProbeError;
pub(crate) use files::Stored;
pub use input_attribution::{
    AverageFirst, InputAttribution, LayerAttribution, Source, SourceShare, StageAttribution,
    StageShare, StageSource, Variant,
};
pub use inspect::{Activations, InspectOptions, Question, inspect};
pub use inspection::{
    AblatedCell, ChosenBecause, INSPECTION_SCHEMA, InspectedAblation, InspectedDocid,
    InspectedQuery, Inspection, InspectionError, LensReading, RankedDocument,
};
pub use lens::QueryOutcome;
pub use logit_lens::{LensSite, LogitLens, PopulationRanks, SiteRank, TokenGroup};
pub use memory::ProbeSizes;
pub use options::ProbeOptions;
pub(crate) use queries::PROBED;
pub use queries::ProbeQueries;
pub use record::{
    HistoryLine, MeasuredOn, NamedQueries, ProbeResult, QueryRanks, Record, RecordError, SCHEMA,
    SkipReason, Skipped, SkippedAt, describe_candidates,
};
pub use residual_contribution::{Contribution, PrimingCosine, ResidualContribution};
pub use shift::RankShift;
pub use stage_patching::{PatchedCell, Replacement, StagePatching};
pub use subject::Subject;
pub use suite::Suite;

use crate::choice::choice;
use crate::device::Precision;

/// The precision in which a GPU computes products for probes. bf16 rounds by more than the differences of logits and
/// shares of sums that probes report, and a kernel that Burn 0.22.1 generates for bf16 products fails on an H100
/// (docs/gpu.md).
pub const PROBE_PRECISION: Precision = Precision::F32;

choice! {
    /// The probes, in the order of the paper.
    Probe {
        /// P1: norm and direction of each component's contribution to the residual stream.
        ResidualContribution = "residual_contribution",
        /// P2: logit lens: the rank of the relevant docid in intermediate residual streams projected to the vocabulary.
        LogitLens = "logit_lens",
        /// P2b: direct logit attribution by component type.
        DirectEffect = "direct_effect",
        /// P3: ranks after zero ablation, mean ablation or base-model patching of one component in one stage.
        StagePatching = "stage_patching",
        /// P4: retrieval effectiveness of the paper's circuit alone.
        Circuit = "circuit",
        /// P5: retrieval effectiveness of the decoder with another model's encoder.
        EncoderSwap = "encoder_swap",
        /// P6: input attribution of active MLP neurons by source component.
        NeuronReads = "neuron_reads",
        /// P7: input attribution of cross-attention queries by source component.
        AttentionReads = "attention_reads",
        /// P8: share of docids among the top tokens of cross-attention's outputs.
        AttentionWrites = "attention_writes",
    }
}

choice! {
    /// The queries that a probe averages over.
    Over {
        /// Queries whose relevant docid has rank 1 without intervention, as in the paper.
        Correct = "correct",
        /// All queries with a relevant document, for models that do not retrieve well yet.
        All = "all",
    }
}
