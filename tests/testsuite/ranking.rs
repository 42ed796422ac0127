//! Ranks are those of a full sort; mean metrics of an evaluation agree with its run file.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::sync::LazyLock;

use burn::tensor::{Device, Tensor, TensorData};
use genir::corpus::{Corpus, Document, Judgement, Query};
use genir::docid::{DocidVocabulary, EncodeOptions, TextTokenizer};
use genir::retrieval::evaluation::{EvaluationResult, QuerySet, ScoreDiagnostics, evaluate};
use genir::retrieval::ranking::{EncodedQuery, Rank, RankOptions, Ranking, rank};
use genir::retrieval::run_files::{RunWriter, read_qrels, read_run, write_qrels};
use genir::retrieval::{CandidateSet, DocidOrder, JudgedRanks, MetricSums, Metrics};
use genir::t5::{GenirModel, NoTap, Pass, Tokens, weights};

use crate::small_models;
use crate::small_tokenizer;

const DOCUMENTS: usize = 50;

/// Returns a model whose docid rows, `[documents, d_model]` in row-major order, were modified by `change`.
fn model(documents: usize, change: impl FnOnce(&mut Vec<f32>, usize)) -> GenirModel {
    let device = Device::flex();
    let t5 = small_models::model(false, false, &device);
    let width = t5.config().d_model;
    let mut rows = weights::random_rows(t5.config(), 0..documents, 9);
    change(&mut rows, width);
    GenirModel { t5, docids: weights::docids_from(rows, width, &device) }
}

fn plain_model() -> GenirModel {
    model(DOCUMENTS, |_, _| {})
}

#[test]
fn logits_of_some_docid_rows_are_those_of_all_rows_to_the_bit() {
    // Products of a row with few others, and of many rows with many, are computed by other inner loops.
    let (documents, task) = (1000, 63);
    let device = Device::flex();
    let whole = model(documents, |_, _| {});
    let width = whole.t5.config().d_model;
    let rows = weights::random_rows(whole.t5.config(), 0..documents, 9);
    for batch in [1, 3, 128] {
        let output = (0..batch * width).map(|at| (at as f32).sin()).collect();
        let output = Tensor::<2>::from_data(TensorData::new(output, [batch, width]), &device);
        let all = whole.docid_logits_in_blocks(output.clone(), task);
        for own in [0..4 * task, 4 * task..8 * task, 12 * task..documents] {
            let rows = rows[own.start * width..own.end * width].to_vec();
            let docids = weights::docids_from(rows, width, &device);
            let part = GenirModel { t5: whole.t5.clone(), docids };
            let found = part.docid_logits_in_blocks(output.clone(), task).into_data();
            let expected = all.clone().slice([0..batch, own.clone()]).into_data();
            assert_eq!(found, expected, "{batch} queries, rows {own:?}");
        }
    }
}

/// Returns queries of 1 to 7 tokens with 0 to 3 relevant documents.
fn queries() -> Vec<EncodedQuery> {
    (0..40_u32)
        .map(|at| EncodedQuery {
            tokens: (0..at % 7).map(|place| (at * 5 + place * 3) % 20 + 3).chain([1]).collect(),
            relevant: (0..at % 4).map(|more| (at * 11 + more * 17) % DOCUMENTS as u32).collect(),
        })
        .collect()
}

fn options(candidates: CandidateSet, depth: usize, batch_size: usize) -> RankOptions<'static> {
    static ORDER: LazyLock<DocidOrder> = LazyLock::new(|| {
        let ids = (0..DOCUMENTS).map(|row| format!("d{row}"));
        DocidOrder::new(&DocidVocabulary::new(ids).expect("docids"))
    });
    RankOptions { order: &ORDER, candidates, depth, batch_size, pad_id: 0, prefix: None }
}

fn ranks(ranking: &Ranking) -> Vec<u32> {
    ranking.relevant.iter().map(|found| found.rank).collect()
}

/// Returns all rankings in the order of the queries; checks that each occurs once.
fn rankings(model: &GenirModel, queries: &[EncodedQuery], options: RankOptions) -> Vec<Ranking> {
    let mut found = BTreeMap::new();
    let done = rank(model, &Device::flex(), queries, options, |index, ranking| {
        assert!(found.insert(index, ranking).is_none(), "query {index} came twice");
        Ok::<(), Infallible>(())
    });
    let Ok(()) = done;
    assert!(found.keys().copied().eq(0..queries.len()));
    found.into_values().collect()
}

