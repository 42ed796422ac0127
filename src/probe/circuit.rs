//! P4, circuit (Tab. 4): how well the model retrieves with only the parts that the paper found to matter.

use serde::{Deserialize, Serialize};

use super::record::number;

/// Effectiveness of circuits on a test set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Circuit {
    /// The name of the query set that is ranked; means for patching are from the correct queries.
    pub test_set: String,
    /// How many queries that set has.
    pub test_queries: u64,
    /// The whole model.
    pub unpatched: Scores,
    /// The paper's circuit with zeros and means, the same with the base model's outputs, and the one asked for.
    pub circuits: Vec<CircuitScore>,
}

/// What a ranking is worth: each between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    #[serde(rename = "hits@1", with = "number")]
    pub hits_1: f64,
    #[serde(rename = "recall@5", with = "number")]
    pub recall_5: f64,
    #[serde(rename = "hits@10", with = "number")]
    pub hits_10: f64,
}

/// One circuit's effectiveness.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CircuitScore {
    /// `paper`, `paper with base` or `given`.
    pub name: String,
    /// What is replaced and by what: `decoder.mlp[I,II]=mean`.
    pub patches: Vec<String>,
    pub absolute: Scores,
    /// Over those of the whole model; undefined where that has 0.
    pub relative: Scores,
}
