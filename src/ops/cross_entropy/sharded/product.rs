//! A batch times the docid rows of one process: logits, their part of the softmax, and gradients.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

use super::super::fused::Factors;
use super::super::output_rows::{BatchColumns, OnlineSoftmax, OutputRows};
use super::LogitGradients;
use crate::device::{Precision, is_host};
use crate::kernel::dot;
use crate::ops::host::{Contiguous, HostTensor, floats};
use crate::ops::linear::{WeightLayout, linear};

/// On the CPU by loops of our own, in tasks of rows; elsewhere by Burn's operations.
#[expect(clippy::large_enum_variant, reason = "there are only as many as processes")]
pub(super) enum Product {
    Host { input: Contiguous, rows: OutputRows },
    Device(DeviceProduct),
}

impl Product {
    /// Of a batch, `output`, `[batch, width]`, and the docid rows of this process, `[own rows, width]`, in tasks of `task` rows.
    pub fn of(output: Vec<f32>, rows: &Tensor<2>, task: usize, precision: Precision) -> Self {
        let [_, width] = rows.dims();
        let shape = [output.len() / width, width];
        if is_host(&rows.device()) {
            let input = HostTensor::new(output, shape).contiguous();
            let rows = HostTensor::of(rows.clone()).contiguous();
            let rows = OutputRows::saved(rows, &BatchColumns::of(&input), task);
            return Self::Host { input, rows };
        }
        let input = Tensor::from_data(TensorData::new(output, shape), &rows.device()); // [batch, width]
        Self::Device(DeviceProduct::new(input, rows.clone(), precision))
    }

    /// The softmax of each task of rows, and of all rows together on another device than the CPU; and each example's logit of its
    /// target, a row of this process, with 0 where that is a row of another one.
    pub fn softmax(&self, targets: &[Option<usize>]) -> (Vec<OnlineSoftmax>, Vec<f64>) {
        match self {
            Self::Host { input, rows } => {
                let [_, width] = input.shape();
                let logit = |(example, row): (usize, &Option<usize>)| {
                    let Some(row) = row else { return 0.0 };
                    let row = &rows.values.values()[row * width..][..width];
                    f64::from(dot(&input.values()[example * width..][..width], row))
                };
                (rows.parts.clone(), targets.iter().enumerate().map(logit).collect())
            }
            Self::Device(product) => product.softmax(targets),
        }
    }

    /// Replaces the logits by their gradients.
    pub fn logits_to_gradients(
        &mut self,
        logsumexp: &[f64],
        factors: Factors,
        targets: &[Option<usize>],
    ) {
        match self {
            Self::Host { rows, .. } => {
                rows.logits_to_gradients(logsumexp, factors.weight as f32, factors.even as f32);
                rows.add_at_targets(targets.iter().copied(), factors.at_target as f32);
            }
            Self::Device(product) => product.logits_to_gradients(logsumexp, factors, targets),
        }
    }

    /// The parts of the input's gradient, one after another: `[width, batch]` for each task; `[batch, width]` on another device
    /// than the CPU.
    pub fn input_gradients(&self) -> Vec<f32> {
        match self {
            Self::Host { rows, .. } => rows.input_gradients().concat(),
            Self::Device(product) => product.input_gradient(),
        }
    }

    pub fn into_gradients(self) -> LogitGradients {
        match self {
            Self::Host { input, rows } => {
                let shape = [rows.values.shape::<2>()[0], input.shape::<2>()[0]];
                let of_logits = HostTensor::new(rows.logits.unwrap_or_default(), shape);
                LogitGradients {
                    input: input.into_host().into_tensor(),
                    of_logits: of_logits.into_tensor(),
                    precision: Precision::F32,
                }
            }
            Self::Device(product) => {
                let DeviceProduct { input, logits, precision, .. } = product;
                LogitGradients { input, of_logits: logits.transpose(), precision }
            }
        }
    }
}

/// The same by Burn's operations.
pub(super) struct DeviceProduct {
    /// `[batch, width]`
    input: Tensor<2>,
    /// `[own rows, width]`
    rows: Tensor<2>,
    /// The logits, `[batch, own rows]`; later their gradients.
    logits: Tensor<2>,
    precision: Precision,
}

impl DeviceProduct {
    pub fn new(input: Tensor<2>, rows: Tensor<2>, precision: Precision) -> Self {
        let logits = linear(input.clone(), rows.clone(), WeightLayout::OutIn, precision); // [batch, own rows]
        Self { input, rows, logits, precision }
    }

