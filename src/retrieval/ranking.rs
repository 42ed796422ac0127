//! Ranks documents for queries: one pass of the model, ranks counted on the device, nothing kept.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;

use crate::choice::choice;
use crate::prefix::Prefix;
use crate::t5::{GenirModel, NoTap, Pass, Tokens};

choice! {
    /// What a document competes with.
    Vocabulary {
        /// The docids alone: the default, since the model is asked for a document.
        Docids = "docids",
        /// Words and docids, as the paper's code does it: words that score higher take up places.
        All = "all",
    }
}

/// One text to rank documents for.
#[derive(Debug, Clone)]
pub struct Question {
    /// Tokens, ending in `</s>`.
    pub tokens: Vec<u32>,
    /// Docid rows of the relevant documents; may be empty.
    pub relevant: Vec<u32>,
}

/// What the model makes of one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// Rank of each relevant document, in the order given: 1 + how many score strictly higher.
    pub ranks: Vec<u32>,
    /// The best documents, best first, with their logits: as many as were asked for.
    pub best: Vec<(u32, f32)>,
}

/// How to rank.
#[derive(Clone, Copy)]
pub struct RankOptions<'a> {
    /// What a document competes with. [`Ranking::best`] always lists documents only.
    pub vocabulary: Vocabulary,
    /// Documents in [`Ranking::best`].
    pub depth: usize,
    /// Questions at once.
    pub batch_size: usize,
    /// Padding token.
    pub pad_id: u32,
    /// What is stored of the model's frozen prefix: questions that are all in it are not encoded again.
    pub prefix: Option<&'a Prefix>,
}

/// Ranks documents for all `questions` with a model off the autodiff graph, and hands each ranking to
/// `each` with its question's index. Questions come in order of length, so that little is padded.
///
/// Memory is bounded by one batch of logits. The first error of `each` ends the ranking.
pub fn rank<E>(
    model: &GenirModel,
    device: &Device,
    questions: &[Question],
    options: RankOptions,
    mut each: impl FnMut(usize, Ranking) -> Result<(), E>,
) -> Result<(), E> {
    let all = (0..questions.len()).collect();
    let length = |&index: &usize| questions[index].tokens.len();
    for batch in by_length(all, options.batch_size, length) {
        let batch_questions: Vec<&Question> =
            batch.iter().map(|&index| &questions[index]).collect();
        let rankings = rank_batch(model, device, &batch_questions, options);
        for (index, ranking) in batch.into_iter().zip(rankings) {
            each(index, ranking)?;
        }
    }
    Ok(())
}

/// `items` in batches of nearly equal `length`, so that little is padded.
pub(crate) fn by_length<T: Clone>(
    mut items: Vec<T>,
    batch_size: usize,
    length: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    items.sort_by_key(length);
    items.chunks(batch_size.max(1)).map(<[T]>::to_vec).collect()
}

fn rank_batch(
    model: &GenirModel,
    device: &Device,
    questions: &[&Question],
    options: RankOptions,
) -> Vec<Ranking> {
    let mut tap = NoTap;
    let mut pass = Pass::evaluate(&mut tap);
    let texts: Vec<&[u32]> = questions.iter().map(|asked| asked.tokens.as_slice()).collect();
    let output = match options.prefix.and_then(|prefix| prefix.of(&texts)) {
        Some(prefix) => prefix.output(&model.t5, &mut pass),
        None => {
            let tokens = Tokens::padded(&texts, options.pad_id, device);
            let states = model.t5.encode(&tokens, &mut pass);
            model.t5.decode_start(&states, &mut pass)
        }
    }; // [batch, d_model]
    let docids = model.docid_logits(output.clone()); // [batch, documents]
    let relevant: Vec<&[u32]> = questions.iter().map(|asked| asked.relevant.as_slice()).collect();
    let ranks = relevant_ranks(model, output, &docids, options.vocabulary, &relevant);
    let best = best_documents(docids, options.depth, questions.len());
    ranks.into_iter().zip(best).map(|(ranks, best)| Ranking { ranks, best }).collect()
}

/// Logits of words that are held at once, in bytes: they are counted while they are in the processor's cache.
const WORD_LOGIT_BYTES: usize = 8 << 20;

