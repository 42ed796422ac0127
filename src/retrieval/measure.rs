//! Measures of one query's ranking, by the names of `ir_measures`: `nDCG@10`, `RR@10`, `Success@1`, `P(rel=2)@5`.
//!
//! The definitions are those of `trec_eval`, and so of `ir_measures`; `tests/retrieval_metrics.rs` holds them against
//! its values. They need the ranks of the relevant documents only, so they are exact however deep those stand: a run
//! file that is cut off gives the same values up to its depth.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use crate::nearest::nearest;

/// Where the relevant documents of one query were ranked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JudgedRanks {
    /// `(rank, grade)` of every relevant document: ranks count from 1, grades are above 0. A
    /// document that was not retrieved at all has [`JudgedRanks::NOT_RETRIEVED`].
    pub relevant: Vec<(u32, u32)>,
}

impl JudgedRanks {
    /// The rank of a relevant document that the ranking does not hold.
    pub const NOT_RETRIEVED: u32 = u32::MAX;

    /// The relevant documents in the order of their ranks, each at a place of its own: where ranks are shared
    /// (`Ties::Shared`), two documents cannot stand at one place of a list, so the later ones move down to the next
    /// place (the highest grade first).
    fn places(&self) -> Vec<(u32, u32)> {
        let mut judged = self.relevant.clone();
        judged.sort_unstable_by_key(|&(rank, grade)| (rank, Reverse(grade)));
        let mut place = 0_u32;
        for (rank, _) in &mut judged {
            place = place.saturating_add(1).max(*rank);
            *rank = place;
        }
        judged
    }

    /// The value of each of `measures`: 0 where nothing is relevant to a measure.
    pub fn values(&self, measures: impl IntoIterator<Item = Measure>) -> Vec<f64> {
        let judged = self.places();
        measures.into_iter().map(|measure| measure.of(&judged)).collect()
    }
}

/// A measure of a ranking, between 0 and 1; larger is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    kind: Kind,
    /// Ranks that count: all of them without a cutoff.
    cutoff: Option<u32>,
    /// The lowest grade of a document that counts as relevant. [`Kind::NDcg`] has none: the grade is the gain.
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
    /// 1 if a relevant document is among the first `k`, else 0.
    pub(super) const fn success(k: u32) -> Self {
        Self { kind: Kind::Success, cutoff: Some(k), relevant_from: 1 }
    }

    /// The share of the relevant documents among the first `k`.
    pub(super) const fn recall(k: u32) -> Self {
        Self { kind: Kind::Recall, cutoff: Some(k), relevant_from: 1 }
    }

    /// 1 / rank of the first relevant document, 0 beyond rank `k`.
    pub(super) const fn reciprocal_rank(k: u32) -> Self {
        Self { kind: Kind::ReciprocalRank, cutoff: Some(k), relevant_from: 1 }
    }

    /// The discounted cumulative gain of the first `k` over the best that is possible.
    pub(super) const fn ndcg(k: u32) -> Self {
        Self { kind: Kind::NDcg, cutoff: Some(k), relevant_from: 1 }
    }

    /// Of `(place, grade)` of all relevant documents, by rising place.
    fn of(self, judged: &[(u32, u32)]) -> f64 {
        let cutoff = self.cutoff.unwrap_or(u32::MAX);
        let counts =
            |&&(place, _): &&(u32, u32)| place <= cutoff && place != JudgedRanks::NOT_RETRIEVED;
        let is_relevant = |&&(_, grade): &&(u32, u32)| grade >= self.relevant_from;
        let relevant = judged.iter().filter(is_relevant).count();
        let found = || judged.iter().filter(counts).filter(is_relevant).map(|(place, _)| *place);
        match self.kind {
            Kind::Success => f64::from(u8::from(found().next().is_some())),
            Kind::Recall => share(found().count() as f64, relevant as f64),
            Kind::Precision => share(found().count() as f64, f64::from(cutoff)),
            Kind::ReciprocalRank => found().next().map_or(0.0, |place| 1.0 / f64::from(place)),
            Kind::NDcg => {
                let gain = discounted_gain(judged.iter().filter(counts).copied());
                let mut grades: Vec<u32> = judged.iter().map(|(_, grade)| *grade).collect();
                grades.sort_unstable_by_key(|grade| Reverse(*grade));
                let ideal = (1..=cutoff).zip(grades);
                share(gain, discounted_gain(ideal))
            }
            Kind::AveragePrecision => {
                let precisions =
                    (1_u32..).zip(found()).map(|(n, place)| f64::from(n) / f64::from(place));
                share(precisions.sum(), relevant as f64)
            }
            Kind::RPrecision => {
                let first = found().filter(|place| *place as usize <= relevant).count();
                share(first as f64, relevant as f64)
            }
        }
    }
}

