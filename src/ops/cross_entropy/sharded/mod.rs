//! The loss where the docid rows are divided among processes.
//!
//! Each process has whole tasks of the rows ([`shard`]). The processes compute the losses of one batch of each together: all
//! get the decoder's outputs of all, multiply them by their own rows, and exchange the maxima and sums of each task. Then each
//! has the softmax of all batches over its own rows, and sends their part of the gradient of its output to each process.
//! Rows and their gradients stay. On the CPU all sums are those of one process that has all rows ([`super::fused`]), in the
//! same order: the same bits. On a GPU the rows of a process are one task, and results are the same up to rounding.

mod product;

use std::ops::Range;

use burn::tensor::Tensor;

use super::Loss;
use super::fused::{CrossEntropy, Factors, Saved, logsumexp, mean_loss, output_rows};
use super::output_rows::{BatchColumns, OnlineSoftmax, task_rows};
use crate::device::{Precision, is_host};
use crate::kernel::{Matrix, Threads, filled, multiply_to_uninit};
use crate::ops::autograd::apply;
use crate::ops::head::Head;
use crate::ops::host::{Contiguous, HostTensor, floats};
use crate::ops::linear::{WeightLayout, linear};
use crate::processes::{ProcessesError, World};
use product::{Product, part_of, root_by_burn};

/// The rows, of `rows` in all, that process `rank` of `count` has: whole tasks of the loss, as equally as possible.
/// Empty if there are fewer tasks than processes.
pub(crate) fn shard(rows: usize, rank: usize, count: usize) -> Range<usize> {
    let task = task_rows(rows);
    let tasks = rows.div_ceil(task);
    let first = |rank: usize| (tasks * rank / count * task).min(rows);
    first(rank)..first(rank + 1)
}

/// The process, of `count`, that has this row of `rows`.
pub(crate) fn owner(row: usize, rows: usize, count: usize) -> usize {
    (0..count).find(|&rank| shard(rows, rank, count).contains(&row)).unwrap_or(0)
}

/// The most rows that one of `count` processes has.
pub(crate) fn largest_shard(rows: usize, count: usize) -> usize {
    (0..count).map(|rank| shard(rows, rank, count).len()).max().unwrap_or(rows)
}

/// The most processes that can divide `rows` among them.
pub(crate) fn most_shards(rows: usize) -> usize {
    rows.div_ceil(task_rows(rows))
}

/// The batches of which the processes compute the losses together: one of each process that has one.
pub(crate) struct Round<'a> {
    pub world: &'a World,
    /// Docids of all processes.
    pub documents: usize,
    /// Words of the output layer.
    pub words: usize,
    /// The rows of this process, `[own rows, width]`, off the graph.
    pub rows: Tensor<2>,
    pub smoothing: f64,
    /// For each process the docid rows that its batch has as targets, and the factor on its gradients; none without a batch.
    pub batches: &'a [Option<(Vec<usize>, f64)>],
    /// True if anything is trained beside the docid rows.
    pub reaches_input: bool,
    /// The type in which a GPU multiplies rows.
    pub precision: Precision,
}

/// A batch of another process or of this one, and the gradients of its logits of this process's rows.
pub(crate) struct LogitGradients {
    /// The decoder's output, `[batch, width]`
    input: Tensor<2>,
    /// `[own rows, batch]`
    of_logits: Tensor<2>,
    precision: Precision,
}

/// The results of a round for this process's own batch.
struct Found {
    mean: f32,
    logsumexp: Vec<f64>,
    /// As in [`Saved`]; `[batch, width]` each on another device than the CPU.
    elsewhere: Vec<Vec<f32>>,
}

/// [`LogitGradients`] in the CPU's memory.
pub(crate) struct HostLogitGradients {
    /// `[batch, width]`
    input: HostTensor,
    /// `[own rows, batch]`
    of_logits: Contiguous,
}

impl LogitGradients {
    /// The same values, for loops of our own; nothing is copied. Only on the CPU.
    pub fn on_host(&self) -> HostLogitGradients {
        let of_logits = HostTensor::of(self.of_logits.clone()).contiguous();
        HostLogitGradients { input: HostTensor::of(self.input.clone()), of_logits }
    }

