//! Computes the frozen prefix of many texts, in batches of about one length.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{FrozenPrefix, PrefixOutput};
use crate::processes::{Group, ProcessesError};
use crate::t5::{T5, Tokens};

/// Positions in a batch, padding included: large, so that matrix products are; small enough that what a batch
/// needs stays far below what a training step needs.
pub const BATCH_POSITIONS: usize = 8192;

/// A model whose prefix is frozen.
#[derive(Clone, Copy)]
pub struct FrozenModel<'a> {
    /// Its weights, off the autodiff graph.
    pub t5: &'a T5,
    /// The extent of the frozen part.
    pub prefix: FrozenPrefix,
    /// The device of the weights.
    pub device: &'a Device,
    /// Padding token.
    pub pad_id: u32,
}

impl FrozenModel<'_> {
    /// The prefix of a batch of texts, computed now.
    pub fn compute(&self, texts: &[&[u32]]) -> PrefixOutput {
        self.prefix.compute(self.t5, &Tokens::padded(texts, self.pad_id, self.device))
    }

    /// Computes the rows of all `texts`, which come shortest first: for each the encoder's state of each token, then
    /// with `residual` the decoder's residual. They are handed to `each` batch by batch, `[rows * d_model]`, with the
    /// number of texts done. The processes of `group` share the batches; all of them call it and are handed all rows.
    pub(super) fn rows<E: From<ProcessesError>>(
        &self,
        group: Group,
        texts: &[&[u32]],
        residual: bool,
        mut each: impl FnMut(&[f32], usize) -> Result<(), E>,
    ) -> Result<(), E> {
        for round in batches_of(texts).chunks(group.count()) {
            let own = round.get(group.rank());
            let own = own.map(|batch| {
                tracing::debug!("{group:?} encodes {} texts", batch.len());
                self.rows_of(&texts[batch.clone()], residual)
            });
            let all = group.gather_values(own.unwrap_or_default())?;
            for (rows, batch) in all.iter().zip(round) {
                each(rows, batch.end)?;
            }
        }
        Ok(())
    }

    /// The rows of one batch of texts, `[rows * d_model]`.
    pub(super) fn rows_of(&self, batch: &[&[u32]], residual: bool) -> Vec<f32> {
        let rows = unpadded(self.compute(batch), batch, residual); // [rows, d_model]
        rows.into_data().try_into_vec().unwrap_or_else(|_| unreachable!("activations are f32"))
    }
}

/// The batches in which the prefix of `texts`, which come shortest first, is computed.
pub(super) fn batches_of(texts: &[&[u32]]) -> Vec<Range<usize>> {
    let (mut batches, mut done) = (Vec::new(), 0);
    while done < texts.len() {
        let rest = &texts[done..];
        let fits = |&count: &usize| count * rest[count - 1].len() <= BATCH_POSITIONS;
        let count = (1..=rest.len()).take_while(fits).last().unwrap_or(1);
        batches.push(done..done + count);
        done += count;
    }
    batches
}

/// `[rows, d_model]`: of each text the states of its tokens, then its residual if that is wanted.
fn unpadded(output: PrefixOutput, texts: &[&[u32]], residual: bool) -> Tensor<2> {
    let states = output.states.rows; // [batch * length, d_model]
    let (positions, batch) = (states.dims()[0], texts.len());
    let length = positions / batch;
    let mut wanted = Vec::with_capacity(positions + batch);
    for (row, tokens) in texts.iter().enumerate() {
        wanted.extend((0..tokens.len()).map(|token| (row * length + token) as i32));
        wanted.extend(residual.then_some((positions + row) as i32));
    }
    let rows = if residual { Tensor::cat(vec![states, output.residual], 0) } else { states };
    let device = rows.device();
    rows.select(0, indices(wanted, &device))
}

/// Row numbers on a device.
pub(super) fn indices(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
