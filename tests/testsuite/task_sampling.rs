//! Examples are mixed in exact proportions, in an order that depends only on seed and position.

use std::collections::HashSet;

use genir::corpus::{Corpus, Document, Judgement, Query};
use genir::docid::TextTokenizer;
use genir::task::{
    Encoding, Epochs, Examples, Mixture, Sampler, Task, TaskError, TaskOptions, collate,
};

use crate::small_tokenizer;

/// A text of `count` words.
fn words(count: usize) -> String {
    small_tokenizer::WORDS[..5].iter().cycle().take(count).copied().collect::<Vec<_>>().join(" ")
}

/// `documents` documents of 1 to 40 words and `queries` queries of 1 to 9, the last of them for two documents.
fn corpus(documents: usize, queries: usize) -> Corpus {
    let query = |number: usize| Query {
        id: format!("q{number}"),
        text: words(number % 9 + 1),
        relevant: (0..if number + 1 == queries { 2 } else { 1 })
            .map(|more| Judgement { document: ((number + more) % documents) as u32, grade: 1 })
            .collect(),
    };
    Corpus {
        documents: (0..documents)
            .map(|number| Document {
                id: format!("d{number}"),
                texts: vec![words(number % 40 + 1)],
            })
            .collect(),
        train: (0..queries).map(query).collect(),
        ..Corpus::default()
    }
}

fn tokenizer() -> TextTokenizer {
    let directory = tempfile::tempdir().expect("a directory");
    small_tokenizer::write(directory.path(), &[]);
    TextTokenizer::load(directory.path()).expect("a tokenizer").tokenizer
}

fn options(tasks: &[Task], ratio: Option<f64>) -> TaskOptions {
    TaskOptions { tasks: tasks.to_vec(), ratio, ..TaskOptions::default() }
}

const BOTH: [Task; 2] = [Task::Indexing, Task::Retrieval];

fn build(corpus: &Corpus, options: &TaskOptions) -> Examples {
    Examples::build(corpus, &tokenizer(), options, &HashSet::new()).expect("examples")
}

fn per_epoch(examples: &Examples, ratio: Option<f64>) -> (u64, u64) {
    let mixture = Mixture::new(examples, &options(&BOTH, ratio)).expect("a mixture");
    (mixture.share(Task::Indexing).per_epoch, mixture.share(Task::Retrieval).per_epoch)
}

#[test]
fn every_document_and_every_judged_pair_is_an_example() {
    let mut corpus = corpus(3, 2);
    corpus.generated.push(Query { id: "generated-1".to_owned(), ..corpus.train[0].clone() });
    let options = TaskOptions {
        encoding: Encoding {
            document_tokens: 2,
            retrieval_prefix: "to: ".to_owned(),
            ..Encoding::default()
        },
        ..options(&BOTH, None)
    };
    let examples = build(&corpus, &options);
    let all: Vec<(String, u32, Vec<u32>)> = (0..examples.len())
        .map(|i| (examples.source_id(i), examples.target(i), examples.tokens(i).to_vec()))
        .collect();
    let expected = [
        ("doc:d0", 0, vec![3, 1]),
        ("doc:d1", 1, vec![3, 1]),
        ("doc:d2", 2, vec![3, 1]),
        ("query:q0", 0, vec![8, 3, 1]),
        ("query:q1", 1, vec![8, 3, 4, 1]),
        ("query:q1", 2, vec![8, 3, 4, 1]),
        ("query:generated-1", 0, vec![8, 3, 1]),
    ];
    assert_eq!(all, expected.map(|(id, row, tokens)| (id.to_owned(), row, tokens)));
    assert_eq!((examples.task(2), examples.task(3)), (Task::Indexing, Task::Retrieval));
    assert_eq!(examples.count(Task::Retrieval), 4);
}

#[test]
fn each_text_of_a_document_gives_an_example_and_a_document_without_text_gives_none() {
    let mut corpus = corpus(3, 2);
    corpus.documents[0].texts = vec![words(1), words(2), words(3)];
    corpus.documents[1].texts.clear();
    let examples = build(&corpus, &options(&BOTH, None));
    let all: Vec<(String, u32, usize)> = (0..examples.count(Task::Indexing))
        .map(|i| (examples.source_id(i), examples.target(i), examples.tokens(i).len()))
        .collect();
    let expected = [("doc:d0", 0, 2), ("doc:d0", 0, 3), ("doc:d0", 0, 4), ("doc:d2", 2, 4)];
    assert_eq!(all, expected.map(|(id, row, tokens)| (id.to_owned(), row, tokens)));
    // Queries of the document without text are still trained.
    assert_eq!(examples.target(5), 1);
    assert_eq!(examples.count(Task::Retrieval), 3);
}