/// `part / whole`, and 0 of nothing.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// The discounted cumulative gain of `(place, grade)` pairs.
fn discounted_gain(judged: impl Iterator<Item = (u32, u32)>) -> f64 {
    judged.map(|(place, grade)| f64::from(grade) / (f64::from(place) + 1.0).log2()).sum()
}

/// A measure, with the name that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedMeasure {
    /// As it was written: `nDCG@10`, `hits@1`.
    pub name: String,
    /// What it names.
    pub measure: Measure,
}

/// Why a name names no measure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} {what}{}; there are {KNOWN}", suggestion.map(|name| format!(", did you mean {name}?")).unwrap_or_default())]
pub struct MeasureError {
    /// What was written.
    pub found: String,
    /// What is wrong with it.
    pub what: &'static str,
    /// The known name that is most like it.
    pub suggestion: Option<&'static str>,
}

/// What is known, for messages and help.
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

/// What a mistyped name is compared with.
const USUAL: [&str; 14] = [
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
            suggestion: nearest(name, USUAL).filter(|known| *known != name),
        };
        let (head, cutoff) = match name.split_once('@') {
            None => (name, None),
            Some((head, cutoff)) => {
                let digits = !cutoff.is_empty() && cutoff.bytes().all(|byte| byte.is_ascii_digit());
                let cutoff = cutoff.parse::<u32>().ok().filter(|k| digits && *k > 0);
                (
                    head,
                    Some(cutoff.ok_or_else(|| error("has no whole number from 1 behind the @"))?),
                )
            }
        };
        let (head, relevant_from) = match head.split_once('(') {
            None => (head, None),
            Some((head, parameters)) => {
                let grade = parameters.strip_suffix(')').and_then(|p| p.strip_prefix("rel="));
                let grade = grade.and_then(|grade| grade.parse::<u32>().ok()).filter(|g| *g > 0);
                let what = "has another parameter than rel=GRADE, a whole number from 1";
                (head, Some(grade.ok_or_else(|| error(what))?))
            }
        };
        let known = KINDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(head));
        let &(_, kind) = known.ok_or_else(|| error("is no metric"))?;
        match (kind, cutoff, relevant_from) {
            (Kind::Success | Kind::Recall | Kind::Precision, None, _) => {
                Err(error("needs a cutoff, such as @10"))
            }
            (Kind::RPrecision, Some(_), _) => Err(error("takes no cutoff")),
            (Kind::NDcg, _, Some(_)) => Err(error("takes no rel: the grade is the gain")),
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
    fn what_is_no_measure_is_refused_with_the_list_and_the_nearest() {
        for (name, parts) in [
            ("nDGC@10", ["is no metric", "did you mean nDCG@10?"]),
            ("hits@0", ["no whole number from 1", "did you mean hits@1?"]),
            ("P", ["needs a cutoff", "P@k"]),
            ("Rprec@5", ["takes no cutoff", "did you mean Rprec?"]),
            ("nDCG(rel=2)@10", ["the grade is the gain", "did you mean nDCG?"]),
            ("P(gain=2)@5", ["rel=GRADE", "P(rel=2)@5"]),
            ("R@+5", ["no whole number", "R@k"]),
            ("", ["\"\" is no metric", "Success@k"]),
        ] {
            let error = name.parse::<NamedMeasure>().unwrap_err().to_string();
            for part in parts.into_iter().chain(["Success@k", "hits@k"]) {
                assert!(error.contains(part), "{name}: {part:?} is not in {error}");
            }
        }
    }

    #[test]
    fn what_nothing_is_relevant_to_is_zero_and_never_nan() {
        let all = USUAL.map(|name| name.parse::<NamedMeasure>().unwrap().measure);
        let strict = "P(rel=3)@5".parse::<NamedMeasure>().unwrap().measure;
        for relevant in [vec![], vec![(1, 0)], vec![(JudgedRanks::NOT_RETRIEVED, 2)]] {
            let judged = JudgedRanks { relevant };
            for value in judged.values(all.into_iter().chain([strict])) {
                assert_eq!(value, 0.0);
            }
        }
    }

    #[test]
    fn documents_that_share_a_rank_never_gain_more_than_the_ideal() {
        let judged = JudgedRanks { relevant: vec![(1, 1), (1, 3), (1, 1)] };
        assert_eq!(judged.values([Measure::ndcg(10), Measure::recall(2)]), [1.0, 2.0 / 3.0]);
    }
}
