//! Cross-entropy from the decoder's output on the CPU: logits, loss and gradients as one operation.
//!
//! The rows of the output layer are read once, in blocks that stay in the cache. The logits of a block of frozen rows
//! are consumed at once by an online softmax: they raise the running maximum and sum and add their share of the input's
//! gradient, `sum of p_v W_v`, which is rescaled when the maximum rises. Neither logits nor their gradients are
//! materialised as `[batch, rows]`. Logits of trained rows are saved for backward, and become their gradients in place
//! when the backward pass needs those of the rows.

use burn::tensor::{Int, Tensor};

use super::output_rows::{BatchColumns, OnlineSoftmax, OutputRows, task_rows};
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
    let inputs = [head.rows.into(), head.text.into(), head.docids.into()];
    let target = Target { rows: rows_of(targets), smoothing, weight };
    let mut value = 0.0;
    let root = apply::<CrossEntropy, 3, 1>(inputs, |[x, text, docids], needed| {
        let [for_x, for_text, for_docids] = needed;
        let (mean, saved) = forward(x, for_x, [(text, for_text), (docids, for_docids)], target);
        value = mean;
        (HostTensor::new(vec![mean], [1]), saved)
    });
    (HostTensor::new(vec![value], [1]).into_tensor(), root)
}

/// The value of [`super::text_cross_entropy`], and the scalar with its gradients.
pub(super) fn text_cross_entropy(
    rows: Tensor<2>,
    text: Tensor<2>,
    targets: Tensor<1, Int>,
    smoothing: f64,
    weight: f64,
) -> (Tensor<1>, Tensor<1>) {
    let target = Target { rows: rows_of(targets), smoothing, weight };
    let mut value = 0.0;
    let root = apply::<CrossEntropy, 2, 1>([rows.into(), text.into()], |[x, text], needed| {
        let [for_x, for_text] = needed;
        let (mean, saved) = forward(x, for_x, [(text, for_text)], target);
        value = mean;
        (HostTensor::new(vec![mean], [1]), saved)
    });
    (HostTensor::new(vec![value], [1]).into_tensor(), root)
}

fn rows_of(targets: Tensor<1, Int>) -> Vec<usize> {
    targets.into_data().iter::<i64>().map(|row| row as usize).collect()
}

/// What the loss compares with.
struct Target {
    /// Rows of the last matrix, `[batch]`
    rows: Vec<usize>,
    smoothing: f64,
    weight: f64,
}

/// The mean loss under one softmax over the rows of all `matrices`, each with whether it is trained, and what the
/// backward pass needs.
fn forward<const N: usize>(
    x: HostTensor,
    for_x: bool,
    matrices: [(HostTensor, bool); N],
    target: Target,
) -> (f32, Saved) {
    let Target { rows: targets, smoothing, weight } = target;
    let rows = x.contiguous();
    let [batch, width] = rows.shape();
    let columns = BatchColumns::of(&rows);
    let matrices: Vec<OutputRows> = matrices
        .into_iter()
        .map(|(matrix, trained)| {
            output_rows(matrix.contiguous(), trained, &columns, for_x, smoothing)
        })
        .collect();
    let classes: usize = matrices.iter().map(|matrix| matrix.values.shape::<2>()[0]).sum();
    let parts: Vec<&OnlineSoftmax> = matrices.iter().flat_map(|matrix| &matrix.parts).collect();
    let logsumexp = logsumexp(&parts, batch);

    let of_targets = matrices[N - 1].values.values();
    let at_target = targets.iter().enumerate().map(|(example, &target)| {
        let row = &of_targets[target * width..][..width];
        f64::from(dot(&rows.values()[example * width..][..width], row))
    });
    let mean = mean_loss(&logsumexp, at_target, &parts, smoothing, classes);
    let factors = Factors::of(weight, smoothing, batch, classes);
    (mean, Saved { rows, matrices, targets, logsumexp, factors, elsewhere: None })
}

/// The rows of a matrix times a batch; `for_x`: the batch needs a gradient.
pub(super) fn output_rows(
    matrix: Contiguous,
    trained: bool,
    columns: &BatchColumns,
    for_x: bool,
    smoothing: f64,
) -> OutputRows {
    let [rows, _] = matrix.shape();
    match trained {
        true => OutputRows::saved(matrix, columns, task_rows(rows)),
        false => OutputRows::streamed(matrix, columns, for_x, smoothing > 0.0),
    }
}

/// The mean over a batch, from each example's logit `at_target`.
pub(super) fn mean_loss(
    logsumexp: &[f64],
    at_target: impl Iterator<Item = f64>,
    parts: &[&OnlineSoftmax],
    smoothing: f64,
    classes: usize,
) -> f32 {
    let mut sum = 0.0;
    for (example, (at_target, &logsumexp)) in at_target.zip(logsumexp).enumerate() {
        sum += logsumexp - (1.0 - smoothing) * at_target;
        if smoothing > 0.0 {
            let logits: f64 = parts.iter().map(|part| part.logits[example]).sum();
            sum -= smoothing * logits / classes as f64;
        }
    }
    (sum / logsumexp.len() as f64) as f32
}

