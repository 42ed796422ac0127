//! The logit lens: any vector of the residual stream's kind through the final RMSNorm and the output matrix.

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::retrieval::Vocabulary;
use crate::retrieval::ranking::Scored;
use crate::t5::{GenirModel, Logits};

/// A model's lens, with what a docid is ranked among.
#[derive(Clone, Copy)]
pub(super) struct Lens<'a> {
    pub model: &'a GenirModel,
    pub vocabulary: Vocabulary,
}

impl Lens<'_> {
    /// `lens(v)`: logits of all tokens, from `[rows, d_model]`.
    pub fn logits(&self, vectors: Tensor<2>) -> Logits {
        self.model.logits(self.normalised(vectors))
    }

    /// The rank of each row's target (a docid row) under `lens` of `vectors`, `[rows, d_model]`.
    pub fn ranks(&self, vectors: Tensor<2>, targets: &[u32]) -> Vec<u32> {
        self.output_ranks(self.normalised(vectors), targets)
    }

    /// The rank of each row's target, from outputs of the decoder (after its final RMSNorm), `[rows, d_model]`.
    pub fn output_ranks(&self, output: Tensor<2>, targets: &[u32]) -> Vec<u32> {
        one_each(&Scored::new(self.model, output, self.vocabulary), targets)
    }

    /// The rank of each row's target under given logits of all tokens.
    pub fn logit_ranks(&self, logits: &Logits, targets: &[u32]) -> Vec<u32> {
        let words = (self.vocabulary == Vocabulary::All).then(|| logits.words.clone());
        one_each(&Scored { docids: logits.docids.clone(), words }, targets)
    }

    fn normalised(&self, vectors: Tensor<2>) -> Tensor<2> {
        self.model.t5.decoder.final_norm.forward(vectors)
    }
}

fn one_each(scored: &Scored, targets: &[u32]) -> Vec<u32> {
    let targets: Vec<&[u32]> = targets.chunks(1).collect();
    scored.ranks(&targets).into_iter().flatten().collect()
}

/// Logits of one row in the order of token ids: words, then docids.
pub(super) struct HostLogits {
    words: Vec<f32>,
    docids: Vec<f32>,
    rows: usize,
}

impl HostLogits {
    pub fn of(logits: Logits) -> Self {
        let [rows, _] = logits.words.dims();
        let values = |logits: Tensor<2>| logits.into_data().iter::<f32>().collect();
        Self { words: values(logits.words), docids: values(logits.docids), rows }
    }

    /// Each row's logits of words and of docids.
    pub fn rows(&self) -> impl IndexedParallelIterator<Item = (&[f32], &[f32])> {
        let part = |values: usize| values / self.rows.max(1);
        self.words
            .par_chunks(part(self.words.len()))
            .zip(self.docids.par_chunks(part(self.docids.len())))
    }
}

/// A whole number that orders as `value` does: NaN is above infinity.
pub(super) fn ordered(value: f32) -> u32 {
    let bits = value.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}
