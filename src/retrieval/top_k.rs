//! Top-k selection of documents by logit.

use std::cmp::Ordering;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::ties::DocidOrder;

/// Returns document and logit of the `depth` highest logits of each row of `logits`, `[rows, documents]`, best first:
/// equal logits in `order`, NaN last.
pub(super) fn top_documents(
    logits: Tensor<2>,
    order: &DocidOrder,
    depth: usize,
    rows: usize,
) -> Vec<Vec<(u32, f32)>> {
    let [_, documents] = logits.dims();
    let depth = depth.min(documents);
    if depth == 0 {
        return vec![Vec::new(); rows];
    }
    let data = logits.into_data();
    let values: &[f32] = data.as_slice().unwrap_or_else(|_| unreachable!("logits are f32"));
    let positions = order.positions();
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
            order.into_iter().map(|document| (document, row[document as usize])).collect()
        })
        .collect()
}

/// Orders two logits, the higher first and NaN last. Zeros of both signs are equal, as they are for readers of a run
/// file.
fn descending(a: f32, b: f32) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