    fn softmax(&self, targets: &[Option<usize>]) -> (Vec<OnlineSoftmax>, Vec<f64>) {
        let at_targets = self.logits.clone().gather(1, self.columns(targets)); // [batch, 1]
        let values = Tensor::cat(vec![softmax_columns(&self.logits), at_targets], 1); // [batch, 4]
        // Once: the GPU is waited for.
        let values = values.into_data();
        let (values, _) = floats(&values).as_chunks::<4>();
        let at_targets = targets.iter().zip(values);
        let at_targets = at_targets.map(|(row, of)| row.map_or(0.0, |_| f64::from(of[3])));
        (vec![softmax_of(values)], at_targets.collect())
    }

    fn logits_to_gradients(
        &mut self,
        logsumexp: &[f64],
        factors: Factors,
        targets: &[Option<usize>],
    ) {
        let gradients = softmax_gradients(self.logits.clone(), logsumexp, factors); // [batch, own rows]
        let at_target = targets.iter().map(|row| row.map_or(0.0, |_| factors.at_target as f32));
        let at_target = TensorData::new(at_target.collect(), [targets.len(), 1]);
        let at_target = Tensor::from_data(at_target, &gradients.device()); // [batch, 1]
        let columns = self.columns(targets);
        self.logits = gradients.scatter(1, columns, at_target, IndexingUpdateOp::Add);
    }

    fn input_gradient(&self) -> Vec<f32> {
        let (logits, rows) = (self.logits.clone(), self.rows.clone());
        let gradient = linear(logits, rows, WeightLayout::InOut, self.precision); // [batch, width]
        floats(&gradient.into_data()).to_vec()
    }

    /// The columns of the targets in the logits, `[batch, 1]`; 0 where a target is a row of another process.
    fn columns(&self, targets: &[Option<usize>]) -> Tensor<2, Int> {
        let columns: Vec<i32> = targets.iter().map(|row| row.unwrap_or(0) as i32).collect();
        Tensor::from_data(TensorData::new(columns, [targets.len(), 1]), &self.logits.device())
    }
}

/// The softmax of all logits, `[batch, classes]`, of any device.
pub(super) fn part_of(logits: &Tensor<2>) -> OnlineSoftmax {
    let values = softmax_columns(logits).into_data();
    softmax_of(floats(&values).as_chunks::<3>().0)
}

/// Each example's highest logit, sum of exponentials and sum of logits, `[batch, 3]`
fn softmax_columns(logits: &Tensor<2>) -> Tensor<2> {
    let maxima = logits.clone().max_dim(1); // [batch, 1]
    let sums = (logits.clone() - maxima.clone()).exp().sum_dim(1); // [batch, 1]
    Tensor::cat(vec![maxima, sums, logits.clone().sum_dim(1)], 1)
}

/// From what [`softmax_columns`] returns, with other columns after it.
fn softmax_of<const N: usize>(values: &[[f32; N]]) -> OnlineSoftmax {
    let wide = |at: usize| values.iter().map(|of| f64::from(of[at])).collect();
    OnlineSoftmax::of_parts(values.iter().map(|of| of[0]).collect(), wide(1), wide(2))
}

