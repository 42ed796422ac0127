//! Ranks documents for queries: one pass of the model, ranks counted on the device, nothing kept.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::best::best_documents;
use super::ties::{DocidOrder, Ties};
use crate::choice::choice;
use crate::device::is_host;
use crate::ops::HostTensor;
use crate::prefix::Prefix;
use crate::t5::{GenirModel, NoTap, Pass, Tokens};

choice! {
    /// What a document competes with.
    Vocabulary {
        /// The docids alone: the default, since the model is asked for a document.
        Docids = "docids",
        /// Words and docids, as the paper's code does it: words that score higher take up places.
        All = "all",
    }
}

/// One text to rank documents for.
#[derive(Debug, Clone)]
pub struct Question {
    /// Tokens, ending in `</s>`.
    pub tokens: Vec<u32>,
    /// Docid rows of the relevant documents; may be empty.
    pub relevant: Vec<u32>,
}

/// What the model makes of one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// Where each relevant document is, in the order given.
    pub relevant: Vec<Rank>,
    /// The best documents, best first, with their logits: as many as were asked for. Equal logits are in
    /// [`DocidOrder`], NaN comes last.
    pub best: Vec<(u32, f32)>,
}

/// The rank of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// From 1: how many rank before it, and one.
    pub rank: u32,
    /// Whether another document or word that it competes with has exactly its logit.
    pub is_tied: bool,
    /// Whether its logit is NaN: it then ranks behind all others.
    pub is_nan: bool,
}

/// How to rank.
#[derive(Clone, Copy)]
pub struct RankOptions<'a> {
    /// How documents of equal score are ranked.
    pub order: &'a DocidOrder,
    /// What a document competes with. [`Ranking::best`] always lists documents only.
    pub vocabulary: Vocabulary,
    /// Documents in [`Ranking::best`].
    pub depth: usize,
    /// Questions at once.
    pub batch_size: usize,
    /// Padding token.
    pub pad_id: u32,
    /// What is stored of the model's frozen prefix: questions that are all in it are not encoded again.
    pub prefix: Option<&'a Prefix>,
}

impl<'a> RankOptions<'a> {
    /// Ranks among the docids, 128 questions at once, and lists no documents.
    pub fn new(order: &'a DocidOrder, pad_id: u32) -> Self {
        let vocabulary = Vocabulary::Docids;
        Self { order, vocabulary, depth: 0, batch_size: 128, pad_id, prefix: None }
    }
}

/// Ranks documents for all `questions` with a model off the autodiff graph, and hands each ranking to
/// `each` with its question's index. Questions come in order of length, so that little is padded.
///
/// Memory is bounded by one batch of logits. The first error of `each` ends the ranking.
pub fn rank<E>(
    model: &GenirModel,
    device: &Device,
    questions: &[Question],
    options: RankOptions,
    mut each: impl FnMut(usize, Ranking) -> Result<(), E>,
) -> Result<(), E> {
    let all = (0..questions.len()).collect();
    let length = |&index: &usize| questions[index].tokens.len();
    for batch in by_length(all, options.batch_size, length) {
        let batch_questions: Vec<&Question> =
            batch.iter().map(|&index| &questions[index]).collect();
        let rankings = rank_batch(model, device, &batch_questions, options);
        for (index, ranking) in batch.into_iter().zip(rankings) {
            each(index, ranking)?;
        }
    }
    Ok(())
}

/// `items` in batches of nearly equal `length`, so that little is padded.
pub(crate) fn by_length<T: Clone>(
    mut items: Vec<T>,
    batch_size: usize,
    length: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    items.sort_by_key(length);
    items.chunks(batch_size.max(1)).map(<[T]>::to_vec).collect()
}

fn rank_batch(
    model: &GenirModel,
    device: &Device,
    questions: &[&Question],
    options: RankOptions,
) -> Vec<Ranking> {
    let mut tap = NoTap;
    let mut pass = Pass::evaluate(&mut tap);
    let texts: Vec<&[u32]> = questions.iter().map(|asked| asked.tokens.as_slice()).collect();
    let output = match options.prefix.and_then(|prefix| prefix.of(&texts)) {
        Some(prefix) => prefix.output(&model.t5, &mut pass),
        None => {
            let tokens = Tokens::padded(&texts, options.pad_id, device);
            let states = model.t5.encode(&tokens, &mut pass);
            model.t5.decode_start(&states, &mut pass)
        }
    }; // [batch, d_model]
    let docids = model.docid_logits(output.clone()); // [batch, documents]
    let relevant: Vec<&[u32]> = questions.iter().map(|asked| asked.relevant.as_slice()).collect();
    let (vocabulary, ties) = (options.vocabulary, Ties::ById(options.order));
    let relevant = relevant_ranks(model, output, &docids, vocabulary, ties, &relevant);
    let best = best_documents(docids, options.order, options.depth, questions.len());
    relevant.into_iter().zip(best).map(|(relevant, best)| Ranking { relevant, best }).collect()
}

