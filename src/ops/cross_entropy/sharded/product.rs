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

    /// The softmax of each task of rows; of all rows together on another device than the CPU.
    pub fn parts(&self) -> Vec<OnlineSoftmax> {
        match self {
            Self::Host { rows, .. } => rows.parts.clone(),
            Self::Device(product) => vec![part_of(&product.logits)],
        }
    }

    /// Each example's logit of its target, a row of this process; 0 where that is a row of another one.
    pub fn at_targets(&self, targets: &[Option<usize>]) -> Vec<f64> {
        match self {
            Self::Host { input, rows } => {
                let [_, width] = input.shape();
                let logit = |(example, row): (usize, usize)| {
                    let row = &rows.values.values()[row * width..][..width];
                    f64::from(dot(&input.values()[example * width..][..width], row))
                };
                let at = targets.iter().enumerate();
                at.map(|(example, row)| row.map_or(0.0, |row| logit((example, row)))).collect()
            }
            Self::Device(product) => product.at_targets(targets),
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

    fn at_targets(&self, targets: &[Option<usize>]) -> Vec<f64> {
        let logits = self.logits.clone().gather(1, self.columns(targets)); // [batch, 1]
        let logits = logits.into_data();
        let found = targets.iter().zip(floats(&logits));
        found.map(|(row, &logit)| row.map_or(0.0, |_| f64::from(logit))).collect()
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
    let maxima = logits.clone().max_dim(1); // [batch, 1]
    let sums = (logits.clone() - maxima.clone()).exp().sum_dim(1); // [batch, 1]
    let values = Tensor::cat(vec![maxima, sums, logits.clone().sum_dim(1)], 1); // [batch, 3]
    let values = values.into_data();
    let column = |at: usize| floats(&values).iter().skip(at).step_by(3);
    let wide = |at| column(at).map(|&value| f64::from(value)).collect();
    OnlineSoftmax::of_parts(column(0).copied().collect(), wide(1), wide(2))
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
    use super::super::shard;
    use super::*;
    use crate::ops::agreement::values;
    use crate::ops::head::Logits;

    #[track_caller]
    fn assert_near(found: Tensor<2>, expected: Tensor<2>, name: &str) {
        let largest: f32 = expected.clone().abs().max().into_scalar();
        let difference: f32 = (found - expected).abs().max().into_scalar();
        assert!(largest > 0.0 && difference <= 1e-5 * largest, "{name}: {difference} of {largest}");
    }

    /// The product with some rows, as on the CPU or as on a GPU.
    fn product(x: &Tensor<2>, rows: Tensor<2>, task: usize, is_host: bool) -> Product {
        let input = HostTensor::of(x.clone()).contiguous();
        match is_host {
            true => Product::of(input.values().to_vec(), &rows, task, Precision::F32),
            false => Product::Device(DeviceProduct::new(x.clone(), rows, Precision::F32)),
        }
    }

    #[test]
    fn divided_rows_have_the_loss_and_the_gradients_of_all_rows_on_the_cpu_and_on_a_gpu() {
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
            let [of_x, of_rows, _] = tracked.map(|input| input.grad(&gradients).unwrap());
            let value: f32 = loss.value.into_scalar();

            for (count, is_host) in
                [1, 2, 3].into_iter().flat_map(|count| [(count, true), (count, false)])
            {
                let name = format!("{count} processes, smoothing {smoothing}, CPU: {is_host}");
                let task = super::super::task_rows(documents);
                let of_text = linear(x.clone(), text.clone(), WeightLayout::OutIn, Precision::F32); // [batch, words]
                let ranges: Vec<_> = (0..count).map(|rank| shard(documents, rank, count)).collect();
                let mut products: Vec<Product> = ranges
                    .iter()
                    .map(|own| product(&x, rows.clone().slice(own.clone()), task, is_host))
                    .collect();
                let mut parts = vec![part_of(&of_text)];
                parts.extend(products.iter().flat_map(Product::parts));
                let parts: Vec<&OnlineSoftmax> = parts.iter().collect();
                let logsumexp = logsumexp(&parts, batch);
                let factors = Factors::of(weight, smoothing, batch, documents + words);
                let mut at_targets = vec![0.0; batch];
                // Those of the text tokens are added to those of the docid rows.
                let of_text = softmax_gradients(of_text, &logsumexp, factors); // [batch, words]
                let mut to_x = of_text.matmul(text.clone()); // [batch, width]
                let mut to_rows = Vec::new();
                for (product, own) in products.iter_mut().zip(&ranges) {
                    let here = targets.map(|row| {
                        let row = row as usize;
                        own.contains(&row).then(|| row - own.start)
                    });
                    let found = product.at_targets(&here);
                    at_targets.iter_mut().zip(found).for_each(|(sum, logit)| *sum += logit);
                    product.logits_to_gradients(&logsumexp, factors, &here);
                    for part in product.input_gradients().chunks(batch * width) {
                        let part = part.to_vec();
                        to_x = to_x
                            + match is_host {
                                true => Tensor::from_data(
                                    TensorData::new(part, [width, batch]),
                                    &x.device(),
                                )
                                .transpose(),
                                false => Tensor::from_data(
                                    TensorData::new(part, [batch, width]),
                                    &x.device(),
                                ),
                            };
                    }
                }
                for (product, own) in products.into_iter().zip(&ranges) {
                    let product = product.into_gradients();
                    let (all, split) = (0..own.len(), own.len() / 2);
                    let by_burn =
                        [0..split, split..all.end].map(|rows| product.of_rows_by_burn(rows));
                    let by_burn = Tensor::cat(by_burn.to_vec(), 0); // [own rows, width]
                    let on_host = HostTensor::new(product.of_rows(all), [own.len(), width]);
                    assert_near(on_host.into_tensor(), by_burn.clone(), &name);
                    to_rows.push(by_burn);
                }
                let mean = mean_loss(
                    &logsumexp,
                    at_targets.into_iter(),
                    &parts,
                    smoothing,
                    documents + words,
                );
                assert!((mean - value).abs() <= 1e-5 * value, "{name}: {mean}, not {value}");
                assert_near(to_x, of_x.clone(), &name);
                assert_near(Tensor::cat(to_rows, 0), of_rows.clone(), &name);
            }
        }
    }
}
