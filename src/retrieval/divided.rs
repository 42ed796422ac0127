//! Ranks documents whose docid rows are divided among processes: each compares the logits of its own rows, and counts and the
//! first of each list travel. The counts are integers, so that ranks are those of one process that has all rows.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use super::ranking::{
    EncodedQuery, Rank, RankOptions, Ranking, decoder_output, docid_logits, relevant_of,
};
use super::ranks::{LogitComparison, compare_docids, compare_text_tokens, compared_text_tokens};
use super::ties::Ties;
use super::top_k::{merged, top_documents};
use crate::ops::{HostTensor, owner, shard};
use crate::processes::{ProcessesError, World};
use crate::t5::{GenirModel, NoTap};

/// Ranks one of `batches` for each process, as far as there are so many, and returns the rankings of all, batch by batch. All
/// processes call it.
///
/// # Errors
/// MPI failed.
pub(super) fn rank_divided(
    world: &World,
    model: &GenirModel,
    device: &Device,
    queries: &[EncodedQuery],
    options: RankOptions,
    batches: &[Vec<usize>],
) -> Result<Vec<Ranking>, ProcessesError> {
    let model = &model.valid();
    let output = batches.get(world.rank()).map(|batch| {
        decoder_output(model, device, queries, batch, options, &mut NoTap) // [batch, d_model]
    });
    let own = output.clone().map(|output| HostTensor::read(output).contiguous());
    let all = world.all_gather_each(own.as_ref().map_or(&[][..], |own| own.values()))?;
    let mut rankings = Vec::new();
    for (rank, (batch, values)) in batches.iter().zip(all).enumerate() {
        let relevant = relevant_of(queries, batch);
        let own = output.clone().filter(|_| rank == world.rank());
        let values = TensorData::new(values, [batch.len(), model.t5.config().d_model]);
        let output = Tensor::from_data(values, device); // [batch, d_model]
        let documents = options.order.positions().len();
        let logits = HostTensor::read(docid_logits(model, output, documents)); // [batch, own documents]
        let logits = logits.into_tensor();
        let relevant = ranks(world, model, own, &logits, options, &relevant)?;
        let best = best(world, logits, options, batch.len())?;
        rankings.extend(
            relevant.into_iter().zip(best).map(|(relevant, best)| Ranking { relevant, best }),
        );
    }
    Ok(rankings)
}

/// The ranks of the `relevant` docids of each row. `output`: the decoder's, on the process whose batch it is.
fn ranks(
    world: &World,
    model: &GenirModel,
    output: Option<Tensor<2>>,
    logits: &Tensor<2>,
    options: RankOptions,
    relevant: &[&[u32]],
) -> Result<Vec<Vec<Rank>>, ProcessesError> {
    let documents = options.order.positions().len();
    let of_rank = |rank| shard(documents, rank, world.count());
    let range = of_rank(world.rank());
    let logits = HostTensor::of(logits.clone()).contiguous(); // [rows, own documents]
    let logits = logits.values();
    let asked = || {
        relevant
            .iter()
            .enumerate()
            .flat_map(|(row, of)| of.iter().map(move |&docid| (row, docid as usize)))
    };
    let here = asked().map(|(row, docid)| match range.contains(&docid) {
        true => logits[row * range.len() + docid - range.start],
        false => 0.0,
    });
    let all = world.all_gather(&here.collect::<Vec<f32>>())?; // [processes, relevant]
    let count = asked().count();
    let of_owner = |(at, (_, docid)): (usize, (usize, usize))| {
        all[owner(docid, documents, world.count()) * count + at]
    };
    let mut own = asked().enumerate().map(of_owner);
    let own: Vec<Vec<f32>> =
        relevant.iter().map(|relevant| own.by_ref().take(relevant.len()).collect()).collect();

    let ties = Ties::ById(options.order);
    let mut found = compare_docids(logits, range, ties, relevant, &own);
    if let Some(output) = output {
        let text = compared_text_tokens(model, output, options.candidates, relevant.len());
        compare_text_tokens(&mut found, text, &own);
    }
    let counts: Vec<u32> = found.iter().flatten().flat_map(|found| found.counts()).collect();
    let all = world.all_gather(&counts)?; // [processes, relevant, counts]
    let (parts, _) = all.as_chunks::<{ LogitComparison::COUNTS }>();
    let rank = |at| LogitComparison::sum(parts.iter().skip(at).step_by(count).copied()).rank(ties);
    let mut ranks = (0..count).map(rank);
    Ok(relevant.iter().map(|relevant| ranks.by_ref().take(relevant.len()).collect()).collect())
}

/// The documents with the highest logits of each row, among those of all processes.
fn best(
    world: &World,
    logits: Tensor<2>,
    options: RankOptions,
    rows: usize,
) -> Result<Vec<Vec<(u32, f32)>>, ProcessesError> {
    let documents = options.order.positions().len();
    let of_rank = |rank| shard(documents, rank, world.count());
    let own =
        top_documents(logits, options.order, options.depth, rows, of_rank(world.rank()).start);
    let words: Vec<u32> =
        own.iter().flatten().flat_map(|&(document, score)| [document, score.to_bits()]).collect();
    let all = world.all_gather_each(&words)?;
    let list = |rank: usize, row: usize| {
        let length = 2 * options.depth.min(of_rank(rank).len());
        let words = all[rank].get(row * length..(row + 1) * length).unwrap_or_default();
        let pairs = words.as_chunks::<2>().0.iter();
        pairs.map(|&[document, score]| (document, f32::from_bits(score))).collect()
    };
    let lists = |row| (0..world.count()).map(|rank| list(rank, row)).collect::<Vec<_>>();
    Ok((0..rows).map(|row| merged(lists(row).into_iter(), options.order, options.depth)).collect())
}
