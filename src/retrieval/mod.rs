//! Ranking documents for queries, and what the ranks amount to: metrics, TREC run files, correct queries.

mod best;
pub mod evaluation;
pub mod measure;
pub mod metrics;
pub mod names;
pub mod ranking;
pub mod run_files;
mod search;
pub mod ties;

pub use measure::{JudgedRanks, Measure, NamedMeasure};
pub use metrics::{MetricSums, Metrics};
pub use ranking::Vocabulary;
pub use search::{Hit, Searcher};
pub use ties::DocidOrder;
