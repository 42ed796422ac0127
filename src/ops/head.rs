//! The output layer: logits of text tokens and docids.

use burn::tensor::Tensor;

use super::linear::{WeightLayout, linear};
use crate::device::Precision;

/// The rows of the output layer and what they are multiplied by: all that a loss needs.
#[derive(Debug, Clone)]
pub struct Head {
    /// The decoder's output as the output layer reads it, `[batch, d_model]`
    pub rows: Tensor<2>,
    /// Rows of the text tokens, `[words, d_model]`
    pub text: Tensor<2>,
    /// Rows of the docids, `[documents, d_model]`
    pub docids: Tensor<2>,
    /// The type in which a GPU multiplies them.
    pub precision: Precision,
}

impl Head {
    /// Logits of every row.
    pub fn logits(self) -> Logits {
        let logits = |rows| linear(self.rows.clone(), rows, WeightLayout::OutIn, self.precision);
        Logits { text: logits(self.text), docids: logits(self.docids) }
    }
}

/// The decoder's output at some positions and the rows of the text tokens: what the loss of text needs.
#[derive(Debug, Clone)]
pub struct TextHead {
    /// The decoder's output as the output layer reads it, `[positions, d_model]`
    pub rows: Tensor<2>,
    /// Rows of the text tokens, `[words, d_model]`
    pub text: Tensor<2>,
    /// The type in which a GPU multiplies them.
    pub precision: Precision,
}

/// Logits of a batch at the start token's position.
#[derive(Debug, Clone)]
pub struct Logits {
    /// `[batch, words]`
    pub text: Tensor<2>,
    /// `[batch, documents]`
    pub docids: Tensor<2>,
}
