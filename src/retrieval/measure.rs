//! Measures of one query's ranking, by the names of `ir_measures`: `nDCG@10`, `RR@10`, `Success@1`, `P(rel=2)@5`.
//!
//! The definitions are those of `trec_eval` and `ir_measures`; `tests/testsuite/retrieval_metrics.rs` compares the values. Only
//! the ranks of the relevant documents are needed, so the values are exact at any depth; a truncated run file gives the
//! same values up to its depth.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use crate::nearest::nearest;

/// The ranks of the relevant documents of one query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JudgedRanks {
    /// `(rank, grade)` of every relevant document: ranks count from 1, grades are above 0. A
    /// document that was not retrieved has [`JudgedRanks::NOT_RETRIEVED`].
    pub relevant: Vec<(u32, u32)>,
}

impl JudgedRanks {
    /// The rank of a relevant document that is not in the ranking.
    pub const NOT_RETRIEVED: u32 = u32::MAX;

    /// Returns the relevant documents sorted by rank, each with a unique position. If documents share a rank
    /// (`Ties::Shared`), all but the first move down to the next free position, the highest grade first.
    fn positions(&self) -> Vec<(u32, u32)> {
        let mut judged = self.relevant.clone();
        judged.sort_unstable_by_key(|&(rank, grade)| (rank, Reverse(grade)));
        let mut position = 0_u32;
        for (rank, _) in &mut judged {
            position = position.saturating_add(1).max(*rank);
            *rank = position;
        }
        judged
    }

    /// Returns the value of each of `measures`: 0 if no document is relevant for a measure.
    pub fn values(&self, measures: impl IntoIterator<Item = Measure>) -> Vec<f64> {
        let judged = self.positions();
        measures.into_iter().map(|measure| measure.of(&judged)).collect()
    }
}

/// A measure of a ranking, between 0 and 1; larger is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    kind: Kind,
    /// The last rank that counts; `None` for all ranks.
    cutoff: Option<u32>,
    /// The lowest grade of a relevant document. Not used by [`Kind::NDcg`]: there the grade is the gain.
    relevant_from: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Success,
    Recall,
    Precision,
    ReciprocalRank,
    NDcg,
    AveragePrecision,
    RPrecision,
}

impl Measure {
    /// Success@k: 1 if a relevant document is among the first `k`, else 0.
    pub(super) const fn success(k: u32) -> Self {
        Self { kind: Kind::Success, cutoff: Some(k), relevant_from: 1 }
    }

    /// Recall@k: the share of the relevant documents that are among the first `k`.
    pub(super) const fn recall(k: u32) -> Self {
        Self { kind: Kind::Recall, cutoff: Some(k), relevant_from: 1 }
    }

    /// RR@k: 1 / rank of the first relevant document, 0 beyond rank `k`.
    pub(super) const fn reciprocal_rank(k: u32) -> Self {
        Self { kind: Kind::ReciprocalRank, cutoff: Some(k), relevant_from: 1 }
    }

    /// nDCG@k: the discounted cumulative gain of the first `k`, divided by the ideal one.
    pub(super) const fn ndcg(k: u32) -> Self {
        Self { kind: Kind::NDcg, cutoff: Some(k), relevant_from: 1 }
    }

