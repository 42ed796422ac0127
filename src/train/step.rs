//! Forward and backward of one batch.

use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor};

use super::loss::loss_of_head;
use crate::prefix::PrefixOutput;
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

/// What a step starts from.
#[derive(Debug, Clone)]
pub enum StepInput {
    /// The texts, where the encoder or the word embedding is trained.
    Tokens(Tokens),
    /// What the frozen prefix has made of them, without autodiff.
    Prefix(PrefixOutput),
}

/// Mean loss of a batch, and the gradients of every trained parameter of `model`.
///
/// `targets`: docid rows, `[batch]`.
pub fn forward_backward(
    model: &GenirModel,
    input: StepInput,
    targets: Tensor<1, Int>,
    options: StepOptions,
) -> (f64, GradientsParams) {
    let mut tap = NoTap;
    let mut pass = Pass::train(&mut tap, options.dropout);
    let output = match input {
        StepInput::Tokens(source) => model.t5.encode_and_decode_start(&source, &mut pass),
        StepInput::Prefix(prefix) => prefix.on_graph().output(&model.t5, &mut pass),
    }; // [batch, d_model]
    let head = model.head(output);
    let loss = loss_of_head(head, targets, options.label_smoothing, options.weight);
    let gradients = GradientsParams::from_grads(loss.root.backward(), model);
    (f64::from(loss.value.into_scalar::<f32>()), gradients)
}
