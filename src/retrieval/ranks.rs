//! Ranks of docids: counts of the logits that are higher, on the CPU and on other devices.

use std::ops::Range;

use burn::tensor::{Bool, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::ranking::{CandidateSet, Rank};
use super::ties::Ties;
use crate::device::is_host;
use crate::ops::HostTensor;
use crate::t5::GenirModel;

/// Size in bytes of a block of text-token logits: small enough to be counted while it is in the processor's cache.
const TEXT_LOGIT_BYTES: usize = 8 << 20;

/// Peak memory in bytes of [`relevant_ranks`] for `rows` queries, including the logits of docids.
pub(crate) fn ranked_bytes(
    text_tokens: usize,
    rows: usize,
    documents: usize,
    candidates: CandidateSet,
) -> usize {
    /// Bytes per compared logit in addition to the logit: the boolean result, and its conversion to 64 bits.
    const COMPARISON: usize = 1 + 8;
    let docids = rows * documents;
    let text_tokens = match candidates {
        CandidateSet::All => (rows * text_tokens).min(TEXT_LOGIT_BYTES / size_of::<f32>()),
        CandidateSet::Docids => 0,
    };
    (docids + text_tokens) * size_of::<f32>() + docids.max(text_tokens) * COMPARISON
}

/// Returns the ranks of the `relevant` docids of each row among the candidates, with equal logits counted as `ties`
/// says. `output` is the decoder's, `[rows, d_model]`; `docids` are the docid logits, `[rows, documents]`.
pub(crate) fn relevant_ranks(
    model: &GenirModel,
    output: Tensor<2>,
    docids: &Tensor<2>,
    candidates: CandidateSet,
    ties: Ties,
    relevant: &[&[u32]],
) -> Vec<Vec<Rank>> {
    let text_tokens = compared_text_tokens(model, output, candidates, relevant.len());
    if is_host(&docids.device()) {
        ranks_on_host(docids, text_tokens, ties, relevant)
    } else {
        ranks_on_device(docids, text_tokens, ties, relevant)
    }
}

/// The logits of text tokens that are compared, in blocks: none, if docids are ranked among docids.
pub(super) fn compared_text_tokens(
    model: &GenirModel,
    output: Tensor<2>,
    candidates: CandidateSet,
    rows: usize,
) -> impl Iterator<Item = Tensor<2>> {
    let block = (TEXT_LOGIT_BYTES / size_of::<f32>() / rows.max(1)).max(512);
    (candidates == CandidateSet::All)
        .then(|| model.t5.text_logits_in_blocks(output, block))
        .into_iter()
        .flatten()
}

/// Counts of how the logits of a row compare with the target logit, whose rank is computed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LogitComparison {
    /// Number of logits compared.
    all: u32,
    /// Logits that are at most the target, and those that are less.
    at_most: u32,
    less: u32,
    /// Docids with an equal logit that come before the target in [`DocidOrder`].
    equal_before: u32,
    /// Text tokens with an equal logit.
    equal_text_tokens: u32,
}

impl LogitComparison {
    /// Number of counts.
    pub const COUNTS: usize = 5;

    /// The counts as a message.
    pub fn counts(self) -> [u32; Self::COUNTS] {
        let Self { all, at_most, less, equal_before, equal_text_tokens } = self;
        [all, at_most, less, equal_before, equal_text_tokens]
    }

    /// The counts of comparisons with several groups of logits.
    pub fn sum(parts: impl Iterator<Item = [u32; Self::COUNTS]>) -> Self {
        let sum =
            parts.fold([0; Self::COUNTS], |sum, part| std::array::from_fn(|at| sum[at] + part[at]));
        let [all, at_most, less, equal_before, equal_text_tokens] = sum;
        Self { all, at_most, less, equal_before, equal_text_tokens }
    }

    /// Compares more logits with the target logit `own`.
    fn add(&mut self, logits: &[f32], own: f32) {
        let (at_most, less) = logits.iter().fold((0, 0), |(at_most, less), &logit| {
            (at_most + u32::from(logit <= own), less + u32::from(logit < own))
        });
        self.all += logits.len() as u32;
        self.at_most += at_most;
        self.less += less;
    }

