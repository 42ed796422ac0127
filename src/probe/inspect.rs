//! One query: what the model ranks, attends to and computes for it, layer by layer, and what mean ablation changes.

use std::convert::Infallible;
use std::path::Path;

use burn::tensor::Tensor;

use super::attention_writes::top_of;
use super::context::{ComparisonModels, ProbeContext, ProbedBatch};
use super::inspection::{
    AblatedCell, ChosenBecause, INSPECTION_SCHEMA, InspectedAblation, InspectedDocid,
    InspectedQuery, Inspection, LensReading, RankedDocument,
};
use super::logit_lens::at_sites;
use super::overlap::Applied;
use super::patch::{Patch, PatchedPart};
use super::queries::{EncodedQueries, QueryEncoder, QueryTarget};
use super::trace::LayerTrace;
use super::{LensSite, Over, ProbeError, ProbeOptions, ProbeQueries, Replacement, Subject, Suite};
use crate::component::{Component, Stage, Stages};
use crate::corpus::Split;
use crate::retrieval::ranking::{EncodedQuery, RankOptions, rank};
use crate::retrieval::{CandidateSet, DocidOrder};
use crate::t5::weights::{StoredType, TensorEntry, WeightsError, write_tensors};

/// Options of [`inspect`].
#[derive(Debug, Clone, PartialEq)]
pub struct InspectOptions {
    /// Stages of the decoder; `None` if it has too few layers.
    pub stages: Option<Stages>,
    /// The tokens among which the docid is ranked.
    pub candidates: CandidateSet,
    /// The queries that means are taken over; `None`: the correct ones, or all if none is correct.
    pub over: Option<Over>,
    /// Number of documents that are listed.
    pub depth: usize,
    /// Queries per batch, of those that means are taken over.
    pub batch_size: usize,
}

impl InspectOptions {
    /// The options of probes: ranks among text tokens and docids. 5 documents are listed, and a batch has 128 queries.
    pub fn new(stages: Option<Stages>) -> Self {
        Self { stages, candidates: CandidateSet::All, over: None, depth: 5, batch_size: 128 }
    }

    fn of_probes(&self, over: Over) -> ProbeOptions {
        ProbeOptions {
            candidates: self.candidates,
            over,
            batch_size: self.batch_size,
            ..ProbeOptions::new(self.stages.clone())
        }
    }
}

/// The query to inspect.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Question {
    /// The text.
    pub text: String,
    /// Its token ids, ending in `</s>`.
    pub tokens: Vec<u32>,
    /// Its id and split, if it is a query of the corpus.
    pub of_corpus: Option<(String, Split)>,
    /// Docid rows of the relevant documents; may be empty.
    pub relevant: Vec<u32>,
    /// The docid row to inspect; `None`: the best ranked relevant one, or else the one ranked first.
    pub docid: Option<u32>,
}

/// The activations of the forward pass of a query, which [`Activations::write`] stores.
pub struct Activations {
    batch: ProbedBatch,
}

