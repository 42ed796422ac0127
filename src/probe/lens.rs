//! The logit lens: projects vectors of width `d_model` to the vocabulary by the final RMSNorm and the output matrix.

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::retrieval::CandidateSet;
use crate::retrieval::ranks::relevant_ranks;
use crate::retrieval::ties::Ties;
use crate::t5::GenirModel;

/// The most bytes of logits that are in memory at once. Many rows per product pay off: each product packs the output
/// matrix once, which costs as much as multiplying 64 rows.
const LOGIT_BYTES: usize = 192 << 20;
/// The most rows per product; more are not faster.
const MOST_ROWS: usize = 2048;

/// A model's logit lens, with the candidate set of ranks.
#[derive(Clone, Copy)]
pub(super) struct Lens<'a> {
    pub model: &'a GenirModel,
    pub candidates: CandidateSet,
}

impl Lens<'_> {
    /// Ranks of each row's target (a docid row) under the lens of each of `vectors`, all `[rows, d_model]`.
    pub fn ranks(&self, vectors: Vec<Tensor<2>>, targets: &[u32]) -> Vec<Vec<u32>> {
        self.output_ranks(
            vectors.into_iter().map(|vector| self.normalised(vector)).collect(),
            targets,
        )
    }

    /// Ranks of each row's target by the logits of several decoder outputs (after the final RMSNorm), all `[rows,
    /// d_model]`.
    pub fn output_ranks(&self, outputs: Vec<Tensor<2>>, targets: &[u32]) -> Vec<Vec<u32>> {
        self.by_group(outputs, targets.len(), |stacked, docids, count| {
            self.ranks_in(stacked, &docids, &targets.repeat(count))
        })
    }

    /// For each row, the rank of its target and the logarithm of its probability among docids, by the logits of several
    /// decoder outputs (after the final RMSNorm), all `[rows, d_model]`.
    pub fn output_outcomes(
        &self,
        outputs: Vec<Tensor<2>>,
        targets: &[u32],
    ) -> Vec<Vec<QueryOutcome>> {
        self.by_group(outputs, targets.len(), |stacked, docids, count| {
            let targets = targets.repeat(count);
            let ranks = self.ranks_in(stacked, &docids, &targets);
            let logits = on_host(docids); // [rows * documents]
            let rows = logits.par_chunks(self.model.documents()).zip(targets).zip(ranks);
            let outcome = |((logits, target), rank)| QueryOutcome {
                rank,
                log_probability: log_probability(logits, target),
            };
            rows.map(outcome).collect()
        })
    }

    /// Calls `read` with as many `outputs` as fit into memory with their docid logits: those, stacked, `[outputs * rows,
    /// d_model]`, their logits, `[outputs * rows, documents]`, and their number. Returns what it gives for each row, by
    /// output.
    fn by_group<T: Clone>(
        &self,
        outputs: Vec<Tensor<2>>,
        rows: usize,
        read: impl Fn(Tensor<2>, Tensor<2>, usize) -> Vec<T>,
    ) -> Vec<Vec<T>> {
        let mut results = Vec::with_capacity(outputs.len());
        // Only the logits of docids are materialised.
        for group in outputs.chunks(at_once(rows, self.model.documents())) {
            let stacked = Tensor::cat(group.to_vec(), 0); // [group * rows, d_model]
            let docids = self.model.docid_logits(stacked.clone()); // [group * rows, documents]
            results.extend(read(stacked, docids, group.len()).chunks(rows).map(<[T]>::to_vec));
        }
        results
    }

    fn ranks_in(&self, stacked: Tensor<2>, docids: &Tensor<2>, targets: &[u32]) -> Vec<u32> {
        let relevant: Vec<&[u32]> = targets.chunks(1).collect();
        let found =
            relevant_ranks(self.model, stacked, docids, self.candidates, Ties::Shared, &relevant);
        found.into_iter().flatten().map(|found| found.rank).collect()
    }

    /// Calls `read` for each row with the unscaled logits of all `vectors` (each `[rows, d_model]`) in that row, and
    /// returns its results in the order of the rows.
    ///
    /// The final RMSNorm multiplies a vector by its weight and by a positive scale, which does not change ranks.
    /// Without the scale, logits are linear in the vector: the logits of a sum are the sum of the logits, so that only
    /// the summands are multiplied by the output matrix.
    pub fn unscaled<R: Send>(
        &self,
        vectors: Vec<Tensor<2>>,
        read: impl Fn(usize, &[TokenLogits]) -> R + Sync,
    ) -> Vec<R> {
        let count = vectors.len();
        let weight = self.model.t5.decoder.final_norm.weight.val().unsqueeze::<3>(); // [1, 1, d_model]
        let stacked = Tensor::stack::<3>(vectors, 1) * weight; // [rows, vectors, d_model]
        let [rows, _, d_model] = stacked.dims();
        let widths = [self.model.t5.config().vocab_size, self.model.documents()];
        let size = rows_of_part(rows, count, widths.iter().sum());
        let mut results = Vec::with_capacity(rows);
        for first in (0..rows).step_by(size) {
            let last = rows.min(first + size);
            let part = stacked.clone().slice(first..last); // [last - first, vectors, d_model]
            let logits = self.model.logits(part.reshape([(last - first) * count, d_model]));
            let (text, docids) = (on_host(logits.text), on_host(logits.docids));
            let of_row = |row: usize| {
                let logits = (row * count..(row + 1) * count).map(|vector| TokenLogits {
                    text: &text[vector * widths[0]..][..widths[0]],
                    docids: &docids[vector * widths[1]..][..widths[1]],
                });
                read(first + row, &logits.collect::<Vec<_>>())
            };
            results.par_extend((0..last - first).into_par_iter().map(of_row));
        }
        results
    }

    /// The factor by which the final RMSNorm scales a vector `[1, d_model]`, before its weight: that of
    /// [`Self::unscaled`] logits.
    pub fn scale(&self, vector: &Tensor<2>) -> f64 {
        let values = on_host(vector.clone());
        let squares = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
        let epsilon = self.model.t5.config().layer_norm_epsilon;
        (squares / values.len() as f64 + epsilon).sqrt().recip()
    }

    /// The logits of docid row `target` for decoder outputs, each `[1, d_model]`.
    pub fn target_logits(&self, outputs: Vec<Tensor<2>>, target: u32) -> Vec<f64> {
        let logits = self.model.docid_logit(Tensor::cat(outputs, 0), target); // [outputs, 1]
        on_host(logits).into_iter().map(f64::from).collect()
    }

    /// [`TokenLogits::log_normaliser`] of a decoder output, `[1, d_model]`.
    pub fn log_normaliser(&self, output: Tensor<2>) -> f64 {
        let logits = self.model.logits(output);
        let (text, docids) = (on_host(logits.text), on_host(logits.docids));
        TokenLogits { text: &text, docids: &docids }.log_normaliser(self.candidates, 1.0)
    }

    fn normalised(&self, vectors: Tensor<2>) -> Tensor<2> {
        self.model.t5.decoder.final_norm.forward(vectors)
    }
}

