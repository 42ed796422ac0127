//! Writes the metrics of each query as CSV for `pandas.read_csv` and R.

use std::io::{self, Write};

use super::tidy::quoted;
use crate::docid::DocidVocabulary;
use crate::retrieval::evaluation::{EvaluationResult, QuerySet};
use crate::retrieval::{JudgedRanks, NamedMeasure};

/// Writes the header: `run`, `query`, `part` (`seen` or `unseen`), `docid` (the best-ranked relevant document), `rank`
/// (its rank; empty if no relevant document was retrieved), and the measures.
///
/// # Errors
/// Those of writing to `out`.
pub fn write_header(measures: &[NamedMeasure], out: &mut dyn Write) -> io::Result<()> {
    let names = measures.iter().map(|measure| measure.name.as_str());
    let columns: Vec<&str> =
        ["run", "query", "part", "docid", "rank"].into_iter().chain(names).collect();
    writeln!(out, "{}", columns.join(","))
}

/// Writes a row for each query of the set, in its order, which is the same for every run. `run` is the value of the
/// first column. Queries without relevant documents have no row.
///
/// # Errors
/// Those of writing to `out`.
pub fn write_queries(
    run: &str,
    (set, evaluated): (&QuerySet, &EvaluationResult),
    docids: &DocidVocabulary,
    measures: &[NamedMeasure],
    out: &mut dyn Write,
) -> io::Result<()> {
    for (index, judged) in evaluated.judged.iter().enumerate() {
        let rows = &set.queries[index].relevant;
        let ranks = judged.relevant.iter().map(|(rank, _)| *rank);
        let Some((rank, row)) = ranks.zip(rows).min_by_key(|(rank, _)| *rank) else { continue };
        let part = match set.is_seen(index) {
            None => "",
            Some(true) => "seen",
            Some(false) => "unseen",
        };
        let about =
            [quoted(run), quoted(&set.ids[index]), part.to_owned(), quoted(docids.id(*row))];
        let values = judged.values(measures.iter().map(|measure| measure.measure));
        let shown = |rank| match rank {
            JudgedRanks::NOT_RETRIEVED => String::new(),
            rank => rank.to_string(),
        };
        // The shortest decimals that parse to the same numbers.
        let values = values.iter().map(f64::to_string);
        let fields: Vec<String> = about.into_iter().chain([shown(rank)]).chain(values).collect();
        writeln!(out, "{}", fields.join(","))?;
    }
    Ok(())
}
