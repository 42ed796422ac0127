//! Corpora are read from every layout.

use std::fs;

use genir::corpus::{
    self, Corpus, CorpusOptions, FindingKind, Layout, LeaveOut, LoadedCorpus, OnProblem, Split,
};

use crate::collections;
use crate::corpus_files::{
    BEIR_CORPUS, BEIR_QUERIES, DOCUMENTS, beir, borrowed, directory, gzip, load, options, read,
    read_with, refused,
};

const TRAIN: &str = r#"[{"id": 1, "query": "which letter?", "relevant_docs": ["b", 7]}]"#;
const VALIDATION: &str = r#"[{"id": "v", "query": "which number?", "relevant_docs": [7]}]"#;

fn ids(corpus: &Corpus) -> Vec<&str> {
    corpus.documents.iter().map(|d| d.id.as_str()).collect()
}

#[test]
fn the_real_collections_load_from_both_layouts_with_the_same_content() {
    let Some(collections) = collections::collections() else {
        return;
    };
    for (name, counts) in [
        ("squad-100", [100, 304, 100, 100]),
        ("squad-1000", [1000, 3278, 1000, 1000]),
        ("squad-2067", [2067, 6433, 2046, 2048]),
        ("squadsent-10000", [10000, 10587, 4138, 4146]),
        ("wikimix-10000", [10000, 13122, 3166, 3208]),
        ("scifact", [5183, 809, 0, 300]),
    ] {
        let path = collections.join("data").join(name);
        let corpus = load(&path, Layout::Auto).expect(name);
        let found = [
            corpus.documents.len(),
            corpus.train.len(),
            corpus.validation.len(),
            corpus.test.len(),
        ];
        assert_eq!(found, counts, "{name}");
        let beir = load(&path.join("beir"), Layout::Auto).expect(name);
        assert!(corpus == beir, "{name} differs between its layouts");
    }
}

#[test]
fn a_real_collection_is_the_same_plain_and_gzipped() {
    let Some(collections) = collections::collections() else {
        return;
    };
    let path = collections.join("data/squad-1000");
    let copy = tempfile::tempdir().expect("a directory");
    for name in ["documents", "train_queries", "val_queries", "test_queries"] {
        let packed = fs::File::open(path.join(format!("{name}.json.gz"))).expect("a file");
        let mut plain = fs::File::create(copy.path().join(format!("{name}.json"))).expect("a file");
        std::io::copy(&mut flate2::read::GzDecoder::new(packed), &mut plain).expect("unpacked");
    }
    let plain = load(copy.path(), Layout::Auto).expect("the plain copy");
    assert!(plain == load(&path, Layout::Auto).expect("the collection"));
}

#[test]
fn the_paper_layout_takes_integer_and_string_ids() {
    let corpus = read(&[
        ("documents.json", DOCUMENTS.as_bytes()),
        ("train_queries.json", TRAIN.as_bytes()),
        ("val_queries.json", VALIDATION.as_bytes()),
    ])
    .expect("a corpus");
    assert_eq!(ids(&corpus), ["7", "b"]);
    let relevant: Vec<u32> = corpus.train[0].relevant.iter().map(|j| j.document).collect();
    assert_eq!((corpus.train[0].id.as_str(), relevant), ("1", vec![1, 0]));
    assert_eq!(corpus.split(Split::Validation)[0].text, "which number?");
    assert!(corpus.test.is_empty());
}

#[test]
fn gzip_is_detected_by_content_and_not_by_name() {
    let plain =
        read(&[("documents.json", DOCUMENTS.as_bytes()), ("train_queries.json", TRAIN.as_bytes())])
            .expect("plain");
    let named = read(&[
        ("documents.json.gz", &gzip(DOCUMENTS.as_bytes())),
        ("train_queries.json", TRAIN.as_bytes()),
    ])
    .expect("named .gz");
    let unnamed = read(&[
        ("documents.json", &gzip(DOCUMENTS.as_bytes())),
        ("train_queries.json.gz", TRAIN.as_bytes()),
    ])
    .expect("not named .gz");
    assert_eq!(plain, named);
    assert_eq!(plain, unnamed);
}

#[test]
fn a_byte_order_mark_and_windows_line_endings_are_skipped() {
    let documents = format!("\u{feff}{}", DOCUMENTS.replace(", {", ",\r\n{"));
    let corpus = read(&[("documents.json", documents.as_bytes())]).expect("a corpus");
    assert_eq!(ids(&corpus), ["7", "b"]);
}

#[test]
fn characters_split_between_buffers_are_decoded() {
    // Characters of three bytes with an odd start: every 64 KiB boundary splits a character.
    let text = "x".to_owned() + &"€".repeat(200_000);
    let documents = serde_json::json!([{"id": 1, "text": text}]).to_string();
    for content in [documents.clone().into_bytes(), gzip(documents.as_bytes())] {
        let corpus = read(&[("documents.json", &content)]).expect("a corpus");
        assert!(corpus.documents[0].text() == text);
    }
}