/// Returns the logits of docids and of text tokens for a single query, which is not padded.
fn logits(model: &GenirModel, query: &EncodedQuery) -> (Vec<f32>, Vec<f32>) {
    let ids: Vec<i32> = query.tokens.iter().map(|&token| token as i32).collect();
    let tokens = Tokens::new(&ids, &[ids.len() as u32], &Device::flex());
    let mut tap = NoTap;
    let mut pass = Pass::evaluate(&mut tap);
    let states = model.t5.encode(&tokens, &mut pass);
    let logits = model.logits(model.t5.decode_start(&states, &mut pass));
    let values = |tensor: Tensor<2>| tensor.into_data().try_to_vec().expect("logits in f32");
    (values(logits.docids), values(logits.text))
}

fn assert_close(found: f32, expected: f32, what: &str) {
    assert!((found - expected).abs() < 1e-4, "{what}: {found}, expected {expected}");
}

#[test]
fn ranks_are_those_of_a_full_sort() {
    let model = plain_model();
    let queries = queries();
    for candidates in [CandidateSet::Docids, CandidateSet::All] {
        let found = rankings(&model, &queries, options(candidates, 10, 16));
        for (index, (query, ranking)) in queries.iter().zip(&found).enumerate() {
            let what = format!("{candidates}, query {index}");
            let (docids, words) = logits(&model, query);
            let mut sorted: Vec<f32> = match candidates {
                CandidateSet::Docids => docids.clone(),
                CandidateSet::All => docids.iter().chain(&words).copied().collect(),
            };
            sorted.sort_by(|a, b| b.total_cmp(a));
            let expected: Vec<u32> = query
                .relevant
                .iter()
                .map(|&row| {
                    let target = docids[row as usize];
                    1 + sorted.iter().position(|&logit| logit == target).unwrap() as u32
                })
                .collect();
            assert_eq!(ranks(ranking), expected, "{what}");

            let mut documents: Vec<u32> = (0..DOCUMENTS as u32).collect();
            documents.sort_by(|&a, &b| docids[b as usize].total_cmp(&docids[a as usize]));
            assert_eq!(ranking.best.len(), 10, "{what}");
            for (&(document, score), expected) in ranking.best.iter().zip(documents) {
                assert_eq!(document, expected, "{what}");
                assert_close(score, docids[document as usize], &what);
            }
        }
    }
    let by = |candidates| {
        let found = rankings(&model, &queries, options(candidates, 0, 16));
        found.iter().map(ranks).collect::<Vec<_>>()
    };
    assert_ne!(by(CandidateSet::Docids), by(CandidateSet::All), "no word scored above a document");
}

#[test]
fn the_batch_size_changes_no_rank() {
    let model = plain_model();
    let queries = queries();
    for candidates in [CandidateSet::Docids, CandidateSet::All] {
        let one_by_one = rankings(&model, &queries, options(candidates, 10, 1));
        // 0 is treated as 1.
        for batch_size in [0, 3, 100] {
            let found = rankings(&model, &queries, options(candidates, 10, batch_size));
            for (index, (found, expected)) in found.iter().zip(&one_by_one).enumerate() {
                let what = format!("{candidates}, batch size {batch_size}, query {index}");
                assert_eq!(found.relevant, expected.relevant, "{what}");
                for (found, expected) in found.best.iter().zip(&expected.best) {
                    assert_eq!(found.0, expected.0, "{what}");
                    assert_close(found.1, expected.1, &what);
                }
            }
        }
    }
}

#[test]
fn at_most_all_documents_are_listed() {
    let model = plain_model();
    let queries = queries();
    for (depth, expected) in [(0, 0), (1, 1), (49, 49), (50, 50), (51, 50), (1000, 50)] {
        for ranking in rankings(&model, &queries, options(CandidateSet::Docids, depth, 16)) {
            assert_eq!(ranking.best.len(), expected);
            let documents: HashSet<u32> = ranking.best.iter().map(|&(row, _)| row).collect();
            assert_eq!(documents.len(), expected);
            assert!(ranking.best.is_sorted_by(|a, b| a.1 >= b.1));
        }
    }
}

