//! Rows of the output vocabulary met by a batch, block by block: what [`super::fused_loss`] is made of.
//!
//! Everything here is transposed, `[row, example]`: then neither the rows nor the examples need to be packed for
//! the product, and what is done to logits is done to neighbours in memory.

use std::mem::MaybeUninit;

use burn::tensor::TensorData;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::kernel::{
    Matrix, MatrixMut, Threads, add, exp, filled, floats, multiply_fresh, multiply_into, wide,
};

/// Tasks that a matrix is shared out as, whatever the number of threads: results do not depend on it.
const TASKS: usize = 16;
/// Floats of a block, its logits included: half a megabyte, which stays in the cache of a core.
const BLOCK: usize = 1 << 17;

/// The batch as columns.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    /// `[width, batch]`
    values: Vec<f32>,
    width: usize,
    batch: usize,
}

impl Columns {
    /// The transpose of contiguous rows `[batch, width]`.
    pub fn of(rows: &FlexTensor) -> Self {
        let [batch, width] = [rows.layout().shape()[0], rows.layout().shape()[1]];
        let rows = floats(rows);
        let values = (0..width).flat_map(|at| rows[at..].iter().step_by(width).copied()).collect();
        Self { values, width, batch }
    }

    fn matrix(&self) -> Matrix<'_> {
        Matrix::rows(&self.values, self.batch)
    }

    /// Rows of a block.
    fn block(&self) -> usize {
        // The product takes six rows at a time.
        (BLOCK / (self.width + self.batch) / 6 * 6).max(6)
    }

    /// Rows of a task: whole blocks.
    fn task(&self, rows: usize) -> usize {
        rows.div_ceil(TASKS).next_multiple_of(self.block())
    }
}

/// What a task found, by example.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// The highest logit.
    pub highest: Vec<f32>,
    /// Sum of `exp(logit - highest)`.
    pub totals: Vec<f64>,
    /// Sum of the logits.
    pub logits: Vec<f64>,
    /// Sum of the rows, `[width]`; empty unless wanted.
    pub row_sum: Vec<f32>,
    /// Sum over rows of `exp(logit - highest)` times the row, `[width, batch]`; empty unless wanted.
    toward: Vec<f32>,
}

/// A matrix of the output vocabulary and what the forward pass found of it.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    /// `[rows, width]`, contiguous.
    pub values: FlexTensor,
    pub parts: Vec<Part>,
    /// `[rows, batch]`, of trained rows.
    pub logits: Option<Vec<f32>>,
    task: usize,
    block: usize,
}

impl Rows {
    /// Logits of frozen rows, used up block by block.
    pub fn used_up(values: FlexTensor, columns: &Columns, toward: bool, sums: bool) -> Self {
        let (width, batch) = (columns.width, columns.batch);
        let task = columns.task(values.layout().shape()[0]);
        let parts = floats(&values)
            .par_chunks(task * width)
            .map(|rows| {
                let mut part = Part::new(columns, toward, toward && sums);
                let mut logits = vec![0.0; columns.block() * batch];
                for rows in rows.chunks(columns.block() * width) {
                    let logits = &mut logits[..rows.len() / width * batch];
                    let rows = Matrix::rows(rows, width);
                    let to = MatrixMut::rows(logits, batch);
                    multiply_into(to, rows, columns.matrix(), false, Threads::One);
                    part.meet(logits);
                    if toward {
                        let to = MatrixMut::rows(&mut part.toward, batch);
                        let shares = Matrix::rows(logits, batch);
                        multiply_into(to, rows.transposed(), shares, true, Threads::One);
                    }
                }
                if toward && sums {
                    rows.chunks_exact(width).for_each(|row| add(&mut part.row_sum, row));
                }
                part
            })
            .collect();
        Self { values, parts, logits: None, task, block: columns.block() }
    }

    /// Logits of trained rows, kept.
    pub fn kept(values: FlexTensor, columns: &Columns) -> Self {
        let (width, batch) = (columns.width, columns.batch);
        let rows = values.layout().shape()[0];
        let task = columns.task(rows);
        let mut parts = Vec::new();
        let logits = filled(rows * batch, |logits| {
            parts = logits
                .par_chunks_mut(task * batch)
                .zip(floats(&values).par_chunks(task * width))
                .map(|(logits, rows)| {
                    let mut part = Part::new(columns, false, false);
                    let blocks = rows.chunks(columns.block() * width);
                    let mut copy = Vec::with_capacity(columns.block() * batch);
                    for (logits, rows) in logits.chunks_mut(columns.block() * batch).zip(blocks) {
                        let rows = Matrix::rows(rows, width);
                        multiply_fresh(logits, rows, columns.matrix(), Threads::One);
                        copy.clear();
                        copy.extend(written(logits));
                        part.meet(&mut copy);
                    }
                    part
                })
                .collect();
        });
        Self { values, parts, logits: Some(logits), task, block: columns.block() }
    }

    /// Gradient of the input from frozen rows, `[width, batch]`, but for the target's and the even part.
    pub fn toward_input(&self, log_totals: &[f64], weight: f64) -> Vec<f32> {
        let mut sum = Vec::new();
        for part in &self.parts {
            let factors: Vec<f32> = part
                .highest
                .iter()
                .zip(log_totals)
                .map(|(&highest, total)| ((f64::from(highest) - total).exp() * weight) as f32)
                .collect();
            sum.resize(part.toward.len(), 0.0);
            add_columns_scaled(&mut sum, &part.toward, &factors);
        }
        sum
    }

