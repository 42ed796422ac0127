//! How documents of equal score are ranked: as `trec_eval` ranks them, or as the paper counts ranks.

use rayon::prelude::*;

use crate::docid::DocidVocabulary;

/// What a rank counts beside the scores that are strictly higher.
#[derive(Debug, Clone, Copy)]
pub enum Ties<'a> {
    /// Nothing, as the paper defines a rank: tokens of equal score share the best rank. For probes.
    Shared,
    /// Of the documents with an equal score those that come before in this order, as in `trec_eval`. A word has no
    /// docid: one with an equal score counts as higher, so that no tie is ever a gain.
    ById(&'a DocidOrder),
}

/// The order in which `trec_eval` ranks documents of equal score: by docid, descending, compared byte by byte (its
/// `strcmp`), so that of `d1`, `d10` and `d2` the last comes first. Computed once for a vocabulary.
#[derive(Debug, Clone)]
pub struct DocidOrder {
    /// Each row's place in that order, from 0.
    places: Vec<u32>,
}

impl DocidOrder {
    /// The order of the documents of `docids`.
    pub fn of(docids: &DocidVocabulary) -> Self {
        let mut rows: Vec<u32> = (0..docids.len() as u32).collect();
        // `str` compares by bytes.
        rows.par_sort_unstable_by(|&a, &b| docids.id(b).cmp(docids.id(a)));
        let mut places = vec![0; rows.len()];
        for (place, row) in (0..).zip(rows) {
            places[row as usize] = place;
        }
        Self { places }
    }

    /// Each row's place, from 0.
    pub(super) fn places(&self) -> &[u32] {
        &self.places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ordered_as_strcmp_does_the_last_first() {
        // The order is that of trec_eval 9 (pytrec_eval 0.5.11) for a run in which all eight have one score.
        let expected = ["é", "z", "x10", "d2", "d10", "d1", "D3", "9"];
        let docids = DocidVocabulary::new(["d1", "d10", "d2", "D3", "é", "z", "9", "x10"]).unwrap();
        let order = DocidOrder::of(&docids);
        let mut ids: Vec<(u32, &str)> = order.places().iter().copied().zip(docids.ids()).collect();
        ids.sort_unstable();
        assert_eq!(ids.iter().map(|(_, id)| *id).collect::<Vec<_>>(), expected);
    }
}