#[test]
fn a_query_without_relevant_documents_has_no_ranks() {
    let model = plain_model();
    let query =
        |relevant: &[u32]| EncodedQuery { tokens: vec![4, 5, 1], relevant: relevant.into() };
    let queries = [query(&[]), query(&[7, 3]), query(&[])];
    let found = rankings(&model, &queries, options(CandidateSet::Docids, 5, 16));
    assert_eq!([0, 2, 0], [0, 1, 2].map(|index: usize| found[index].relevant.len()));
    assert_eq!(found[0].best.len(), 5);
    assert!(rankings(&model, &[], options(CandidateSet::Docids, 5, 16)).is_empty());
}

#[test]
fn tied_documents_are_ranked_and_listed_by_descending_ids() {
    // Documents 8 to 15 have the row of 8.
    let model = model(DOCUMENTS, |rows, width| {
        let row = rows[8 * width..9 * width].to_vec();
        rows[8 * width..16 * width].chunks_mut(width).for_each(|tied| tied.copy_from_slice(&row));
    });
    // As strings: d9 is the last, d10 the first.
    let tied = [9, 8, 15, 14, 13, 12, 11, 10];
    let queries: Vec<EncodedQuery> = queries()
        .into_iter()
        .map(|q| EncodedQuery { relevant: tied.into_iter().chain([3]).collect(), ..q })
        .collect();
    for ranking in rankings(&model, &queries, options(CandidateSet::Docids, DOCUMENTS, 16)) {
        let (other, ranks) = (ranking.relevant[8], &ranks(&ranking)[..8]);
        assert_eq!(ranks, (ranks[0]..ranks[0] + 8).collect::<Vec<_>>());
        let places = ranking.best[ranks[0] as usize - 1..].iter().take(8).map(|&(row, _)| row);
        assert!(places.eq(tied));
        assert!(ranking.relevant[..8].iter().all(|found| found.is_tied) && !other.is_tied);
    }
}

#[test]
fn a_constant_scorer_ranks_documents_by_id_only() {
    let model = model(DOCUMENTS, |rows, _| rows.fill(0.0));
    let queries = queries();
    let mut ids: Vec<String> = (0..DOCUMENTS).map(|row| format!("d{row}")).collect();
    ids.sort_by(|a, b| b.cmp(a));
    let rank = |row: &u32| 1 + ids.iter().position(|id| *id == format!("d{row}")).unwrap() as u32;
    for candidates in [CandidateSet::Docids, CandidateSet::All] {
        let found = rankings(&model, &queries, options(candidates, 3, 16));
        for (ranking, query) in found.iter().zip(&queries) {
            // Text tokens with the same score come before all docids.
            let words = logits(&model, query).1.into_iter().filter(|&logit| logit >= 0.0);
            let words = if candidates == CandidateSet::All { words.count() as u32 } else { 0 };
            let expected: Vec<u32> = query.relevant.iter().map(|row| words + rank(row)).collect();
            assert_eq!(ranks(ranking), expected);
            assert_eq!(ranking.best, [(9, 0.0), (8, 0.0), (7, 0.0)]);
        }
    }
}

#[test]
fn a_diverged_model_ranks_no_document_first_and_lists_nan_last() {
    let broken = model(DOCUMENTS, |rows, _| rows.fill(f32::NAN));
    let queries = queries();
    for candidates in [CandidateSet::Docids, CandidateSet::All] {
        for ranking in rankings(&broken, &queries, options(candidates, 3, 16)) {
            let last = |found: &Rank| found.is_nan && found.rank > DOCUMENTS as u32;
            assert!(ranking.relevant.iter().all(last), "{ranking:?}");
        }
    }
    // NaN for one document only: it is listed last, and counts as ranked before all others.
    let one = model(DOCUMENTS, |rows, width| rows[5 * width..6 * width].fill(f32::NAN));
    for ranking in rankings(&one, &queries, options(CandidateSet::Docids, DOCUMENTS, 16)) {
        assert_eq!(ranking.best[DOCUMENTS - 1].0, 5);
        assert!(ranking.best[..DOCUMENTS - 1].iter().all(|(_, score)| score.is_finite()));
        assert!(ranking.relevant.iter().all(|found| found.rank > 1));
    }
}

