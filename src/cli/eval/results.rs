//! The results of `genir eval` as a table and as JSON.

use comfy_table::{Table, presets};
use serde_json::{Map, Value, json};

use super::Eval;
use crate::probe::describe_candidates;
use crate::retrieval::NamedMeasure;
use crate::retrieval::evaluation::{EvaluationResult, QuerySet};

/// The results of one run, or of the baseline.
pub(super) struct RunResult<'a> {
    pub name: &'a str,
    pub parts: Vec<SubsetMeans>,
    pub is_baseline: bool,
}

/// The means over a subset of the queries: all, seen or unseen.
pub(super) struct SubsetMeans {
    name: &'static str,
    queries: usize,
    means: Vec<f64>,
}

impl Eval {
    /// Returns the subsets of one run as an object, or a list of such objects for several runs.
    pub(super) fn json(&self, measures: &[NamedMeasure], runs: &[RunResult]) -> Value {
        let of_part = |part: &SubsetMeans| {
            let values = measures.iter().zip(&part.means);
            let values = values.map(|(measure, mean)| (measure.name.clone(), json!(mean)));
            let queries = ("queries".to_owned(), json!(part.queries));
            Value::Object([queries].into_iter().chain(values).collect())
        };
        let of_run = |run: &RunResult| -> Map<String, Value> {
            let padding = self.unmasked_padding.filter(|_| !run.is_baseline);
            let padding = padding.map(|length| ("unmasked_padding", json!(length)));
            let baseline = run.is_baseline.then(|| ("baseline", self.baseline.json()));
            let parts = run.parts.iter().map(|part| (part.name, of_part(part)));
            let all = padding.into_iter().chain(baseline).chain(parts);
            all.map(|(name, value)| (name.to_owned(), value)).collect()
        };
        match runs {
            [run] => Value::Object(of_run(run)),
            _ => runs
                .iter()
                .map(|run| {
                    let mut named = Map::from_iter([("run".to_owned(), json!(run.name))]);
                    named.extend(of_run(run));
                    Value::Object(named)
                })
                .collect(),
        }
    }

    pub(super) fn table(&self, measures: &[NamedMeasure], runs: &[RunResult]) -> String {
        let several = runs.len() > 1;
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        let mut header = if several { vec!["run", "part"] } else { vec!["part"] };
        header.extend(measures.iter().map(|measure| measure.name.as_str()));
        header.push("queries");
        table.set_header(header);
        for run in runs {
            for part in &run.parts {
                let mut row = Vec::new();
                row.extend(several.then(|| run.name.to_owned()));
                row.push(part.name.to_owned());
                row.extend(part.means.iter().map(|mean| format!("{mean:.4}")));
                row.push(part.queries.to_string());
                table.add_row(row);
            }
        }
        let mut text = format!(
            "{table}\nseen: queries with a relevant document that had a training query; unseen: the others."
        );
        if runs.iter().any(|run| !run.is_baseline) {
            text += &format!("\nCandidate set: {}.", describe_candidates(self.vocabulary));
        }
        if runs.iter().any(|run| run.is_baseline) {
            text += &format!("\n{}", self.baseline.describe());
        }
        if self.metrics.is_some() {
            text +=
                "\nRelevant: grade 1 or higher, or as given by rel=; nDCG uses the grade as gain.";
        }
        if let Some(length) = self.unmasked_padding {
            text += &format!(
                "\nQueries were truncated and padded to {length} tokens without an attention mask, as in the \
                 paper's eval.py."
            );
        }
        text
    }
}

/// Returns the means over all queries, and over those seen and unseen; empty subsets are omitted.
pub(super) fn subset_means(
    set: &QuerySet,
    found: &EvaluationResult,
    measures: &[NamedMeasure],
) -> Vec<SubsetMeans> {
    let subset = |name, contains: &dyn Fn(usize) -> bool| {
        let mut part = SubsetMeans { name, queries: 0, means: vec![0.0; measures.len()] };
        for (index, judged) in found.judged.iter().enumerate() {
            if judged.relevant.is_empty() || !contains(index) {
                continue;
            }
            part.queries += 1;
            let values = judged.values(measures.iter().map(|measure| measure.measure));
            part.means.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        part.means.iter_mut().for_each(|mean| *mean /= part.queries as f64);
        (part.queries > 0).then_some(part)
    };
    [
        subset("all", &|_| true),
        subset("seen", &|index| set.is_seen(index) == Some(true)),
        subset("unseen", &|index| set.is_seen(index) == Some(false)),
    ]
    .into_iter()
    .flatten()
    .collect()
}
