//! What rankings are called in reports: one list for the evaluation that reports them and the recipe
//! that picks one to save or stop by.

use super::evaluation::QuerySubset;
use crate::corpus::Split;
use crate::task::Task;

/// The rankings of a split's queries: of all of them, of those whose document had a training query,
/// and of those whose document had none. A ranking without queries is not reported.
pub fn of_split(split: Split) -> [String; 3] {
    [QuerySubset::All, QuerySubset::Seen, QuerySubset::Unseen]
        .map(|part| of_part(&split.to_string(), part))
}

/// The ranking of one part of the queries of a set.
pub fn of_part(set: &str, part: QuerySubset) -> String {
    match part {
        QuerySubset::All => set.to_owned(),
        QuerySubset::Seen => format!("{set}/seen"),
        QuerySubset::Unseen => format!("{set}/unseen"),
    }
}

/// The ranking of what was trained on: documents for indexing, training queries for retrieval.
pub fn of_memorisation(task: Task) -> String {
    format!("memorisation/{task}")
}
