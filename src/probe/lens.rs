//! The logit lens: any vector of the residual stream's kind through the final RMSNorm and the output matrix.

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::retrieval::Vocabulary;
use crate::retrieval::ranking::relevant_ranks;
use crate::retrieval::ties::Ties;
use crate::t5::GenirModel;

/// Logits of more bytes than this are never held at once. So many rows at a time are worth having: the output matrix
/// is rearranged for every product, whatever its number of rows, and that costs as much as 64 of them.
const LOGIT_BYTES: usize = 192 << 20;
/// More rows than this at once gain nothing.
const MOST_ROWS: usize = 2048;

/// A model's lens, with what a docid is ranked among.
#[derive(Clone, Copy)]
pub(super) struct Lens<'a> {
    pub model: &'a GenirModel,
    pub vocabulary: Vocabulary,
}

impl Lens<'_> {
    /// The rank of each row's target (a docid row) under `lens` of each of `vectors`, all `[rows, d_model]`.
    pub fn ranks(&self, vectors: Vec<Tensor<2>>, targets: &[u32]) -> Vec<Vec<u32>> {
        self.output_ranks(
            vectors.into_iter().map(|vector| self.normalised(vector)).collect(),
            targets,
        )
    }

    /// The rank of each row's target under each of some outputs of the decoder (after its final RMSNorm), all
    /// `[rows, d_model]`.
    pub fn output_ranks(&self, outputs: Vec<Tensor<2>>, targets: &[u32]) -> Vec<Vec<u32>> {
        let rows = targets.len();
        let mut ranks = Vec::with_capacity(outputs.len());
        // Words' logits are not kept.
        for group in outputs.chunks(at_once(rows, self.model.documents())) {
            let stacked = Tensor::cat(group.to_vec(), 0); // [group * rows, d_model]
            let repeated: Vec<&[u32]> = group.iter().flat_map(|_| targets.chunks(1)).collect();
            let docids = self.model.docid_logits(stacked.clone()); // [group * rows, documents]
            let (model, vocabulary) = (self.model, self.vocabulary);
            let found =
                relevant_ranks(model, stacked, &docids, vocabulary, Ties::Shared, &repeated);
            let found: Vec<u32> = found.into_iter().flatten().map(|found| found.rank).collect();
            ranks.extend(found.chunks(rows).map(<[u32]>::to_vec));
        }
        ranks
    }

    /// What `see` makes of each row: of the unscaled logits of all `vectors` (each `[rows, d_model]`) there, in their
    /// order.
    ///
    /// The final RMSNorm multiplies a vector by its weight, and then by one positive number, which moves no rank.
    /// Without that number a logit is linear in its vector: logits of sums are sums of logits, and only the summands
    /// meet the output matrix.
    pub fn unscaled<R: Send>(
        &self,
        vectors: Vec<Tensor<2>>,
        see: impl Fn(usize, &[TokenLogits]) -> R + Sync,
    ) -> Vec<R> {
        let count = vectors.len();
        let weight = self.model.t5.decoder.final_norm.weight.val().unsqueeze::<3>(); // [1, 1, d_model]
        let stacked = Tensor::stack::<3>(vectors, 1) * weight; // [rows, vectors, d_model]
        let [rows, _, d_model] = stacked.dims();
        let widths = [self.model.t5.config().vocab_size, self.model.documents()];
        let size = rows_of_part(rows, count, widths.iter().sum());
        let mut seen = Vec::with_capacity(rows);
        for first in (0..rows).step_by(size) {
            let last = rows.min(first + size);
            let part = stacked.clone().slice(first..last); // [last - first, vectors, d_model]
            let logits = self.model.logits(part.reshape([(last - first) * count, d_model]));
            let (words, docids) = (on_host(logits.words), on_host(logits.docids));
            let of_row = |row: usize| {
                let logits = (row * count..(row + 1) * count).map(|vector| TokenLogits {
                    words: &words[vector * widths[0]..][..widths[0]],
                    docids: &docids[vector * widths[1]..][..widths[1]],
                });
                see(first + row, &logits.collect::<Vec<_>>())
            };
            seen.par_extend((0..last - first).into_par_iter().map(of_row));
        }
        seen
    }

    fn normalised(&self, vectors: Tensor<2>) -> Tensor<2> {
        self.model.t5.decoder.final_norm.forward(vectors)
    }
}

/// The values of a matrix, row by row, whatever type the device computes in.
fn on_host(matrix: Tensor<2>) -> Vec<f32> {
    let values = matrix.into_data().convert::<f32>().try_into_vec::<f32>();
    values.unwrap_or_else(|_| unreachable!("converted to f32"))
}

/// Rows of logits that are held at once of `vectors` of `rows` rows each, where those of so many tokens are kept.
pub(super) fn rows_at_once(rows: usize, vectors: usize, tokens: usize) -> usize {
    rows * at_once(rows, tokens).min(vectors)
}

/// Rows of logits of all `vectors` that are held at once, of `rows` in parts of nearly the same size: at least 1.
pub(super) fn rows_of_part(rows: usize, vectors: usize, tokens: usize) -> usize {
    let parts = rows.div_ceil(at_once(vectors, tokens));
    rows.div_ceil(parts.max(1)).max(1)
}

/// How many vectors of `rows` rows go through the output matrix at once, where logits of so many tokens are kept.
fn at_once(rows: usize, tokens: usize) -> usize {
    let most_rows = (LOGIT_BYTES / (tokens * size_of::<f32>()).max(1)).min(MOST_ROWS);
    (most_rows / rows.max(1)).max(1)
}

/// The logits of one vector, on the host.
#[derive(Clone, Copy)]
pub(super) struct TokenLogits<'a> {
    pub words: &'a [f32],
    pub docids: &'a [f32],
}

/// A sum of vectors' logits.
pub(super) struct LogitSum {
    words: Vec<f32>,
    docids: Vec<f32>,
}

impl TokenLogits<'_> {
    /// Whether a logit is NaN: the model has broken down.
    pub fn has_nan(self) -> bool {
        let is_nan = |group: &[f32]| group.iter().any(|logit| logit.is_nan());
        is_nan(self.words) || is_nan(self.docids)
    }

    /// The rank of docid row `target`: 1 + how many tokens of `vocabulary` are strictly higher.
    pub fn rank(self, target: u32, vocabulary: Vocabulary) -> u32 {
        let own = self.docids[target as usize];
        // Those that are not at most its own: where a model has broken down and its logits are NaN, nothing is ranked
        // first.
        let higher = |group: &[f32]| {
            let others = group.iter().map(|logit| u32::from(*logit <= own)).sum::<u32>();
            group.len() as u32 - others
        };
        let words = if vocabulary == Vocabulary::All { higher(self.words) } else { 0 };
        1 + higher(self.docids) + words
    }
}

impl LogitSum {
    /// The logits of one vector.
    pub fn of(logits: TokenLogits) -> Self {
        Self { words: logits.words.to_vec(), docids: logits.docids.to_vec() }
    }

    /// Adds those of another.
    pub fn add(&mut self, logits: TokenLogits) {
        let add = |sums: &mut [f32], values: &[f32]| {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        };
        add(&mut self.words, logits.words);
        add(&mut self.docids, logits.docids);
    }

    /// The logits of the sum.
    pub fn logits(&self) -> TokenLogits<'_> {
        TokenLogits { words: &self.words, docids: &self.docids }
    }
}

/// A whole number that orders as `value` does, which is not NaN.
pub(super) fn ordered(value: f32) -> u32 {
    // Minus zero is zero.
    let bits = (value + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}