/// Each example's logarithm of the sum of exponentials over all parts.
pub(super) fn logsumexp(parts: &[&OnlineSoftmax], batch: usize) -> Vec<f64> {
    (0..batch)
        .map(|example| {
            let highest =
                parts.iter().map(|part| part.maxima[example]).fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = parts
                .iter()
                .map(|part| part.sums[example] * f64::from(part.maxima[example] - highest).exp())
                .sum();
            total.ln() + f64::from(highest)
        })
        .collect()
}

/// The logits' gradients are `weight * softmax + even`, plus `at_target` at the target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factors {
    pub weight: f64,
    pub at_target: f64,
    pub even: f64,
}

impl Factors {
    /// Of the mean over a batch, times `weight`.
    pub fn of(weight: f64, smoothing: f64, batch: usize, classes: usize) -> Self {
        Self {
            weight: weight / batch as f64,
            at_target: -weight * (1.0 - smoothing) / batch as f64,
            even: -weight * smoothing / (batch as f64 * classes as f64),
        }
    }

    fn times(self, factor: f64) -> Self {
        Self {
            weight: self.weight * factor,
            at_target: self.at_target * factor,
            even: self.even * factor,
        }
    }
}

pub(super) struct CrossEntropy;

#[derive(Debug, Clone)]
pub(super) struct Saved {
    /// The input, `[batch, width]`
    pub rows: Contiguous,
    pub matrices: Vec<OutputRows>,
    /// Rows of the last matrix, `[batch]`
    pub targets: Vec<usize>,
    /// `[batch]`
    pub logsumexp: Vec<f64>,
    pub factors: Factors,
    /// Where the docid rows, which have the targets, are divided among processes: their parts of the input's gradient, each
    /// `[width, batch]`.
    pub elsewhere: Option<Vec<Vec<f32>>>,
}

/// Of text tokens and docids.
impl Operation<3> for CrossEntropy {
    type Saved = Saved;

    fn backward(
        saved: Saved,
        gradient: HostTensor,
        [for_x, ..]: [bool; 3],
    ) -> [Option<HostTensor>; 3] {
        saved.backward(gradient, for_x)
    }
}

/// Of text tokens alone.
impl Operation<2> for CrossEntropy {
    type Saved = Saved;

    fn backward(
        saved: Saved,
        gradient: HostTensor,
        [for_x, ..]: [bool; 2],
    ) -> [Option<HostTensor>; 2] {
        saved.backward(gradient, for_x)
    }
}

impl Saved {
    /// Gradients of the input and of each matrix: `N` in all.
    fn backward<const N: usize>(
        mut self,
        gradient: HostTensor,
        for_x: bool,
    ) -> [Option<HostTensor>; N] {
        let upstream = gradient.contiguous().values()[0];
        let factors = self.factors.times(f64::from(upstream));
        let mut to_input = Vec::new();
        let last = self.matrices.len() - 1;
        let Self { rows, matrices, targets, logsumexp, elsewhere, .. } = &mut self;
        let input = rows.matrix();
        let found: Vec<Option<HostTensor>> = matrices
            .iter_mut()
            .enumerate()
            .map(|(at, matrix)| {
                if matrix.logits.is_none() {
                    if for_x {
                        to_input.push(matrix.input_gradient(logsumexp, factors.weight));
                    }
                    return None;
                }
                let (weight, even) = (factors.weight as f32, factors.even as f32);
                matrix.logits_to_gradients(logsumexp, weight, even);
                if at == last && elsewhere.is_none() {
                    matrix.add_at_targets(
                        targets.iter().copied().map(Some),
                        factors.at_target as f32,
                    );
                }
                let (gradient, of_input) = matrix.gradients(input, for_x);
                to_input.extend(of_input);
                Some(gradient)
            })
            .collect();
        to_input.extend(elsewhere.iter_mut().flat_map(std::mem::take));
        let to_x = for_x.then(|| self.input_gradient(&to_input, factors));
        let mut all = [to_x].into_iter().chain(found);
        std::array::from_fn(|_| all.next().flatten())
    }

    /// Gradient of the input, `[batch, width]`, from its parts by matrices and tasks, each `[width, batch]`.
    fn input_gradient(&self, parts: &[Vec<f32>], factors: Factors) -> HostTensor {
        let [batch, width] = self.rows.shape();
        let mut gradient = vec![0.0_f32; batch * width];
        let frozen = |rows: &&OutputRows| rows.logits.is_none();
        let mut even = vec![0.0_f32; width];
        for rows in self.matrices.iter().filter(frozen) {
            for part in &rows.parts {
                even.iter_mut().zip(&part.row_sum).for_each(|(sum, value)| *sum += value);
            }
        }
        let here = self.matrices.last().filter(|_| self.elsewhere.is_none());
        let of_targets = here.filter(frozen);
        for (example, gradient) in gradient.chunks_exact_mut(width).enumerate() {
            for (at, value) in gradient.iter_mut().enumerate() {
                *value = parts.iter().map(|part| part[at * batch + example]).sum();
                *value += even[at] * factors.even as f32;
            }
            if let Some(rows) = of_targets {
                let row = &rows.values.values()[self.targets[example] * width..][..width];
                add_scaled(gradient, factors.at_target as f32, row);
            }
        }
        HostTensor::new(gradient, [batch, width])
    }
}
