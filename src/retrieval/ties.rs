//! Ranks of documents with equal scores: as in `trec_eval`, or as in the paper.

use rayon::prelude::*;

use crate::docid::DocidVocabulary;

/// The tokens with an equal score that a rank counts, in addition to those with a higher score.
#[derive(Debug, Clone, Copy)]
pub enum Ties<'a> {
    /// None, as the paper defines a rank: tokens with equal scores share the best rank. Used by probes.
    Shared,
    /// Documents with an equal score that come before in this order, as in `trec_eval`. Text tokens have no docid: one
    /// with an equal score counts as higher, so that a tie never improves a rank.
    ById(&'a DocidOrder),
}

/// The order in which `trec_eval` ranks documents with equal scores: by docid, descending, compared bytewise (its
/// `strcmp`), so that `d2` comes before `d10` and `d1`. Computed once per docid vocabulary.
#[derive(Debug, Clone)]
pub struct DocidOrder {
    /// The position of each row in that order, from 0.
    positions: Vec<u32>,
}

impl DocidOrder {
    /// Sorts the documents of `docids`.
    pub fn new(docids: &DocidVocabulary) -> Self {
        let mut rows: Vec<u32> = (0..docids.len() as u32).collect();
        // `str` compares bytewise.
        rows.par_sort_unstable_by(|&a, &b| docids.id(b).cmp(docids.id(a)));
        let mut positions = vec![0; rows.len()];
        for (position, row) in (0..).zip(rows) {
            positions[row as usize] = position;
        }
        Self { positions }
    }

    /// Returns the position of each row, from 0.
    pub(super) fn positions(&self) -> &[u32] {
        &self.positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_descending_strcmp_order() {
        // The order is that of trec_eval 9 (pytrec_eval 0.5.11) for a run in which all eight have the same score.
        let expected = ["é", "z", "x10", "d2", "d10", "d1", "D3", "9"];
        let docids = DocidVocabulary::new(["d1", "d10", "d2", "D3", "é", "z", "9", "x10"]).unwrap();
        let order = DocidOrder::new(&docids);
        let mut ids: Vec<(u32, &str)> =
            order.positions().iter().copied().zip(docids.ids()).collect();
        ids.sort_unstable();
        assert_eq!(ids.iter().map(|(_, id)| *id).collect::<Vec<_>>(), expected);
    }
}