/// Inspects what the model does with one query. `order` is that of the model's docids. Means are taken over `reference`;
/// without it nothing is ablated.
///
/// Ranks, logit lens and mean ablation are those of [`Probe::LogitLens`](super::Probe::LogitLens) and
/// [`Probe::StagePatching`](super::Probe::StagePatching) for this query. [`RankedDocument::text`] is not filled in.
///
/// # Errors
/// Stages that do not fit the decoder; no query to take means over; logits that are not finite.
///
/// # Panics
/// The model has no docids, or a docid row of `question` is not among them.
pub fn inspect(
    subject: &Subject,
    order: &DocidOrder,
    question: &Question,
    reference: Option<&mut ProbeQueries>,
    options: &InspectOptions,
) -> Result<(Inspection, Activations), ProbeError> {
    if let Some(stages) = &options.stages {
        stages.check_depth(subject.model.t5.config().num_decoder_layers)?;
    }
    let (documents, target, because) = ranked(subject, order, question, options.depth);
    let own = QueryEncoder {
        t5: &subject.model.t5,
        device: subject.device,
        pad_id: subject.tokenizer.pad_id(),
    };
    let this = ProbeQueries::single(question.text.clone(), question.tokens.clone(), target);
    let (this, probe_options) = ((&this, &EncodedQueries::default()), options.of_probes(Over::All));
    let measured = [QueryTarget { query: 0, target }];
    let context = ProbeContext::new(subject, own, &probe_options, this, &measured);
    let batch = context.batch(this, measured.to_vec(), false);
    let (output, lens) = (batch.trace.output.clone(), context.lens()); // [1, d_model]
    let normaliser = lens.log_normaliser(output.clone());
    let logit = lens.target_logits(vec![output.clone()], target)[0];
    if !normaliser.is_finite() || !logit.is_finite() {
        return Err(ProbeError::NotFinite { checkpoint: subject.checkpoint.clone() });
    }
    let docid = InspectedDocid {
        docid: subject.docids.id(target).to_owned(),
        because,
        rank: lens.output_ranks(vec![output], &[target])[0][0],
        logit,
        probability: (logit - normaliser).exp(),
    };
    let ablation = reference
        .map(|queries| ablation(subject, own, queries, &batch, &docid, options))
        .transpose()?;
    let names = subject.token_names();
    let (id, split) = question.of_corpus.clone().unzip();
    let inspection = Inspection {
        schema: INSPECTION_SCHEMA,
        genir: env!("CARGO_PKG_VERSION").to_owned(),
        checkpoint: subject.checkpoint.clone(),
        step: subject.step,
        vocabulary: options.candidates,
        stages: options.stages.clone(),
        query: InspectedQuery {
            text: question.text.clone(),
            id,
            split,
            relevant: ids(subject, &question.relevant),
            tokens: question.tokens.iter().map(|&id| names.of(id)).collect(),
            token_ids: question.tokens.clone(),
        },
        documents: documents
            .into_iter()
            .map(|(rank, row, logit)| RankedDocument {
                rank,
                docid: subject.docids.id(row).to_owned(),
                logit: f64::from(logit),
                probability: (f64::from(logit) - normaliser).exp(),
                is_relevant: question.relevant.contains(&row),
                text: None,
            })
            .collect(),
        docid,
        lens: readings(&context, &batch, subject),
        attention: batch.trace.layers.iter().map(attention_weights).collect(),
        ablation,
    };
    Ok((inspection, Activations { batch }))
}

fn ids(subject: &Subject, rows: &[u32]) -> Vec<String> {
    rows.iter().map(|&row| subject.docids.id(row).to_owned()).collect()
}

/// Rank, row and logit of the documents to list, and the row to inspect with the reason.
fn ranked(
    subject: &Subject,
    order: &DocidOrder,
    question: &Question,
    depth: usize,
) -> (Vec<(u32, u32, f32)>, u32, ChosenBecause) {
    let query =
        EncodedQuery { tokens: question.tokens.clone(), relevant: question.relevant.clone() };
    let depth = depth.max(1);
    // The rank and the logit of a named document are needed wherever it is.
    let whole = match question.relevant.is_empty() && question.docid.is_none() {
        true => depth,
        false => subject.docids.len(),
    };
    let pad_id = subject.tokenizer.pad_id();
    let options = RankOptions { depth: whole, ..RankOptions::new(order, pad_id) };
    let queries = std::slice::from_ref(&query);
    let mut best = Vec::new();
    let Ok(()) = rank(subject.model, subject.device, queries, options, |_, ranking| {
        best = (1..).zip(ranking.best).map(|(rank, (row, logit))| (rank, row, logit)).collect();
        Ok::<(), Infallible>(())
    });
    let relevant = best.iter().find(|(_, row, _)| question.relevant.contains(row));
    let (target, because) = match (question.docid, relevant) {
        (Some(row), _) => (row, ChosenBecause::Given),
        (None, Some((_, row, _))) => (*row, ChosenBecause::Relevant),
        (None, None) => (best[0].1, ChosenBecause::Top),
    };
    let is_listed = |(rank, row, _): &(u32, u32, f32)| {
        *rank as usize <= depth || question.relevant.contains(row) || question.docid == Some(*row)
    };
    best.retain(is_listed);
    (best, target, because)
}