    /// Returns the rank.
    ///
    /// Logits that are not at most the target count as higher. If a model has diverged and logits are NaN, no document
    /// is therefore ranked first merely because no comparison succeeds.
    pub fn rank(self, ties: Ties) -> Rank {
        let higher = self.all - self.at_most;
        let before = match ties {
            Ties::Shared => 0,
            Ties::ById(_) => self.equal_before + self.equal_text_tokens,
        };
        let equal = self.at_most - self.less; // includes the target itself
        Rank { rank: 1 + higher + before, is_tied: equal > 1, is_nan: equal == 0 }
    }
}

/// Computes ranks on the CPU in one pass over each row.
fn ranks_on_host(
    docids: &Tensor<2>,
    text_tokens: impl Iterator<Item = Tensor<2>>,
    ties: Ties,
    relevant: &[&[u32]],
) -> Vec<Vec<Rank>> {
    let [_, documents] = docids.dims();
    let docids = HostTensor::of(docids.clone()).contiguous(); // [rows, documents]
    let docids = docids.values();
    let own: Vec<Vec<f32>> = relevant
        .iter()
        .enumerate()
        .map(|(row, relevant)| {
            relevant.iter().map(|&docid| docids[row * documents + docid as usize]).collect()
        })
        .collect();
    let mut found = compare_docids(docids, 0..documents, ties, relevant, &own);
    compare_text_tokens(&mut found, text_tokens, &own);
    found.into_iter().map(|row| row.into_iter().map(|found| found.rank(ties)).collect()).collect()
}

/// Compares the logits of the docids in `range`, `[rows, range]`, with those of the `relevant` docids of each row, which are
/// `own`, on the CPU.
pub(super) fn compare_docids(
    docids: &[f32],
    range: Range<usize>,
    ties: Ties,
    relevant: &[&[u32]],
    own: &[Vec<f32>],
) -> Vec<Vec<LogitComparison>> {
    let documents = range.len();
    relevant
        .par_iter()
        .zip(own)
        .enumerate()
        .map(|(row, (relevant, own))| {
            let logits = &docids[row * documents..][..documents];
            let compared = |(&docid, &own): (&u32, &f32)| {
                let mut found = LogitComparison::default();
                found.add(logits, own);
                let itself = u32::from(range.contains(&(docid as usize)));
                // Ties are rare: only rows with ties are compared a second time.
                if let Ties::ById(order) = ties
                    && found.at_most - found.less > itself
                {
                    let positions = order.positions();
                    let own_place = positions[docid as usize];
                    let equal = logits.iter().zip(&positions[range.clone()]);
                    let before =
                        equal.filter(|(logit, place)| **logit == own && **place < own_place);
                    found.equal_before = before.count() as u32;
                }
                found
            };
            relevant.iter().zip(own).map(compared).collect()
        })
        .collect()
}

/// Compares blocks of the logits of text tokens, `[rows, ..]` each, of any device, with the logits `own` of each row, on the
/// CPU.
pub(super) fn compare_text_tokens(
    found: &mut [Vec<LogitComparison>],
    text_tokens: impl Iterator<Item = Tensor<2>>,
    own: &[Vec<f32>],
) {
    for part in text_tokens {
        let [_, width] = part.dims();
        let part = HostTensor::read(part).contiguous(); // [rows, width]
        let part = part.values();
        found.par_iter_mut().zip(own).enumerate().for_each(|(row, (found, own))| {
            for (found, &own) in found.iter_mut().zip(own) {
                let equal = found.at_most - found.less;
                found.add(&part[row * width..][..width], own);
                found.equal_text_tokens += found.at_most - found.less - equal;
            }
        });
    }
}