#[test]
fn the_first_error_ends_the_ranking() {
    let mut calls = 0;
    let options = options(CandidateSet::Docids, 1, 3);
    let result = rank(&plain_model(), &Device::flex(), &queries(), options, |_, _| {
        calls += 1;
        if calls == 5 { Err("stop") } else { Ok(()) }
    });
    assert_eq!((result, calls), (Err("stop"), 5));
}

/// Documents `d0`..`d7`; 0-3 have training queries, 5 a generated one, 4, 6 and 7 none.
fn corpus() -> Corpus {
    let words = small_tokenizer::WORDS;
    let text = |at: usize| {
        let word = |digit: usize| words[at / 5_usize.pow(digit as u32) % 5];
        format!("{} {} {}", word(0), word(1), word(2))
    };
    let query = |id: String, at: usize, relevant: &[(u32, u32)]| Query {
        id,
        text: text(at),
        relevant: relevant.iter().map(|&(document, grade)| Judgement { document, grade }).collect(),
    };
    let train = |document: u32| query(format!("t{document}"), document as usize, &[(document, 1)]);
    let judged: [&[(u32, u32)]; 12] = [
        &[(0, 1)],
        &[(1, 1)],
        &[(2, 2), (4, 1)],
        &[(4, 1)],
        &[(5, 3)],
        &[(6, 1)],
        &[(6, 1), (7, 2), (4, 3)],
        &[(1, 2), (6, 1)],
        &[(3, 1), (1, 1), (0, 2)],
        &[(7, 1)],
        &[(2, 1)],
        &[(5, 1), (1, 1)],
    ];
    Corpus {
        documents: (0..8)
            .map(|at| Document { id: format!("d{at}"), texts: vec![text(60 + at)] })
            .collect(),
        train: (0..4).map(train).collect(),
        validation: judged
            .iter()
            .enumerate()
            .map(|(at, relevant)| query(format!("v{at}"), 13 + at * 7, relevant))
            .collect(),
        test: Vec::new(),
        generated: vec![query("g5".to_owned(), 11, &[(5, 1)])],
    }
}

fn tokenizer() -> TextTokenizer {
    let directory = tempfile::tempdir().expect("a directory");
    small_tokenizer::write(directory.path(), &[]);
    TextTokenizer::load(directory.path()).expect("a tokenizer").tokenizer
}

const ENCODING: EncodeOptions =
    EncodeOptions { max_tokens: 32, prefix: String::new(), lowercase: false };

fn validation(corpus: &Corpus, left_out: &[u32]) -> QuerySet {
    let left_out = left_out.iter().copied().collect();
    let with = (&tokenizer(), &ENCODING);
    QuerySet::of_queries("validation", corpus, &corpus.validation, &left_out, None, 1, with)
        .expect("encoded")
}

fn measure(set: &QuerySet, candidates: CandidateSet) -> EvaluationResult {
    evaluate(&model(8, |_, _| {}), &Device::flex(), set, options(candidates, 8, 5), None)
        .expect("evaluated")
}

/// Returns the means over the queries for which `counts` is true, computed separately from the ranks.
fn by_hand(set: &QuerySet, corpus: &Corpus, counts: impl Fn(usize) -> bool) -> Option<Metrics> {
    let found = rankings(&model(8, |_, _| {}), &set.queries, options(CandidateSet::Docids, 0, 1));
    let mut sums = MetricSums::default();
    for (index, ranking) in found.iter().enumerate().filter(|(index, _)| counts(*index)) {
        let grades = corpus.validation[index].relevant.iter().map(|judged| judged.grade);
        sums.add(&JudgedRanks { relevant: ranks(ranking).into_iter().zip(grades).collect() });
    }
    sums.means()
}

fn assert_same(found: &Option<Metrics>, expected: &Option<Metrics>, what: &str) {
    let values = |metrics: &Option<Metrics>| metrics.as_ref().map(|m| m.values().collect());
    let [found, expected]: [Option<Vec<(&str, f64)>>; 2] = [found, expected].map(values);
    let (found, expected) = (found.unwrap_or_default(), expected.unwrap_or_default());
    assert_eq!(found.len(), expected.len(), "{what}");
    for ((name, found), (_, expected)) in found.into_iter().zip(expected) {
        assert!((found - expected).abs() < 1e-12, "{what} {name}: {found}, expected {expected}");
    }
}