/// The logit lens at every site.
fn readings(context: &ProbeContext, batch: &ProbedBatch, subject: &Subject) -> Vec<LensReading> {
    let (lens, names, target) = (context.lens(), subject.token_names(), batch.targets[0]);
    // Unscaled logits do not have the factor of the final RMSNorm, which differs between sites.
    let scales: Vec<Vec<f64>> = batch
        .trace
        .layers
        .iter()
        .map(|layer| LensSite::ALL.iter().map(|site| lens.scale(vector(layer, *site))).collect())
        .collect();
    let found = lens.unscaled(batch.trace.summands(), |_, summands| {
        at_sites(summands, |layer, site, logits| {
            let place = LensSite::ALL.iter().position(|other| *other == site).unwrap_or(0);
            let scale = scales[layer][place];
            let logit = scale * f64::from(logits.docids[target as usize]);
            LensReading {
                layer,
                site,
                rank: logits.rank(target, lens.candidates),
                logit,
                probability: (logit - logits.log_normaliser(lens.candidates, scale)).exp(),
                tokens: top_of(logits).first.into_iter().map(|id| names.of(id)).collect(),
            }
        })
    });
    found.into_iter().flatten().flatten().collect()
}

/// The activation at a site, `[batch, d_model]`.
fn vector(layer: &LayerTrace, site: LensSite) -> &Tensor<2> {
    match site {
        LensSite::ResidualMid => &layer.residual_mid,
        LensSite::ResidualMidCross => &layer.residual_mid_cross,
        LensSite::ResidualPost => &layer.residual_post,
        LensSite::CrossAttentionOut => &layer.outputs[Component::CrossAttention],
        LensSite::MlpOut => &layer.outputs[Component::Mlp],
    }
}

/// Mean ablation, with means over `queries`.
fn ablation(
    subject: &Subject,
    own: QueryEncoder,
    queries: &mut ProbeQueries,
    batch: &ProbedBatch,
    docid: &InspectedDocid,
    options: &InspectOptions,
) -> Result<InspectedAblation, ProbeError> {
    let suite = |over| Suite::new(&[], options.of_probes(over), subject.model.t5.config());
    let any = suite(Over::All)?;
    let states = any.encode(subject, &own, &ComparisonModels::default(), queries)?;
    let targets = any.targets(subject, &own, queries, &states)?;
    let over = options.over.unwrap_or(match targets.iter().any(|(_, rank)| *rank == 1) {
        true => Over::Correct,
        false => Over::All,
    });
    let chosen = suite(over)?.select_queries(subject, &own, queries, &states, &targets)?;
    let measured: Vec<QueryTarget> = chosen.into_iter().map(|(found, _)| found).collect();
    let options = options.of_probes(over);
    let mut context = ProbeContext::new(subject, own, &options, (queries, &states), &measured);
    context.compute_means()?;
    Ok(InspectedAblation {
        queries: queries.name.clone(),
        ranked: targets.len(),
        over,
        measured: measured.len(),
        cells: ablated(&context, batch, docid.logit),
    })
}

/// Mean ablation of each component in each stage, and of each component of each layer. `without` is the logit without
/// intervention.
fn ablated(context: &ProbeContext, batch: &ProbedBatch, without: f64) -> Vec<AblatedCell> {
    let mut parts: Vec<(PatchedPart, Component, Option<Stage>, Option<usize>)> = Vec::new();
    if let Some(stages) = &context.options.stages {
        for component in Component::ALL {
            for stage in Stage::ALL {
                let part = PatchedPart::of_stage(component, stage, stages);
                parts.push((part, component, Some(stage), None));
            }
        }
    }
    for layer in 0..context.depth() {
        for component in Component::ALL {
            let part = PatchedPart::of_layer(component, layer);
            parts.push((part, component, None, Some(layer)));
        }
    }
    let config = context.model.t5.config();
    let output = |part: &PatchedPart| {
        let patch = Patch { part: part.clone(), replacement: Replacement::Mean };
        context.patched_output(batch, &Applied::new(&[patch], config)) // [1, d_model]
    };
    let outputs: Vec<Tensor<2>> = parts.iter().map(|(part, ..)| output(part)).collect();
    let ranks = context.lens().output_ranks(outputs.clone(), &batch.targets);
    let logits = context.lens().target_logits(outputs, batch.targets[0]);
    let found = parts.into_iter().zip(ranks.into_iter().flatten()).zip(logits);
    found
        .map(|(((part, component, stage, layer), rank), logit)| AblatedCell {
            selector: part.selector,
            component,
            stage,
            layer,
            rank,
            logit,
            change: logit - without,
        })
        .collect()
}

