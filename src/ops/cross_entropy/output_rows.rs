//! The rows of the output layer times a batch, block by block, for [`super::fused`].
//!
//! All logits here are transposed, `[row, example]`: then neither the rows nor the examples are packed for
//! the product, and elementwise loops run over neighbours in memory.

use rayon::prelude::*;

use crate::kernel::{
    Matrix, MatrixMut, Threads, add, exp, fill_chunks, filled, multiply_into, multiply_to_uninit,
    par_fill_chunks, wide,
};
use crate::ops::host::{Contiguous, HostTensor};

/// Tasks that a matrix is divided into, whatever the number of threads: results do not depend on it. Several processes that
/// divide the rows of a matrix have whole tasks each, so that results do not depend on their number either.
const TASKS: usize = 16;
/// Floats of a block, its logits included: half a megabyte, which stays in a core's cache.
const BLOCK: usize = 1 << 17;

/// A batch as columns.
pub(super) struct BatchColumns {
    /// `[width, batch]`
    values: Vec<f32>,
    width: usize,
    batch: usize,
}

impl BatchColumns {
    /// The transpose of rows `[batch, width]`.
    pub fn of(rows: &Contiguous) -> Self {
        let [batch, width] = rows.shape();
        let rows = rows.values();
        let values = (0..width).flat_map(|at| rows[at..].iter().step_by(width).copied()).collect();
        Self { values, width, batch }
    }

    fn matrix(&self) -> Matrix<'_> {
        Matrix::rows(&self.values, self.batch)
    }

    /// Rows of a block.
    fn block(&self) -> usize {
        // The product computes six rows at a time.
        (BLOCK / (self.width + self.batch) / 6 * 6).max(6)
    }
}

/// Rows of the blocks in which the gradients of trained rows of this width are computed, from the first of each task. Whatever
/// the batch: blocks of other sizes may be multiplied by other inner loops, to other last bits.
pub(crate) fn gradient_block(width: usize) -> usize {
    (BLOCK / 2 / width.max(1) / 6 * 6).max(6)
}

/// Rows of a task of a matrix with so many `rows`; the last task may have fewer.
pub(crate) fn task_rows(rows: usize) -> usize {
    rows.div_ceil(TASKS).max(1)
}

/// The running softmax of one task's rows, by example.
#[derive(Debug, Clone)]
pub(super) struct OnlineSoftmax {
    /// The highest logit, `[batch]`
    pub maxima: Vec<f32>,
    /// Sum of `exp(logit - maximum)`, `[batch]`
    pub sums: Vec<f64>,
    /// Sum of the logits, `[batch]`
    pub logits: Vec<f64>,
    /// Sum of the rows, `[width]`; empty unless needed.
    pub row_sum: Vec<f32>,
    /// Sum over rows of `exp(logit - maximum)` times the row, `[width, batch]`; empty unless needed.
    input_gradient: Vec<f32>,
}

/// One matrix of the output layer, and what the forward pass saves of it.
#[derive(Debug, Clone)]
pub(super) struct OutputRows {
    /// `[rows, width]`
    pub values: Contiguous,
    /// One for each task.
    pub parts: Vec<OnlineSoftmax>,
    /// `[rows, batch]`, of trained rows.
    pub logits: Option<Vec<f32>>,
    task: usize,
}

impl OutputRows {
    /// Frozen rows, whose logits are consumed block by block. `for_input`: the input needs a gradient; `row_sums`: and
    /// a part of it is the same for each row.
    pub fn streamed(
        values: Contiguous,
        columns: &BatchColumns,
        for_input: bool,
        row_sums: bool,
    ) -> Self {
        let (width, batch) = (columns.width, columns.batch);
        let [rows, _] = values.shape();
        let task = task_rows(rows);
        let parts = values
            .values()
            .par_chunks(task * width)
            .map(|rows| {
                let mut part = OnlineSoftmax::new(columns, for_input, for_input && row_sums);
                let mut logits = vec![0.0; columns.block() * batch];
                for rows in rows.chunks(columns.block() * width) {
                    let logits = &mut logits[..rows.len() / width * batch];
                    let matrix = Matrix::rows(rows, width);
                    let to = MatrixMut::rows(logits, batch);
                    multiply_into(to, matrix, columns.matrix(), false, Threads::One);
                    part.accumulate_block(logits);
                    if for_input {
                        let to = MatrixMut::rows(&mut part.input_gradient, batch);
                        let exponentials = Matrix::rows(logits, batch);
                        multiply_into(to, matrix.transposed(), exponentials, true, Threads::One);
                    }
                    if !part.row_sum.is_empty() {
                        rows.chunks_exact(width).for_each(|row| add(&mut part.row_sum, row));
                    }
                }
                part
            })
            .collect();
        Self { values, parts, logits: None, task }
    }

