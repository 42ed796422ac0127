//! Ranks documents for queries: one forward pass, with ranks counted on the device; logits are not stored.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::ranks::relevant_ranks;
use super::ties::{DocidOrder, Ties};
use super::top_k::top_documents;
use crate::choice::choice;
use crate::device::is_host;
use crate::ops::task_rows;
use crate::prefix::Prefix;
use crate::t5::{GenirModel, NoTap, Pass, Tap, Tokens};

choice! {
    /// The tokens among which a docid is ranked.
    CandidateSet {
        /// Docids only: the default of evaluations.
        Docids = "docids",
        /// Text tokens and docids, as in the paper's code: a text token with a higher logit lowers the rank of a docid.
        All = "all",
    }
}

/// A tokenized text to rank documents for.
#[derive(Debug, Clone)]
pub struct EncodedQuery {
    /// Token ids, ending in `</s>`.
    pub tokens: Vec<u32>,
    /// Docid rows of the relevant documents; may be empty.
    pub relevant: Vec<u32>,
}

/// The ranking of one query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranking {
    /// The rank of each relevant document, in the order of [`EncodedQuery::relevant`].
    pub relevant: Vec<Rank>,
    /// Row and logit of the top [`RankOptions::depth`] documents, best first. Equal logits are in [`DocidOrder`]; NaN
    /// comes last.
    pub best: Vec<(u32, f32)>,
}

/// The rank of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rank {
    /// The rank, from 1.
    pub rank: u32,
    /// True if another candidate has exactly the same logit.
    pub is_tied: bool,
    /// True if its logit is NaN: it is then ranked last.
    pub is_nan: bool,
}

/// Options of [`rank`].
#[derive(Clone, Copy)]
pub struct RankOptions<'a> {
    /// The order of documents with equal logits.
    pub order: &'a DocidOrder,
    /// The tokens among which docids are ranked. [`Ranking::best`] lists documents only in both cases.
    pub candidates: CandidateSet,
    /// Number of documents in [`Ranking::best`].
    pub depth: usize,
    /// Number of queries per batch.
    pub batch_size: usize,
    /// Id of the padding token.
    pub pad_id: u32,
    /// The cached outputs of the model's frozen prefix: a batch of queries that are all in it is not encoded again.
    pub prefix: Option<&'a Prefix>,
}

impl<'a> RankOptions<'a> {
    /// Ranks among docids, in batches of 128 queries, and lists no documents.
    pub fn new(order: &'a DocidOrder, pad_id: u32) -> Self {
        let candidates = CandidateSet::Docids;
        Self { order, candidates, depth: 0, batch_size: 128, pad_id, prefix: None }
    }
}

/// Ranks documents for all `queries`, off the autodiff graph, and calls `each` with the index of
/// the query and its ranking. Queries are sorted by length to reduce padding.
///
/// Memory is bounded by one batch of logits.
///
/// # Errors
/// The first error of `each`, which ends the ranking.
pub fn rank<E>(
    model: &GenirModel,
    device: &Device,
    queries: &[EncodedQuery],
    options: RankOptions,
    each: impl FnMut(usize, Ranking) -> Result<(), E>,
) -> Result<(), E> {
    rank_through(model, device, queries, options, &mut NoTap, each)
}

/// Like [`rank`], but every forward pass goes through `tap`, which may read or replace activations.
///
/// All of the model is computed: [`RankOptions::prefix`] is not used, since a tap may replace what it was computed from.
///
/// # Errors
/// The first error of `each`, which ends the ranking.
pub fn rank_with_tap<E>(
    model: &GenirModel,
    device: &Device,
    queries: &[EncodedQuery],
    options: RankOptions,
    tap: &mut dyn Tap,
    each: impl FnMut(usize, Ranking) -> Result<(), E>,
) -> Result<(), E> {
    rank_through(model, device, queries, RankOptions { prefix: None, ..options }, tap, each)
}

/// Ranks with passes through `tap`, which must not want what `options.prefix` has computed before.
fn rank_through<E>(
    model: &GenirModel,
    device: &Device,
    queries: &[EncodedQuery],
    options: RankOptions,
    tap: &mut dyn Tap,
    each: impl FnMut(usize, Ranking) -> Result<(), E>,
) -> Result<(), E> {
    // Shares all tensors, and does nothing to a model that is off the graph already.
    let model = &model.valid();
    let rank = |_, batches: &[Vec<usize>]| {
        let rank = |batch: &Vec<usize>| rank_batch(model, device, queries, batch, options, tap);
        Ok(batches.iter().flat_map(rank).collect())
    };
    rank_in_rounds(queries, options.batch_size, 1, rank, each)
}