/// Cross-attention's weights of a layer, by head and token.
fn attention_weights(layer: &LayerTrace) -> Vec<Vec<f32>> {
    let weights = layer.cross_attention_weights(); // [1, heads, tokens]
    let [_, _, tokens] = weights.dims();
    let values: Vec<f32> = weights.into_data().iter::<f32>().collect();
    values.chunks(tokens.max(1)).map(<[f32]>::to_vec).collect()
}

impl Activations {
    /// Writes the activations as safetensors, in f32, with the query and the model of `inspection` as metadata:
    ///
    /// | tensor | shape |
    /// | --- | --- |
    /// | `encoder.last_hidden_state` | `[tokens, d_model]` |
    /// | `decoder.embedding` | `[1, d_model]` |
    /// | `decoder.residual_mid`, `decoder.residual_mid_cross`, `decoder.residual_post` | `[layers, d_model]` |
    /// | `decoder.self_attention_out`, `decoder.cross_attention_out`, `decoder.mlp_out` | `[layers, d_model]` |
    /// | `decoder.cross_attention_weights` | `[layers, heads, tokens]` |
    /// | `decoder.last_hidden_state` | `[1, d_model]` |
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path, inspection: &Inspection) -> Result<(), WeightsError> {
        let ProbedBatch { trace, states, .. } = &self.batch;
        let depth = trace.layers.len();
        let held = |name: &str, shape: Vec<usize>, parts: Vec<Tensor<2>>| {
            TensorEntry::held(name.to_owned(), shape, parts)
        };
        let [tokens, d_model] = states.rows.dims();
        let mut entries = vec![
            held("encoder.last_hidden_state", vec![tokens, d_model], vec![states.rows.clone()]),
            held("decoder.embedding", vec![1, d_model], vec![trace.start.clone()]),
            held("decoder.last_hidden_state", vec![1, d_model], vec![trace.output.clone()]),
        ];
        type Part = fn(&LayerTrace) -> &Tensor<2>;
        let of_layers: [(&str, Part); 6] = [
            ("residual_mid", |layer| &layer.residual_mid),
            ("residual_mid_cross", |layer| &layer.residual_mid_cross),
            ("residual_post", |layer| &layer.residual_post),
            ("self_attention_out", |layer| &layer.outputs[Component::SelfAttention]),
            ("cross_attention_out", |layer| &layer.outputs[Component::CrossAttention]),
            ("mlp_out", |layer| &layer.outputs[Component::Mlp]),
        ];
        for (name, part) in of_layers {
            let parts = trace.layers.iter().map(|layer| part(layer).clone()).collect();
            entries.push(held(&format!("decoder.{name}"), vec![depth, d_model], parts));
        }
        let weights: Vec<Tensor<2>> = trace
            .layers
            .iter()
            .map(|layer| layer.cross_attention_weights().squeeze_dim(0)) // [heads, tokens]
            .collect();
        let heads = weights.first().map_or(0, |weights| weights.dims()[0]);
        let shape = vec![depth, heads, tokens];
        entries.push(held("decoder.cross_attention_weights", shape, weights));
        let json = |value: &[String]| serde_json::Value::from(value).to_string();
        let ids: Vec<String> = inspection.query.token_ids.iter().map(u32::to_string).collect();
        let metadata = [
            ("genir", inspection.genir.clone()),
            ("model", inspection.checkpoint.clone()),
            ("step", inspection.step.map(|step| step.to_string()).unwrap_or_default()),
            ("query", inspection.query.text.clone()),
            ("tokens", json(&inspection.query.tokens)),
            ("token_ids", format!("[{}]", ids.join(","))),
            ("docid", inspection.docid.docid.clone()),
        ];
        write_tensors(path, entries, StoredType::Float32, &metadata)
    }
}