    /// Trained rows, whose logits are saved for backward, in tasks of `task` rows.
    pub fn saved(values: Contiguous, columns: &BatchColumns, task: usize) -> Self {
        let (width, batch) = (columns.width, columns.batch);
        let [rows, _] = values.shape();
        let block = columns.block();
        let mut parts = Vec::new();
        let logits = filled(rows * batch, |logits| {
            let (logits, found) = par_fill_chunks(logits, task * batch, |number, logits| {
                let rows = &values.values()[number * task * width..];
                let mut part = OnlineSoftmax::new(columns, false, false);
                let mut copy = Vec::with_capacity(block * batch);
                let logits = fill_chunks(logits, block * batch, |number, logits| {
                    let count = logits.len() / batch;
                    let rows =
                        Matrix::rows(&rows[number * block * width..][..count * width], width);
                    let logits = multiply_to_uninit(logits, rows, columns.matrix(), Threads::One);
                    copy.clear();
                    copy.extend_from_slice(logits);
                    part.accumulate_block(&mut copy);
                    logits
                });
                (logits, part)
            });
            parts = found;
            logits
        });
        Self { values, parts, logits: Some(logits), task }
    }

    /// Gradient of the input from frozen rows, `[width, batch]`, without the target's and the even part.
    pub fn input_gradient(&self, logsumexp: &[f64], weight: f64) -> Vec<f32> {
        let mut sum = Vec::new();
        for part in &self.parts {
            let factors: Vec<f32> = part
                .maxima
                .iter()
                .zip(logsumexp)
                .map(|(&maximum, logsumexp)| {
                    ((f64::from(maximum) - logsumexp).exp() * weight) as f32
                })
                .collect();
            sum.resize(part.input_gradient.len(), 0.0);
            add_columns_scaled(&mut sum, &part.input_gradient, &factors);
        }
        sum
    }

    /// Replaces the saved logits by their gradients, `weight * exp(logit - logsumexp) + even`, without the target's
    /// part.
    pub fn logits_to_gradients(&mut self, logsumexp: &[f64], weight: f32, even: f32) {
        let logsumexp: Vec<f32> = logsumexp.iter().map(|&value| value as f32).collect();
        let task = self.task * logsumexp.len();
        for logits in self.logits.iter_mut() {
            logits
                .par_chunks_mut(task)
                .for_each(|logits| softmax_gradients(logits, &logsumexp, weight, even));
        }
    }

    /// Adds `value` to the gradient of each example's target, if that is among these rows.
    pub fn add_at_targets(
        &mut self,
        targets: impl ExactSizeIterator<Item = Option<usize>>,
        value: f32,
    ) {
        let batch = targets.len();
        let Some(gradients) = &mut self.logits else { return };
        for (example, target) in targets.enumerate() {
            if let Some(target) = target {
                gradients[target * batch + example] += value;
            }
        }
    }

    /// From the logits' gradients: that of the input, `[width, batch]` for each task.
    pub fn input_gradients(&self) -> Vec<Vec<f32>> {
        let [rows, width] = self.values.shape();
        let of_logits = self.logits.as_deref().unwrap_or_default();
        let batch = of_logits.len() / rows.max(1);
        let block = gradient_block(width);
        let tasks = of_logits.par_chunks((self.task * batch).max(1)).enumerate();
        tasks
            .map(|(number, of_logits)| {
                let rows = &self.values.values()[number * self.task * width..];
                let mut sum = vec![0.0; width * batch];
                for (number, of_logits) in of_logits.chunks(block * batch).enumerate() {
                    let rows = &rows[number * block * width..];
                    add_input_gradient(&mut sum, rows, of_logits, width, batch);
                }
                sum
            })
            .collect()
    }

    /// From the logits' gradients: that of the rows, `[rows, width]`, and, if needed, that of the input, `[width,
    /// batch]` for each task.
    pub fn gradients(&self, input: Matrix, for_input: bool) -> (HostTensor, Vec<Vec<f32>>) {
        let [rows, width] = self.values.shape();
        let of_logits = self.logits.as_deref().unwrap_or_default();
        let batch = of_logits.len() / rows.max(1);
        let (task, block) = (self.task, gradient_block(width));
        let mut to_input = Vec::new();
        let gradient = filled(rows * width, |gradient| {
            let (gradient, sums) = par_fill_chunks(gradient, task * width, |number, gradient| {
                let rows = &self.values.values()[number * task * width..];
                let of_logits = &of_logits[number * task * batch..];
                let mut sum = vec![0.0; if for_input { width * batch } else { 0 }];
                let gradient = fill_chunks(gradient, block * width, |number, gradient| {
                    let count = gradient.len() / width;
                    let rows = &rows[number * block * width..];
                    let of_logits = &of_logits[number * block * batch..][..count * batch];
                    if for_input {
                        add_input_gradient(&mut sum, rows, of_logits, width, batch);
                    }
                    let of_logits = Matrix::rows(of_logits, batch);
                    multiply_to_uninit(gradient, of_logits, input, Threads::One)
                });
                (gradient, sum)
            });
            to_input = sums;
            gradient
        });
        to_input.retain(|sum: &Vec<f32>| !sum.is_empty());
        (HostTensor::new(gradient, [rows, width]), to_input)
    }
}