#[test]
fn a_beir_directory_joins_titles_and_keeps_grades_above_zero() {
    let corpus = read(&[
        ("corpus.jsonl", BEIR_CORPUS.as_bytes()),
        ("queries.jsonl", BEIR_QUERIES.as_bytes()),
        ("qrels/dev.tsv", b"query-id\tcorpus-id\tscore\nq2\t7\t2\nq1\tb\t0\nq2\tc\t1\r\n"),
    ])
    .expect("a corpus");
    let texts: Vec<&str> = corpus.documents.iter().map(|d| d.text()).collect();
    assert_eq!(texts, ["Seven. a number", "letter b", "Only a title"]);
    assert_eq!(corpus.validation.len(), 1);
    let query = &corpus.validation[0];
    let judged: Vec<(u32, u32)> = query.relevant.iter().map(|j| (j.document, j.grade)).collect();
    assert_eq!((query.id.as_str(), judged), ("q2", vec![(0, 2), (2, 1)]));
}

#[test]
fn documents_of_a_beir_directory_without_queries_are_a_corpus() {
    for content in [BEIR_CORPUS.as_bytes().to_vec(), gzip(BEIR_CORPUS.as_bytes())] {
        let corpus = read(&[("corpus.jsonl", &content)]).expect("a corpus");
        let texts: Vec<&str> = corpus.documents.iter().map(|d| d.text()).collect();
        assert_eq!(texts, ["Seven. a number", "letter b", "Only a title"]);
        assert!(corpus.train.is_empty() && corpus.validation.is_empty());
    }
}

#[test]
fn dsi_documents_and_queries_in_separate_files_share_a_text_id() {
    let corpus = read(&[
        (
            "corpus.jsonl",
            b"{\"text_id\": 7, \"text\": \"Passage: question: seven\"}\n{\"text_id\": \"b\", \"text\": \"letter b\"}\n",
        ),
        ("train.jsonl", b"{\"text_id\": \"b\", \"text\": \"document: which letter?\"}\n"),
        ("NQ_10k_valid.json", b"\n{\"text_id\": 7, \"text\": \"Question: which number?\"}\n"),
    ])
    .expect("a corpus");
    assert_eq!(corpus.documents[0].text(), "question: seven");
    assert_eq!(corpus.train[0].text, "document: which letter?");
    assert_eq!(corpus.train[0].relevant[0].document, 1);
    assert_eq!(corpus.validation[0].id, "validation-2");
    assert_eq!(corpus.validation[0].text, "which number?");
}

#[test]
fn a_mixed_dsi_file_distinguishes_documents_from_queries_by_prefix() {
    let train: &[u8] = b"{\"text_id\": \"0\", \"text\": \"question: which one?\"}\n\
        {\"text_id\": \"0\", \"text\": \"document: the first\"}\n\
        {\"text_id\": \"1\", \"text\": \"Passage: the second\"}\n";
    let valid: &[u8] = b"{\"text_id\": \"1\", \"text\": \"question: and which other?\"}\n";
    let corpus = read(&[("NQ_10k_multi_task_train.json", train), ("NQ_10k_valid.json", valid)])
        .expect("a corpus");
    assert_eq!(ids(&corpus), ["0", "1"]);
    assert_eq!(corpus.documents[1].text(), "the second");
    assert_eq!(corpus.train[0].text, "which one?");
    assert_eq!(corpus.validation[0].relevant[0].document, 1);

    let files = directory(&[("any_name", train)]);
    let one = load(&files.path().join("any_name"), Layout::Auto).expect("one file");
    assert_eq!(one.documents, corpus.documents);
    assert_eq!(one.train, corpus.train);

    refused(
        &[("train.jsonl", b"{\"text_id\": 0, \"text\": \"bare\"}\n")],
        &["train.jsonl, line 1", "`bare` has no prefix", "`document: `"],
    );
}