/// A scalar with the gradients of the loss, from the logits of text tokens, `[batch, words]`, the decoder's output `x`,
/// `[batch, width]`, and the parts of its gradient that come from the docid rows, each with as many values.
pub(super) fn root_by_burn(
    logits: Tensor<2>,
    x: Tensor<2>,
    (logsumexp, factors): (&[f64], Factors),
    elsewhere: Vec<Vec<f32>>,
) -> Tensor<1> {
    let of_text = softmax_gradients(logits.clone().inner(), logsumexp, factors); // [batch, words]
    let [batch, width] = x.dims();
    let mut of_rows = vec![0.0; batch * width];
    for part in elsewhere {
        of_rows.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
    let of_rows = Tensor::from_data(TensorData::new(of_rows, [batch, width]), &x.device()); // [batch, width]
    (logits * Tensor::from_inner(of_text)).sum() + (x * of_rows).sum()
}

/// The gradients of logits, `[batch, classes]`, without the part of the target.
pub(super) fn softmax_gradients(
    logits: Tensor<2>,
    logsumexp: &[f64],
    factors: Factors,
) -> Tensor<2> {
    let values: Vec<f32> = logsumexp.iter().map(|&value| value as f32).collect();
    let logsumexp = TensorData::new(values, [logsumexp.len(), 1]);
    let logsumexp = Tensor::from_data(logsumexp, &logits.device()); // [batch, 1]
    (logits - logsumexp).exp() * factors.weight + factors.even
}

#[cfg(test)]
mod tests {
    use super::super::super::cross_entropy_of_logits;
    use super::super::super::fused::{logsumexp, mean_loss};
    use super::super::{shard, task_rows};
    use super::*;
    use crate::ops::agreement::{assert_near, values};
    use crate::ops::head::Logits;

    /// The product with some rows, as on the CPU or as on a GPU.
    fn product(x: &Tensor<2>, rows: Tensor<2>, task: usize, is_host: bool) -> Product {
        let input = HostTensor::of(x.clone()).contiguous();
        match is_host {
            true => Product::of(input.values().to_vec(), &rows, task, Precision::F32),
            false => Product::Device(DeviceProduct::new(x.clone(), rows, Precision::F32)),
        }
    }

    #[test]
    fn both_products_with_divided_rows_have_the_loss_and_gradients_of_all_rows() {
        let (batch, width, documents, words) = (5, 24, 83, 40);
        let [x, rows, text] = [(batch, 1), (documents, 2), (words, 3)]
            .map(|(count, seed)| values([count, width], seed));
        let targets = [0, 82, 41, 41, 40];
        for (smoothing, weight) in [(0.0, 1.0), (0.1, 0.5)] {
            let tracked =
                [&x, &rows, &text].map(|of| Tensor::from_inner(of.clone()).require_grad());
            let logits = |rows: &Tensor<2>| {
                linear(tracked[0].clone(), rows.clone(), WeightLayout::OutIn, Precision::F32)
            };
            let logits = Logits { text: logits(&tracked[2]), docids: logits(&tracked[1]) };
            let rows_of_targets = Tensor::from_data(targets, &x.device().autodiff());
            let loss = cross_entropy_of_logits(logits, rows_of_targets, smoothing, weight);
            let gradients = loss.root.backward();
            let [of_x, of_rows, of_text_rows] =
                tracked.map(|input| input.grad(&gradients).unwrap());
            let value: f32 = loss.value.into_scalar();

            for (count, is_host) in
                [1, 2, 3].into_iter().flat_map(|count| [(count, true), (count, false)])
            {
                let name = format!("{count} processes, smoothing {smoothing}, CPU: {is_host}");
                let task = task_rows(documents);
                let tracked = [&x, &text].map(|of| Tensor::from_inner(of.clone()).require_grad());
                let [x, text] = tracked.clone();
                let of_text = linear(x.clone(), text, WeightLayout::OutIn, Precision::F32); // [batch, words]
                let of_rank = |rank| {
                    let own = shard(documents, rank, count);
                    let here = targets.map(|row| {
                        let row = row as usize;
                        own.contains(&row).then(|| row - own.start)
                    });
                    (product(&x.clone().inner(), rows.clone().slice(own), task, is_host), here)
                };
                let products: Vec<_> = (0..count).map(of_rank).collect();
                let (mut parts, mut at_targets) =
                    (vec![part_of(&of_text.clone().inner())], vec![0.0; batch]);
                for (product, here) in &products {
                    let (found, at) = product.softmax(here);
                    parts.extend(found);
                    at_targets.iter_mut().zip(at).for_each(|(sum, logit)| *sum += logit);
                }
                let parts: Vec<&OnlineSoftmax> = parts.iter().collect();
                let logsumexp = logsumexp(&parts, batch);
                let mean = mean_loss(
                    &logsumexp,
                    at_targets.into_iter(),
                    &parts,
                    smoothing,
                    documents + words,
                );
                assert!((mean - value).abs() <= 1e-5 * value, "{name}: {mean}, not {value}");

                let factors = Factors::of(weight, smoothing, batch, documents + words);
                let (mut elsewhere, mut to_rows) = (Vec::new(), Vec::new());
                for (mut product, here) in products {
                    product.logits_to_gradients(&logsumexp, factors, &here);
                    for part in product.input_gradients().chunks(batch * width) {
                        // The CPU has the transpose.
                        let at = |value: usize| value % width * batch + value / width;
                        let value = |at_burn| part[if is_host { at(at_burn) } else { at_burn }];
                        elsewhere.push((0..part.len()).map(value).collect());
                    }
                    let gradients = product.into_gradients();
                    let [own, _] = gradients.of_logits.dims();
                    let by_burn =
                        [0..own / 2, own / 2..own].map(|rows| gradients.of_rows_by_burn(rows));
                    let by_burn = Tensor::cat(by_burn.to_vec(), 0); // [own rows, width]
                    let on_host =
                        HostTensor::new(gradients.on_host().of_rows(0..own), [own, width]);
                    assert_near(on_host.into_tensor(), by_burn.clone(), &name);
                    to_rows.push(by_burn);
                }
                let root = root_by_burn(of_text, x, (&logsumexp, factors), elsewhere);
                let gradients = root.backward();
                let [to_x, to_text] = tracked.map(|input| input.grad(&gradients).unwrap());
                assert_near(to_x, of_x.clone(), &name);
                assert_near(to_text, of_text_rows.clone(), &name);
                assert_near(Tensor::cat(to_rows, 0), of_rows.clone(), &name);
            }
        }
    }
}
