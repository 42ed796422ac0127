//! Several processes compute the frozen prefix of texts together, in rounds: each computes one batch in a round.
//!
//! The batches are those of one process, so that no bit of what is stored depends on the number of processes.

use std::ops::Range;

use super::compute::{FrozenModel, batches_of};
use super::prepare::TextSet;
use super::texts::Texts;
use crate::processes::{Group, Order, ProcessesError, World};

impl FrozenModel<'_> {
    /// As [`FrozenModel::rows`], together with the other processes of `world`. Only the first process calls it: it orders
    /// each round, in which the others call [`SharedTexts::compute`]. Texts that one of them does not know are computed
    /// by the first process alone.
    pub(super) fn rows_together<E: From<ProcessesError>>(
        &self,
        world: &World,
        texts: &Texts,
        residual: bool,
        mut each: impl FnMut(&[f32], usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let digest = texts.digest();
        for (round, batches) in batches_of(&texts.tokens).chunks(world.count()).enumerate() {
            world.order(Order::Prefix { texts: digest, round })?;
            if round == 0 && !is_known_to_all(world, true)? {
                return self.rows(Group::default(), &texts.tokens, residual, each);
            }
            let mut taken = Ok(());
            for (rank, batch) in batches.iter().enumerate() {
                let tokens = &texts.tokens[batch.clone()];
                let rows = match rank {
                    0 => self.own_rows(world, tokens, residual),
                    _ => {
                        let count =
                            tokens.iter().map(|tokens| tokens.len() + usize::from(residual));
                        let mut rows = vec![0.0; count.sum::<usize>() * self.t5.config().d_model];
                        world.receive(rank, &mut rows)?; // [rows * d_model]
                        rows
                    }
                };
                // After an error, too, what the others send is received: they wait for that.
                taken = taken.and_then(|()| each(&rows, batch.end));
            }
            taken?;
        }
        Ok(())
    }

    fn own_rows(&self, world: &World, tokens: &[&[u32]], residual: bool) -> Vec<f32> {
        tracing::debug!("{world:?} computes the frozen prefix of {} texts", tokens.len());
        self.rows_of(tokens, residual)
    }
}

/// Returns whether all processes know the texts of an order, as this one does if `is_known`.
fn is_known_to_all(world: &World, is_known: bool) -> Result<bool, ProcessesError> {
    Ok(!world.all_gather(&[u8::from(is_known)])?.contains(&0))
}

/// The sets of texts of a process that is not the first.
pub(crate) struct SharedTexts<'a> {
    sets: Vec<TextSet<'a>>,
    /// The texts of the latest orders, if all processes know them.
    ordered: Option<(Texts<'a>, Vec<Range<usize>>)>,
}

impl<'a> SharedTexts<'a> {
    /// Texts of these sets may be ordered.
    pub fn new(sets: Vec<TextSet<'a>>) -> Self {
        Self { sets, ordered: None }
    }

    /// Computes the share of this process in a round that the first process has ordered, for the texts with this digest,
    /// and sends it there.
    ///
    /// # Errors
    /// MPI failed.
    pub fn compute(
        &mut self,
        frozen: &FrozenModel,
        world: &World,
        (digest, round): (u64, usize),
    ) -> Result<(), ProcessesError> {
        if round == 0 {
            let mut sets = self.sets.iter().map(|set| Texts::distinct(set.texts.iter().copied()));
            let found = sets.find(|texts| texts.digest() == digest);
            self.ordered = match is_known_to_all(world, found.is_some())? {
                true => found.map(|texts| {
                    let batches = batches_of(&texts.tokens);
                    (texts, batches)
                }),
                false => None,
            };
        }
        let Some((texts, batches)) = &self.ordered else { return Ok(()) };
        let batches = batches.chunks(world.count()).nth(round).unwrap_or_default();
        let Some(batch) = batches.get(world.rank()) else { return Ok(()) };
        let tokens = &texts.tokens[batch.clone()];
        world.send(&frozen.own_rows(world, tokens, frozen.prefix.layer() > 0))
    }
}
