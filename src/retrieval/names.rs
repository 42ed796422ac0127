//! What rankings are called in reports: one list for the evaluation that reports them and the recipe
//! that picks one to save or stop by.

use crate::corpus::Split;
use crate::task::Task;

/// The rankings of a split's queries: of all of them, of those whose document had a training query,
/// and of those whose document had none. A ranking without queries is not reported.
pub fn of_split(split: Split) -> [String; 3] {
    [split.to_string(), format!("{split}/seen"), format!("{split}/unseen")]
}

/// The ranking of what was trained on: documents for indexing, training queries for retrieval.
pub fn of_memorisation(task: Task) -> String {
    format!("memorisation/{task}")
}
