//! Ranking documents for queries, and what the ranks amount to: metrics, TREC run files, correct queries.

pub mod evaluation;
pub mod metrics;
pub mod names;
pub mod ranking;
pub mod run_files;

pub use metrics::{JudgedRanks, MetricSums, Metrics};
pub use ranking::Vocabulary;