#[test]
fn documents_of_the_same_tokens_are_found() {
    let mut corpus = corpus(9, 2);
    assert!(build(&corpus, &options(&BOTH, None)).duplicate_documents().is_empty());
    // The second text of one document equals the text of another.
    corpus.documents[7].texts = vec![words(35), words(2)];
    corpus.documents[4].texts = vec![words(9)];
    corpus.documents[5].texts = vec![words(8), words(9)];
    let examples = build(&corpus, &options(&BOTH, None));
    assert_eq!(examples.duplicate_documents(), [vec![1, 7], vec![4, 5, 8]]);
    // Truncated tokens do not distinguish documents, and a document that is left out gives no example.
    let encoding = Encoding { document_tokens: 4, ..Encoding::default() };
    let short = TaskOptions { encoding, ..options(&BOTH, None) };
    let examples = Examples::build(&corpus, &tokenizer(), &short, &HashSet::from([8]));
    assert_eq!(
        examples.expect("examples").duplicate_documents(),
        [vec![1, 7], vec![2, 3, 4, 5, 6, 7]]
    );
    // Without indexing, there are no document texts to compare.
    assert!(build(&corpus, &options(&[Task::Retrieval], None)).duplicate_documents().is_empty());
}

#[test]
fn documents_left_out_give_no_example_of_either_task_and_keep_their_row() {
    let corpus = corpus(3, 2);
    let left_out = HashSet::from([1]);
    let examples =
        Examples::build(&corpus, &tokenizer(), &options(&BOTH, None), &left_out).expect("examples");
    let targets: Vec<u32> = (0..examples.len()).map(|i| examples.target(i)).collect();
    assert_eq!(targets, [0, 2, 0, 2]);
    assert_eq!(examples.left_out(), 2);
}

#[test]
fn the_mixture_is_exact() {
    let examples = build(&corpus(10, 29), &options(&BOTH, None));
    assert_eq!((examples.count(Task::Indexing), examples.count(Task::Retrieval)), (10, 30));
    assert_eq!(per_epoch(&examples, None), (10, 30));
    assert_eq!(per_epoch(&examples, Some(32.0)), (960, 30));
    assert_eq!(per_epoch(&examples, Some(0.55)), (17, 30));
    assert_eq!(per_epoch(&examples, Some(1.0 / 3.0)), (10, 30));
    assert_eq!(per_epoch(&examples, Some(0.3)), (10, 33));
    assert_eq!(per_epoch(&examples, Some(0.01)), (10, 1000));
    let mixture = Mixture::new(&examples, &options(&BOTH, Some(0.55))).expect("a mixture");
    assert_eq!(
        mixture.to_string(),
        "an epoch is 47 examples: 17 indexing (each of 10: 1x or 2x), \
         30 retrieval (each of 30: 1x); ratio 0.55"
    );
}

#[test]
fn an_impossible_mixture_is_refused() {
    let refused = |corpus: &Corpus, options: &TaskOptions| {
        Mixture::new(&build(corpus, options), options).expect_err("refused")
    };
    let both = options(&BOTH, Some(32.0));
    assert!(matches!(refused(&corpus(3, 0), &both), TaskError::NoTrainingQueries { .. }));
    assert!(matches!(
        refused(&corpus(3, 2), &options(&[Task::Indexing], Some(2.0))),
        TaskError::RatioOfOne { .. }
    ));
    for ratio in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = refused(&corpus(3, 2), &options(&BOTH, Some(ratio)));
        assert!(matches!(error, TaskError::Ratio { .. }), "{error}");
    }
    assert!(matches!(
        refused(&corpus(3, 2), &options(&BOTH, Some(1e12))),
        TaskError::TooMany { .. }
    ));
    let none = Examples::build(&corpus(3, 2), &tokenizer(), &options(&[], None), &HashSet::new());
    assert!(matches!(none, Err(TaskError::NoTask)));

    let left_out = HashSet::from([0, 1, 2]);
    let examples =
        Examples::build(&corpus(3, 2), &tokenizer(), &both, &left_out).expect("examples");
    assert!(matches!(Mixture::new(&examples, &both), Err(TaskError::NoDocuments)));
}

/// Epochs of a mixture, and their sampler.
fn sampler(
    examples: &Examples,
    mixture: &Mixture,
    [batch_size, accumulate]: [usize; 2],
    seed: u64,
) -> (Epochs, Sampler) {
    let epochs = Epochs::new(mixture.per_epoch(), batch_size, accumulate).expect("epochs");
    (epochs, Sampler::new(examples, mixture, epochs, seed))
}

fn batches(sampler: &mut Sampler, update: u64) -> Vec<Vec<u32>> {
    sampler.batches(update).map(<[u32]>::to_vec).collect()
}