#[test]
fn queries_are_divided_by_whether_a_relevant_document_had_a_training_query() {
    let corpus = corpus();
    // v3, v5, v6 and v9 ask for documents 4, 6 and 7 alone; with 1 left out, v1 and v7 join them.
    for (left_out, unseen) in
        [(vec![], vec![3, 5, 6, 9]), (vec![1], vec![1, 3, 5, 6, 7, 9]), (vec![7], vec![3, 5, 6, 9])]
    {
        let set = validation(&corpus, &left_out);
        let evaluated = measure(&set, CandidateSet::Docids);
        let what = format!("left out {left_out:?}");
        assert_same(&evaluated.all, &by_hand(&set, &corpus, |_| true), &what);
        let of = |unseen_ones| by_hand(&set, &corpus, |at| unseen.contains(&at) == unseen_ones);
        assert_same(&evaluated.seen, &of(false), &format!("{what}, seen"));
        assert_same(&evaluated.unseen, &of(true), &format!("{what}, unseen"));
        let queries = |metrics: &Option<Metrics>| metrics.as_ref().unwrap().queries as usize;
        assert_eq!(queries(&evaluated.seen) + unseen.len(), 12);
        assert_eq!(queries(&evaluated.unseen), unseen.len());
    }
}

#[test]
fn a_subset_without_queries_has_no_means() {
    let corpus = corpus();
    let all = measure(&validation(&corpus, &[0, 1, 2, 3, 5]), CandidateSet::Docids);
    assert!(all.seen.is_none());
    assert_eq!(all.unseen, all.all);
    let empty = Corpus { validation: Vec::new(), ..corpus };
    let none = measure(&validation(&empty, &[]), CandidateSet::Docids);
    assert!(none.all.is_none() && none.seen.is_none() && none.unseen.is_none());
    assert!(none.judged.is_empty());
}

#[test]
fn correct_queries_have_a_relevant_document_at_rank_one_and_name_it() {
    let corpus = corpus();
    let docids = DocidVocabulary::from_corpus(&corpus).expect("docids");
    let plain = model(8, |_, _| {});
    let mut set = validation(&corpus, &[]);
    // The last relevant document of each even query is made the best one; an odd one has the worst alone.
    for (index, query) in set.queries.iter_mut().enumerate() {
        let docids = logits(&plain, query).0;
        let by_logit = |a: &u32, b: &u32| docids[*a as usize].total_cmp(&docids[*b as usize]);
        let (best, worst) = ((0..8).max_by(by_logit).unwrap(), (0..8).min_by(by_logit).unwrap());
        for row in &mut query.relevant {
            *row = worst;
        }
        if index % 2 == 0 {
            *query.relevant.last_mut().unwrap() = best;
        }
    }
    let evaluated = measure(&set, CandidateSet::Docids);
    let pairs = set.correct_pairs(&evaluated, &docids);
    let correct = [0, 2, 4, 6, 8, 10];
    assert_eq!(pairs.len(), correct.len());
    for ((token, query), index) in pairs.iter().zip(correct) {
        assert_eq!(query, &format!("v{index}"));
        let best = set.queries[index].relevant.last().unwrap();
        assert_eq!(token, &format!("@DOC_ID_d{best}@"));
    }
    // As many as Hits@1 says.
    assert_eq!(evaluated.all.unwrap().hits_1, 0.5);
}

#[test]
fn ties_of_more_than_one_percent_of_the_relevant_documents_are_reported() {
    let corpus = corpus();
    let set = validation(&corpus, &[]);
    let evaluated = |model: GenirModel| {
        evaluate(&model, &Device::flex(), &set, options(CandidateSet::Docids, 0, 5), None)
            .expect("evaluated")
    };
    let relevant: usize = set.queries.iter().map(|query| query.relevant.len()).sum();
    assert_eq!(evaluated(model(8, |_, _| {})).diagnostics.warnings(), [""; 0]);
    let said = evaluated(model(8, |rows, _| rows.fill(0.5))).diagnostics.warnings().join("; ");
    assert!(
        said.contains(&format!("{relevant} of {relevant} relevant documents (100.0%)")),
        "{said}"
    );
    assert!(said.contains("trec_eval"), "{said}");
    let said = evaluated(model(8, |rows, _| rows.fill(f32::NAN))).diagnostics.warnings().join("; ");
    assert!(said.contains("NaN"), "{said}");
    let one = ScoreDiagnostics { relevant: 100, tied: 1, nan: 0 };
    assert!(one.warnings().is_empty() && ScoreDiagnostics { tied: 2, ..one }.warnings().len() == 1);
}