/// Adds a block's part of the input's gradient, `[width, batch]`: the first of the `rows` (`[.., width]`) transposed, times
/// the gradients of their logits, `[block, batch]`.
fn add_input_gradient(
    sum: &mut [f32],
    rows: &[f32],
    of_logits: &[f32],
    width: usize,
    batch: usize,
) {
    let rows = &rows[..of_logits.len() / batch * width];
    let rows = Matrix::rows(rows, width).transposed(); // [width, block]
    let to = MatrixMut::rows(sum, batch);
    multiply_into(to, rows, Matrix::rows(of_logits, batch), true, Threads::One);
}

impl OnlineSoftmax {
    /// Of logits whose maxima and sums were computed elsewhere, `[batch]` each.
    pub fn of_parts(maxima: Vec<f32>, sums: Vec<f64>, logits: Vec<f64>) -> Self {
        Self { maxima, sums, logits, row_sum: Vec::new(), input_gradient: Vec::new() }
    }

    fn new(columns: &BatchColumns, input_gradient: bool, row_sum: bool) -> Self {
        let (width, batch) = (columns.width, columns.batch);
        Self {
            maxima: vec![f32::NEG_INFINITY; batch],
            sums: vec![0.0; batch],
            logits: vec![0.0; batch],
            row_sum: vec![0.0; if row_sum { width } else { 0 }],
            input_gradient: vec![0.0; if input_gradient { width * batch } else { 0 }],
        }
    }

    /// Adds a block of logits, `[rows, batch]`, and replaces it by `exp(logit - maximum)`.
    fn accumulate_block(&mut self, logits: &mut [f32]) {
        let batch = self.maxima.len();
        let before = self.maxima.clone();
        let mut sums = vec![0.0; batch];
        raise_maxima(&mut self.maxima, &mut sums, logits);
        self.logits.iter_mut().zip(&sums).for_each(|(sum, &value)| *sum += f64::from(value));
        let factors: Vec<f32> =
            before.iter().zip(&self.maxima).map(|(before, now)| (before - now).exp()).collect();
        if factors.iter().any(|&factor| factor != 1.0) {
            scale_columns(&mut self.input_gradient, &factors);
        }
        sums.fill(0.0);
        exponentials(logits, &self.maxima, &mut sums);
        for ((total, sum), factor) in self.sums.iter_mut().zip(sums).zip(factors) {
            *total = *total * f64::from(factor) + f64::from(sum);
        }
    }
}

wide! {
    /// Raises each column's maximum and adds up its values.
    fn raise_maxima(maxima: &mut [f32], sums: &mut [f32], logits: &[f32]) {
        for row in logits.chunks_exact(maxima.len()) {
            for ((maximum, sum), logit) in maxima.iter_mut().zip(sums.iter_mut()).zip(row) {
                *maximum = if *logit > *maximum { *logit } else { *maximum };
                *sum += logit;
            }
        }
    }
}

wide! {
    /// Replaces values by `exp(value - their column's maximum)` and adds them up by column.
    fn exponentials(logits: &mut [f32], maxima: &[f32], sums: &mut [f32]) {
        for row in logits.chunks_exact_mut(maxima.len()) {
            for ((value, maximum), sum) in row.iter_mut().zip(maxima).zip(sums.iter_mut()) {
                *value = exp(*value - maximum);
                *sum += *value;
            }
        }
    }
}

wide! {
    /// Replaces logits by `softmax * weight + even`.
    fn softmax_gradients(logits: &mut [f32], logsumexp: &[f32], weight: f32, even: f32) {
        for row in logits.chunks_exact_mut(logsumexp.len()) {
            for (value, logsumexp) in row.iter_mut().zip(logsumexp) {
                *value = exp(*value - logsumexp) * weight + even;
            }
        }
    }
}

wide! {
    fn scale_columns(values: &mut [f32], factors: &[f32]) {
        for row in values.chunks_exact_mut(factors.len()) {
            for (value, factor) in row.iter_mut().zip(factors) {
                *value *= factor;
            }
        }
    }
}

wide! {
    fn add_columns_scaled(sums: &mut [f32], values: &[f32], factors: &[f32]) {
        let rows = sums.chunks_exact_mut(factors.len()).zip(values.chunks_exact(factors.len()));
        for (sums, values) in rows {
            for ((sum, value), factor) in sums.iter_mut().zip(values).zip(factors) {
                *sum += value * factor;
            }
        }
    }
}
