//! Cross-entropy from the decoder's output on the CPU: logits, loss and gradients as one operation.
//!
//! The rows of the output vocabulary go by once, in blocks that stay in the cache. The logits of a block of
//! frozen rows are used up at once: they raise the running maximum and sum of the softmax and add their share of
//! the input's gradient, `sum of p_v W_v`, which is scaled down when the maximum rises. Neither logits nor their
//! gradients exist as `[batch, vocabulary]`. Logits of trained rows are kept, and turned into their gradients
//! in place when the backward pass asks for the rows' own.

use burn::tensor::{Int, Tensor, TensorData};
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops};
use burn_flex::{Flex, FlexTensor};

use super::loss::Loss;
use super::vocabulary::{Columns, Part, Rows};
use crate::kernel::{Input, Matrix, add_scaled, dot, floats, recorded, to_tensor};
use crate::t5::Head;

/// What [`super::cross_entropy`] makes of the head's logits, on the CPU.
pub(super) fn fused_cross_entropy(
    head: Head,
    targets: Tensor<1, Int>,
    smoothing: f64,
    weight: f64,
) -> Loss {
    let [batch, width] = head.rows.dims();
    let targets: Vec<usize> = targets.into_data().iter::<i64>().map(|row| row as usize).collect();
    let inputs = [Input::of(head.rows), Input::of(head.words), Input::of(head.docids)];
    let [x, words, docids] = inputs;
    let x_tracked = x.tracked;
    let rows = x.value.to_contiguous();
    let columns = Columns::of(&rows);
    let classes = words.value.layout().shape()[0] + docids.value.layout().shape()[0];

    let [word_rows, docid_rows] = [&words, &docids].map(|matrix| {
        let values = matrix.value.to_contiguous();
        let toward_input = x_tracked && !matrix.tracked;
        if matrix.tracked {
            Rows::kept(values, &columns)
        } else {
            Rows::used_up(values, &columns, toward_input, smoothing > 0.0)
        }
    });
    let parts = || word_rows.parts.iter().chain(&docid_rows.parts);
    let log_totals = log_totals(parts(), batch);

    let docid_values = floats(&docid_rows.values);
    let row_values = floats(&rows);
    let mut sum = 0.0;
    for (example, (&target, &log_total)) in targets.iter().zip(&log_totals).enumerate() {
        let docid = &docid_values[target * width..][..width];
        let at_target = f64::from(dot(&row_values[example * width..][..width], docid));
        sum += log_total - (1.0 - smoothing) * at_target;
        if smoothing > 0.0 {
            let logits: f64 = parts().map(|part| part.logits[example]).sum();
            sum -= smoothing * logits / classes as f64;
        }
    }
    let value = TensorData::new(vec![(sum / batch as f64) as f32], [1]);

    let scale = Scale {
        weight: weight / batch as f64,
        at_target: -weight * (1.0 - smoothing) / batch as f64,
        even: -weight * smoothing / (batch as f64 * classes as f64),
    };
    let kept = Kept { rows, word_rows, docid_rows, targets, log_totals, scale };
    let root = FlexTensor::from_data(value.clone());
    let root = recorded(CrossEntropy, [x.node, words.node, docids.node], kept, root);
    Loss { value: to_tensor(FlexTensor::from_data(value)), root }
}

/// Logarithm of each example's sum of exponentials over all parts.
fn log_totals<'a>(parts: impl Iterator<Item = &'a Part> + Clone, batch: usize) -> Vec<f64> {
    (0..batch)
        .map(|example| {
            let highest =
                parts.clone().map(|part| part.highest[example]).fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = parts
                .clone()
                .map(|part| part.totals[example] * f64::from(part.highest[example] - highest).exp())
                .sum();
            total.ln() + f64::from(highest)
        })
        .collect()
}

/// Factors of the logits' gradients, which are
/// `weight * softmax + even`, and `at_target` more at the target.
#[derive(Debug, Clone, Copy)]
struct Scale {
    weight: f64,
    at_target: f64,
    even: f64,
}

impl Scale {
    fn times(self, factor: f64) -> Self {
        Self {
            weight: self.weight * factor,
            at_target: self.at_target * factor,
            even: self.even * factor,
        }
    }
}

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct Kept {
    /// The input, `[batch, width]`.
    rows: FlexTensor,
    word_rows: Rows,
    docid_rows: Rows,
    targets: Vec<usize>,
    log_totals: Vec<f64>,
    scale: Scale,
}

impl Kept {
    /// Gradient of the input, `[batch, width]`, from those of both matrices transposed.
    fn input_gradient(&self, parts: &[Vec<f32>], scale: Scale) -> FlexTensor {
        let [batch, width] = [self.rows.layout().shape()[0], self.rows.layout().shape()[1]];
        let mut gradient = vec![0.0_f32; batch * width];
        let docids = floats(&self.docid_rows.values);
        let frozen = |rows: &Rows| rows.logits.is_none();
        let mut even = vec![0.0_f32; width];
        for rows in [&self.word_rows, &self.docid_rows].into_iter().filter(|rows| frozen(rows)) {
            for part in &rows.parts {
                even.iter_mut().zip(&part.row_sum).for_each(|(sum, value)| *sum += value);
            }
        }
        for (example, gradient) in gradient.chunks_exact_mut(width).enumerate() {
            for (at, value) in gradient.iter_mut().enumerate() {
                *value = parts.iter().map(|part| part[at * batch + example]).sum();
                *value += even[at] * scale.even as f32;
            }
            if frozen(&self.docid_rows) {
                let docid = &docids[self.targets[example] * width..][..width];
                add_scaled(gradient, scale.at_target as f32, docid);
            }
        }
        FlexTensor::from_data(TensorData::new(gradient, [batch, width]))
    }
}

/// The loss's place in the autodiff graph.
#[derive(Debug)]
struct CrossEntropy;

impl Backward<Flex, 3> for CrossEntropy {
    type State = Kept;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let mut kept = ops.state;
        let upstream = gradients.consume::<Flex>(&ops.node);
        let upstream = f64::from(upstream.storage::<f32>()[upstream.layout().start_offset()]);
        let scale = kept.scale.times(upstream);
        let [for_x, for_words, for_docids] = ops.parents;

        let mut toward_input = Vec::new();
        let targets = std::mem::take(&mut kept.targets);
        let matrices = [
            (&mut kept.word_rows, for_words, None),
            (&mut kept.docid_rows, for_docids, Some(targets.as_slice())),
        ];
        let input = Matrix::of(&kept.rows);
        for (rows, node, targets) in matrices {
            if rows.logits.is_some() {
                rows.turn_into_gradients(&kept.log_totals, scale.weight as f32, scale.even as f32);
                if let Some(targets) = targets {
                    rows.add_at_targets(targets, scale.at_target as f32);
                }
                let (gradient, toward) = rows.gradients(input, for_x.is_some());
                toward_input.extend(toward);
                if let Some(node) = node {
                    gradients.register::<Flex>(node.id, gradient);
                }
            } else if for_x.is_some() {
                toward_input.push(rows.toward_input(&kept.log_totals, scale.weight));
            }
        }
        kept.targets = targets;
        if let Some(node) = for_x {
            gradients.register::<Flex>(node.id, kept.input_gradient(&toward_input, scale));
        }
    }
}