#[test]
fn queries_are_padded_without_a_mask_on_request() {
    let corpus = corpus();
    let model = model(8, |_, _| {});
    let plain = validation(&corpus, &[]);
    let mut padded = validation(&corpus, &[]);
    padded.pad_unmasked(12, 0);
    for (padded, plain) in padded.queries.iter().zip(&plain.queries) {
        let (text, padding) = padded.tokens.split_at(plain.tokens.len());
        assert_eq!((text, padded.tokens.len()), (&plain.tokens[..], 12));
        assert!(padding.iter().all(|&token| token == 0));
        assert_ne!(logits(&model, padded).0, logits(&model, plain).0, "the padding is attended to");
    }
}

#[test]
fn the_run_file_gives_the_same_metrics() {
    let corpus = corpus();
    let docids = DocidVocabulary::from_corpus(&corpus).expect("docids");
    let set = validation(&corpus, &[]);
    let directory = tempfile::tempdir().expect("a directory");
    let [run, qrels] = ["run.trec", "qrels.trec"].map(|name| directory.path().join(name));
    let mut writer = RunWriter::create(&run, "genir").expect("created");
    let ranked = options(CandidateSet::Docids, 8, 5);
    let evaluated =
        evaluate(&model(8, |_, _| {}), &Device::flex(), &set, ranked, Some((&mut writer, &docids)))
            .expect("evaluated");
    writer.finish().expect("written");
    write_qrels(&qrels, set.judgements(&docids)).expect("written");

    let lines = read_run(&run).expect("read");
    assert_eq!(lines.len(), 12 * 8);
    let mut judged: BTreeMap<String, JudgedRanks> = BTreeMap::new();
    for judgement in read_qrels(&qrels).expect("read") {
        let line = lines
            .iter()
            .find(|line| line.query == judgement.query && line.document == judgement.document);
        let rank = line.map_or(JudgedRanks::NOT_RETRIEVED, |line| line.rank);
        let query = judged.entry(judgement.query).or_default();
        query.relevant.push((rank, judgement.grade as u32));
    }
    let mut sums = MetricSums::default();
    judged.values().for_each(|query| sums.add(query));
    assert_same(&evaluated.all, &sums.means(), "judged again");
    let hits_1 = evaluated.all.expect("metrics").hits_1;
    assert!(hits_1 > 0.0 && hits_1 < 1.0, "a test of nothing: hits@1 is {hits_1}");
}

#[test]
fn the_order_of_docids_does_not_change_metrics() {
    let corpus = corpus();
    let mut set = validation(&corpus, &[]);
    let expected = measure(&set, CandidateSet::All);
    // Document i has row 7 - i.
    let turned = model(8, |rows, width| {
        let turned: Vec<f32> = rows.rchunks(width).flatten().copied().collect();
        *rows = turned;
    });
    set.map_rows(&[7, 6, 5, 4, 3, 2, 1, 0]);
    let ranked = options(CandidateSet::All, 8, 5);
    let found = evaluate(&turned, &Device::flex(), &set, ranked, None).expect("evaluated");
    assert_same(&found.all, &expected.all, "turned");
    assert_eq!(found.judged, expected.judged);
}

#[test]
fn documents_used_as_queries_are_not_divided_into_seen_and_unseen() {
    let corpus = corpus();
    let with = (&tokenizer(), &ENCODING);
    let rows = [0, 2, 4, 6];
    let set = |most| {
        QuerySet::of_documents("memorisation", &corpus, &rows, most, 1, with).expect("encoded")
    };
    let all = set(10);
    assert_eq!(all.ids, ["d0", "d2", "d4", "d6"]);
    for (query, row) in all.queries.iter().zip(rows) {
        assert_eq!(query.relevant, [row]);
    }
    let evaluated = measure(&all, CandidateSet::Docids);
    assert_eq!(evaluated.all.expect("means").queries, 4);
    assert!(evaluated.seen.is_none() && evaluated.unseen.is_none());
    let sample = set(2);
    assert_eq!(sample.ids, set(2).ids);
    assert_eq!(sample.ids.len(), 2);
    assert!(sample.ids.iter().all(|id| all.ids.contains(id)));
}
