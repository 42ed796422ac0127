//! Cross-entropy from the decoder's output on the CPU: logits, loss and gradients as one operation.
//!
//! The rows of the output layer are read once, in blocks that stay in the cache. The logits of a block of frozen rows
//! are consumed at once by an online softmax: they raise the running maximum and sum and add their share of the input's
//! gradient, `sum of p_v W_v`, which is rescaled when the maximum rises. Neither logits nor their gradients are
//! materialised as `[batch, rows]`. Logits of trained rows are saved for backward, and become their gradients in place
//! when the backward pass needs those of the rows.

use burn::tensor::{Int, Tensor};

use super::output_rows::{BatchColumns, OnlineSoftmax, OutputRows};
use crate::kernel::{add_scaled, dot};
use crate::ops::autograd::{Operation, apply};
use crate::ops::head::Head;
use crate::ops::host::{Contiguous, HostTensor};

/// The value of [`super::cross_entropy`], and the scalar with its gradients.
pub(super) fn cross_entropy(
    head: Head,
    targets: Tensor<1, Int>,
    smoothing: f64,
    weight: f64,
) -> (Tensor<1>, Tensor<1>) {
    let targets: Vec<usize> = targets.into_data().iter::<i64>().map(|row| row as usize).collect();
    let inputs = [head.rows.into(), head.text.into(), head.docids.into()];
    let mut value = 0.0;
    let root = apply::<CrossEntropy, 3, 1>(inputs, |inputs, needed| {
        let (mean, saved) = forward(inputs, needed, targets, smoothing, weight);
        value = mean;
        (HostTensor::new(vec![mean], [1]), saved)
    });
    (HostTensor::new(vec![value], [1]).into_tensor(), root)
}

/// The mean loss, and what the backward pass needs.
fn forward(
    inputs: [HostTensor; 3],
    [for_x, for_text, for_docids]: [bool; 3],
    targets: Vec<usize>,
    smoothing: f64,
    weight: f64,
) -> (f32, Saved) {
    let [rows, text, docids] = inputs.map(HostTensor::contiguous);
    let [batch, width] = rows.shape();
    let classes = text.shape::<2>()[0] + docids.shape::<2>()[0];
    let columns = BatchColumns::of(&rows);
    let logits_of = |matrix: Contiguous, trained: bool| {
        if trained {
            OutputRows::saved(matrix, &columns)
        } else {
            OutputRows::streamed(matrix, &columns, for_x, smoothing > 0.0)
        }
    };
    let (text, docids) = (logits_of(text, for_text), logits_of(docids, for_docids));
    let parts = || text.parts.iter().chain(&docids.parts);
    let logsumexp = logsumexp(parts(), batch);

    let mut sum = 0.0;
    for (example, (&target, &logsumexp)) in targets.iter().zip(&logsumexp).enumerate() {
        let docid = &docids.values.values()[target * width..][..width];
        let at_target = f64::from(dot(&rows.values()[example * width..][..width], docid));
        sum += logsumexp - (1.0 - smoothing) * at_target;
        if smoothing > 0.0 {
            let logits: f64 = parts().map(|part| part.logits[example]).sum();
            sum -= smoothing * logits / classes as f64;
        }
    }
    let factors = Factors {
        weight: weight / batch as f64,
        at_target: -weight * (1.0 - smoothing) / batch as f64,
        even: -weight * smoothing / (batch as f64 * classes as f64),
    };
    let saved = Saved { rows, text, docids, targets, logsumexp, factors };
    ((sum / batch as f64) as f32, saved)
}

/// Each example's logarithm of the sum of exponentials over all parts.
fn logsumexp<'a>(parts: impl Iterator<Item = &'a OnlineSoftmax> + Clone, batch: usize) -> Vec<f64> {
    (0..batch)
        .map(|example| {
            let highest =
                parts.clone().map(|part| part.maxima[example]).fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = parts
                .clone()
                .map(|part| part.sums[example] * f64::from(part.maxima[example] - highest).exp())
                .sum();
            total.ln() + f64::from(highest)
        })
        .collect()
}

/// The logits' gradients are `weight * softmax + even`, plus `at_target` at the target.
#[derive(Debug, Clone, Copy)]
struct Factors {
    weight: f64,
    at_target: f64,
    even: f64,
}

impl Factors {
    fn times(self, factor: f64) -> Self {
        Self {
            weight: self.weight * factor,
            at_target: self.at_target * factor,
            even: self.even * factor,
        }
    }
}

struct CrossEntropy;

#[derive(Debug, Clone)]
struct Saved {
    /// The input, `[batch, width]`
    rows: Contiguous,
    text: OutputRows,
    docids: OutputRows,
    /// Docid rows, `[batch]`
    targets: Vec<usize>,
    /// `[batch]`
    logsumexp: Vec<f64>,
    factors: Factors,
}

impl Operation<3> for CrossEntropy {
    type Saved = Saved;

    fn backward(
        mut saved: Saved,
        gradient: HostTensor,
        [for_x, ..]: [bool; 3],
    ) -> [Option<HostTensor>; 3] {
        let upstream = gradient.contiguous().values()[0];
        let factors = saved.factors.times(f64::from(upstream));
        let mut to_input = Vec::new();
        let input = saved.rows.matrix();
        let matrices = [(&mut saved.text, None), (&mut saved.docids, Some(&saved.targets))];
        let [to_text, to_docids] = matrices.map(|(rows, targets)| {
            if rows.logits.is_none() {
                if for_x {
                    to_input.push(rows.input_gradient(&saved.logsumexp, factors.weight));
                }
                return None;
            }
            let (weight, even) = (factors.weight as f32, factors.even as f32);
            rows.logits_to_gradients(&saved.logsumexp, weight, even);
            if let Some(targets) = targets {
                rows.add_at_targets(targets, factors.at_target as f32);
            }
            let (gradient, of_input) = rows.gradients(input, for_x);
            to_input.extend(of_input);
            Some(gradient)
        });
        let to_x = for_x.then(|| saved.input_gradient(&to_input, factors));
        [to_x, to_text, to_docids]
    }
}

impl Saved {
    /// Gradient of the input, `[batch, width]`, from its parts by matrices and tasks, each `[width, batch]`.
    fn input_gradient(&self, parts: &[Vec<f32>], factors: Factors) -> HostTensor {
        let [batch, width] = self.rows.shape();
        let mut gradient = vec![0.0_f32; batch * width];
        let docids = self.docids.values.values();
        let frozen = |rows: &OutputRows| rows.logits.is_none();
        let mut even = vec![0.0_f32; width];
        for rows in [&self.text, &self.docids].into_iter().filter(|rows| frozen(rows)) {
            for part in &rows.parts {
                even.iter_mut().zip(&part.row_sum).for_each(|(sum, value)| *sum += value);
            }
        }
        for (example, gradient) in gradient.chunks_exact_mut(width).enumerate() {
            for (at, value) in gradient.iter_mut().enumerate() {
                *value = parts.iter().map(|part| part[at * batch + example]).sum();
                *value += even[at] * factors.even as f32;
            }
            if frozen(&self.docids) {
                let docid = &docids[self.targets[example] * width..][..width];
                add_scaled(gradient, factors.at_target as f32, docid);
            }
        }
        HostTensor::new(gradient, [batch, width])
    }
}
