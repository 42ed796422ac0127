//! Cross-entropy over text tokens and docids together, or over text tokens alone, with its gradient in closed form.
//!
//! The gradient of a softmax cross-entropy is known in closed form. On the CPU it is part of one operation from the
//! decoder's output ([`fused`]). On other devices it is computed once, off the graph, and handed to autodiff as a
//! constant factor of the logits. Nothing is concatenated: the two parts of the output layer share one normaliser.

mod fused;
mod output_rows;
mod sharded;

use burn::tensor::{IndexingUpdateOp, Int, Tensor};

pub(crate) use output_rows::{gradient_block, task_rows};
pub(crate) use sharded::{
    HostLogitGradients, LogitGradients, Round, largest_shard, most_shards, owner, shard,
};

use super::head::{Head, Logits, TextHead};
use super::linear::{WeightLayout, linear};
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

/// Mean cross-entropy of `targets` (text tokens, `[positions]`) under a softmax over all text tokens: the loss of
/// transformers' `T5ForConditionalGeneration`, from the positions that have a label. Docids take no part in it.
///
/// `smoothing` and `weight` as in [`cross_entropy_of_logits`].
pub fn text_cross_entropy(
    head: TextHead,
    targets: Tensor<1, Int>,
    smoothing: f64,
    weight: f64,
) -> Loss {
    let TextHead { rows, text, precision } = head;
    if is_host(&rows.device()) {
        let (value, root) = fused::text_cross_entropy(rows, text, targets, smoothing, weight);
        Loss { value, root }
    } else {
        let logits = linear(rows, text, WeightLayout::OutIn, precision); // [positions, words]
        of_parts([logits], targets, smoothing, weight)
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
    of_parts([logits.text, logits.docids], targets, smoothing, weight)
}

/// The same of logits in parts `[batch, classes]` that share one softmax; the targets are classes of the last part.
fn of_parts<const N: usize>(
    parts: [Tensor<2>; N],
    targets: Tensor<1, Int>,
    smoothing: f64,
    weight: f64,
) -> Loss {
    let values = parts.each_ref().map(|part| part.clone().inner()); // [batch, classes] each
    let sum = |of_parts: [Tensor<2>; N]| of_parts.into_iter().reduce(|sum, part| sum + part);
    let last = N - 1;
    let [batch, _] = values[last].dims();
    let classes = values.iter().map(|part| part.dims()[1]).sum::<usize>() as f64;
    let targets = targets.inner().reshape([batch, 1]);

    let maxima = values.each_ref().map(|part| part.clone().max_dim(1)); // [batch, 1] each
    let highest = maxima.into_iter().reduce(|one, other| one.max_pair(other));
    let Some(highest) = highest else { unreachable!("callers give one part or two") };
    let shares = values.each_ref().map(|part| (part.clone() - highest.clone()).exp()); // [batch, classes] each
    let Some(total) = sum(shares.each_ref().map(|part| part.clone().sum_dim(1))) else {
        unreachable!("callers give one part or two")
    }; // [batch, 1]
    let log_total = total.clone().log() + highest; // [batch, 1]

    let target = values[last].clone().gather(1, targets.clone()); // [batch, 1]
    let mut losses = log_total.clone() - target * (1.0 - smoothing);
    if smoothing > 0.0
        && let Some(sum) = sum(values.map(|part| part.sum_dim(1)))
    {
        losses = losses - sum / classes * smoothing; // [batch, 1]
    }

    // d loss / d logit = softmax - (1 - smoothing) at the target - smoothing / classes everywhere.
    let weight = weight / batch as f64;
    let scale = total.recip() * weight; // [batch, 1]
    let even = weight * smoothing / classes;
    let at_target = Tensor::full([batch, 1], -weight * (1.0 - smoothing), &targets.device());
    let spread = |gradient: Tensor<2>| if smoothing > 0.0 { gradient - even } else { gradient };
    let mut gradients = shares.map(|share| spread(share * scale.clone())); // [batch, classes] each
    gradients[last] = gradients[last].clone().scatter(1, targets, at_target, IndexingUpdateOp::Add);

    let products = parts.into_iter().zip(gradients);
    let root = products
        .map(|(logits, gradient)| (logits * Tensor::from_inner(gradient)).sum())
        .reduce(|sum, part| sum + part);
    let Some(root) = root else { unreachable!("callers give one part or two") };
    Loss { value: losses.mean(), root }
}