/// Computes ranks with operations of the device: first for the first relevant docid of all rows, then for the second,
/// and so on.
fn ranks_on_device(
    docids: &Tensor<2>,
    text_tokens: impl Iterator<Item = Tensor<2>>,
    ties: Ties,
    relevant: &[&[u32]],
) -> Vec<Vec<Rank>> {
    let most = relevant.iter().map(|relevant| relevant.len()).max().unwrap_or(0);
    let [_, documents] = docids.dims();
    let order = match ties {
        Ties::Shared => None,
        Ties::ById(order) => {
            let places: Vec<i32> = order.positions().iter().map(|&place| place as i32).collect();
            let places = TensorData::new(places, [1, documents]);
            Some((order, Tensor::<2, Int>::from_data(places, &docids.device())))
        }
    };
    let targets: Vec<Tensor<2>> =
        (0..most).map(|place| target_logits(docids, relevant, place)).collect(); // each [rows, 1]
    let count = |compared: Tensor<2, Bool>| compared.int().sum_dim(1); // [rows, 1]
    // Counts of logits at most the target, less, equal docids before it, equal text tokens: each [rows, 1].
    let mut counts: Vec<[Tensor<2, Int>; 4]> = (0..most)
        .map(|place| {
            let target = &targets[place];
            let at_most = count(docids.clone().lower_equal(target.clone()));
            let less = count(docids.clone().lower(target.clone()));
            let before = match &order {
                None => less.zeros_like(),
                Some((order, places)) => {
                    let own: Vec<i32> = docids_at(relevant, place)
                        .map(|docid| order.positions()[docid as usize] as i32)
                        .collect();
                    let own = TensorData::new(own, [relevant.len(), 1]);
                    let own = Tensor::<2, Int>::from_data(own, &docids.device());
                    let before = places.clone().lower(own); // [rows, documents]
                    count(docids.clone().equal(target.clone()).bool_and(before))
                }
            };
            let equal_text_tokens = less.zeros_like();
            [at_most, less, before, equal_text_tokens]
        })
        .collect();
    let mut all = documents;
    for text_tokens in text_tokens {
        all += text_tokens.dims()[1];
        for (counts, target) in counts.iter_mut().zip(&targets) {
            let at_most = count(text_tokens.clone().lower_equal(target.clone()));
            let less = count(text_tokens.clone().lower(target.clone()));
            counts[3] = counts[3].clone() + at_most.clone() - less.clone();
            counts[0] = counts[0].clone() + at_most;
            counts[1] = counts[1].clone() + less;
        }
    }
    let mut ranks = vec![Vec::new(); relevant.len()];
    for (place, counts) in counts.into_iter().enumerate() {
        let counts = Tensor::cat(counts.to_vec(), 1).into_data(); // [rows, 4]
        let counts: Vec<u32> = counts.iter::<i64>().map(|count| count as u32).collect();
        for ((ranks, relevant), counts) in ranks.iter_mut().zip(relevant).zip(counts.chunks(4)) {
            if place < relevant.len() {
                let &[at_most, less, equal_before, equal_text_tokens] = counts else { continue };
                let all = all as u32;
                let found = LogitComparison { all, at_most, less, equal_before, equal_text_tokens };
                ranks.push(found.rank(ties));
            }
        }
    }
    ranks
}

/// Returns each row's relevant docid at index `place`; rows with fewer have docid 0 there, which is ignored.
fn docids_at<'a>(relevant: &'a [&[u32]], place: usize) -> impl Iterator<Item = u32> + 'a {
    relevant.iter().map(move |relevant| relevant.get(place).copied().unwrap_or(0))
}

