//! P8 (Tab. 5 and 6): the share of docids among the top tokens of cross-attention's outputs.

use serde::{Deserialize, Serialize};

use super::context::{ProbeAccumulator, ProbeContext, ProbedBatch};
use super::lens::{LogitSum, TokenLogits, ordered};
use super::number;
use super::patch_tap::head_contributions;
use super::subject::TokenNames;
use super::{ProbeResult, Subject};
use crate::component::{Component, Stage, Stages};
use crate::processes::ProcessesError;
use crate::t5::T5Config;

/// Docids among the top tokens of cross-attention's outputs under the logit lens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttentionWrites {
    /// % of docid tokens among all tokens, the value that chance would give.
    #[serde(with = "number")]
    pub chance: f64,
    /// By layer: the output first, then each head's contribution to it.
    pub layers: Vec<DocidShare>,
    /// By stage: the mean of the outputs over its layers, and the mean over its layers and heads. Empty if the decoder
    /// has no stages.
    pub stages: Vec<DocidShare>,
    /// The top tokens of each head for sample queries.
    pub samples: Vec<HeadTokens>,
}

/// Share of docids among the top tokens, mean over queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DocidShare {
    /// The stage of the layer; none if the decoder has no stages.
    pub stage: Option<Stage>,
    /// The layer, from 0; none for the mean over a stage.
    pub layer: Option<usize>,
    /// `output`, `head 3`, or `heads` for the mean over all heads.
    pub of: String,
    /// % of docid tokens among the top 10.
    #[serde(with = "number")]
    pub top_10: f64,
    /// % of docid tokens among the top 100 (or all tokens, if there are fewer).
    #[serde(with = "number")]
    pub top_100: f64,
    /// % of docid tokens among the top 1,000 (or all tokens, if there are fewer).
    #[serde(with = "number")]
    pub top_1000: f64,
}

/// Top tokens of one head's output for one query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeadTokens {
    /// The query's id.
    pub query: String,
    /// The layer, from 0.
    pub layer: usize,
    /// The head, from 0.
    pub head: usize,
    /// The top 5 tokens, highest logit first; empty if a logit is NaN.
    pub tokens: Vec<String>,
}

/// Numbers of top tokens among which docids are counted.
const TOPS: [usize; 3] = [10, 100, 1000];
/// Tokens listed for each head of a sample query.
const SAMPLE_TOKENS: usize = 5;

/// Running sums over queries.
pub(super) struct Accumulator<'a> {
    names: TokenNames<'a>,
    stages: Option<Stages>,
    sums: Sums,
    /// The sample queries in order, each with its top tokens.
    samples: Vec<(usize, Vec<HeadTokens>)>,
}

/// Sums over queries, with the top tokens of those that are samples.
#[derive(Serialize, Deserialize)]
pub(super) struct Sums {
    queries: usize,
    /// % of docids for each of [`TOPS`]: by layer, of the output and then of each head.
    docid_shares: Vec<Vec<[f64; 3]>>,
    /// Top tokens, each with the place of its query among the samples.
    samples: Vec<(usize, HeadTokens)>,
}

impl Sums {
    fn new(config: &T5Config) -> Self {
        let parts = 1 + config.num_heads;
        let docid_shares = vec![vec![[0.0; 3]; parts]; config.num_decoder_layers];
        Self { queries: 0, docid_shares, samples: Vec::new() }
    }
}

impl<'a> Accumulator<'a> {
    pub fn new(context: &ProbeContext, subject: &Subject<'a>) -> Self {
        let sampled = context.measured.iter().take(context.options.samples);
        Self {
            names: subject.token_names(),
            stages: context.options.stages.clone(),
            sums: Sums::new(context.model.t5.config()),
            samples: sampled.map(|found| (found.query, Vec::new())).collect(),
        }
    }

    /// The top tokens of each head with the place of the sample, if `query` is one.
    fn sample(
        &self,
        context: &ProbeContext,
        query: usize,
        layer: usize,
        heads: &[Top],
    ) -> Vec<(usize, HeadTokens)> {
        let sample = self.samples.iter().position(|(sample, _)| *sample == query);
        let Some(sample) = sample else { return Vec::new() };
        let of_head = |(head, top): (usize, &Top)| {
            let tokens = top.first.iter().map(|&id| self.names.of(id)).collect();
            let query = context.queries.ids[query].clone();
            (sample, HeadTokens { query, layer, head, tokens })
        };
        heads.iter().enumerate().map(of_head).collect()
    }
}

