//! Finds the stages of a decoder: boundaries from P1, the residual contributions, confirmed or refused by P3, patching.
//!
//! Boundaries are those of [`stages_from_ratios`].

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use serde::Serialize;
use thiserror::Error;

use super::boundaries::{FoundStages, UnclearStages, stages_from_ratios};
use crate::compare::{bootstrap_interval_of, mean};
use crate::component::{ByComponent, Component, Stage, Stages};
use crate::probe::{
    Ablation, ComparisonModels, Over, Place, Probe, ProbeError, ProbeOptions, ProbeQueries,
    ProbeResult, QueryOutcome, Subject, Suite,
};

/// A stage that matters loses at least this many times as many queries as Stage I does. It is 3 to 9 times in the paper.
const TIMES_STAGE_I: f64 = 2.0;

/// The result of patching stages that were found: P3's mean ablation of the cross-attention of each.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Confirmation {
    /// Number of queries, all with the relevant docid at rank 1.
    pub queries: usize,
    /// The share of the queries whose relevant docid is no longer at rank 1, by stage.
    pub lost: [f64; 3],
    /// 95% bootstrap intervals of how much more stages II and III lose than Stage I.
    pub more_than_first: [[f64; 2]; 2],
    /// True if stages II and III both lose at least twice as many queries as Stage I, and neither interval includes 0.
    pub is_confirmed: bool,
}

impl Confirmation {
    /// Compares the outcomes of each query after ablating cross-attention in each of the three stages.
    fn of(outcomes: &[Vec<QueryOutcome>; 3]) -> Self {
        let lost = outcomes.each_ref().map(|stage| {
            stage.iter().map(|outcome| f64::from(outcome.rank != 1)).collect::<Vec<f64>>()
        });
        let [first, second, third] = &lost;
        let queries = first.len();
        let interval = |stage: &[f64]| {
            bootstrap_interval_of(queries, |drawn| {
                let more = drawn.iter().map(|&query| stage[query] - first[query]);
                more.sum::<f64>() / queries as f64
            })
        };
        let more_than_first = [interval(second), interval(third)];
        let lost = [mean(first), mean(second), mean(third)];
        let matters = |stage: usize| {
            lost[stage] >= TIMES_STAGE_I * lost[0] && more_than_first[stage - 1][0] > 0.0
        };
        Self { queries, lost, more_than_first, is_confirmed: matters(1) && matters(2) }
    }

    /// Describes the verdict with its numbers.
    pub fn describe(&self) -> String {
        let [first, second, third] = self.lost.map(|lost| format!("{:.1}%", 100.0 * lost));
        format!(
            "{}: mean ablation of cross-attention (P3) costs {first} of {} correct queries in Stage I, {second} in II, \
             {third} in III{}",
            if self.is_confirmed { "confirmed" } else { "not confirmed" },
            self.queries,
            match self.is_confirmed {
                true => String::new(),
                false => format!(
                    "; stages II and III should each lose {TIMES_STAGE_I} times as many as I or more, and clearly more \
                     (95% intervals of the difference: {}, {})",
                    percent_interval(self.more_than_first[0]),
                    percent_interval(self.more_than_first[1]),
                ),
            }
        )
    }
}

fn percent_interval([low, high]: [f64; 2]) -> String {
    format!("{:.1} to {:.1} points", 100.0 * low, 100.0 * high)
}

/// The stages of one model, as they were measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageDetection {
    /// The boundaries that P1 gives.
    pub found: FoundStages,
    /// The queries that P1 was averaged over: correct ones, or all if there are none.
    pub over: Over,
    /// The number of these queries.
    pub queries: usize,
    /// The name of the query set.
    pub set: String,
    /// The result of P3; `None` if the model ranks no relevant docid first, so that there is nothing to lose.
    pub confirmation: Option<Confirmation>,
}

/// Errors of detecting stages.
#[derive(Debug, Error)]
pub enum DetectionError {
    /// The probes cannot be measured.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The boundaries are not clear.
    #[error("the stages cannot be detected: {reason}; {}", instead(*depth))]
    Unclear {
        /// Why.
        reason: UnclearStages,
        /// The decoder's number of layers.
        depth: usize,
    },
}

/// Settings that can be given in place of stages that are not found.
pub(crate) fn instead(depth: usize) -> String {
    match Stages::scaled(depth) {
        Ok(scaled) => format!(
            "give their layers as numbers, or leave the stages out for those of the paper, scaled to {depth} layers: \
             {scaled}"
        ),
        Err(_) => "name layers in place of stages".to_owned(),
    }
}

