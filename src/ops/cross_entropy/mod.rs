//! Cross-entropy over text tokens and docids together, with its gradient in closed form.
//!
//! The gradient of a softmax cross-entropy is known in closed form. On the CPU it is part of one operation from the
//! decoder's output ([`fused`]). On other devices it is computed once, off the graph, and handed to autodiff as a
//! constant factor of the logits. Nothing is concatenated: the two parts of the output layer share one normaliser.

mod fused;
mod output_rows;

use burn::tensor::{IndexingUpdateOp, Int, Tensor};

use super::head::{Head, Logits};
use crate::device::is_host;

/// A loss, and the scalar to call `backward` on.
pub struct Loss {
    /// Mean over the batch, `[1]`, off the graph.
    pub value: Tensor<1>,
    /// A scalar, `[1]`, whose *gradients* are the loss's, times the requested weight; its value has no meaning.
    pub root: Tensor<1>,
}

/// [`cross_entropy_of_logits`] from the decoder's output. On the CPU the logits of frozen rows are never materialised.
pub fn cross_entropy(head: Head, targets: Tensor<1, Int>, smoothing: f64, weight: f64) -> Loss {
    if is_host(&head.rows.device()) {
        let (value, root) = fused::cross_entropy(head, targets, smoothing, weight);
        Loss { value, root }
    } else {
        cross_entropy_of_logits(head.logits(), targets, smoothing, weight)
    }
}

/// Mean cross-entropy of `targets` (docid rows, `[batch]`) under a softmax over all text tokens and docids.
///
/// `smoothing` spreads that share of the target evenly over the whole output vocabulary, as PyTorch's
/// `cross_entropy(label_smoothing=...)` does. `weight` multiplies the gradients, not the value: with
/// gradients accumulated over several batches it is this batch's share of their examples.
pub fn cross_entropy_of_logits(
    logits: Logits,
    targets: Tensor<1, Int>,
    smoothing: f64,
    weight: f64,
) -> Loss {
    let text = logits.text.clone().inner(); // [batch, text tokens]
    let docids = logits.docids.clone().inner(); // [batch, documents]
    let [batch, text_count] = text.dims();
    let [_, docid_count] = docids.dims();
    let classes = (text_count + docid_count) as f64;
    let targets = targets.inner().reshape([batch, 1]);

    let highest = text.clone().max_dim(1).max_pair(docids.clone().max_dim(1)); // [batch, 1]
    let text_share = (text.clone() - highest.clone()).exp(); // [batch, text tokens]
    let docid_share = (docids.clone() - highest.clone()).exp(); // [batch, documents]
    let total = text_share.clone().sum_dim(1) + docid_share.clone().sum_dim(1); // [batch, 1]
    let log_total = total.clone().log() + highest; // [batch, 1]

    let target = docids.clone().gather(1, targets.clone()); // [batch, 1]
    let mut losses = log_total.clone() - target * (1.0 - smoothing);
    if smoothing > 0.0 {
        let mean = (text.sum_dim(1) + docids.sum_dim(1)) / classes; // [batch, 1]
        losses = losses - mean * smoothing;
    }

    // d loss / d logit = softmax - (1 - smoothing) at the target - smoothing / classes everywhere.
    let weight = weight / batch as f64;
    let scale = total.recip() * weight; // [batch, 1]
    let even = weight * smoothing / classes;
    let at_target = Tensor::full([batch, 1], -weight * (1.0 - smoothing), &targets.device());
    let spread = |gradient: Tensor<2>| if smoothing > 0.0 { gradient - even } else { gradient };
    let text_gradient = spread(text_share * scale.clone()); // [batch, text tokens]
    let docid_gradient =
        spread(docid_share * scale).scatter(1, targets, at_target, IndexingUpdateOp::Add); // [batch, documents]

    let root = (logits.text * Tensor::from_inner(text_gradient)).sum()
        + (logits.docids * Tensor::from_inner(docid_gradient)).sum();
    Loss { value: losses.mean(), root }
}