#[test]
fn an_epoch_has_every_example_as_often_as_the_mixture_says() {
    let corpus = corpus(70, 50);
    for (tasks, ratio) in [
        (BOTH.as_slice(), Some(32.0)),
        (&BOTH, Some(0.3)),
        (&BOTH, None),
        (&[Task::Indexing], None),
        (&[Task::Retrieval], None),
    ] {
        let options = options(tasks, ratio);
        let examples = build(&corpus, &options);
        let mixture = Mixture::new(&examples, &options).expect("a mixture");
        for sizes in [[8, 1], [3, 8], [7, 100]] {
            let (epochs, mut sampler) = sampler(&examples, &mixture, sizes, 3);
            for epoch in 0..3 {
                let mut seen = vec![0_u64; examples.len()];
                for update in 0..epochs.updates() {
                    let batches = batches(&mut sampler, epoch * epochs.updates() + update);
                    let (last, whole) = batches.split_last().expect("a batch");
                    assert!(whole.iter().all(|batch| batch.len() == sizes[0]));
                    let is_whole = [batches.len(), last.len()] == [sizes[1], sizes[0]];
                    assert!(is_whole || update + 1 == epochs.updates(), "{sizes:?}");
                    batches.iter().flatten().for_each(|&index| seen[index as usize] += 1);
                }
                for task in BOTH {
                    let share = mixture.share(task);
                    let counts: Vec<u64> = (0..examples.len())
                        .filter(|&index| examples.task(index) == task)
                        .map(|index| seen[index])
                        .collect();
                    assert_eq!(counts.iter().sum::<u64>(), share.per_epoch, "{sizes:?}");
                    if let Some(floor) = share.per_epoch.checked_div(share.examples) {
                        let ceil = share.per_epoch.div_ceil(share.examples);
                        assert!(counts.iter().all(|&count| count == floor || count == ceil));
                    }
                }
            }
        }
    }
}

#[test]
fn a_batch_depends_only_on_seed_and_position() {
    let options = options(&BOTH, Some(2.0));
    let examples = build(&corpus(70, 50), &options);
    let mixture = Mixture::new(&examples, &options).expect("a mixture");
    for sizes in [[8, 1], [3, 4]] {
        let of = |seed, update| batches(&mut sampler(&examples, &mixture, sizes, seed).1, update);
        let (epochs, mut stepped) = sampler(&examples, &mixture, sizes, 3);
        let all: Vec<Vec<Vec<u32>>> =
            (0..3 * epochs.updates()).map(|update| batches(&mut stepped, update)).collect();
        for (update, batches) in all.iter().enumerate() {
            assert_eq!(&of(3, update as u64), batches);
        }
        // An earlier epoch after a later one.
        assert_eq!(batches(&mut stepped, 1), all[1]);
        assert_ne!(of(4, 0), all[0]);
        let next_epoch = epochs.updates() as usize;
        assert_ne!(all[..next_epoch], all[next_epoch..2 * next_epoch]);
    }
}

#[test]
fn an_update_has_the_same_examples_for_any_division_into_batches() {
    let options = options(&BOTH, Some(2.0));
    let examples = build(&corpus(300, 100), &options);
    let mixture = Mixture::new(&examples, &options).expect("a mixture");
    let (epochs, mut whole) = sampler(&examples, &mixture, [32, 1], 3);
    let (cut_epochs, mut cut) = sampler(&examples, &mixture, [8, 4], 3);
    assert_eq!(epochs.updates(), cut_epochs.updates());
    for update in 0..2 * epochs.updates() {
        assert_eq!(whole.update(update), cut.update(update));
        assert_eq!(batches(&mut cut, update).concat(), whole.update(update));
    }
}

#[test]
fn batches_have_texts_of_similar_length() {
    let options = options(&[Task::Indexing], None);
    let examples = build(&corpus(1280, 0), &options);
    let mixture = Mixture::new(&examples, &options).expect("a mixture");
    let (epochs, mut sampler) = sampler(&examples, &mixture, [16, 1], 3);
    let (mut padded, mut tokens) = (0, 0);
    let mut lengths = Vec::new();
    for update in 0..epochs.updates() {
        let batch = collate(&examples, sampler.update(update), 0, 1);
        padded += batch.ids.len();
        tokens += batch.lengths.iter().sum::<u32>() as usize;
        lengths.push(batch.length);
    }
    assert!(padded as f64 / (tokens as f64) < 1.12, "{padded} for {tokens}");
    // Batches must not be in the order of their lengths.
    assert!(!lengths[..16].is_sorted());
}

#[test]
fn a_batch_is_padded_to_its_longest_example_or_a_multiple() {
    let examples = build(&corpus(5, 0), &options(&[Task::Indexing], None));
    let batch = collate(&examples, &[0, 3], 0, 1);
    assert_eq!(batch.ids, [3, 1, 0, 0, 0, 3, 4, 5, 6, 1]);
    assert_eq!((batch.length, batch.size()), (5, 2));
    assert_eq!(
        (batch.lengths, batch.targets, batch.examples),
        (vec![2, 5], vec![0, 3], vec![0, 3])
    );
    let rounded = collate(&examples, &[0, 3], 7, 8);
    assert_eq!(rounded.length, 8);
    assert_eq!(rounded.ids[5..10], [7, 7, 7, 3, 4]);
    assert_eq!(collate(&examples, &[3], 0, 5).length, 5);
}

#[test]
fn a_batch_without_examples_and_an_update_without_batches_are_refused() {
    assert!(matches!(Epochs::new(5, 0, 1), Err(TaskError::BatchSize)));
    assert!(matches!(Epochs::new(5, 1, 0), Err(TaskError::Accumulate)));
}
