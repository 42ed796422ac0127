//! What rankings are called in reports: one list for the evaluation that reports them and the recipe
//! that picks one to save or stop by.

use super::evaluation::Part;
use crate::corpus::Split;
use crate::task::Task;

/// The rankings of a split's queries: of all of them, of those whose document had a training query,
/// and of those whose document had none. A ranking without queries is not reported.
pub fn of_split(split: Split) -> [String; 3] {
    [Part::All, Part::Seen, Part::Unseen].map(|part| of_part(&split.to_string(), part))
}

/// The ranking of one part of the queries of a set.
pub fn of_part(set: &str, part: Part) -> String {
    match part {
        Part::All => set.to_owned(),
        Part::Seen => format!("{set}/seen"),
        Part::Unseen => format!("{set}/unseen"),
    }
}

/// The ranking of what was trained on: documents for indexing, training queries for retrieval.
pub fn of_memorisation(task: Task) -> String {
    format!("memorisation/{task}")
}