/// Logits of words that are held at once, in bytes: they are counted while they are in the processor's cache.
const WORD_LOGIT_BYTES: usize = 8 << 20;

/// Bytes that [`relevant_ranks`] needs at once for so many rows, the docids' logits among them.
pub(crate) fn ranked_bytes(
    words: usize,
    rows: usize,
    documents: usize,
    vocabulary: Vocabulary,
) -> usize {
    /// Bytes beside a logit that is compared: whether it is higher, and that as a number of 64 bits.
    const COMPARISON: usize = 1 + 8;
    let docids = rows * documents;
    let words = match vocabulary {
        Vocabulary::All => (rows * words).min(WORD_LOGIT_BYTES / size_of::<f32>()),
        Vocabulary::Docids => 0,
    };
    (docids + words) * size_of::<f32>() + docids.max(words) * COMPARISON
}

/// The ranks of some docids in each row, among docids or among words and docids, with equal scores counted as `ties`
/// says. From outputs of the decoder, `[rows, d_model]`, and the docids' logits, `[rows, documents]`.
pub(crate) fn relevant_ranks(
    model: &GenirModel,
    output: Tensor<2>,
    docids: &Tensor<2>,
    vocabulary: Vocabulary,
    ties: Ties,
    relevant: &[&[u32]],
) -> Vec<Vec<Rank>> {
    let at_once = (WORD_LOGIT_BYTES / size_of::<f32>() / relevant.len().max(1)).max(512);
    let words = (vocabulary == Vocabulary::All)
        .then(|| model.t5.text_logits_in_blocks(output, at_once))
        .into_iter()
        .flatten();
    if is_host(&docids.device()) {
        ranks_on_host(docids, words, ties, relevant)
    } else {
        ranks_on_device(docids, words, ties, relevant)
    }
}

/// How the logits of a row compare with the one whose rank is wanted.
#[derive(Debug, Clone, Copy, Default)]
struct Compared {
    /// Logits seen.
    all: u32,
    /// Of these, those that are at most the wanted one's, and those that are less.
    at_most: u32,
    less: u32,
    /// Of the docids that are equal, those that come before it in [`DocidOrder`].
    equal_before: u32,
    /// Words that are equal.
    equal_words: u32,
}

impl Compared {
    /// Compares more logits with the wanted one.
    fn add(&mut self, logits: &[f32], own: f32) {
        let (at_most, less) = logits.iter().fold((0, 0), |(at_most, less), &logit| {
            (at_most + u32::from(logit <= own), less + u32::from(logit < own))
        });
        self.all += logits.len() as u32;
        self.at_most += at_most;
        self.less += less;
    }

    /// The rank that follows.
    ///
    /// Higher are those that are not at most the wanted one's: where a model has broken down and logits are NaN,
    /// nothing is ranked first for want of a greater number.
    fn rank(self, ties: Ties) -> Rank {
        let higher = self.all - self.at_most;
        let before = match ties {
            Ties::Shared => 0,
            Ties::ById(_) => self.equal_before + self.equal_words,
        };
        let equal = self.at_most - self.less; // itself among them
        Rank { rank: 1 + higher + before, is_tied: equal > 1, is_nan: equal == 0 }
    }
}

