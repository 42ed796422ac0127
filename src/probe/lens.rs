//! The logit lens: any vector of the residual stream's kind through the final RMSNorm and the output matrix.

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::retrieval::Vocabulary;
use crate::retrieval::ranking::relevant_ranks;
use crate::t5::GenirModel;

/// Logits of more bytes than this are never held at once. So many rows at a time are worth having: the output matrix
/// is rearranged for every product, whatever its number of rows, and that costs as much as 64 of them.
const LOGIT_BYTES: usize = 64 << 20;
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
            let found = relevant_ranks(self.model, stacked, &docids, self.vocabulary, &repeated);
            let found: Vec<u32> = found.into_iter().flatten().collect();
            ranks.extend(found.chunks(rows).map(<[u32]>::to_vec));
        }
        ranks
    }

    /// Hands `lens` of each of `vectors`, `[rows, d_model]`, to `each`, in order.
    pub fn each(&self, vectors: Vec<Tensor<2>>, mut each: impl FnMut(usize, LensRows)) {
        let Some(rows) = vectors.first().map(|vector| vector.dims()[0]) else { return };
        let tokens = self.model.t5.config().vocab_size + self.model.documents();
        let at_once = at_once(rows, tokens);
        for (group, stacked) in vectors.chunks(at_once).enumerate() {
            let stacked = self.normalised(Tensor::cat(stacked.to_vec(), 0)); // [group * rows, d_model]
            let logits = self.model.logits(stacked);
            let [words, docids] = [logits.words, logits.docids].map(|logits| {
                let width = logits.dims()[1];
                (on_host(logits), width)
            });
            let of_vectors = words.0.chunks(words.1 * rows).zip(docids.0.chunks(docids.1 * rows));
            for (place, (of_words, of_docids)) in of_vectors.enumerate() {
                let widths = [words.1, docids.1];
                each(
                    group * at_once + place,
                    LensRows { words: of_words, docids: of_docids, widths },
                );
            }
        }
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

/// How many vectors of `rows` rows go through the output matrix at once, where logits of so many tokens are kept.
fn at_once(rows: usize, tokens: usize) -> usize {
    let most_rows = (LOGIT_BYTES / (tokens * size_of::<f32>()).max(1)).min(MOST_ROWS);
    (most_rows / rows.max(1)).max(1)
}

/// Logits of some rows, on the host.
pub(super) struct LensRows<'a> {
    words: &'a [f32],
    docids: &'a [f32],
    widths: [usize; 2],
}

impl LensRows<'_> {
    /// Each row's logits of words and of docids.
    pub fn rows(&self) -> impl IndexedParallelIterator<Item = (&[f32], &[f32])> {
        self.words.par_chunks(self.widths[0]).zip(self.docids.par_chunks(self.widths[1]))
    }
}

/// A whole number that orders as `value` does; NaN is below all.
pub(super) fn ordered(value: f32) -> u32 {
    if value.is_nan() {
        return 0;
    }
    let bits = value.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}