    /// Turns the kept logits into their gradients, but for the target's part.
    pub fn turn_into_gradients(&mut self, log_totals: &[f64], weight: f32, even: f32) {
        let shifts: Vec<f32> = log_totals.iter().map(|&total| total as f32).collect();
        let task = self.task * shifts.len();
        for logits in self.logits.iter_mut() {
            logits
                .par_chunks_mut(task)
                .for_each(|logits| softmax_gradients(logits, &shifts, weight, even));
        }
    }

    /// Adds `value` to the gradient of each example's target.
    pub fn add_at_targets(&mut self, targets: &[usize], value: f32) {
        for gradients in self.logits.iter_mut() {
            for (example, target) in targets.iter().enumerate() {
                gradients[target * targets.len() + example] += value;
            }
        }
    }

    /// From the logits' gradients: that of the rows, and that of the input, `[width, batch]` for each task.
    pub fn gradients(&self, input: Matrix, toward: bool) -> (FlexTensor, Vec<Vec<f32>>) {
        let shape = [self.values.layout().shape()[0], self.values.layout().shape()[1]];
        let [rows, width] = shape;
        let of_logits = self.logits.as_deref().unwrap_or_default();
        let batch = of_logits.len() / rows.max(1);
        let mut toward_input = Vec::new();
        let gradient = filled(rows * width, |gradient| {
            toward_input = gradient
                .par_chunks_mut(self.task * width)
                .zip(floats(&self.values).par_chunks(self.task * width))
                .zip(of_logits.par_chunks(self.task * batch))
                .map(|((gradient, rows), of_logits)| {
                    let mut sum = vec![0.0; if toward { width * batch } else { 0 }];
                    let blocks = rows.chunks(self.block * width);
                    let blocks = blocks.zip(of_logits.chunks(self.block * batch));
                    for (gradient, (rows, of_logits)) in
                        gradient.chunks_mut(self.block * width).zip(blocks)
                    {
                        let of_logits = Matrix::rows(of_logits, batch);
                        multiply_fresh(gradient, of_logits, input, Threads::One);
                        if toward {
                            let rows = Matrix::rows(rows, width).transposed();
                            let to = MatrixMut::rows(&mut sum, batch);
                            multiply_into(to, rows, of_logits, true, Threads::One);
                        }
                    }
                    sum
                })
                .collect();
        });
        toward_input.retain(|sum: &Vec<f32>| !sum.is_empty());
        (FlexTensor::from_data(TensorData::new(gradient, shape)), toward_input)
    }
}

impl Part {
    fn new(columns: &Columns, toward: bool, row_sum: bool) -> Self {
        let (width, batch) = (columns.width, columns.batch);
        Self {
            highest: vec![f32::NEG_INFINITY; batch],
            totals: vec![0.0; batch],
            logits: vec![0.0; batch],
            row_sum: vec![0.0; if row_sum { width } else { 0 }],
            toward: vec![0.0; if toward { width * batch } else { 0 }],
        }
    }

    /// Takes in a block of logits, `[rows, batch]`, and leaves `exp(logit - highest)` there.
    fn meet(&mut self, logits: &mut [f32]) {
        let batch = self.highest.len();
        let before = self.highest.clone();
        let mut sums = vec![0.0; batch];
        raise(&mut self.highest, &mut sums, logits);
        self.logits.iter_mut().zip(&sums).for_each(|(sum, &value)| *sum += f64::from(value));
        let factors: Vec<f32> =
            before.iter().zip(&self.highest).map(|(before, now)| (before - now).exp()).collect();
        if factors.iter().any(|&factor| factor != 1.0) {
            scale_columns(&mut self.toward, &factors);
        }
        sums.fill(0.0);
        exponentials(logits, &self.highest, &mut sums);
        for ((total, sum), factor) in self.totals.iter_mut().zip(sums).zip(factors) {
            *total = *total * f64::from(factor) + f64::from(sum);
        }
    }
}

/// Values that a product has written.
fn written(values: &[MaybeUninit<f32>]) -> impl Iterator<Item = f32> {
    // SAFETY: `multiply_fresh` writes every value.
    values.iter().map(|value| unsafe { value.assume_init() })
}

wide! {
    /// Raises each column's maximum and adds up its values.
    fn raise(highest: &mut [f32], sums: &mut [f32], logits: &[f32]) {
        for row in logits.chunks_exact(highest.len()) {
            for ((highest, sum), logit) in highest.iter_mut().zip(sums.iter_mut()).zip(row) {
                *highest = if *logit > *highest { *logit } else { *highest };
                *sum += logit;
            }
        }
    }
}

wide! {
    /// Replaces values by `exp(value - their column's highest)` and adds them up by column.
    fn exponentials(logits: &mut [f32], highest: &[f32], sums: &mut [f32]) {
        for row in logits.chunks_exact_mut(highest.len()) {
            for ((value, highest), sum) in row.iter_mut().zip(highest).zip(sums.iter_mut()) {
                *value = exp(*value - highest);
                *sum += *value;
            }
        }
    }
}

wide! {
    fn softmax_gradients(logits: &mut [f32], log_totals: &[f32], weight: f32, even: f32) {
        for row in logits.chunks_exact_mut(log_totals.len()) {
            for (value, total) in row.iter_mut().zip(log_totals) {
                *value = exp(*value - total) * weight + even;
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
