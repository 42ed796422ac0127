//! Adafactor as `transformers.optimization.Adafactor` computes it at a given learning rate, in few passes on the CPU.

use burn::optim::{Adafactor as OfBurn, AdafactorConfig, AdafactorState, LearningRate, Optimizer};
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use super::adamw::floats_mut;
use crate::device::is_host;
use crate::kernel::{sum_of_squares, wide};
use crate::ops::floats;

/// Adafactor with factored second moments for matrices, without a first moment.
///
/// Burn's own makes about ten temporaries of the parameter's size a step; here the gradient is read three times
/// and the parameter once (twice to scale by it), and nothing of their size is made.
#[derive(Debug, Clone, Copy)]
pub struct Adafactor {
    /// Added to the squared gradient.
    pub epsilon: f64,
    /// Least root mean square of a parameter that its update is scaled by.
    pub least_scale: f64,
    /// Largest root mean square of an update before the learning rate.
    pub clip_threshold: f64,
    /// The second moment's decay at step t is `1 - t^decay_rate`.
    pub decay_rate: f64,
    /// Decoupled weight decay, times the learning rate.
    pub weight_decay: f64,
    /// True if the learning rate is multiplied by the parameter's root mean square.
    pub scale_parameter: bool,
    /// Every gradient is multiplied by this first.
    pub gradient_scale: f64,
}

/// Rows of a matrix that a task takes at once, for so many values.
const TASK: usize = 1 << 15;

impl Optimizer for Adafactor {
    type State<const D: usize> = AdafactorState<D>;

    fn step<const D: usize>(
        &self,
        learning_rate: LearningRate,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        // A T5 has vectors and matrices.
        if !is_host(&parameter.device()) || D > 2 {
            let gradient = gradient * self.gradient_scale;
            return self.of_burn().step(learning_rate, parameter, gradient, state);
        }
        self.in_place(learning_rate, parameter, gradient, state)
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        OfBurn::to_device(state, device)
    }
}

impl Adafactor {
    fn of_burn(&self) -> OfBurn {
        AdafactorConfig::new()
            .with_epsilon_1(self.epsilon as f32)
            .with_epsilon_2(self.least_scale as f32)
            .with_clip_threshold(self.clip_threshold as f32)
            .with_decay_rate(self.decay_rate)
            .with_relative_step(false)
            .with_scale_parameter(self.scale_parameter)
            .with_weight_decay(self.weight_decay as f32)
            .build()
    }

    fn in_place<const D: usize>(
        &self,
        learning_rate: f64,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdafactorState<D>>,
    ) -> (Tensor<D>, Option<AdafactorState<D>>) {
        let device = parameter.device();
        let dims = parameter.dims();
        let columns = dims[D - 1];
        let time = state.as_ref().map_or(1, |state| state.time + 1);
        let (row_moment, column_moment) = match state {
            Some(state) => (Some(state.second_moment), state.column_second_moment),
            None => (None, None),
        };
        let mut parameter = parameter.into_data();
        let gradient = gradient.into_data();
        let gradient = Gradient { values: floats(&gradient), columns, scale: self.gradient_scale };
        let new = (time as f64).powf(self.decay_rate);
        let blend = |old: Option<Tensor<D>>, found: Vec<f32>, dims: [usize; D]| {
            let Some(old) = old else { return TensorData::new(found, dims) };
            let mut moment = old.into_data();
            let (old, found) = (floats_mut(&mut moment), found.iter());
            old.iter_mut().zip(found).for_each(|(old, found)| {
                *old = *old * (1.0 - new) as f32 + found * new as f32;
            });
            moment
        };
        let mut rate = learning_rate;
        if self.scale_parameter {
            rate *= root_mean_square(floats(&parameter)).max(self.least_scale);
        }
        let keep = (-self.weight_decay * rate) as f32;
        let parameters = floats_mut(&mut parameter);
        let (second_moment, column_second_moment) = if D == 1 {
            let moment = blend(row_moment, gradient.squares(self.epsilon), dims);
            // One row, whose columns are not averaged.
            gradient.update(parameters, &[1.0], floats(&moment), self.clip_threshold, rate, keep);
            (moment, None)
        } else {
            let (by_row, by_column) = gradient.mean_squares(self.epsilon);
            let mut shape = dims;
            shape[D - 1] = 1;
            let rows = blend(row_moment, by_row, shape);
            let mut shape = dims;
            shape[D - 2] = 1;
            let columns = blend(column_moment, by_column, shape);
            let mean: f64 = floats(&rows).iter().map(|&value| f64::from(value)).sum();
            let mean = mean / floats(&rows).len() as f64;
            let shares: Vec<f32> =
                floats(&rows).iter().map(|&value| (f64::from(value) / mean) as f32).collect();
            gradient.update(parameters, &shares, floats(&columns), self.clip_threshold, rate, keep);
            (rows, Some(columns))
        };
        let tensor = |data: TensorData| Tensor::from_data(data, &device);
        let state = AdafactorState {
            time,
            second_moment: tensor(second_moment),
            column_second_moment: column_second_moment.map(tensor),
        };
        (tensor(parameter), Some(state))
    }
}

