//! P4 (Tab. 4): retrieval effectiveness of the model with all components outside a circuit ablated.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::context::{ProbeAccumulator, ProbeContext, ProbedBatch};
use super::number;
use super::overlap::Applied;
use super::patch::{Patch, PatchedPart};
use super::queries::{EncodedQueries, QueryTarget};
use super::{ProbeQueries, ProbeResult, QueryRanks, Replacement};
use crate::component::{Component, Stage, Stages};
use crate::processes::ProcessesError;
use crate::retrieval::ranks::relevant_ranks;
use crate::retrieval::ties::Ties;
use crate::retrieval::{JudgedRanks, MetricSums};

/// Effectiveness of circuits on a test set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Circuit {
    /// The name of the query set that is ranked; means for ablation are taken over the correct queries.
    pub test_set: String,
    /// Number of queries in that set.
    pub test_queries: u64,
    /// The model without ablation.
    pub unpatched: Scores,
    /// The paper's circuit with zero and mean ablation, the paper's circuit with base-model patching (both if the
    /// decoder has stages), and the user-defined one.
    pub circuits: Vec<CircuitScore>,
    /// With the option `per_query`: ranks of each relevant docid of the test set, first in the model without ablation
    /// and then in each of `circuits`. Otherwise empty and not written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_query: Vec<QueryRanks>,
}

/// Effectiveness metrics of a ranking, between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Fraction of the queries with a relevant document at rank 1.
    #[serde(rename = "hits@1", with = "number")]
    pub hits_1: f64,
    /// Mean fraction of the relevant documents that are in the top 5.
    #[serde(rename = "recall@5", with = "number")]
    pub recall_5: f64,
    /// Fraction of the queries with a relevant document in the top 10.
    #[serde(rename = "hits@10", with = "number")]
    pub hits_10: f64,
}

/// One circuit's effectiveness.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CircuitScore {
    /// `paper`, `paper with base` or `given` (user-defined).
    pub name: String,
    /// The patches as they were applied, such as `decoder.mlp[I,II]=mean`. Where patches overlap, the later one wins,
    /// and the earlier one is listed without the overlapping part.
    pub patches: Vec<String>,
    /// Metrics of the circuit alone.
    pub absolute: Scores,
    /// Metrics divided by those of the model without ablation; undefined where these are 0.
    pub relative: Scores,
}

/// The components outside the paper's circuit with their replacements. The circuit consists of cross-attention in
/// stages II and III and of MLPs in stage III.
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

/// The circuits to evaluate. They are evaluated at the end, on the test set, with means over the measured queries.
pub(super) struct Accumulator {
    circuits: Vec<(String, Applied)>,
}

impl Accumulator {
    /// Prepares the paper's circuits (with the base model's outputs only if there is a base model; none if the decoder
    /// has no stages) and the user-defined one.
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
    /// Nothing: circuits are measured on the test set, in `finish`.
    type OfBatch = ();

    fn measure(&self, _context: &ProbeContext, _batch: &ProbedBatch) {}

    fn add(&mut self, (): ()) {}

    fn finish(self: Box<Self>, context: &ProbeContext) -> Result<ProbeResult, ProcessesError> {
        let set @ (test, _) = context.test.unwrap_or((context.queries, context.states));
        // Of the model without ablation, then of each circuit.
        let mut sums = vec![MetricSums::default(); 1 + self.circuits.len()];
        let mut per_query = Vec::new();
        let batches = test.batches(test.all(), context.options.batch_size);
        let ranked = |queries: &Vec<QueryTarget>| self.ranks(context, set, queries.clone());
        context.group.share(&batches, ranked, |TestRanks { queries, ranks }| {
            for (sums, ranks) in sums.iter_mut().zip(&ranks) {
                for ranks in ranks {
                    // Hits and recall do not depend on relevance grades.
                    let relevant = ranks.iter().map(|rank| (*rank, 1)).collect();
                    sums.add(&JudgedRanks { relevant });
                }
            }
            if !context.options.per_query {
                return Ok(());
            }
            for (place, query) in queries.into_iter().enumerate() {
                let relevant = test.questions[query].relevant.iter().enumerate();
                per_query.extend(relevant.map(|(of, &docid)| {
                    let ranks = ranks.iter().map(|ranks| ranks[place][of]).collect();
                    context.query_ranks(test, query, docid, ranks)
                }));
            }
            Ok::<_, ProcessesError>(())
        })?;
        let (unpatched, sums) = sums.split_first().unwrap_or_else(|| unreachable!("there is one"));
        let unpatched = Scores::of(unpatched);
        let circuits = self.circuits.into_iter().zip(sums).map(|((name, applied), sums)| {
            let absolute = Scores::of(sums);
            CircuitScore {
                name,
                patches: applied.patches,
                absolute,
                relative: absolute.relative_to(unpatched),
            }
        });
        Ok(ProbeResult::Circuit(Circuit {
            test_set: test.name.clone(),
            test_queries: test.len() as u64,
            unpatched,
            circuits: circuits.collect(),
            per_query,
        }))
    }
}

/// Ranks of the relevant docids of a batch of the test set.
#[derive(Serialize, Deserialize)]
struct TestRanks {
    queries: Vec<usize>,
    /// In the model without ablation, then in each circuit; by query and relevant docid.
    ranks: Vec<Vec<Vec<u32>>>,
}

impl Accumulator {
    fn ranks(
        &self,
        context: &ProbeContext,
        set: (&ProbeQueries, &EncodedQueries),
        queries: Vec<QueryTarget>,
    ) -> TestRanks {
        let batch = context.batch(set, queries, context.base.is_some());
        let queries: Vec<usize> = batch.measured.iter().map(|found| found.query).collect();
        let relevant: Vec<&[u32]> =
            queries.iter().map(|&query| set.0.questions[query].relevant.as_slice()).collect();
        let rank = |output: Tensor<2>| {
            let docids = context.model.docid_logits(output.clone()); // [batch, documents]
            let candidates = context.options.candidates;
            let (model, ties) = (context.model, Ties::Shared);
            relevant_ranks(model, output, &docids, candidates, ties, &relevant)
                .into_iter()
                .map(|ranks| ranks.into_iter().map(|found| found.rank).collect())
                .collect()
        };
        let mut ranks = vec![rank(batch.trace.output.clone())];
        let circuits = self.circuits.iter();
        ranks.extend(circuits.map(|(_, applied)| rank(context.patched_output(&batch, applied))));
        TestRanks { queries, ranks }
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

    fn relative_to(self, unpatched: Self) -> Self {
        let ratio = |part: f64, of: f64| if of > 0.0 { part / of } else { f64::NAN };
        Self {
            hits_1: ratio(self.hits_1, unpatched.hits_1),
            recall_5: ratio(self.recall_5, unpatched.recall_5),
            hits_10: ratio(self.hits_10, unpatched.hits_10),
        }
    }
}
