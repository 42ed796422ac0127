//! Docid rows that are divided among processes (`docids.shard`): each has some of them, with their gradients and moments.

use std::ops::Range;

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::gradient_sum::{round_all, rounded_tensor};
use super::optimizer::{Optimizer, sums_of_squares};
use super::pairwise_sum::PairwiseSum;
use crate::device::is_host;
use crate::ops::{
    Head, HostLogitGradients, HostTensor, LogitGradients, Loss, Round, floats, gradient_block,
    shard, task_rows,
};
use crate::processes::{Order, ProcessesError, World, check_shards};
use crate::recipe::GradientDtype;
use crate::t5::GenirModel;
use crate::t5::weights::{Put, WeightsError};

/// The name of the parameter that is divided.
pub(super) const DOCIDS: &str = "docids.weight";

/// Values that a process sends at once, if a row has not more.
const BLOCK: usize = 1 << 18;

/// Values of a gradient that a GPU computes at once: 64 MiB, so that those of several batches do not add up.
const DEVICE_BLOCK: usize = 1 << 24;

/// The docid rows of one process among those of all.
#[derive(Clone)]
pub(super) struct Shards<'a> {
    world: &'a World,
    documents: usize,
    width: usize,
}

/// Examples of one batch: their targets, and the factor on their gradients.
pub(super) type Targets = (Vec<usize>, f64);

impl<'a> Shards<'a> {
    /// The rows themselves, as an [`Order::Rows`] names them.
    pub const ROWS: usize = 0;

    /// Divides the docid rows of a model, `[documents, width]`, among the processes of `world`.
    ///
    /// # Errors
    /// There are too many processes.
    pub fn new(world: &'a World, documents: usize, width: usize) -> Result<Self, ProcessesError> {
        check_shards(documents, world.count())?;
        let shards = Self { world, documents, width };
        tracing::debug!("{world:?} has docid rows {:?} of {documents}", shards.own());
        Ok(shards)
    }

    /// The rows of this process.
    pub fn own(&self) -> Range<usize> {
        self.of(self.world.rank())
    }

    fn of(&self, rank: usize) -> Range<usize> {
        shard(self.documents, rank, self.world.count())
    }

    /// Number of rows that other processes have.
    pub fn others(&self) -> usize {
        self.documents - self.own().len()
    }

    /// Computes the loss of one batch of each process together with all others, which do the same: `batches` has their
    /// targets, `head` the output layer of this process's own batch. Returns its loss, and the gradients of the logits of this
    /// process's rows for each batch.
    ///
    /// # Errors
    /// MPI fails.
    pub fn cross_entropy(
        &self,
        model: &GenirModel,
        head: Option<Head>,
        batches: &[Option<Targets>],
        smoothing: f64,
        reaches_input: bool,
    ) -> Result<(Option<Loss>, Vec<Option<LogitGradients>>), ProcessesError> {
        let round = Round {
            world: self.world,
            documents: self.documents,
            words: model.t5.config().vocab_size,
            rows: model.docids.weight.val().inner(),
            smoothing,
            batches,
            reaches_input,
            precision: model.t5.precision(),
        };
        round.cross_entropy(head)
    }

    /// Adds the gradient of this process's rows to those of an update, summed over its batches along the tree of
    /// [`PairwiseSum`] block by block: no other sum of its size is held. On a GPU the blocks are copied into one tensor at the
    /// end, so that the gradient is held twice for a moment. `batches`: for each batch of the update the gradients of its
    /// logits, if it has any. Each batch's, and each sum, is rounded to `dtype`. Returns the sum of the squares of the gradients
    /// of all rows, of all processes.
    ///
    /// # Errors
    /// MPI fails.
    pub fn add_gradient(
        &self,
        model: &GenirModel,
        batches: &[Option<LogitGradients>],
        dtype: GradientDtype,
        gradients: &mut GradientsParams,
    ) -> Result<f64, ProcessesError> {
        if batches.iter().all(Option::is_none) {
            return Ok(0.0);
        }
        let (squares, gradient) = match is_host(&model.docids.weight.val().device()) {
            true => self.gradient_on_host(batches, dtype),
            false => self.gradient_by_burn(batches, dtype),
        };
        gradients.register(model.docids.weight.id, gradient);
        Ok(self.world.all_gather_each(&squares)?.iter().flatten().sum())
    }