    /// The gradient of some of this process's rows, `[rows, width]`, by Burn's operations.
    pub fn of_rows_by_burn(&self, rows: Range<usize>) -> Tensor<2> {
        let of_logits = self.of_logits.clone().slice(rows); // [rows, batch]
        linear(of_logits, self.input.clone(), WeightLayout::InOut, self.precision)
    }
}

impl HostLogitGradients {
    /// The gradient of some of this process's rows, `[rows, width]`.
    pub fn of_rows(&self, rows: Range<usize>) -> Vec<f32> {
        let [batch, width] = self.input.shape();
        let of_logits = &self.of_logits.values()[rows.start * batch..rows.end * batch];
        let of_logits = Matrix::rows(of_logits, batch); // [rows, batch]
        filled(rows.len() * width, |gradient| {
            multiply_to_uninit(gradient, of_logits, self.input.matrix(), Threads::One)
        })
    }
}

impl Round<'_> {
    /// Computes the loss of this process's batch, if it has one, whose `head` has the rows of text tokens. Also returns the
    /// gradients of the logits of every process's batch, in the order of the processes.
    ///
    /// # Errors
    /// MPI fails.
    pub fn cross_entropy(
        &self,
        head: Option<Head>,
    ) -> Result<(Option<Loss>, Vec<Option<LogitGradients>>), ProcessesError> {
        let Some((Head { rows, text, .. }, (_, weight))) =
            head.zip(self.batches[self.world.rank()].as_ref())
        else {
            let (_, gradients) = self.exchange(&[], &[])?;
            return Ok((None, gradients));
        };
        let (loss, gradients) = match is_host(&rows.device()) {
            true => self.on_host(rows, text, *weight),
            false => self.by_burn(rows, text, *weight),
        }?;
        Ok((Some(loss), gradients))
    }

    /// The loss of a batch whose decoder's output is `x`, `[batch, width]`, by an operation of our own.
    fn on_host(
        &self,
        x: Tensor<2>,
        text: Tensor<2>,
        weight: f64,
    ) -> Result<(Loss, Vec<Option<LogitGradients>>), ProcessesError> {
        let (mut value, mut done) = (f32::NAN, Ok(Vec::new()));
        let root = apply::<CrossEntropy, 2, 1>([x.into(), text.into()], |[x, text], needed| {
            let [for_x, for_text] = needed;
            let rows = x.contiguous(); // [batch, width]
            let [batch, _] = rows.shape();
            let columns = BatchColumns::of(&rows);
            let text = output_rows(text.contiguous(), for_text, &columns, for_x, self.smoothing);
            let factors = Factors::of(weight, self.smoothing, batch, self.classes());
            let found = match self.exchange(rows.values(), &text.parts) {
                Ok((found, gradients)) => {
                    done = Ok(gradients);
                    found
                }
                Err(error) => {
                    done = Err(error);
                    None
                }
            };
            let Found { mean, logsumexp, elsewhere } = found.unwrap_or_else(|| Found {
                mean: f32::NAN,
                logsumexp: vec![f64::NAN; batch],
                elsewhere: Vec::new(),
            });
            value = mean;
            let (matrices, elsewhere) = (vec![text], Some(elsewhere));
            let saved =
                Saved { rows, matrices, targets: Vec::new(), logsumexp, factors, elsewhere };
            (HostTensor::new(vec![mean], [1]), saved)
        });
        let value = HostTensor::new(vec![value], [1]).into_tensor();
        Ok((Loss { value, root }, done?))
    }

    /// The same by Burn's operations.
    fn by_burn(
        &self,
        x: Tensor<2>,
        text: Tensor<2>,
        weight: f64,
    ) -> Result<(Loss, Vec<Option<LogitGradients>>), ProcessesError> {
        let [batch, _] = x.dims();
        let logits = linear(x.clone(), text, WeightLayout::OutIn, self.precision); // [batch, words]
        let output = x.clone().inner().into_data();
        let (found, gradients) =
            self.exchange(floats(&output), &[part_of(&logits.clone().inner())])?;
        let Some(Found { mean, logsumexp, elsewhere }) = found else {
            unreachable!("this process has a batch")
        };
        let factors = Factors::of(weight, self.smoothing, batch, self.classes());
        let root = root_by_burn(logits, x, (&logsumexp, factors), elsewhere);
        let value = HostTensor::new(vec![mean], [1]).into_tensor();
        Ok((Loss { value, root }, gradients))
    }

    fn classes(&self) -> usize {
        self.words + self.documents
    }

    /// Exchanges all that the losses of the round need. `own`: the output of this process's batch, `[batch, width]`, or
    /// nothing; `text`: the softmax of its text tokens.
    fn exchange(
        &self,
        own: &[f32],
        text: &[OnlineSoftmax],
    ) -> Result<(Option<Found>, Vec<Option<LogitGradients>>), ProcessesError> {
        let (world, smoothing) = (self.world, self.smoothing);
        let (me, count) = (world.rank(), world.count());
        let [_, width] = self.rows.dims();
        let range = shard(self.documents, me, count);
        let task = task_rows(self.documents);

        let outputs = world.all_gather_each(own)?; // of each process, [batch, width]
        let of_text = world.all_gather_each(&flat(text))?; // of each process, its tasks
        // A batch of each process that has one, times this process's rows, with the targets among these.
        let product = |output: Vec<f32>, batch: &Option<(Vec<usize>, f64)>| {
            let (targets, _) = batch.as_ref()?;
            let here = |target: &usize| range.contains(target).then(|| target - range.start);
            let here: Vec<Option<usize>> = targets.iter().map(here).collect();
            Some((Product::of(output, &self.rows, task, self.precision), here))
        };
        let products = outputs.into_iter().zip(self.batches);
        let mut products: Vec<Option<(Product, Vec<Option<usize>>)>> =
            products.map(|(output, batch)| product(output, batch)).collect();
        let (mut at_targets, mut parts) = (Vec::new(), Vec::new());
        for (product, here) in products.iter().flatten() {
            let (of_product, at) = product.softmax(here);
            parts.extend(flat(&of_product));
            at_targets.extend(at);
        }
        let parts = world.all_gather_each(&parts)?; // of each process, those of each batch
        let targets = world.all_gather(&at_targets)?; // of each process, those of each batch

        let examples = at_targets.len();
        let mut taken = vec![0; count];
        let (mut before, mut found, mut sent) = (0, None, vec![Vec::new(); count]);
        for (rank, of_text) in of_text.iter().enumerate() {
            let (Some((product, here)), Some((of_batch, weight))) =
                (&mut products[rank], &self.batches[rank])
            else {
                continue;
            };
            let batch = of_batch.len();
            let mut softmax = unflat(of_text, batch);
            for (owner, parts) in parts.iter().enumerate() {
                let end = taken[owner] + parts.len() / examples * batch;
                softmax.extend(unflat(&parts[taken[owner]..end], batch));
                taken[owner] = end;
            }
            let softmax: Vec<&OnlineSoftmax> = softmax.iter().collect();
            let logsumexp = logsumexp(&softmax, batch);
            let factors = Factors::of(*weight, smoothing, batch, self.classes());
            product.logits_to_gradients(&logsumexp, factors, here);
            if self.reaches_input {
                sent[rank] = product.input_gradients();
            }
            if rank == me {
                let at_target = of_batch.iter().enumerate().map(|(example, target)| {
                    let owner = owner(*target, self.documents, count);
                    targets[owner * examples + before + example]
                });
                let mean = mean_loss(&logsumexp, at_target, &softmax, smoothing, self.classes());
                found = Some(Found { mean, logsumexp, elsewhere: Vec::new() });
            }
            before += batch;
        }
        let received = world.exchange_each(&sent)?; // of each process, its parts of the gradient
        if let Some(found) = &mut found {
            let size = width * found.logsumexp.len();
            let tasks = received.iter().flat_map(|tasks| tasks.chunks_exact(size));
            found.elsewhere = tasks.map(<[f32]>::to_vec).collect();
        }
        let gradients = products.into_iter().map(|product| Some(product?.0.into_gradients()));
        Ok((found, gradients.collect()))
    }
}