#[test]
fn generated_queries_are_read_from_an_additional_file() {
    let files = directory(&[
        ("documents.json", DOCUMENTS.as_bytes()),
        (
            "generated",
            b"{\"query\": \"a letter?\", \"docid\": \"b\"}\n{\"text\": \"a number?\", \"text_id\": 7}\n",
        ),
        ("unknown", b"{\"query\": \"a letter?\", \"docid\": \"z\"}\n"),
    ]);
    let options = |name: &str| CorpusOptions {
        path: files.path().display().to_string(),
        layout: Layout::Paper,
        generated_queries: Some(files.path().join(name)),
        ..CorpusOptions::default()
    };
    let corpus = corpus::load(&options("generated")).expect("a corpus").corpus;
    assert!(corpus.train.is_empty());
    let generated: Vec<(&str, &str, u32)> = corpus
        .generated
        .iter()
        .map(|q| (q.id.as_str(), q.text.as_str(), q.relevant[0].document))
        .collect();
    assert_eq!(generated, [("generated-1", "a letter?", 1), ("generated-2", "a number?", 0)]);
    let error = corpus::load(&options("unknown")).expect_err("an unknown document");
    let expected = "unknown, line 1: query `generated-1`, document `z`";
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn two_splits_may_have_the_same_query_id() {
    let corpus = read(&[
        ("documents.json", DOCUMENTS.as_bytes()),
        ("train_queries.json", VALIDATION.as_bytes()),
        ("val_queries.json", VALIDATION.as_bytes()),
    ])
    .expect("a corpus");
    assert_eq!(corpus.train, corpus.validation);
}

#[test]
fn documents_are_left_out_by_id_or_by_count_and_seed() {
    let documents: Vec<_> = (0..100).map(|id| serde_json::json!({"id": id, "text": "t"})).collect();
    let documents = serde_json::Value::from(documents).to_string();
    let corpus = read(&[("documents.json", documents.as_bytes())]).expect("a corpus");

    assert!(LeaveOut::None.resolve(&corpus).expect("none").is_empty());
    let ids = LeaveOut::Ids(vec!["3".to_owned(), "99".to_owned()]);
    assert_eq!(ids.resolve(&corpus).expect("two"), [3, 99].into());
    let count = |count, seed| LeaveOut::Count { count, seed }.resolve(&corpus);
    let drawn = count(10, 1).expect("ten");
    assert_eq!(drawn.len(), 10);
    assert_eq!(drawn, count(10, 1).expect("ten"));
    assert_ne!(drawn, count(10, 2).expect("ten"));

    let unknown = LeaveOut::Ids(vec!["3".to_owned(), "x".to_owned()]).resolve(&corpus);
    assert!(unknown.expect_err("unknown").to_string().contains("1 of the ids to leave out"));
    let all = count(100, 1).expect_err("nothing left").to_string();
    assert!(all.contains("cannot leave out 100 of 100 documents"), "{all}");
}

/// Loads a corpus that is not refused, with its findings.
#[track_caller]
fn taken(files: &[(&str, &[u8])]) -> LoadedCorpus {
    read_with(files, OnProblem::Refuse).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn null_is_a_missing_text_and_a_grade_may_be_written_as_1_0() {
    let loaded = taken(&[
        (
            "corpus.jsonl",
            b"{\"_id\": \"7\", \"title\": null, \"text\": \"seven\"}\n{\"_id\": \"b\", \"title\": \"B\", \"text\": null}\n",
        ),
        ("queries.jsonl", b"{\"_id\": \"q\", \"text\": \"one?\"}\n"),
        ("qrels/test.tsv", b"query-id\tcorpus-id\tscore\nq\t7\t1.0\nq\tb\t2e0\n"),
    ]);
    let texts: Vec<&str> = loaded.corpus.documents.iter().map(|d| d.text()).collect();
    assert_eq!(texts, ["seven", "B"]);
    let grades: Vec<u32> = loaded.corpus.test[0].relevant.iter().map(|j| j.grade).collect();
    assert_eq!(grades, [1, 2]);
    assert!(loaded.findings.is_empty(), "{:?}", loaded.findings);
}

#[test]
fn repeated_data_count_once_with_a_warning() {
    let loaded = taken(&borrowed(&beir(&["q1 7 1", "q1 b 1", "q1 7 1.0", "q2 c 0", "q2 b 1"])));
    let judged: Vec<u32> = loaded.corpus.test[0].relevant.iter().map(|j| j.document).collect();
    assert_eq!(judged, [0, 1]);
    assert_eq!(loaded.findings.count(FindingKind::RepeatedJudgement), 1);
    let finding = loaded.findings.iter().next().expect("a finding").to_string();
    assert!(finding.starts_with("1 judgement is repeated with the same grade: counted once"));
    assert!(finding.contains("test.tsv, line 4: query `q1`, document `7`"), "{finding}");

    let documents = DOCUMENTS.replace(']', ", {\"id\": 7, \"text\": \"seven\"}]");
    let query = r#"{"id": "q", "query": "a?", "relevant_docs": [7, 7]}"#;
    let queries = format!("[{query}, {query}]");
    let loaded = taken(&[
        ("documents.json", documents.as_bytes()),
        ("test_queries.json", queries.as_bytes()),
    ]);
    assert_eq!((loaded.corpus.documents.len(), loaded.corpus.test.len()), (2, 1));
    assert_eq!(loaded.corpus.test[0].relevant.len(), 1);
    for kind in
        [FindingKind::RepeatedDocument, FindingKind::RepeatedQuery, FindingKind::RepeatedJudgement]
    {
        assert_eq!(loaded.findings.count(kind), 1, "{kind}");
    }
}

#[test]
fn several_dsi_documents_of_one_id_are_texts_of_one_document() {
    let corpus = b"{\"text_id\": 0, \"text\": \"document: the first\"}\n\
        {\"text_id\": 1, \"text\": \"document: another\"}\n\
        {\"text_id\": 0, \"text\": \"question: which?\"}\n\
        {\"text_id\": 0, \"text\": \"document: more of the first\"}\n\
        {\"text_id\": 0, \"text\": \"document: the first\"}\n";
    let loaded = taken(&[("train.jsonl", corpus)]);
    let texts: Vec<&Vec<String>> = loaded.corpus.documents.iter().map(|d| &d.texts).collect();
    assert_eq!(texts, [&vec!["the first", "more of the first"], &vec!["another"]]);
    assert_eq!(ids(&loaded.corpus), ["0", "1"]);
    assert_eq!(loaded.corpus.train[0].relevant[0].document, 0);
    // A repeated text gives one example.
    assert_eq!(loaded.findings.count(FindingKind::RepeatedDocument), 1);
}

#[test]
fn validation_queries_are_read_under_each_accepted_name() {
    for word in ["val", "valid", "validation", "dev"] {
        let name = format!("{word}_queries.json");
        let loaded =
            taken(&[("documents.json", DOCUMENTS.as_bytes()), (&name, VALIDATION.as_bytes())]);
        assert_eq!(loaded.corpus.validation.len(), 1, "{name}");
        assert!(loaded.findings.is_empty(), "{name}");

        let files = beir(&["q1 7 1", "q2 b 1"]);
        let name = format!("qrels/{word}.tsv");
        let mut files = borrowed(&files);
        files[2].0 = &name;
        let loaded = taken(&files);
        assert_eq!(loaded.corpus.validation.len(), 2, "{name}");
        assert!(loaded.findings.is_empty(), "{name}");
    }
}

#[test]
fn unread_files_that_seem_to_belong_to_the_corpus_are_named() {
    let not_read = |files: &[(&str, &[u8])]| -> Vec<String> {
        let loaded = taken(files);
        let found = loaded.findings.iter().filter(|finding| finding.kind == FindingKind::NotRead);
        found
            .flat_map(|finding| &finding.first)
            .map(|offender| {
                let name = offender.location.file.file_name().expect("a name").to_string_lossy();
                format!("{name}: {}", offender.what)
            })
            .collect()
    };
    let found = not_read(&[
        ("documents.json", DOCUMENTS.as_bytes()),
        ("documents.json.gz", b"anything"),
        ("test.jsonl", b""),
        ("dev_pairs.tsv.gz", b""),
        // These files are not queries of a corpus.
        ("correct_valid.json", b"[]"),
        ("README.md", b""),
        ("train.py", b""),
    ]);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("dev_pairs.tsv.gz: named like validation queries"), "{found:?}");
    assert_eq!(found[1], "documents.json.gz: `documents.json` is read instead");
    assert!(found[2].contains("test queries, but the layout paper reads train_queries.json"));

    let mut files = beir(&["q1 7 1", "q2 b 1"]);
    files.push(("qrels/train-small.tsv", Vec::new()));
    files.push(("dev.tsv", Vec::new()));
    let found = not_read(&borrowed(&files));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("dev.tsv: ") && found[1].starts_with("train-small.tsv: "));
    assert!(found[0].contains("reads qrels/train.tsv, qrels/dev.tsv"), "{found:?}");
}

#[test]
fn queries_in_no_split_are_counted() {
    let loaded = taken(&borrowed(&beir(&["q1 7 0", "q1 b -1"])));
    assert!(loaded.corpus.test.is_empty());
    for kind in [FindingKind::NotRelevant, FindingKind::Unjudged, FindingKind::NoQueries] {
        assert_eq!(loaded.findings.count(kind), 1, "{kind}");
    }
}

#[test]
fn a_file_of_generated_queries_is_never_a_split() {
    let line: &[u8] = b"{\"text_id\": 7, \"text\": \"one\"}\n";
    let files = directory(&[
        ("documents.jsonl", line),
        ("train.jsonl", line),
        ("generated_train.jsonl", line),
    ]);
    let options = CorpusOptions {
        generated_queries: Some(files.path().join("generated_train.jsonl")),
        ..options(files.path(), Layout::Auto)
    };
    let loaded = corpus::load(&options).expect("a corpus");
    assert_eq!((loaded.corpus.train.len(), loaded.corpus.generated.len()), (1, 1));
    assert!(loaded.findings.is_empty());
}
