//! Ranks documents for queries; and from ranks to numbers: retrieval metrics, TREC run files and the
//! paper's file of correct queries.

pub mod metrics;
pub mod names;
pub mod ranking;
pub mod run_files;

pub use metrics::{JudgedRanks, MetricSums, Metrics};
pub use ranking::Vocabulary;