impl ProbeAccumulator for Accumulator<'_> {
    type OfBatch = Sums;

    fn measure(&self, context: &ProbeContext, batch: &ProbedBatch) -> Sums {
        let mut all = Sums::new(context.model.t5.config());
        all.queries = batch.measured.len();
        for (layer, found) in batch.trace.layers.iter().enumerate() {
            let weighted = found.weighted[Component::CrossAttention].clone();
            let shares =
                head_contributions(&context.model.t5, layer, Component::CrossAttention, weighted); // [heads, batch, d_model]
            let [heads, ..] = shares.dims();
            let of_head = |head: usize| shares.clone().slice(head..head + 1).squeeze_dim(0);
            let found = context.lens().unscaled((0..heads).map(of_head).collect(), |_, heads| {
                let mut tops: Vec<Top> = heads.iter().map(|&logits| top_of(logits)).collect();
                // The output is the sum of its heads' contributions.
                let output = heads.split_first().map(|(first, others)| {
                    let mut sum = LogitSum::of(*first);
                    others.iter().for_each(|&head| sum.add(head));
                    top_of(sum.logits())
                });
                tops.splice(0..0, output);
                tops
            });
            for (found, tops) in batch.measured.iter().zip(found) {
                for (sums, top) in all.docid_shares[layer].iter_mut().zip(&tops) {
                    sums.iter_mut().zip(top.docids).for_each(|(sum, share)| *sum += share);
                }
                all.samples.extend(self.sample(context, found.query, layer, &tops[1..]));
            }
        }
        all
    }

    fn add(&mut self, found: Sums) {
        self.sums.queries += found.queries;
        let parts = self.sums.docid_shares.iter_mut().flatten();
        for (sums, found) in parts.zip(found.docid_shares.iter().flatten()) {
            sums.iter_mut().zip(found).for_each(|(sum, share)| *sum += share);
        }
        for (sample, tokens) in found.samples {
            self.samples[sample].1.push(tokens);
        }
    }

    fn finish(self: Box<Self>, context: &ProbeContext) -> Result<ProbeResult, ProcessesError> {
        let documents = context.model.documents();
        let mut layers = Vec::new();
        for (layer, parts) in self.sums.docid_shares.iter().enumerate() {
            for (part, sums) in parts.iter().enumerate() {
                let of =
                    part.checked_sub(1).map_or("output".to_owned(), |head| format!("head {head}"));
                let [top_10, top_100, top_1000] = sums.map(|sum| sum / self.sums.queries as f64);
                let stage = self.stages.as_ref().map(|stages| stages.of(layer));
                layers.push(DocidShare {
                    stage,
                    layer: Some(layer),
                    of,
                    top_10,
                    top_100,
                    top_1000,
                });
            }
        }
        let stages = Stage::ALL.into_iter().filter(|_| self.stages.is_some());
        Ok(ProbeResult::AttentionWrites(AttentionWrites {
            chance: 100.0 * documents as f64 / (documents + self.names.text_tokens()) as f64,
            stages: stages.flat_map(|stage| of_stage(stage, &layers)).collect(),
            layers,
            samples: self.samples.into_iter().flat_map(|(_, found)| found).collect(),
        }))
    }
}

/// Means over the layers of a stage: of the outputs, and of all heads.
fn of_stage(stage: Stage, layers: &[DocidShare]) -> [DocidShare; 2] {
    let mean = |of: &str, whole: bool| {
        let found: Vec<&DocidShare> = layers
            .iter()
            .filter(|share| share.stage == Some(stage) && (share.of == "output") == whole)
            .collect();
        let mean = |value: fn(&DocidShare) -> f64| {
            found.iter().map(|share| value(share)).sum::<f64>() / found.len() as f64
        };
        DocidShare {
            stage: Some(stage),
            layer: None,
            of: of.to_owned(),
            top_10: mean(|share| share.top_10),
            top_100: mean(|share| share.top_100),
            top_1000: mean(|share| share.top_1000),
        }
    };
    [mean("output", true), mean("heads", false)]
}

/// The tokens with the highest logits of one vector.
pub(super) struct Top {
    /// % of docids in each of [`TOPS`].
    docids: [f64; 3],
    /// The first [`SAMPLE_TOKENS`] token ids, highest logit first.
    pub first: Vec<u32>,
}

/// Returns the tokens with the highest logits. If a logit is NaN, the shares are undefined and no token is listed.
pub(super) fn top_of(logits: TokenLogits) -> Top {
    if logits.has_nan() {
        return Top { docids: [f64::NAN; TOPS.len()], first: Vec::new() };
    }
    let TokenLogits { text: words, docids } = logits;
    let most = TOPS[TOPS.len() - 1].min(words.len() + docids.len());
    let mut tokens: Vec<u64> = Vec::with_capacity(4 * most);
    let mut lowest = f32::NEG_INFINITY;
    for (group, first) in [(words, 0), (docids, words.len())] {
        for (id, &logit) in group.iter().enumerate() {
            // After the first few selections, nearly all tokens are below `lowest`.
            if logit >= lowest {
                // One integer that sorts by logit, highest first, then by token id.
                tokens.push(u64::from(!ordered(logit)) << 32 | (first + id) as u64);
                if tokens.len() == 4 * most {
                    let worst = *tokens.select_nth_unstable(most - 1).1;
                    tokens.truncate(most);
                    let id = worst as u32 as usize;
                    lowest = *words.get(id).unwrap_or_else(|| &docids[id - words.len()]);
                }
            }
        }
    }
    tokens.sort_unstable();
    tokens.truncate(most);
    let id = |token: &u64| *token as u32;
    let docids_in = |top: usize| {
        let top = top.min(tokens.len());
        let docids = tokens[..top].iter().filter(|token| id(token) as usize >= words.len()).count();
        100.0 * docids as f64 / top as f64
    };
    Top { docids: TOPS.map(docids_in), first: tokens.iter().take(SAMPLE_TOKENS).map(id).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_is_the_best_where_a_logit_is_nan() {
        let fine = top_of(TokenLogits { text: &[0.0, 3.0], docids: &[1.0, 2.0] });
        assert_eq!((fine.docids, fine.first), ([50.0; 3], vec![1, 3, 2, 0]));
        for words in [[f32::NAN, 3.0], [f32::NAN; 2]] {
            let broken = top_of(TokenLogits { text: &words, docids: &[1.0, 2.0] });
            assert!(broken.docids.iter().all(|share| share.is_nan()) && broken.first.is_empty());
        }
    }
}
