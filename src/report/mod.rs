//! Tables, CSV, TensorBoard scalars and histograms, and figures of probe results. All are derived from the stored
//! [`Record`], so that they can be generated again at any time. Also the CSV of an evaluation's queries.

mod arm_figures;
mod figures;
mod inspection;
mod page;
pub mod per_query;
mod plot;
mod points;
mod tables;
mod tidy;

pub use figures::{Figure, FigureError, FigureFormat, FigureWidth, figures};
pub(crate) use inspection::inspection_heading;
pub use inspection::inspection_tables;
pub use page::{InputError, Report, ReportError, ReportOptions, inspection_page, report};
pub use plot::{DrawnFigure, PlotError, PlotOptions, Plots, plot, plot_stored};
pub use points::{histograms, points};
pub use tables::{TitledTable, tables};
pub(crate) use tidy::{UNPATCHED, quoted, ranks_by_place};
pub use tidy::{write_csv, write_query_ranks};

use crate::docid::DocidVocabulary;
use crate::probe::{NamedQueries, Over, Record, SkipReason, Skipped, describe_candidates};

/// Describes the measured queries in one line: `step 200, 81 correct of 100 validation queries, ranked among text
/// tokens and docids`.
pub fn measured_on(record: &Record) -> String {
    let on = &record.measured_on;
    let step = on.step.map(|step| format!("step {step}, ")).unwrap_or_default();
    let (ranked, queries, correct) = (on.ranked, &on.queries, on.correct);
    let measured = match (&on.named, on.over) {
        (Some(NamedQueries { pairs, used, ranked_first }), _) => format!(
            "{used} queries of {pairs} listed in a file, {ranked_first} of them ranked first (of all \
             {ranked} {queries} queries: {correct})"
        ),
        (None, Over::Correct) => format!("{} correct of {ranked} {queries} queries", on.measured),
        (None, Over::All) => format!("all {} {queries} queries, {correct} correct", on.measured),
    };
    format!("{step}{measured}, ranked among {}", describe_candidates(on.vocabulary))
}

/// Describes when and why probes were due but not measured, in one line: `skipped at steps 4, 6 (max_share)`; `None` if
/// `skipped` is empty.
pub fn skipped(skipped: &[Skipped]) -> Option<String> {
    let of_reason = |reason: &SkipReason| {
        let of = skipped.iter().filter(|line| line.skipped.reason == *reason);
        let mut steps: Vec<u64> = of.map(|line| line.skipped.step).collect();
        steps.sort_unstable();
        steps.dedup();
        let shown: Vec<String> = steps.iter().take(SHOWN_STEPS).map(u64::to_string).collect();
        let more = match steps.len().saturating_sub(SHOWN_STEPS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let steps = if steps.len() == 1 { "step" } else { "steps" };
        (!shown.is_empty()).then(|| format!("{steps} {}{more} ({reason})", shown.join(", ")))
    };
    let reasons: Vec<String> = SkipReason::ALL.iter().filter_map(of_reason).collect();
    (!reasons.is_empty()).then(|| format!("skipped at {}", reasons.join(", ")))
}

/// Number of steps that are listed individually.
const SHOWN_STEPS: usize = 8;

/// A token as a word: SentencePiece marks the start of a word.
pub(crate) fn word(token: &str) -> String {
    match token.strip_prefix('\u{2581}') {
        Some("") => "\u{2423}".to_owned(),
        Some(word) => word.to_owned(),
        None if DocidVocabulary::parse_token(token).is_some() => token.to_owned(),
        // `</s>` and other tokens of the vocabulary itself are no parts of words.
        None if token.starts_with('<') && token.ends_with('>') => token.to_owned(),
        None => format!("\u{2011}{token}"),
    }
}
