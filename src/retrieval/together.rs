//! Several processes rank the queries of a set together, in rounds: each ranks one batch in a round.
//!
//! The batches are those of one process, so that no bit of a ranking depends on the number of processes.

use burn::module::Module;
use burn::tensor::Device;

use super::divided::rank_divided;
use super::ranking::{EncodedQuery, RankOptions, Ranking, rank, rank_batch, rank_in_rounds};
use crate::processes::{Group, Order, ProcessesError, World};
use crate::t5::{GenirModel, NoTap};

/// As [`rank`](super::rank), together with the other processes of `world`. Only the first process calls it: it orders each
/// round, in which the others call [`rank_share`]. `set` is the place of the set in such an order.
///
/// # Errors
/// The first error of `each`, which ends the ranking between two rounds; or MPI failed.
pub(crate) fn rank_together<E: From<ProcessesError>>(
    (world, set): (&World, usize),
    model: &GenirModel,
    device: &Device,
    queries: &[EncodedQuery],
    options: RankOptions,
    each: impl FnMut(usize, Ranking) -> Result<(), E>,
) -> Result<(), E> {
    let rank = |round: usize, batches: &[Vec<usize>]| {
        world.order(Order::Rank { set, round })?;
        Ok(rank_round(world, model, device, queries, options, batches)?)
    };
    rank_in_rounds(queries, options.batch_size, world.count(), rank, each)
}

/// As [`rank`](super::rank), together with the other processes of `world` if there are any. All of them call it, without orders.
///
/// # Errors
/// The first error of `each`, which ends the ranking of this process alone; or MPI failed.
pub(crate) fn rank_with_all<E: From<ProcessesError>>(
    world: Option<&World>,
    model: &GenirModel,
    device: &Device,
    queries: &[EncodedQuery],
    options: RankOptions,
    each: impl FnMut(usize, Ranking) -> Result<(), E>,
) -> Result<(), E> {
    let Some(world) = world else { return rank(model, device, queries, options, each) };
    let rank = |_, batches: &[Vec<usize>]| {
        Ok(rank_round(world, model, device, queries, options, batches)?)
    };
    rank_in_rounds(queries, options.batch_size, world.count(), rank, each)
}

/// Ranks the share of this process in a round that the first process has ordered. `batches`: all of the set.
///
/// # Errors
/// MPI failed.
pub(crate) fn rank_share(
    (world, round): (&World, usize),
    model: &GenirModel,
    device: &Device,
    queries: &[EncodedQuery],
    options: RankOptions,
    batches: &[Vec<usize>],
) -> Result<(), ProcessesError> {
    let batches = batches.chunks(world.count()).nth(round).unwrap_or_default();
    rank_round(world, model, device, queries, options, batches)?;
    Ok(())
}

/// One round of all processes: each ranks the one of `batches` that has its rank, if there is one, and learns the
/// rankings of all, batch by batch.
fn rank_round(
    world: &World,
    model: &GenirModel,
    device: &Device,
    queries: &[EncodedQuery],
    options: RankOptions,
    batches: &[Vec<usize>],
) -> Result<Vec<Ranking>, ProcessesError> {
    if model.docids.weight.dims()[0] < options.order.positions().len() {
        return rank_divided(world, model, device, queries, options, batches);
    }
    let rank = |batch: &Vec<usize>| {
        rank_batch(&model.valid(), device, queries, batch, options, &mut NoTap)
    };
    let own = batches.get(world.rank()).map(rank).unwrap_or_default();
    tracing::debug!("{world:?} has ranked {} queries", own.len());
    Ok(Group::of(Some(world)).gather(Some(own))?.concat())
}
