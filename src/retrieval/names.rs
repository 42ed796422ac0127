//! Names of rankings and of the denoising loss in reports, shared by the evaluation that reports their metrics and the recipe keys that select
//! one (`save.best_metric`, `stop.metric`).

use crate::corpus::Split;
use crate::task::Task;

/// The mean denoising loss of held-out documents.
pub const DENOISING_LOSS: &str = "denoising/loss";

/// Returns whether a lower value of a metric is better: of a loss. Of all others, a higher one is.
pub fn is_loss(metric: &str) -> bool {
    metric.rsplit('/').next() == Some("loss")
}

/// A subset of the queries for which metrics are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuerySubset {
    /// All queries.
    All,
    /// Queries with a relevant document that had a training query.
    Seen,
    /// The other queries.
    Unseen,
}

/// Returns the names for a split: all queries, those with a relevant document that had a training query (seen), and the
/// others (unseen). A ranking without queries is not reported.
pub fn of_split(split: Split) -> [String; 3] {
    [QuerySubset::All, QuerySubset::Seen, QuerySubset::Unseen]
        .map(|subset| of_subset(&split.to_string(), subset))
}

/// Returns the name for a subset of a query set.
pub fn of_subset(set: &str, subset: QuerySubset) -> String {
    match subset {
        QuerySubset::All => set.to_owned(),
        QuerySubset::Seen => format!("{set}/seen"),
        QuerySubset::Unseen => format!("{set}/unseen"),
    }
}

/// Returns the name for the ranking of training examples: documents for indexing, training queries for retrieval.
pub fn of_memorisation(task: Task) -> String {
    format!("memorisation/{task}")
}