    /// Returns the value for `(position, grade)` of all relevant documents, sorted by position.
    fn of(self, judged: &[(u32, u32)]) -> f64 {
        let cutoff = self.cutoff.unwrap_or(u32::MAX);
        let counts = |&&(position, _): &&(u32, u32)| {
            position <= cutoff && position != JudgedRanks::NOT_RETRIEVED
        };
        let is_relevant = |&&(_, grade): &&(u32, u32)| grade >= self.relevant_from;
        let relevant = judged.iter().filter(is_relevant).count();
        let found =
            || judged.iter().filter(counts).filter(is_relevant).map(|(position, _)| *position);
        match self.kind {
            Kind::Success => f64::from(u8::from(found().next().is_some())),
            Kind::Recall => share(found().count() as f64, relevant as f64),
            Kind::Precision => share(found().count() as f64, f64::from(cutoff)),
            Kind::ReciprocalRank => {
                found().next().map_or(0.0, |position| 1.0 / f64::from(position))
            }
            Kind::NDcg => {
                let gain = discounted_gain(judged.iter().filter(counts).copied());
                let mut grades: Vec<u32> = judged.iter().map(|(_, grade)| *grade).collect();
                grades.sort_unstable_by_key(|grade| Reverse(*grade));
                let ideal = (1..=cutoff).zip(grades);
                share(gain, discounted_gain(ideal))
            }
            Kind::AveragePrecision => {
                let precisions =
                    (1_u32..).zip(found()).map(|(n, position)| f64::from(n) / f64::from(position));
                share(precisions.sum(), relevant as f64)
            }
            Kind::RPrecision => {
                let first = found().filter(|position| *position as usize <= relevant).count();
                share(first as f64, relevant as f64)
            }
        }
    }
}

/// Returns `part / whole`, or 0 if `whole` is 0.
fn share(part: f64, whole: f64) -> f64 {
    // The sum of no floats is -0.0, which files would show as `-0`.
    if whole > 0.0 { part / whole + 0.0 } else { 0.0 }
}

/// Returns the discounted cumulative gain of `(position, grade)` pairs.
fn discounted_gain(judged: impl Iterator<Item = (u32, u32)>) -> f64 {
    judged.map(|(position, grade)| f64::from(grade) / (f64::from(position) + 1.0).log2()).sum()
}

/// A measure with its name as given by the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedMeasure {
    /// The name as written: `nDCG@10`, `hits@1`.
    pub name: String,
    /// The measure.
    pub measure: Measure,
}

/// A name that is not a measure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} {what}{}; known metrics: {KNOWN}", suggestion.map(|name| format!(", did you mean {name}?")).unwrap_or_default())]
pub struct MeasureError {
    /// The name as written.
    pub found: String,
    /// The problem.
    pub what: &'static str,
    /// The most similar known name.
    pub suggestion: Option<&'static str>,
}

/// The known metrics, for messages and help.
pub const KNOWN: &str = "Success@k, R@k, P@k, RR, RR@k, nDCG, nDCG@k, AP, AP@k and Rprec (names of ir_measures; a \
     document is relevant from grade 1, or as in P(rel=2)@5), and genir's hits@k, recall@k, mrr@k and ndcg@k";

/// Names with their kinds: those of `ir_measures`, their aliases there, and those of genir's reports.
const KINDS: [(&str, Kind); 12] = [
    ("Success", Kind::Success),
    ("hits", Kind::Success),
    ("R", Kind::Recall),
    ("recall", Kind::Recall),
    ("P", Kind::Precision),
    ("precision", Kind::Precision),
    ("RR", Kind::ReciprocalRank),
    ("MRR", Kind::ReciprocalRank),
    ("nDCG", Kind::NDcg),
    ("AP", Kind::AveragePrecision),
    ("MAP", Kind::AveragePrecision),
    ("Rprec", Kind::RPrecision),
];

/// Common names, of which the most similar one is suggested for a mistyped name.
const COMMON: [&str; 14] = [
    "nDCG@10",
    "RR@10",
    "Success@1",
    "R@100",
    "P@1",
    "AP",
    "Rprec",
    "RR",
    "nDCG",
    "hits@1",
    "recall@5",
    "mrr@10",
    "ndcg@10",
    "AP@100",
];

impl FromStr for NamedMeasure {
    type Err = MeasureError;

