//! Several processes rank the queries of a set together, in rounds: each ranks one batch in a round.
//!
//! The batches are those of one process, so that no bit of a ranking depends on the number of processes.

use burn::module::Module;
use burn::tensor::Device;

use super::divided::rank_divided;
use super::ranking::{EncodedQuery, Rank, RankOptions, Ranking, rank, rank_batch, rank_in_rounds};
use crate::processes::{Order, ProcessesError, World};
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
    let all = world.all_gather_each(&encoded(&own))?;
    let mut rankings = Vec::new();
    for (batch, words) in batches.iter().zip(&all) {
        let found = decoded(words).filter(|found| found.len() == batch.len());
        let cut = || ProcessesError::Mpi("the rankings of a process are not whole".to_owned());
        rankings.extend(found.ok_or_else(cut)?);
    }
    Ok(rankings)
}

/// Rankings as a message. Scores are their bits: NaN and -0.0 stay what they are.
fn encoded(rankings: &[Ranking]) -> Vec<u32> {
    let mut words = Vec::new();
    for Ranking { relevant, best } in rankings {
        words.extend([relevant.len() as u32, best.len() as u32]);
        words.extend(relevant.iter().flat_map(|&Rank { rank, is_tied, is_nan }| {
            [rank, u32::from(is_tied) | u32::from(is_nan) << 1]
        }));
        words.extend(best.iter().flat_map(|&(row, score)| [row, score.to_bits()]));
    }
    words
}

/// The rankings of a message; `None` if it is not whole.
fn decoded(mut words: &[u32]) -> Option<Vec<Ranking>> {
    let mut rankings = Vec::new();
    while let [relevant, best, rest @ ..] = words {
        let (relevant, rest) = rest.split_at_checked(2 * *relevant as usize)?;
        let (best, rest) = rest.split_at_checked(2 * *best as usize)?;
        let rank = |pair: &[u32]| Rank {
            rank: pair[0],
            is_tied: pair[1] & 1 != 0,
            is_nan: pair[1] & 2 != 0,
        };
        rankings.push(Ranking {
            relevant: relevant.chunks_exact(2).map(rank).collect(),
            best: best.chunks_exact(2).map(|pair| (pair[0], f32::from_bits(pair[1]))).collect(),
        });
        words = rest;
    }
    words.is_empty().then_some(rankings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rankings_arrive_to_the_bit_or_not_at_all() {
        let rank = |rank, is_tied, is_nan| Rank { rank, is_tied, is_nan };
        let scores = [f32::NAN, -0.0, 1.0 / 3.0, f32::from_bits(1), f32::NEG_INFINITY];
        let rankings = [
            Ranking { relevant: vec![], best: vec![] },
            Ranking {
                relevant: vec![rank(1, false, true), rank(u32::MAX, true, false)],
                best: (7..).zip(scores).collect(),
            },
            Ranking { relevant: vec![rank(3, true, true), rank(4, false, false)], best: vec![] },
        ];
        let words = encoded(&rankings);
        let found = decoded(&words).unwrap();
        assert_eq!(encoded(&found), words);
        for (found, expected) in found.iter().zip(&rankings) {
            assert_eq!(found.relevant, expected.relevant);
            let bits = |ranking: &Ranking| {
                let pairs = ranking.best.iter().map(|(row, score)| (*row, score.to_bits()));
                pairs.collect::<Vec<_>>()
            };
            assert_eq!(bits(found), bits(expected));
        }
        let whole: Vec<usize> =
            (0..=words.len()).filter(|&end| decoded(&words[..end]).is_some()).collect();
        let ends = (0..=rankings.len()).map(|count| encoded(&rankings[..count]).len());
        assert_eq!(whole, ends.collect::<Vec<_>>(), "a message is cut between two rankings only");
    }
}