    /// The gradient of this process's rows, `[own rows, width]`, and the squares of its values, summed in parts.
    fn gradient_on_host(
        &self,
        batches: &[Option<LogitGradients>],
        dtype: GradientDtype,
    ) -> (Vec<f64>, Tensor<2>) {
        let (own, width) = (self.own(), self.width);
        let (task, block) = (task_rows(self.documents), gradient_block(width));
        let batches: Vec<_> =
            batches.iter().map(|batch| batch.as_ref().map(LogitGradients::on_host)).collect();
        let mut values = vec![0.0; own.len() * width];
        // In the blocks in which one process multiplies them.
        let tasks = values.chunks_mut(task * width).enumerate();
        let blocks = tasks.flat_map(|(number, values)| {
            let first = move |at| number * task + at * block;
            values.chunks_mut(block * width).enumerate().map(move |(at, rows)| (first(at), rows))
        });
        blocks.par_bridge().for_each(|(first, values)| {
            let rows = first..first + values.len() / width;
            let round = |mut values: Vec<f32>| {
                round_all(&mut values, dtype);
                values
            };
            let add = |mut left: Vec<f32>, right: Vec<f32>| {
                left.iter_mut().zip(right).for_each(|(left, right)| *left += right);
                round(left)
            };
            let of_batch = |batch: &HostLogitGradients| round(batch.of_rows(rows.clone()));
            if let Some(sum) = sum_of_batches(&batches, of_batch, add) {
                values.copy_from_slice(&sum);
            }
        });
        let gradient = HostTensor::new(values, [own.len(), width]).into_tensor();
        sums_of_squares(gradient, task)
    }

    /// The same on other devices.
    fn gradient_by_burn(
        &self,
        batches: &[Option<LogitGradients>],
        dtype: GradientDtype,
    ) -> (Vec<f64>, Tensor<2>) {
        let (rows, block) = (self.own().len(), DEVICE_BLOCK.div_ceil(self.width));
        let of_block = |first: usize| {
            let rows = first..rows.min(first + block);
            let of_batch = |batch: &LogitGradients| {
                rounded_tensor(batch.of_rows_by_burn(rows.clone()), dtype) // [block, width]
            };
            sum_of_batches(batches, of_batch, |left, right| rounded_tensor(left + right, dtype))
        };
        let blocks = (0..rows).step_by(block).filter_map(of_block).collect();
        let gradient = Tensor::cat(blocks, 0); // [own rows, width]
        let squares = gradient.clone().square().sum().into_scalar::<f32>();
        (vec![f64::from(squares)], gradient)
    }

    /// Gives the rows of all other processes, or a moment of them, to `put`, in their order. Only the first process may.
    ///
    /// # Errors
    /// MPI fails, a value is not finite, or the first error of `put`.
    pub fn receive(&self, what: usize, put: &mut Put) -> Result<(), WeightsError> {
        let failed = |error: ProcessesError| WeightsError::Processes(error.to_string());
        for rank in 1..self.world.count() {
            self.world.order_one(rank, Order::Rows { what }).map_err(failed)?;
            let mut values = vec![0.0; self.block() * self.width];
            let mut left = self.of(rank).len() * self.width;
            while left > 0 {
                let most = left.min(values.len());
                let block = &mut values[..most];
                self.world.receive(rank, block).map_err(failed)?;
                if what == Self::ROWS && !block.iter().all(|value| value.is_finite()) {
                    let rows = format!("a docid row of process {rank} is not finite");
                    return Err(WeightsError::Processes(rows));
                }
                put(block)?;
                left -= block.len();
            }
        }
        Ok(())
    }

    /// Sends the rows of this process, or a moment of them, to the first process, which [receives](Self::receive) them.
    ///
    /// # Errors
    /// MPI fails.
    pub fn send(
        &self,
        what: usize,
        model: &GenirModel,
        optimizer: &Optimizer,
    ) -> Result<(), ProcessesError> {
        let values = match what {
            Self::ROWS => Some(model.docids.weight.val().inner()),
            moment => optimizer.docid_moments().into_iter().nth(moment - 1),
        }; // [own rows, width]
        let missing = || ProcessesError::Mpi(format!("{DOCIDS} has no moment {what}"));
        let values = values.ok_or_else(missing)?;
        let (rows, block) = (self.own().len(), self.block());
        // Blocks of rows are copied, since the model holds them too.
        for first in (0..rows).step_by(block) {
            let part = values.clone().slice(first..rows.min(first + block)).into_data();
            self.world.send(floats(&part))?;
        }
        Ok(())
    }

    /// The rows of a message.
    fn block(&self) -> usize {
        (BLOCK / self.width).max(1)
    }
}

/// The sum of the gradients of all batches that have one, along the tree of [`PairwiseSum`].
fn sum_of_batches<G, T>(
    batches: &[Option<G>],
    of_batch: impl Fn(&G) -> T,
    add: impl Fn(T, T) -> T,
) -> Option<T> {
    let mut sum = PairwiseSum::default();
    let added = |left: Option<T>, right: Option<T>| match (left, right) {
        (Some(left), Some(right)) => Some(add(left, right)),
        (left, right) => left.or(right),
    };
    for batch in batches {
        sum.push(batch.as_ref().map(&of_batch), added);
    }
    sum.total(added).flatten()
}