/// Compares in one pass over each row.
fn ranks_on_host(
    docids: &Tensor<2>,
    words: impl Iterator<Item = Tensor<2>>,
    ties: Ties,
    relevant: &[&[u32]],
) -> Vec<Vec<Rank>> {
    let [_, documents] = docids.dims();
    let docids = HostTensor::of(docids.clone()).contiguous(); // [rows, documents]
    let docids = docids.values();
    let wanted = |row: usize, docid: u32| docids[row * documents + docid as usize];
    let mut found: Vec<Vec<Compared>> = relevant
        .par_iter()
        .enumerate()
        .map(|(row, relevant)| {
            let logits = &docids[row * documents..][..documents];
            let compared = |&docid: &u32| {
                let mut found = Compared::default();
                let own = logits[docid as usize];
                found.add(logits, own);
                // Ties are rare: what is compared once more are the rows that have them.
                if let Ties::ById(order) = ties
                    && found.at_most - found.less > 1
                {
                    let own_place = order.places()[docid as usize];
                    let equal = logits.iter().zip(order.places());
                    let before =
                        equal.filter(|(logit, place)| **logit == own && **place < own_place);
                    found.equal_before = before.count() as u32;
                }
                found
            };
            relevant.iter().map(compared).collect()
        })
        .collect();
    for part in words {
        let [_, width] = part.dims();
        let part = HostTensor::of(part).contiguous(); // [rows, width]
        let part = part.values();
        found.par_iter_mut().enumerate().for_each(|(row, found)| {
            for (found, &docid) in found.iter_mut().zip(relevant[row]) {
                let equal = found.at_most - found.less;
                found.add(&part[row * width..][..width], wanted(row, docid));
                found.equal_words += found.at_most - found.less - equal;
            }
        });
    }
    found.into_iter().map(|row| row.into_iter().map(|found| found.rank(ties)).collect()).collect()
}

/// Compares with operations of the device, for one place among the relevant docids of all rows after another.
fn ranks_on_device(
    docids: &Tensor<2>,
    words: impl Iterator<Item = Tensor<2>>,
    ties: Ties,
    relevant: &[&[u32]],
) -> Vec<Vec<Rank>> {
    let most = relevant.iter().map(|relevant| relevant.len()).max().unwrap_or(0);
    let [_, documents] = docids.dims();
    let order = match ties {
        Ties::Shared => None,
        Ties::ById(order) => {
            let places: Vec<i32> = order.places().iter().map(|&place| place as i32).collect();
            let places = TensorData::new(places, [1, documents]);
            Some((order, Tensor::<2, Int>::from_data(places, &docids.device())))
        }
    };
    let targets: Vec<Tensor<2>> =
        (0..most).map(|place| target_logits(docids, relevant, place)).collect(); // each [rows, 1]
    let count = |compared: Tensor<2, Bool>| compared.int().sum_dim(1); // [rows, 1]
    // At most, less, equal docids before, equal words: each [rows, 1].
    let mut counts: Vec<[Tensor<2, Int>; 4]> = (0..most)
        .map(|place| {
            let target = &targets[place];
            let at_most = count(docids.clone().lower_equal(target.clone()));
            let less = count(docids.clone().lower(target.clone()));
            let before = match &order {
                None => less.zeros_like(),
                Some((order, places)) => {
                    let own: Vec<i32> = of_place(relevant, place)
                        .map(|docid| order.places()[docid as usize] as i32)
                        .collect();
                    let own = TensorData::new(own, [relevant.len(), 1]);
                    let own = Tensor::<2, Int>::from_data(own, &docids.device());
                    let before = places.clone().lower(own); // [rows, documents]
                    count(docids.clone().equal(target.clone()).bool_and(before))
                }
            };
            let equal_words = less.zeros_like();
            [at_most, less, before, equal_words]
        })
        .collect();
    let mut all = documents;
    for words in words {
        all += words.dims()[1];
        for (counts, target) in counts.iter_mut().zip(&targets) {
            let at_most = count(words.clone().lower_equal(target.clone()));
            let less = count(words.clone().lower(target.clone()));
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
                let &[at_most, less, equal_before, equal_words] = counts else { continue };
                let all = all as u32;
                let found = Compared { all, at_most, less, equal_before, equal_words };
                ranks.push(found.rank(ties));
            }
        }
    }
    ranks
}

/// Each row's relevant docid at `place`; rows with fewer have docid 0 there, for nothing.
fn of_place<'a>(relevant: &'a [&[u32]], place: usize) -> impl Iterator<Item = u32> + 'a {
    relevant.iter().map(move |relevant| relevant.get(place).copied().unwrap_or(0))
}