/// The rank and the probability that a decoder output gives the relevant docid of a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryOutcome {
    /// The rank of the docid in the candidate set.
    pub rank: u32,
    /// The natural logarithm of its probability among docids, whatever the candidate set is.
    pub log_probability: f64,
}

/// The logarithm of the softmax of `logits` at `target`.
fn log_probability(logits: &[f32], target: u32) -> f64 {
    let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum();
    f64::from(logits[target as usize]) - highest - sum.ln()
}

/// The values of a matrix as f32, in row-major order.
fn on_host(matrix: Tensor<2>) -> Vec<f32> {
    let values = matrix.into_data().convert::<f32>().try_into_vec::<f32>();
    values.unwrap_or_else(|_| unreachable!("converted to f32"))
}

/// Rows of logits that are in memory at once for `vectors` tensors of `rows` rows each, with `tokens` logits per row.
pub(super) fn rows_at_once(rows: usize, vectors: usize, tokens: usize) -> usize {
    rows * at_once(rows, tokens).min(vectors)
}

/// Number of rows whose logits of all `vectors` are in memory at once: `rows` divided into parts of nearly equal size;
/// at least 1.
pub(super) fn rows_of_part(rows: usize, vectors: usize, tokens: usize) -> usize {
    let parts = rows.div_ceil(at_once(vectors, tokens));
    rows.div_ceil(parts.max(1)).max(1)
}

/// Number of tensors of `rows` rows that are multiplied by the output matrix at once, with `tokens` logits per row.
fn at_once(rows: usize, tokens: usize) -> usize {
    let most_rows = (LOGIT_BYTES / (tokens * size_of::<f32>()).max(1)).min(MOST_ROWS);
    (most_rows / rows.max(1)).max(1)
}

/// The logits of one vector, on the host.
#[derive(Clone, Copy)]
pub(super) struct TokenLogits<'a> {
    pub text: &'a [f32],
    pub docids: &'a [f32],
}

/// The logits of a sum of vectors.
pub(super) struct LogitSum {
    text: Vec<f32>,
    docids: Vec<f32>,
}

impl TokenLogits<'_> {
    /// True if a logit is NaN, because the model has diverged.
    pub fn has_nan(self) -> bool {
        let is_nan = |group: &[f32]| group.iter().any(|logit| logit.is_nan());
        is_nan(self.text) || is_nan(self.docids)
    }

    /// The log of the denominator of the softmax over the candidates, with all logits multiplied by `scale` (above 0).
    pub fn log_normaliser(self, candidates: CandidateSet, scale: f64) -> f64 {
        let text = if candidates == CandidateSet::All { self.text } else { &[] };
        let logits = || text.iter().chain(self.docids).map(|logit| scale * f64::from(*logit));
        let highest = logits().fold(f64::NEG_INFINITY, f64::max);
        highest + logits().map(|logit| (logit - highest).exp()).sum::<f64>().ln()
    }

    /// The rank of docid row `target`: 1 + the number of candidates with a strictly higher logit.
    pub fn rank(self, target: u32, candidates: CandidateSet) -> u32 {
        let own = self.docids[target as usize];
        // Counted as those that are not lower or equal, so that nothing is ranked first if the logits are NaN.
        let higher = |group: &[f32]| {
            let others = group.iter().map(|logit| u32::from(*logit <= own)).sum::<u32>();
            group.len() as u32 - others
        };
        let text = if candidates == CandidateSet::All { higher(self.text) } else { 0 };
        1 + higher(self.docids) + text
    }
}

impl LogitSum {
    /// The logits of one vector.
    pub fn of(logits: TokenLogits) -> Self {
        Self { text: logits.text.to_vec(), docids: logits.docids.to_vec() }
    }

    /// Adds the logits of another vector.
    pub fn add(&mut self, logits: TokenLogits) {
        let add = |sums: &mut [f32], values: &[f32]| {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        };
        add(&mut self.text, logits.text);
        add(&mut self.docids, logits.docids);
    }

    /// The logits of the sum.
    pub fn logits(&self) -> TokenLogits<'_> {
        TokenLogits { text: &self.text, docids: &self.docids }
    }
}

/// An integer that sorts as `value` does; `value` must not be NaN.
pub(super) fn ordered(value: f32) -> u32 {
    // Maps -0.0 to 0.0.
    let bits = (value + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}