    fn from_str(name: &str) -> Result<Self, MeasureError> {
        let error = |what| MeasureError {
            found: name.to_owned(),
            what,
            suggestion: nearest(name, COMMON).filter(|known| *known != name),
        };
        let (head, cutoff) = match name.split_once('@') {
            None => (name, None),
            Some((head, cutoff)) => {
                let digits = !cutoff.is_empty() && cutoff.bytes().all(|byte| byte.is_ascii_digit());
                let cutoff = cutoff.parse::<u32>().ok().filter(|k| digits && *k > 0);
                (head, Some(cutoff.ok_or_else(|| error("needs a positive integer after the @"))?))
            }
        };
        let (head, relevant_from) = match head.split_once('(') {
            None => (head, None),
            Some((head, parameters)) => {
                let grade = parameters.strip_suffix(')').and_then(|p| p.strip_prefix("rel="));
                let grade = grade.and_then(|grade| grade.parse::<u32>().ok()).filter(|g| *g > 0);
                let what = "allows no other parameter than rel=GRADE, a positive integer";
                (head, Some(grade.ok_or_else(|| error(what))?))
            }
        };
        let known = KINDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(head));
        let &(_, kind) = known.ok_or_else(|| error("is not a known metric"))?;
        match (kind, cutoff, relevant_from) {
            (Kind::Success | Kind::Recall | Kind::Precision, None, _) => {
                Err(error("needs a cutoff, such as @10"))
            }
            (Kind::RPrecision, Some(_), _) => Err(error("takes no cutoff")),
            (Kind::NDcg, _, Some(_)) => Err(error("takes no rel=: the grade is the gain")),
            _ => {
                let measure = Measure { kind, cutoff, relevant_from: relevant_from.unwrap_or(1) };
                Ok(Self { name: name.to_owned(), measure })
            }
        }
    }
}

impl fmt::Display for NamedMeasure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ir_measures_and_of_genir_name_the_same_measures() {
        for (name, same) in [
            ("hits@1", "Success@1"),
            ("recall@5", "R@5"),
            ("mrr@10", "RR@10"),
            ("ndcg@10", "nDCG@10"),
            ("MAP", "AP"),
            ("Recall@5", "R@5"),
            ("P(rel=1)@5", "P@5"),
        ] {
            let measure = |name: &str| name.parse::<NamedMeasure>().unwrap().measure;
            assert_eq!(measure(name), measure(same), "{name}");
        }
    }

    #[test]
    fn an_unknown_measure_is_refused_with_the_list_and_a_suggestion() {
        for (name, parts) in [
            ("nDGC@10", ["is not a known metric", "did you mean nDCG@10?"]),
            ("hits@0", ["a positive integer", "did you mean hits@1?"]),
            ("P", ["needs a cutoff", "P@k"]),
            ("Rprec@5", ["takes no cutoff", "did you mean Rprec?"]),
            ("nDCG(rel=2)@10", ["the grade is the gain", "did you mean nDCG?"]),
            ("P(gain=2)@5", ["rel=GRADE", "P(rel=2)@5"]),
            ("R@+5", ["a positive integer", "R@k"]),
            ("", ["\"\" is not a known metric", "Success@k"]),
        ] {
            let error = name.parse::<NamedMeasure>().unwrap_err().to_string();
            for part in parts.into_iter().chain(["Success@k", "hits@k"]) {
                assert!(error.contains(part), "{name}: {part:?} is not in {error}");
            }
        }
    }

    #[test]
    fn measures_without_relevant_documents_are_zero_and_not_nan() {
        let all = COMMON.map(|name| name.parse::<NamedMeasure>().unwrap().measure);
        let strict = "P(rel=3)@5".parse::<NamedMeasure>().unwrap().measure;
        for relevant in [vec![], vec![(1, 0)], vec![(JudgedRanks::NOT_RETRIEVED, 2)]] {
            let judged = JudgedRanks { relevant };
            for value in judged.values(all.into_iter().chain([strict])) {
                assert!(value == 0.0 && value.is_sign_positive(), "{value}");
            }
        }
    }

    #[test]
    fn documents_that_share_a_rank_gain_at_most_the_ideal() {
        let judged = JudgedRanks { relevant: vec![(1, 1), (1, 3), (1, 1)] };
        assert_eq!(judged.values([Measure::ndcg(10), Measure::recall(2)]), [1.0, 2.0 / 3.0]);
    }
}
