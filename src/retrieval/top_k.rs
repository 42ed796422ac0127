//! Top-k selection of documents by logit.

use std::cmp::Ordering;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::ties::DocidOrder;

/// Returns document and logit of the `depth` highest logits of each row of `logits`, `[rows, documents]`, best first:
/// equal logits in `order`, NaN last. `first` is the first of the documents.
pub(super) fn top_documents(
    logits: Tensor<2>,
    order: &DocidOrder,
    depth: usize,
    rows: usize,
    first: usize,
) -> Vec<Vec<(u32, f32)>> {
    let [_, documents] = logits.dims();
    let depth = depth.min(documents);
    if depth == 0 {
        return vec![Vec::new(); rows];
    }
    let data = logits.into_data();
    let values: &[f32] = data.as_slice().unwrap_or_else(|_| unreachable!("logits are f32"));
    let positions = &order.positions()[first..];
    values
        .par_chunks(documents)
        .map(|row| {
            let better = |&a: &u32, &b: &u32| {
                let (a, b) = (a as usize, b as usize);
                descending(row[a], row[b]).then_with(|| positions[a].cmp(&positions[b]))
            };
            let mut order: Vec<u32> = (0..documents as u32).collect();
            // Selection is linear in the number of documents; only the first `depth` are sorted.
            if depth < documents {
                order.select_nth_unstable_by(depth - 1, better);
                order.truncate(depth);
            }
            order.sort_unstable_by(better);
            let found = |document: u32| (document + first as u32, row[document as usize]);
            order.into_iter().map(found).collect()
        })
        .collect()
}

/// Returns the first `depth` of several lists of documents, each of which is in the order of [`top_documents`].
pub(super) fn merged(
    lists: impl Iterator<Item = Vec<(u32, f32)>>,
    order: &DocidOrder,
    depth: usize,
) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = lists.flatten().collect();
    let position = |document: u32| order.positions()[document as usize];
    all.sort_unstable_by(|&(one, a), &(other, b)| {
        descending(a, b).then_with(|| position(one).cmp(&position(other)))
    });
    all.truncate(depth);
    all
}

/// Orders two logits, the higher first and NaN last. Zeros of both signs are equal, as they are for readers of a run
/// file.
fn descending(a: f32, b: f32) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
