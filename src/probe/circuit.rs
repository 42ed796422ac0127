//! P4, circuit (Tab. 4): how well the model retrieves with only the parts that the paper found to matter.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::context::{ProbeAccumulator, ProbeContext, ProbedBatch};
use super::number;
use super::overlap::Applied;
use super::patch::{Patch, PatchedPart};
use super::{ProbeResult, QueryRanks, Replacement};
use crate::component::{Component, Stage, Stages};
use crate::retrieval::ranking::relevant_ranks;
use crate::retrieval::ties::Ties;
use crate::retrieval::{JudgedRanks, MetricSums};

/// Effectiveness of circuits on a test set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Circuit {
    /// The name of the query set that is ranked; means for patching are from the correct queries.
    pub test_set: String,
    /// How many queries that set has.
    pub test_queries: u64,
    /// The whole model.
    pub unpatched: Scores,
    /// The paper's circuit with zeros and means, the same with the base model's outputs (both where the decoder has
    /// stages), and the one asked for.
    pub circuits: Vec<CircuitScore>,
    /// Where ranks of every query were asked for: those of each relevant docid of the test set, in the whole model and
    /// then in each of `circuits`. Empty and not written otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_query: Vec<QueryRanks>,
}

/// What a ranking is worth: each between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Queries with a relevant document at rank 1, as a share.
    #[serde(rename = "hits@1", with = "number")]
    pub hits_1: f64,
    /// Mean share of the relevant documents among the first 5.
    #[serde(rename = "recall@5", with = "number")]
    pub recall_5: f64,
    /// Queries with a relevant document among the first 10, as a share.
    #[serde(rename = "hits@10", with = "number")]
    pub hits_10: f64,
}

/// One circuit's effectiveness.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CircuitScore {
    /// `paper`, `paper with base` or `given`.
    pub name: String,
    /// What is replaced and by what, `decoder.mlp[I,II]=mean`, as it was applied: where patches overlap the later one
    /// holds, and none is listed for what it does not replace.
    pub patches: Vec<String>,
    /// Of the circuit by itself.
    pub absolute: Scores,
    /// Over those of the whole model; undefined where that has 0.
    pub relative: Scores,
}

/// What the paper's circuit leaves out, and by what it is replaced. Cross-attention stays in Stages II and III,
/// MLPs in Stage III.
const PAPER: [(Component, Stage, Replacement); 6] = {
    use Component::{CrossAttention, Mlp, SelfAttention};
    use Replacement::{Mean, Zero};
    use Stage::{First, Second, Third};
    [
        (SelfAttention, First, Zero),
        (CrossAttention, First, Zero),
        (Mlp, First, Mean),
        (SelfAttention, Second, Zero),
        (Mlp, Second, Mean),
        (SelfAttention, Third, Zero),
    ]
};

/// The probe while it measures. All happens at the end: on the test set, with means from the measured queries.
pub(super) struct Accumulator {
    circuits: Vec<(String, Applied)>,
}

impl Accumulator {
    /// Prepares the paper's circuits that can be had (none where the decoder has no stages), and the one that was given.
    pub fn new(context: &ProbeContext, given: &[Patch]) -> Self {
        let applied = |patches: &[Patch]| Applied::new(patches, context.model.t5.config());
        let paper = |base: bool, stages: &Stages| -> Applied {
            let patch = |(component, stage, replacement)| Patch {
                part: PatchedPart::of_stage(component, stage, stages),
                replacement: if base { Replacement::Base } else { replacement },
            };
            applied(&PAPER.into_iter().map(patch).collect::<Vec<_>>())
        };
        let mut circuits = Vec::new();
        if let Some(stages) = &context.options.stages {
            circuits.push(("paper".to_owned(), paper(false, stages)));
            if context.base.is_some() {
                circuits.push(("paper with base".to_owned(), paper(true, stages)));
            }
        }
        if !given.is_empty() {
            circuits.push(("given".to_owned(), applied(given)));
        }
        Self { circuits }
    }
}

impl ProbeAccumulator for Accumulator {
    fn add_batch(&mut self, _bench: &ProbeContext, _batch: &ProbedBatch) {}

    fn finish(self: Box<Self>, context: &ProbeContext) -> ProbeResult {
        let set @ (test, _) = context.test.unwrap_or((context.queries, context.states));
        let mut whole = MetricSums::default();
        let mut sums = vec![MetricSums::default(); self.circuits.len()];
        let mut per_query = Vec::new();
        for queries in test.batches(test.all(), context.options.batch_size) {
            let batch = context.batch(set, queries, context.base.is_some());
            let relevant: Vec<&[u32]> = batch
                .measured
                .iter()
                .map(|found| test.questions[found.query].relevant.as_slice())
                .collect();
            // In the whole model, then in each circuit; by query, of each relevant docid.
            let mut of_batch: Vec<Vec<Vec<u32>>> = Vec::new();
            let mut rank = |output: Tensor<2>, sums: &mut MetricSums| {
                let docids = context.model.docid_logits(output.clone()); // [batch, documents]
                let vocabulary = context.options.candidates;
                let (model, ties) = (context.model, Ties::Shared);
                let ranks: Vec<Vec<u32>> =
                    relevant_ranks(model, output, &docids, vocabulary, ties, &relevant)
                        .into_iter()
                        .map(|ranks| ranks.into_iter().map(|found| found.rank).collect())
                        .collect();
                for ranks in &ranks {
                    // Hits and recall know no grades.
                    sums.add(&JudgedRanks { relevant: ranks.iter().map(|r| (*r, 1)).collect() });
                }
                of_batch.push(ranks);
            };
            rank(batch.trace.output.clone(), &mut whole);
            for (sums, (_, applied)) in sums.iter_mut().zip(&self.circuits) {
                rank(context.patched_output(&batch, applied), sums);
            }
            if context.options.per_query {
                for (place, found) in batch.measured.iter().enumerate() {
                    per_query.extend(relevant[place].iter().enumerate().map(|(of, &docid)| {
                        let ranks = of_batch.iter().map(|ranks| ranks[place][of]).collect();
                        context.query_ranks(test, found.query, docid, ranks)
                    }));
                }
            }
        }
        let unpatched = Scores::of(&whole);
        let circuits = self.circuits.into_iter().zip(&sums).map(|((name, applied), sums)| {
            let absolute = Scores::of(sums);
            CircuitScore {
                name,
                patches: applied.patches,
                absolute,
                relative: absolute.over(unpatched),
            }
        });
        ProbeResult::Circuit(Circuit {
            test_set: test.name.clone(),
            test_queries: test.len() as u64,
            unpatched,
            circuits: circuits.collect(),
            per_query,
        })
    }
}

impl Scores {
    fn of(sums: &MetricSums) -> Self {
        let undefined = Self { hits_1: f64::NAN, recall_5: f64::NAN, hits_10: f64::NAN };
        sums.means().map_or(undefined, |means| Self {
            hits_1: means.hits_1,
            recall_5: means.recall_5,
            hits_10: means.hits_10,
        })
    }

    fn over(self, whole: Self) -> Self {
        let over = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { f64::NAN };
        Self {
            hits_1: over(self.hits_1, whole.hits_1),
            recall_5: over(self.recall_5, whole.recall_5),
            hits_10: over(self.hits_10, whole.hits_10),
        }
    }
}
