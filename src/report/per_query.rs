//! A file with the metrics of each query, which `pandas.read_csv` and R read as it is.

use std::io::{self, Write};

use super::tidy::quoted;
use crate::docid::DocidVocabulary;
use crate::retrieval::NamedMeasure;
use crate::retrieval::evaluation::{Evaluated, QuerySet};

/// Writes the line that names the columns: `run`, `query`, `part` (`seen` or `unseen`), `docid` (the relevant document
/// that is ranked best), `rank` (its rank), and the measures.
pub fn write_header(measures: &[NamedMeasure], out: &mut dyn Write) -> io::Result<()> {
    let names = measures.iter().map(|measure| measure.name.as_str());
    let columns: Vec<&str> =
        ["run", "query", "part", "docid", "rank"].into_iter().chain(names).collect();
    writeln!(out, "{}", columns.join(","))
}

/// Writes a line for each query of a set, in its order, which is the same for every run: what was `evaluated` is the
/// run called `run`, with these docids. A query that cannot be judged (nothing is relevant to it) has no line.
pub fn write_queries(
    run: &str,
    (set, evaluated): (&QuerySet, &Evaluated),
    docids: &DocidVocabulary,
    measures: &[NamedMeasure],
    out: &mut dyn Write,
) -> io::Result<()> {
    for (index, judged) in evaluated.judged.iter().enumerate() {
        let rows = &set.questions[index].relevant;
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
        // The shortest decimals that are read as these numbers again.
        let values = values.iter().map(f64::to_string);
        let fields: Vec<String> =
            about.into_iter().chain([rank.to_string()]).chain(values).collect();
        writeln!(out, "{}", fields.join(","))?;
    }
    Ok(())
}
