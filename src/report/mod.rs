//! What a probe's [`Record`] looks like to people and to other tools: tables, CSV, TensorBoard's scalars and
//! histograms, pictures. Everything is made from the stored result, so that it can be made again later. And what an
//! evaluation found of each query, as CSV.

pub mod per_query;
mod pictures;
mod points;
mod tables;
mod tidy;

pub use pictures::{Picture, PictureError, pictures};
pub use points::{histograms, points};
pub use tables::{Titled, tables};
pub use tidy::write_csv;

use crate::probe::{Over, Record};

/// What was measured on, in one line: `step 200, 81 correct of 100 validation queries`.
pub fn measured_on(record: &Record) -> String {
    let on = &record.measured_on;
    let step = on.step.map(|step| format!("step {step}, ")).unwrap_or_default();
    match on.over {
        Over::Correct => {
            format!("{step}{} correct of {} {} queries", on.measured, on.ranked, on.queries)
        }
        Over::All => {
            format!("{step}all {} {} queries, {} correct", on.measured, on.queries, on.correct)
        }
    }
}