impl StageDetection {
    /// Measures P1 on the correct queries among `queries`, and P3 on the same. If none is correct, or `options` are over
    /// all queries, P1 is measured on all of them, and P3 not. Of the other options those apply that say how queries are
    /// ranked.
    ///
    /// # Errors
    /// No query at all; boundaries that are not clear.
    pub fn measure(
        subject: &Subject,
        queries: &mut ProbeQueries,
        asked: &ProbeOptions,
    ) -> Result<Self, DetectionError> {
        // All measurements are of the same weights: the states of the first one are used again.
        let subject = &Subject { encoder_is_frozen: true, checkpoint: String::new(), ..*subject };
        let config = subject.model.t5.config();
        let options = |over, stages| ProbeOptions {
            stages,
            over,
            candidates: asked.candidates,
            batch_size: asked.batch_size,
            ..ProbeOptions::new(None)
        };
        let mut contributions = |over| {
            let suite = Suite::new(&[Probe::ResidualContribution], options(over, None), config)?;
            let others = ComparisonModels::default();
            suite.measure(subject, queries, None, &others, &mut |_, _| ControlFlow::Continue(()))
        };
        let (over, records) = match contributions(asked.over) {
            Err(ProbeError::NoCorrect { .. }) => (Over::All, contributions(Over::All)?),
            records => (asked.over, records?),
        };
        let depth = config.num_decoder_layers;
        let mut ratios = vec![ByComponent::<f64>::default(); depth];
        let mut on = (0, String::new());
        for record in records {
            on = (record.measured_on.measured, record.measured_on.queries);
            if let ProbeResult::ResidualContribution(result) = record.result {
                for entry in result.contributions {
                    ratios[entry.layer][entry.component] = entry.ratio;
                }
            }
        }
        let found = stages_from_ratios(&ratios)
            .map_err(|reason| DetectionError::Unclear { reason, depth })?;
        let confirmation = match over {
            Over::All => None,
            Over::Correct => {
                let suite = Suite::new(&[], options(over, Some(found.stages.clone())), config)?;
                Some(suite.ablate(subject, queries, |model| confirm(model, &found.stages))?)
            }
        };
        let (queries, set) = on;
        Ok(Self { found, over, queries, set, confirmation })
    }

    /// Describes the stages, how clear they are, and what P3 says, in lines.
    pub fn describe(&self) -> String {
        let which = match self.over {
            Over::Correct => "correct ",
            Over::All => "",
        };
        let confirmation = match &self.confirmation {
            Some(found) => found.describe(),
            None => {
                "not confirmed: the model ranks no relevant docid first, so P3 has no query to lose"
                    .to_owned()
            }
        };
        format!(
            "{}, detected on {} {which}{} queries\n{}\n{confirmation}",
            self.found.stages,
            self.queries,
            self.set,
            self.found.describe()
        )
    }

    /// True if P3 confirms the boundaries.
    pub fn is_confirmed(&self) -> bool {
        self.confirmation.as_ref().is_some_and(|found| found.is_confirmed)
    }
}

/// Ablates the cross-attention of each stage.
fn confirm(model: &Ablation, stages: &Stages) -> Confirmation {
    let sets = Stage::ALL.map(|stage| -> BTreeSet<Place> {
        stages.layers(stage).clone().map(|layer| (layer, Component::CrossAttention)).collect()
    });
    let mut outcomes = model.without(&sets).into_iter();
    Confirmation::of(&Stage::ALL.map(|_| outcomes.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patching_confirms_stages_only_if_the_later_two_lose_clearly_more() {
        // `lost` of 100 queries, the same ones first.
        let outcome = |lost: usize| -> Vec<QueryOutcome> {
            (0..100)
                .map(|query| QueryOutcome {
                    rank: if query < lost { 2 } else { 1 },
                    log_probability: 0.0,
                })
                .collect()
        };
        let confirmed = |lost: [usize; 3]| Confirmation::of(&lost.map(outcome));
        // The paper's table: cross-attention, mean, NQ10k and Trivia-QA.
        assert!(confirmed([5, 20, 43]).is_confirmed);
        assert!(confirmed([18, 54, 71]).is_confirmed);
        assert!(!confirmed([23, 36, 60]).is_confirmed, "Stage II loses less than twice as many");
        assert!(!confirmed([5, 60, 5]).is_confirmed, "Stage III does not matter");
        assert!(!confirmed([0, 1, 50]).is_confirmed, "one query of Stage II is not clear");
        let refused = confirmed([23, 36, 4]);
        assert_eq!(refused.lost, [0.23, 0.36, 0.04]);
        let text = refused.describe();
        assert!(text.contains("not confirmed") && text.contains("36.0% in II"), "{text}");
    }
}