/// A gradient as rows, and what it is multiplied by.
struct Gradient<'a> {
    values: &'a [f32],
    columns: usize,
    scale: f64,
}

impl Gradient<'_> {
    /// Values of a task: whole rows.
    fn task(&self) -> usize {
        TASK.div_ceil(self.columns) * self.columns
    }

    /// The square of every value, and `epsilon`.
    fn squares(&self, epsilon: f64) -> Vec<f32> {
        let square = |value: &f32| {
            let value = value * self.scale as f32;
            value * value + epsilon as f32
        };
        self.values.iter().map(square).collect()
    }

    /// Means of the squares and `epsilon` by row and by column.
    fn mean_squares(&self, epsilon: f64) -> (Vec<f32>, Vec<f32>) {
        let square = self.scale * self.scale;
        let tasks: Vec<(Vec<f64>, Vec<f32>)> = self
            .values
            .par_chunks(self.task())
            .map(|rows| {
                let mut by_column = vec![0.0; self.columns];
                let by_row = rows
                    .chunks_exact(self.columns)
                    .map(|row| {
                        add_squares(&mut by_column, row);
                        sum_of_squares(row)
                    })
                    .collect();
                (by_row, by_column)
            })
            .collect();
        let rows = self.values.len() / self.columns;
        let mean = |sum: f64, count: usize| (sum * square / count as f64 + epsilon) as f32;
        // In the order of the rows: the result does not depend on the number of threads.
        let mut by_column = vec![0.0_f64; self.columns];
        for (_, part) in &tasks {
            by_column.iter_mut().zip(part).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        let by_row = tasks.iter().flat_map(|(part, _)| part);
        (
            by_row.map(|&sum| mean(sum, self.columns)).collect(),
            by_column.iter().map(|&sum| mean(sum, rows)).collect(),
        )
    }

    /// Updates `parameters` by the gradient over the root of the second moment, which is a row's share times a
    /// column's moment; clipped by its root mean square.
    fn update(
        &self,
        parameters: &mut [f32],
        row_shares: &[f32],
        column_moments: &[f32],
        clip_threshold: f64,
        rate: f64,
        decay: f32,
    ) {
        let roots = |moments: &[f32]| -> Vec<f32> {
            moments.iter().map(|moment| 1.0 / moment.sqrt()).collect()
        };
        let (by_row, by_column) = (roots(row_shares), roots(column_moments));
        let rows_a_task = self.task() / self.columns;
        let squares: Vec<f64> = self
            .values
            .par_chunks(self.task())
            .zip(by_row.par_chunks(rows_a_task))
            .map(|(gradient, by_row)| {
                let rows = gradient.chunks_exact(self.columns).zip(by_row);
                rows.map(|(row, &factor)| {
                    f64::from(factor).powi(2) * scaled_squares(row, &by_column)
                })
                .sum()
            })
            .collect();
        let mean = squares.iter().sum::<f64>() * self.scale * self.scale / self.values.len() as f64;
        let rate = rate / (mean.sqrt() / clip_threshold).max(1.0) * self.scale;
        parameters
            .par_chunks_mut(self.task())
            .zip(self.values.par_chunks(self.task()))
            .zip(by_row.par_chunks(rows_a_task))
            .for_each(|((parameters, gradient), by_row)| {
                let rows = parameters.chunks_exact_mut(self.columns);
                let rows = rows.zip(gradient.chunks_exact(self.columns));
                for ((parameters, gradient), &factor) in rows.zip(by_row) {
                    let rate = (f64::from(factor) * rate) as f32;
                    subtract(parameters, gradient, &by_column, rate, decay);
                }
            });
    }
}

fn root_mean_square(values: &[f32]) -> f64 {
    let sums: Vec<f64> = values.par_chunks(TASK).map(sum_of_squares).collect();
    (sums.iter().sum::<f64>() / values.len() as f64).sqrt()
}

wide! {
    fn add_squares(sums: &mut [f32], values: &[f32]) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value * value;
        }
    }
}

wide! {
    /// Sum of the squares of `values * factors`.
    fn scaled_squares(values: &[f32], factors: &[f32]) -> f64 {
        let mut sum = 0.0;
        let mut scaled = [0.0_f32; 256];
        for (values, factors) in values.chunks(256).zip(factors.chunks(256)) {
            let scaled = &mut scaled[..values.len()];
            for ((scaled, value), factor) in scaled.iter_mut().zip(values).zip(factors) {
                *scaled = value * factor;
            }
            sum += sum_of_squares(scaled);
        }
        sum
    }
}

wide! {
    fn subtract(parameters: &mut [f32], gradient: &[f32], factors: &[f32], rate: f32, decay: f32) {
        for ((parameter, gradient), factor) in parameters.iter_mut().zip(gradient).zip(factors) {
            *parameter = *parameter + decay * *parameter - gradient * factor * rate;
        }
    }
}
