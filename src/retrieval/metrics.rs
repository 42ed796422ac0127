//! The metrics of reports: sums, accumulated query by query, and means over queries.
//!
//! `tests/testsuite/retrieval_metrics.rs` compares them with `ir_measures`.

use serde::{Deserialize, Serialize};

use super::measure::{JudgedRanks, Measure};

/// Running sums for [`Metrics`].
#[derive(Debug, Clone, Default)]
pub struct MetricSums {
    queries: u64,
    /// In the order of [`Metrics::NAMES`].
    sums: [f64; Metrics::NAMES.len()],
}

impl MetricSums {
    /// Adds one query. Queries without relevant documents are ignored.
    pub fn add(&mut self, query: &JudgedRanks) {
        if query.relevant.is_empty() {
            return;
        }
        self.queries += 1;
        for (sum, value) in self.sums.iter_mut().zip(query.values(Metrics::MEASURES)) {
            *sum += value;
        }
    }

    /// Returns the means over the added queries; `None` if there are none.
    pub fn means(&self) -> Option<Metrics> {
        let [hits_1, hits_5, hits_10, hits_100, recall_5, reciprocal_rank_10, ndcg_10] =
            self.sums.map(|sum| sum / self.queries as f64);
        let queries = self.queries;
        (queries > 0).then_some(Metrics {
            queries,
            hits_1,
            hits_5,
            hits_10,
            hits_100,
            recall_5,
            reciprocal_rank_10,
            ndcg_10,
        })
    }
}

/// Mean metrics over the queries of a split: all fields but `queries` are between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Number of queries.
    pub queries: u64,
    /// Share of queries with a relevant document at rank 1.
    #[serde(rename = "hits@1")]
    pub hits_1: f64,
    /// Share of queries with a relevant document among the first 5.
    #[serde(rename = "hits@5")]
    pub hits_5: f64,
    /// Share of queries with a relevant document among the first 10.
    #[serde(rename = "hits@10")]
    pub hits_10: f64,
    /// Share of queries with a relevant document among the first 100.
    #[serde(rename = "hits@100")]
    pub hits_100: f64,
    /// Mean share of a query's relevant documents that are among the first 5.
    #[serde(rename = "recall@5")]
    pub recall_5: f64,
    /// Mean of 1 / rank of the first relevant document, 0 beyond rank 10.
    #[serde(rename = "mrr@10")]
    pub reciprocal_rank_10: f64,
    /// Mean discounted cumulative gain of the first 10, divided by the ideal one.
    #[serde(rename = "ndcg@10")]
    pub ndcg_10: f64,
}

impl Metrics {
    /// Names of the metrics in the order of reports; larger is better for all of them.
    pub const NAMES: [&'static str; 7] =
        ["hits@1", "hits@5", "hits@10", "hits@100", "recall@5", "mrr@10", "ndcg@10"];

    /// The measures of these names.
    pub const MEASURES: [Measure; 7] = [
        Measure::success(1),
        Measure::success(5),
        Measure::success(10),
        Measure::success(100),
        Measure::recall(5),
        Measure::reciprocal_rank(10),
        Measure::ndcg(10),
    ];

    /// Returns names and values: [`Metrics::NAMES`], then `queries`.
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

    /// Returns the value by its name in [`Metrics::values`].
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retrieval::NamedMeasure;

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
    fn names_of_values_are_names_of_fields() {
        let means = sums(&[&[(2, 1)]]).means().unwrap();
        let json = serde_json::to_value(&means).unwrap();
        for (name, value) in means.values() {
            assert_eq!(json[name].as_f64(), Some(value), "{name}");
            assert_eq!(means.get(name), Some(value));
        }
        for (name, measure) in Metrics::NAMES.into_iter().zip(Metrics::MEASURES) {
            assert_eq!(name.parse::<NamedMeasure>().unwrap().measure, measure);
        }
    }
}