/// Bytes that [`relevant_ranks`] needs at once for so many rows, the docids' logits among them.
pub(crate) fn ranked_bytes(
    words: usize,
    rows: usize,
    documents: usize,
    vocabulary: Vocabulary,
) -> usize {
    /// Bytes beside a logit that is compared: whether it is higher, and that as a number of 64 bits.
    const COMPARISON: usize = 1 + 8;
    let docids = rows * documents;
    let words = match vocabulary {
        Vocabulary::All => (rows * words).min(WORD_LOGIT_BYTES / size_of::<f32>()),
        Vocabulary::Docids => 0,
    };
    (docids + words) * size_of::<f32>() + docids.max(words) * COMPARISON
}

/// The ranks of some docids in each row: 1 + how many score strictly higher. From outputs of the decoder,
/// `[rows, d_model]`, and the docids' logits, `[rows, documents]`.
pub(crate) fn relevant_ranks(
    model: &GenirModel,
    output: Tensor<2>,
    docids: &Tensor<2>,
    vocabulary: Vocabulary,
    relevant: &[&[u32]],
) -> Vec<Vec<u32>> {
    let most = relevant.iter().map(|relevant| relevant.len()).max().unwrap_or(0);
    // For each place among the relevant ones, `[rows, 1]`.
    let targets: Vec<Tensor<2>> =
        (0..most).map(|place| target_logits(docids, relevant, place)).collect();
    let mut higher: Vec<Tensor<1, Int>> =
        targets.iter().map(|target| count_higher(docids, target)).collect(); // [rows]
    if vocabulary == Vocabulary::All {
        let at_once = (WORD_LOGIT_BYTES / size_of::<f32>() / relevant.len().max(1)).max(512);
        for words in model.t5.word_logits_in_parts(output, at_once) {
            for (higher, target) in higher.iter_mut().zip(&targets) {
                *higher = higher.clone() + count_higher(&words, target);
            }
        }
    }
    let mut ranks = vec![Vec::new(); relevant.len()];
    for (place, higher) in higher.into_iter().enumerate() {
        let higher = higher.into_data();
        for ((ranks, relevant), higher) in ranks.iter_mut().zip(relevant).zip(higher.iter::<i64>())
        {
            if place < relevant.len() {
                ranks.push(higher as u32 + 1);
            }
        }
    }
    ranks
}

/// The logit of each row's relevant docid at `place`, `[rows, 1]`; rows with fewer look one up for nothing.
fn target_logits(docids: &Tensor<2>, relevant: &[&[u32]], place: usize) -> Tensor<2> {
    let docid = |relevant: &&[u32]| relevant.get(place).map_or(0, |&docid| docid as i32);
    let rows: Vec<i32> = relevant.iter().map(docid).collect();
    let rows = TensorData::new(rows, [relevant.len(), 1]);
    docids.clone().gather(1, Tensor::<2, Int>::from_data(rows, &docids.device()))
}

/// How many of each row's `logits` are strictly greater than its `target`: `[batch]`.
///
/// Counted as those that are not at most the target: where a model has broken down and logits are NaN,
/// nothing is ranked first for want of a greater number.
fn count_higher(logits: &Tensor<2>, target: &Tensor<2>) -> Tensor<1, Int> {
    let [_, count] = logits.dims();
    let others: Tensor<1, Int> =
        logits.clone().lower_equal(target.clone()).int().sum_dim(1).squeeze_dim(1);
    others.neg() + count as i64
}

/// The `depth` highest of each row, best first; equal logits in document order.
fn best_documents(logits: Tensor<2>, depth: usize, rows: usize) -> Vec<Vec<(u32, f32)>> {
    let [_, documents] = logits.dims();
    let depth = depth.min(documents);
    if depth == 0 {
        return vec![Vec::new(); rows];
    }
    let data = logits.into_data();
    let values: &[f32] = data.as_slice().unwrap_or_else(|_| unreachable!("logits are f32"));
    values
        .par_chunks(documents)
        .map(|row| {
            let better =
                |&a: &u32, &b: &u32| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b));
            let mut order: Vec<u32> = (0..documents as u32).collect();
            // Linear in the documents; only what is asked for is sorted.
            if depth < documents {
                order.select_nth_unstable_by(depth - 1, better);
                order.truncate(depth);
            }
            order.sort_unstable_by(better);
            order.into_iter().map(|document| (document, row[document as usize])).collect()
        })
        .collect()
}