/// Values of a task for each example of a batch: maximum, sum of exponentials, and sum of logits.
const VALUES: usize = 3;

/// The values of tasks, one after another.
fn flat(parts: &[OnlineSoftmax]) -> Vec<f64> {
    let values = |part: &OnlineSoftmax| {
        let maxima = part.maxima.iter().map(|&maximum| f64::from(maximum));
        maxima.chain(part.sums.iter().copied()).chain(part.logits.iter().copied()).collect()
    };
    parts.iter().flat_map(|part| -> Vec<f64> { values(part) }).collect()
}

/// The tasks of values that [`flat`] has made of a batch.
fn unflat(values: &[f64], batch: usize) -> Vec<OnlineSoftmax> {
    let part = |values: &[f64]| {
        let maxima = values[..batch].iter().map(|&maximum| maximum as f32).collect();
        let (sums, logits) = values[batch..].split_at(batch);
        OnlineSoftmax::of_parts(maxima, sums.to_vec(), logits.to_vec())
    };
    values.chunks_exact(VALUES * batch).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::super::output_rows::{OutputRows, gradient_block};
    use super::*;

    #[test]
    fn shards_are_whole_tasks_that_cover_all_rows_once() {
        for rows in [1, 2, 15, 16, 17, 31, 100, 1000, 4_000_000] {
            for count in 1..=most_shards(rows) {
                let mut end = 0;
                for rank in 0..count {
                    let own = shard(rows, rank, count);
                    assert_eq!(own.start, end);
                    assert!(!own.is_empty(), "{rows} rows, {rank} of {count}");
                    assert!(own.start.is_multiple_of(task_rows(rows)));
                    end = own.end;
                }
                assert_eq!(end, rows);
            }
        }
    }

    #[test]
    fn gradients_of_some_tasks_are_those_of_all_rows_to_the_bit() {
        // The last block of a task has so few rows that other inner loops multiply it.
        let (rows, width, batch) = (3200, 768, 128);
        let values = |count: usize, step: usize| {
            (0..count).map(|at| (at * step % 1009) as f32 / 1009.0 - 0.5).collect::<Vec<f32>>()
        };
        let input = HostTensor::new(values(batch * width, 7), [batch, width]).contiguous();
        let columns = BatchColumns::of(&input);
        let (matrix, task) = (values(rows * width, 13), task_rows(rows));
        let saved = |own: Range<usize>| {
            let values = matrix[own.start * width..own.end * width].to_vec();
            let values = HostTensor::new(values, [own.len(), width]).contiguous();
            OutputRows::saved(values, &columns, task)
        };
        let (gradient, to_input) = saved(0..rows).gradients(input.matrix(), true);
        let gradient = gradient.contiguous();
        let own = shard(rows, 1, 2);
        let part = saved(own.clone());
        assert_eq!(part.input_gradients(), to_input[to_input.len() / 2..]);
        let part = Product::Host { input: input.clone(), rows: part }.into_gradients();
        let block = gradient_block(width);
        for first in (0..own.len()).step_by(task) {
            for first in (first..first + task).step_by(block) {
                let end = (first + block).min(first / task * task + task);
                let expected = own.start + first..own.start + end;
                let expected = &gradient.values()[expected.start * width..expected.end * width];
                assert_eq!(part.on_host().of_rows(first..end), expected, "rows {first}..{end}");
            }
        }
    }

    #[test]
    fn the_softmax_of_tasks_is_the_same_after_it_was_sent() {
        let part = |at: f32| {
            let values = [at, f32::NEG_INFINITY, f32::NAN];
            OnlineSoftmax::of_parts(values.to_vec(), vec![0.1, at.into(), 1e300], vec![-0.0; 3])
        };
        let parts = [part(0.1), part(-7.3)];
        let found = unflat(&flat(&parts), 3);
        for (found, expected) in found.iter().zip(&parts) {
            let bits =
                |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found.maxima), bits(&expected.maxima));
            assert_eq!((&found.sums, &found.logits), (&expected.sums, &expected.logits));
        }
        assert_eq!(found.len(), 2);
    }
}