/// The logit of each row's relevant docid at `place`, `[rows, 1]`.
fn target_logits(docids: &Tensor<2>, relevant: &[&[u32]], place: usize) -> Tensor<2> {
    let rows: Vec<i32> = of_place(relevant, place).map(|docid| docid as i32).collect();
    let rows = TensorData::new(rows, [relevant.len(), 1]);
    docids.clone().gather(1, Tensor::<2, Int>::from_data(rows, &docids.device()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docid::DocidVocabulary;
    use crate::retrieval::run_files;

    /// Two tensors of scores with many ties and some NaN: `[rows, documents]` and `[rows, words]`.
    fn scores(rows: usize, documents: usize, words: usize) -> [Tensor<2>; 2] {
        [documents, words].map(|width| {
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
    fn the_host_and_the_device_count_alike() {
        let ids: Vec<String> = (0..37).map(|row| format!("d{}", row * 31 % 40)).collect();
        let order = DocidOrder::of(&DocidVocabulary::new(&ids).unwrap());
        let [docids, words] = scores(5, 37, 50);
        let relevant: [&[u32]; 5] = [&[0, 1, 2, 3, 36], &[], &[5], &[30, 8], &[22, 21]];
        for ties in [Ties::Shared, Ties::ById(&order)] {
            for words in [vec![], vec![words.clone().slice([0..5, 0..20]), words.clone()]] {
                let host = ranks_on_host(&docids, words.iter().cloned(), ties, &relevant);
                let device = ranks_on_device(&docids, words.iter().cloned(), ties, &relevant);
                assert_eq!(host, device);
                let all: Vec<Rank> = host.into_iter().flatten().collect();
                assert!(all.iter().any(|rank| rank.is_tied));
                assert!(all.iter().any(|rank| rank.is_nan), "{all:?}");
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
            let order = DocidOrder::of(&docids);
            let scores: Vec<f32> = query.iter().map(|line| line.score as f32).collect();
            let scores = TensorData::new(scores, [1, ids.len()]);
            let scores = Tensor::<2>::from_data(scores, &Device::flex());
            let all: Vec<u32> = (0..ids.len() as u32).collect();
            let order_of_ids = Ties::ById(&order);
            let none = || std::iter::empty();
            let found = ranks_on_host(&scores, none(), order_of_ids, &[&all]);
            assert_eq!(ranks_on_device(&scores, none(), order_of_ids, &[&all]), found);
            let best = best_documents(scores, &order, ids.len(), 1);
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
        assert!(checked > 60 && ties > 50, "a test of nothing: {ties} ties of {checked}");
    }

    #[test]
    fn a_word_of_equal_score_counts_as_higher_and_the_papers_rank_counts_none() {
        let order = DocidOrder::of(&DocidVocabulary::new(["a", "b", "c"]).unwrap());
        let tensor = |values: Vec<f32>| {
            let count = values.len();
            Tensor::<2>::from_data(TensorData::new(values, [1, count]), &Device::flex())
        };
        let (docids, words) = (tensor(vec![1.0, 1.0, 0.0]), tensor(vec![1.0, 1.0, 2.0, 0.0]));
        let ranks = |ties| {
            let words = [words.clone()].into_iter();
            let ranks = ranks_on_host(&docids, words, ties, &[&[0, 1, 2]]);
            ranks[0].iter().map(|found| found.rank).collect::<Vec<_>>()
        };
        // One word is higher than a and b and two are their equals; of these two, b comes first.
        assert_eq!(ranks(Ties::ById(&order)), [5, 4, 7]);
        assert_eq!(ranks(Ties::Shared), [2, 2, 6]);
    }

    #[test]
    fn ranks_are_places_in_the_list_of_the_best() {
        let ids: Vec<String> = (0..37).map(|row| format!("d{}", row * 31 % 40)).collect();
        let order = DocidOrder::of(&DocidVocabulary::new(&ids).unwrap());
        let [docids, _] = scores(5, 37, 1);
        let all: Vec<u32> = (0..37).collect();
        let relevant: Vec<&[u32]> = vec![&all; 5];
        let ranks = ranks_on_host(&docids, std::iter::empty(), Ties::ById(&order), &relevant);
        for (ranks, best) in ranks.iter().zip(best_documents(docids, &order, 37, 5)) {
            let nan = best.iter().filter(|(_, score)| score.is_nan()).count();
            assert!(nan > 0 && best[37 - nan..].iter().all(|(_, score)| score.is_nan()));
            for (place, (row, score)) in (1..).zip(best) {
                // What is NaN counts as higher than all that is a number.
                let expected = if score.is_nan() { 38 } else { place + nan as u32 };
                assert_eq!(ranks[row as usize].rank, expected, "{score}");
            }
        }
    }
}
