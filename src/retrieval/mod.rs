//! Ranks documents for queries: metrics, TREC run files, lists of correct queries.

mod batch_memory;
pub mod bm25;
mod divided;
pub mod evaluation;
pub mod measure;
pub mod metrics;
pub mod names;
pub mod ranking;
pub(crate) mod ranks;
pub mod run_files;
mod search;
pub mod ties;
pub(crate) mod together;
mod top_k;

pub use batch_memory::{BatchTooLarge, check_batch_memory};
pub use bm25::{Bm25, Bm25Options};
pub use evaluation::{EvaluationResult, QuerySet, evaluate, evaluate_with_tap};
pub use measure::{JudgedRanks, Measure, NamedMeasure};
pub use metrics::{MetricSums, Metrics};
pub use ranking::{CandidateSet, RankOptions, Ranking, rank, rank_with_tap};
pub use search::{Hit, SearchError, Searcher};
pub use ties::DocidOrder;