/// Returns the logit of each row's relevant docid at index `place`, `[rows, 1]`.
fn target_logits(docids: &Tensor<2>, relevant: &[&[u32]], place: usize) -> Tensor<2> {
    let rows: Vec<i32> = docids_at(relevant, place).map(|docid| docid as i32).collect();
    let rows = TensorData::new(rows, [relevant.len(), 1]);
    docids.clone().gather(1, Tensor::<2, Int>::from_data(rows, &docids.device()))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::docid::DocidVocabulary;
    use crate::retrieval::run_files;
    use crate::retrieval::ties::DocidOrder;
    use crate::retrieval::top_k::top_documents;

    /// Two tensors of logits with many ties and some NaN: `[rows, documents]` and `[rows, text_tokens]`.
    fn scores(rows: usize, documents: usize, text_tokens: usize) -> [Tensor<2>; 2] {
        [documents, text_tokens].map(|width| {
            let value = |at: usize| match at * 7919 % 23 {
                22 => f32::NAN,
                21 => -0.0,
                value => (value % 6) as f32,
            };
            let values: Vec<f32> = (0..rows * width).map(value).collect();
            Tensor::from_data(TensorData::new(values, [rows, width]), &Device::flex())
        })
    }

    #[test]
    fn host_and_device_compute_the_same_ranks() {
        let ids: Vec<String> = (0..37).map(|row| format!("d{}", row * 31 % 40)).collect();
        let order = DocidOrder::new(&DocidVocabulary::new(&ids).unwrap());
        let [docids, text_tokens] = scores(5, 37, 50);
        let relevant: [&[u32]; 5] = [&[0, 1, 2, 3, 36], &[], &[5], &[30, 8], &[22, 21]];
        for ties in [Ties::Shared, Ties::ById(&order)] {
            for text_tokens in
                [vec![], vec![text_tokens.clone().slice([0..5, 0..20]), text_tokens.clone()]]
            {
                let host = ranks_on_host(&docids, text_tokens.iter().cloned(), ties, &relevant);
                let device = ranks_on_device(&docids, text_tokens.iter().cloned(), ties, &relevant);
                assert_eq!(host, device);
                let all: Vec<Rank> = host.into_iter().flatten().collect();
                assert!(all.iter().any(|rank| rank.is_tied));
                assert!(all.iter().any(|rank| rank.is_nan), "{all:?}");
            }
        }
    }

    #[test]
    fn counts_of_some_docids_each_add_up_to_the_ranks_among_all() {
        let ids: Vec<String> = (0..37).map(|row| format!("d{}", row * 31 % 40)).collect();
        let order = DocidOrder::new(&DocidVocabulary::new(&ids).unwrap());
        let [docids, text_tokens] = scores(5, 37, 50);
        let relevant: [&[u32]; 5] = [&[0, 1, 2, 3, 36], &[], &[5], &[30, 8], &[22, 21]];
        let ties = Ties::ById(&order);
        let text_tokens = || [text_tokens.clone()].into_iter();
        let expected = ranks_on_host(&docids, text_tokens(), ties, &relevant);
        assert!(expected.iter().flatten().any(|rank| rank.is_tied));
        let all: Vec<f32> = docids.clone().into_data().try_to_vec().unwrap();
        let own: Vec<Vec<f32>> = relevant
            .iter()
            .enumerate()
            .map(|(row, of)| of.iter().map(|&docid| all[row * 37 + docid as usize]).collect())
            .collect();
        let mut parts: Vec<Vec<Vec<LogitComparison>>> = [0..3, 3..20, 20..37]
            .into_iter()
            .map(|range| {
                let slice = docids.clone().slice([0..5, range.clone()]).into_data();
                let slice: Vec<f32> = slice.try_to_vec().unwrap();
                compare_docids(&slice, range, ties, &relevant, &own)
            })
            .collect();
        compare_text_tokens(&mut parts[1], text_tokens(), &own);
        for (row, expected) in expected.iter().enumerate() {
            for (at, expected) in expected.iter().enumerate() {
                let counts = parts.iter().map(|part| part[row][at].counts());
                let found = LogitComparison::sum(counts).rank(ties);
                assert_eq!(found, *expected, "row {row}, docid {}", relevant[row][at]);
            }
        }
    }

    /// A file in `tests/fixtures/metrics`.
    fn fixture(name: &str) -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metrics").join(name)
    }

    #[test]
    fn ranks_of_tied_documents_are_those_of_trec_eval() {
        let lines = run_files::read_run(&fixture("ties.trec")).unwrap();
        let text = std::fs::read_to_string(fixture("ties.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = expected["ranks"].as_object().unwrap();
        let (mut ties, mut checked) = (0, 0);
        for query in lines.chunk_by(|a, b| a.query == b.query) {
            let ids: Vec<&str> = query.iter().map(|line| line.document.as_str()).collect();
            let docids = DocidVocabulary::new(&ids).unwrap();
            let order = DocidOrder::new(&docids);
            let scores: Vec<f32> = query.iter().map(|line| line.score as f32).collect();
            let scores = TensorData::new(scores, [1, ids.len()]);
            let scores = Tensor::<2>::from_data(scores, &Device::flex());
            let all: Vec<u32> = (0..ids.len() as u32).collect();
            let order_of_ids = Ties::ById(&order);
            let none = || std::iter::empty();
            let found = ranks_on_host(&scores, none(), order_of_ids, &[&all]);
            assert_eq!(ranks_on_device(&scores, none(), order_of_ids, &[&all]), found);
            let best = top_documents(scores, &order, ids.len(), 1, 0);
            for (id, rank) in expected[&query[0].query].as_object().unwrap() {
                let row = docids.row(id).unwrap();
                let found = found[0][row as usize];
                assert_eq!(
                    u64::from(found.rank),
                    rank.as_u64().unwrap(),
                    "{} {id}",
                    query[0].query
                );
                assert_eq!(
                    best[0][found.rank as usize - 1].0,
                    row,
                    "the list is in the order of ranks"
                );
                ties += u32::from(found.is_tied);
                checked += 1;
            }
        }
        assert!(
            checked > 60 && ties > 50,
            "the fixture has too few ties: {ties} ties of {checked}"
        );
    }

    #[test]
    fn a_text_token_with_an_equal_logit_ranks_before_a_docid_but_not_by_the_papers_definition() {
        let order = DocidOrder::new(&DocidVocabulary::new(["a", "b", "c"]).unwrap());
        let tensor = |values: Vec<f32>| {
            let count = values.len();
            Tensor::<2>::from_data(TensorData::new(values, [1, count]), &Device::flex())
        };
        let (docids, text_tokens) = (tensor(vec![1.0, 1.0, 0.0]), tensor(vec![1.0, 1.0, 2.0, 0.0]));
        let ranks = |ties| {
            let text_tokens = [text_tokens.clone()].into_iter();
            let ranks = ranks_on_host(&docids, text_tokens, ties, &[&[0, 1, 2]]);
            ranks[0].iter().map(|found| found.rank).collect::<Vec<_>>()
        };
        // One text token is higher than a and b, and two are equal to them; of a and b, b comes first.
        assert_eq!(ranks(Ties::ById(&order)), [5, 4, 7]);
        assert_eq!(ranks(Ties::Shared), [2, 2, 6]);
    }

    #[test]
    fn ranks_are_positions_in_the_list_of_the_best() {
        let ids: Vec<String> = (0..37).map(|row| format!("d{}", row * 31 % 40)).collect();
        let order = DocidOrder::new(&DocidVocabulary::new(&ids).unwrap());
        let [docids, _] = scores(5, 37, 1);
        let all: Vec<u32> = (0..37).collect();
        let relevant: Vec<&[u32]> = vec![&all; 5];
        let ranks = ranks_on_host(&docids, std::iter::empty(), Ties::ById(&order), &relevant);
        for (ranks, best) in ranks.iter().zip(top_documents(docids, &order, 37, 5, 0)) {
            let nan = best.iter().filter(|(_, score)| score.is_nan()).count();
            assert!(nan > 0 && best[37 - nan..].iter().all(|(_, score)| score.is_nan()));
            for (place, (row, score)) in (1..).zip(best) {
                // NaN logits count as higher than all numbers.
                let expected = if score.is_nan() { 38 } else { place + nan as u32 };
                assert_eq!(ranks[row as usize].rank, expected, "{score}");
            }
        }
    }
}
