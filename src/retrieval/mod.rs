//! From ranks to numbers: retrieval metrics, TREC run files and the paper's file of correct queries.

pub mod metrics;
pub mod run_files;

pub use metrics::{JudgedRanks, MetricSums, Metrics};
