//! Forward and backward of one batch.

use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor};

use super::loss::loss_of_head;
use crate::t5::{Dropout, GenirModel, NoTap, Pass, Tokens};

/// How a batch is trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOptions {
    /// Dropout of this batch.
    pub dropout: Dropout,
    /// Share of the target that is spread over the whole output vocabulary.
    pub label_smoothing: f64,
    /// Factor on the gradients: one over the batches of an update.
    pub weight: f64,
}

/// Mean loss of a batch, and the gradients of every trained parameter of `model`.
///
/// `targets`: docid rows, `[batch]`.
pub fn forward_backward(
    model: &GenirModel,
    source: &Tokens,
    targets: Tensor<1, Int>,
    options: StepOptions,
) -> (f64, GradientsParams) {
    let mut tap = NoTap;
    let mut pass = Pass::train(&mut tap, options.dropout);
    let output = model.t5.encode_and_decode_start(source, &mut pass); // [batch, d_model]
    let head = model.head(output);
    let loss = loss_of_head(head, targets, options.label_smoothing, options.weight);
    let gradients = GradientsParams::from_grads(loss.root.backward(), model);
    (f64::from(loss.value.into_scalar::<f32>()), gradients)
}