/// Calls `rank` with each round's number and its batches, which are `at_once` or fewer of the indices of `queries`, and
/// `each` with the index of every query and its ranking among those that `rank` returns, in the order of the batches.
pub(super) fn rank_in_rounds<E>(
    queries: &[EncodedQuery],
    batch_size: usize,
    at_once: usize,
    mut rank: impl FnMut(usize, &[Vec<usize>]) -> Result<Vec<Ranking>, E>,
    mut each: impl FnMut(usize, Ranking) -> Result<(), E>,
) -> Result<(), E> {
    for (round, batches) in batches_of(queries, batch_size).chunks(at_once).enumerate() {
        let rankings = rank(round, batches)?;
        for (&index, ranking) in batches.iter().flatten().zip(rankings) {
            each(index, ranking)?;
        }
    }
    Ok(())
}

/// The batches in which `queries` are ranked, as their indices.
pub(crate) fn batches_of(queries: &[EncodedQuery], batch_size: usize) -> Vec<Vec<usize>> {
    let all = (0..queries.len()).collect();
    by_length(all, batch_size, |&index: &usize| queries[index].tokens.len())
}

/// Divides `items` into batches of similar `length`, to reduce padding.
pub(crate) fn by_length<T: Clone>(
    mut items: Vec<T>,
    batch_size: usize,
    length: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    items.sort_by_key(length);
    items.chunks(batch_size.max(1)).map(<[T]>::to_vec).collect()
}

/// Ranks documents for the `queries` that have the indices in `batch`, with a model that is off the autodiff graph.
pub(super) fn rank_batch(
    model: &GenirModel,
    device: &Device,
    queries: &[EncodedQuery],
    batch: &[usize],
    options: RankOptions,
    tap: &mut dyn Tap,
) -> Vec<Ranking> {
    let output = decoder_output(model, device, queries, batch, options, tap); // [batch, d_model]
    let documents = options.order.positions().len();
    let docids = docid_logits(model, output.clone(), documents); // [batch, documents]
    let relevant = relevant_of(queries, batch);
    let (candidates, ties) = (options.candidates, Ties::ById(options.order));
    let relevant = relevant_ranks(model, output, &docids, candidates, ties, &relevant);
    let best = top_documents(docids, options.order, options.depth, batch.len(), 0);
    relevant.into_iter().zip(best).map(|(relevant, best)| Ranking { relevant, best }).collect()
}

/// The logits of the docid rows that the model has, of `documents` in all. On the CPU they are computed in the tasks by which
/// processes divide the rows: products of other sizes may have other last bits.
pub(super) fn docid_logits(model: &GenirModel, output: Tensor<2>, documents: usize) -> Tensor<2> {
    match documents > 0 && is_host(&output.device()) {
        true => model.docid_logits_in_blocks(output, task_rows(documents)),
        false => model.docid_logits(output),
    }
}

/// The relevant docids of the queries that have the indices in `batch`.
pub(super) fn relevant_of<'a>(queries: &'a [EncodedQuery], batch: &[usize]) -> Vec<&'a [u32]> {
    batch.iter().map(|&index| queries[index].relevant.as_slice()).collect()
}

/// The decoder's output for the queries that have the indices in `batch`, `[batch, d_model]`.
pub(super) fn decoder_output(
    model: &GenirModel,
    device: &Device,
    queries: &[EncodedQuery],
    batch: &[usize],
    options: RankOptions,
    tap: &mut dyn Tap,
) -> Tensor<2> {
    let mut pass = Pass::evaluate(tap);
    let texts: Vec<&[u32]> = batch.iter().map(|&index| queries[index].tokens.as_slice()).collect();
    match options.prefix.and_then(|prefix| prefix.of(&texts)) {
        Some(prefix) => prefix.output(&model.t5, &mut pass),
        None => {
            let tokens = Tokens::padded(&texts, options.pad_id, device);
            let states = model.t5.encode(&tokens, &mut pass);
            model.t5.decode_start(&states, &mut pass)
        }
    }
}
