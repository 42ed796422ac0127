//! Retrieval metrics: their sums, gathered one query at a time, and their means over queries.
//!
//! The definitions are those of `trec_eval` (and so of `ir_measures`: Success@k, R@5, RR@10,
//! nDCG@10); the queries of a split are held against its values in `tests/retrieval_metrics.rs`.

use serde::{Deserialize, Serialize};

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
}

/// The sums behind [`Metrics`]: a few numbers, whatever the count of queries.
#[derive(Debug, Clone, Default)]
pub struct MetricSums {
    queries: u64,
    hits_1: u64,
    hits_5: u64,
    hits_10: u64,
    hits_100: u64,
    recall_5: f64,
    reciprocal_rank_10: f64,
    ndcg_10: f64,
}

impl MetricSums {
    /// Adds one query. A query without relevant documents cannot be judged and is not counted.
    ///
    /// Relevant documents of equal score share a rank; two cannot stand at one place of a list,
    /// so the later ones move down to the next place (the highest grade first).
    pub fn add(&mut self, query: &JudgedRanks) {
        let mut judged = query.relevant.clone();
        if judged.is_empty() {
            return;
        }
        judged.sort_unstable_by_key(|&(rank, grade)| (rank, std::cmp::Reverse(grade)));
        let mut place = 0_u32;
        for (rank, _) in &mut judged {
            place = place.saturating_add(1).max(*rank);
            *rank = place;
        }

        let best = judged[0].0;
        self.queries += 1;
        self.hits_1 += u64::from(best <= 1);
        self.hits_5 += u64::from(best <= 5);
        self.hits_10 += u64::from(best <= 10);
        self.hits_100 += u64::from(best <= 100);
        let found = judged.iter().filter(|(rank, _)| *rank <= 5).count();
        self.recall_5 += found as f64 / judged.len() as f64;
        if best <= 10 {
            self.reciprocal_rank_10 += 1.0 / f64::from(best);
        }
        let gain = discounted_gain(judged.iter().copied());
        judged.sort_unstable_by_key(|&(_, grade)| std::cmp::Reverse(grade));
        let ideal = discounted_gain((1..).zip(judged.iter().map(|&(_, grade)| grade)));
        self.ndcg_10 += gain / ideal;
    }

    /// The means over the queries seen; none where there was no query.
    pub fn means(&self) -> Option<Metrics> {
        let mean = |sum: f64| sum / self.queries as f64;
        (self.queries > 0).then(|| Metrics {
            queries: self.queries,
            hits_1: mean(self.hits_1 as f64),
            hits_5: mean(self.hits_5 as f64),
            hits_10: mean(self.hits_10 as f64),
            hits_100: mean(self.hits_100 as f64),
            recall_5: mean(self.recall_5),
            reciprocal_rank_10: mean(self.reciprocal_rank_10),
            ndcg_10: mean(self.ndcg_10),
        })
    }
}

/// The discounted cumulative gain of `(rank, grade)` pairs within the first 10 ranks.
fn discounted_gain(judged: impl Iterator<Item = (u32, u32)>) -> f64 {
    judged
        .filter(|(rank, _)| *rank <= 10)
        .map(|(rank, grade)| f64::from(grade) / (f64::from(rank) + 1.0).log2())
        .sum()
}

/// Means over the queries of a split: each but `queries` lies between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// How many queries the means are over.
    pub queries: u64,
    /// The share of queries with a relevant document at rank 1.
    #[serde(rename = "hits@1")]
    pub hits_1: f64,
    /// The share of queries with a relevant document among the first 5.
    #[serde(rename = "hits@5")]
    pub hits_5: f64,
    /// The share of queries with a relevant document among the first 10.
    #[serde(rename = "hits@10")]
    pub hits_10: f64,
    /// The share of queries with a relevant document among the first 100.
    #[serde(rename = "hits@100")]
    pub hits_100: f64,
    /// The share of a query's relevant documents among the first 5.
    #[serde(rename = "recall@5")]
    pub recall_5: f64,
    /// 1 / rank of the first relevant document, 0 when that is beyond rank 10.
    #[serde(rename = "mrr@10")]
    pub reciprocal_rank_10: f64,
    /// Discounted cumulative gain of the first 10, in proportion to the best that is possible.
    #[serde(rename = "ndcg@10")]
    pub ndcg_10: f64,
}

impl Metrics {
    /// What a ranking is judged by, in the order of reports; larger is better in all of them.
    pub const NAMES: [&'static str; 7] =
        ["hits@1", "hits@5", "hits@10", "hits@100", "recall@5", "mrr@10", "ndcg@10"];

    /// Names and values: [`Metrics::NAMES`], then `queries`.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, f64)> + use<> {
        let values = [
            self.hits_1,
            self.hits_5,
            self.hits_10,
            self.hits_100,
            self.recall_5,
            self.reciprocal_rank_10,
            self.ndcg_10,
        ];
        Self::NAMES.into_iter().zip(values).chain([("queries", self.queries as f64)])
    }

    /// The value of that name, as [`Metrics::values`] spells it.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(queries: &[&[(u32, u32)]]) -> MetricSums {
        let mut sums = MetricSums::default();
        for relevant in queries {
            sums.add(&JudgedRanks { relevant: relevant.to_vec() });
        }
        sums
    }

    #[test]
    fn no_query_gives_no_metrics() {
        assert_eq!(sums(&[]).means(), None);
        assert_eq!(sums(&[&[]]).means(), None);
    }

    #[test]
    fn tied_documents_never_gain_more_than_the_ideal() {
        let means = sums(&[&[(1, 1), (1, 3), (1, 1)]]).means().unwrap();
        assert_eq!(means.ndcg_10, 1.0);
    }

    #[test]
    fn names_of_values_are_names_of_fields() {
        let means = sums(&[&[(2, 1)]]).means().unwrap();
        let json = serde_json::to_value(&means).unwrap();
        for (name, value) in means.values() {
            assert_eq!(json[name].as_f64(), Some(value), "{name}");
            assert_eq!(means.get(name), Some(value));
        }
    }
}
