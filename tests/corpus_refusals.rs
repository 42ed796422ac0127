//! What is wrong with a corpus is said with its file, its place and what would be right.

use std::path::Path;

use genir::corpus::{CorpusError, Layout, Problem};

#[path = "support/corpus_files.rs"]
mod corpus_files;

use corpus_files::{BEIR_CORPUS, BEIR_QUERIES, DOCUMENTS, directory, gzip, load, refused};

#[test]
fn duplicate_ids_are_refused_with_their_place() {
    refused(
        &[("documents.json", b"[{\"id\": 7, \"text\": \"a\"},\n{\"id\": \"7\", \"text\": \"b\"}]")],
        &["documents.json, element [1], line 2", "document id `7` is used twice", "number 1"],
    );
    refused(
        &[
            ("documents.json", DOCUMENTS.as_bytes()),
            (
                "train_queries.json",
                br#"[{"id": 1, "query": "a", "relevant_docs": [7]}, {"id": 1, "query": "b", "relevant_docs": [7]}]"#,
            ),
        ],
        &["train_queries.json, element [1]", "query id `1` is used twice in train queries"],
    );
    refused(
        &[
            ("corpus.jsonl", BEIR_CORPUS.as_bytes()),
            (
                "queries.jsonl",
                b"{\"_id\": \"q\", \"text\": \"a\"}\n{\"_id\": \"q\", \"text\": \"b\"}\n",
            ),
        ],
        &["queries.jsonl, line 2: query id `q` is used twice"],
    );
}

#[test]
fn judgements_that_fit_nothing_are_refused_with_their_place() {
    refused(
        &[
            ("documents.json", DOCUMENTS.as_bytes()),
            ("val_queries.json", b"[\n{\"id\": 1, \"query\": \"a\", \"relevant_docs\": [7, 9]}]"),
        ],
        &[
            "val_queries.json, element [0], line 2",
            "query `1` is judged for document `9`",
            "it has 2",
        ],
    );
    let beir = |judgements: &'static [u8]| {
        [
            ("corpus.jsonl", BEIR_CORPUS.as_bytes()),
            ("queries.jsonl", BEIR_QUERIES.as_bytes()),
            ("qrels/train.tsv", judgements),
        ]
    };
    refused(
        &beir(b"query-id\tcorpus-id\tscore\nq1\tx\t1\n"),
        &["train.tsv, line 2", "document `x`"],
    );
    refused(
        &beir(b"query-id\tcorpus-id\tscore\nq9\t7\t1\n"),
        &["train.tsv, line 2", "query `q9` is judged"],
    );
    refused(
        &beir(b"query-id\tcorpus-id\tscore\nq1\t7\t1\nq1\t7\t1\n"),
        &["train.tsv, line 3", "document `7` is judged twice for query `q1`"],
    );
    let no_document = br#"[{"id": 1, "query": "a", "relevant_docs": []}]"#;
    refused(
        &[("documents.json", DOCUMENTS.as_bytes()), ("test_queries.json", no_document)],
        &["element [0]", "query `1` names no relevant document"],
    );
}

#[test]
fn bytes_that_are_not_utf8_are_refused_with_their_line() {
    let mut documents = b"[\n".to_vec();
    for id in 0..5000 {
        documents
            .extend(format!("{{\"id\": {id}, \"text\": \"caf\u{e9} number {id}\"}},\n").bytes());
    }
    documents.extend(b"{\"id\": 5000, \"text\": \"caf\xe9\"}]");
    for content in [documents.clone(), gzip(&documents)] {
        let error =
            refused(&[("documents.json", &content)], &["documents.json, line 5002: not UTF-8"]);
        assert!(matches!(error, CorpusError::NotUtf8 { line: 5002, .. }));
    }
    refused(
        &[(
            "corpus.jsonl",
            b"{\"text_id\": 1, \"text\": \"a\"}\n{\"text_id\": 2, \"text\": \"\xff\"}\n",
        )],
        &["corpus.jsonl, line 2: not UTF-8"],
    );
    // A character that the end of the file cuts.
    refused(
        &[("documents.json", b"[\n{\"id\": 1, \"text\": \"\xe2\x82")],
        &["documents.json, line 2: not UTF-8"],
    );
}

#[test]
fn malformed_content_is_refused_with_what_was_found_and_what_is_right() {
    refused(
        &[("documents.json", b"[{\"id\": 1, \"text\": \"a\"},\n{\"id\": 2, \"txt\": \"b\"}]")],
        &[
            "documents.json, element [1], line 2, column",
            "missing field `text`",
            "right would be an array of {\"id\": 7, \"text\": \"...\"}",
        ],
    );
    let error = refused(
        &[("documents.json", b"[{\"id\": 1, \"text\": \"a\"},\n{\"id\": 2, \"text\": \"b")],
        &["element [1], line 2", "EOF while parsing a string"],
    );
    assert!(matches!(error, CorpusError::At { problem: Problem::Malformed { .. }, .. }));
    refused(&[("documents.json", b"{\"id\": 1}")], &["invalid type: map, expected an array"]);
    refused(&[("documents.json", br#"[{"id": 1, "text": "a"}] more"#)], &["trailing characters"]);
    refused(
        &[("documents.json", br#"[{"id": 1.5, "text": "a"}]"#)],
        &["expected an id (an integer or a string)"],
    );
    refused(&[("documents.json", br#"[{"id": "", "text": "a"}]"#)], &["an empty id"]);
    refused(
        &[("corpus.jsonl", b"{\"text_id\": 1, \"text\": \"a\"}\nnot json at all\n")],
        &[
            "corpus.jsonl, line 2",
            "`not json at all`",
            "right would be {\"text_id\": 7, \"text\": \"...\"}",
        ],
    );
    let beir = |judgements: &'static [u8]| {
        [
            ("corpus.jsonl", BEIR_CORPUS.as_bytes()),
            ("queries.jsonl", BEIR_QUERIES.as_bytes()),
            ("qrels/test.tsv", judgements),
        ]
    };
    refused(&beir(b"q1\t7\t1\n"), &["test.tsv, line 1", "found `q1\t7\t1`", "the header"]);
    refused(
        &beir(b"query-id\tcorpus-id\tscore\nq1\t7\tgood\n"),
        &["test.tsv, line 2", "found `q1\t7\tgood`", "an integer score"],
    );
    refused(
        &beir(b"query-id\tcorpus-id\tscore\nq1 7 1\n"),
        &["test.tsv, line 2", "separated by tabs"],
    );
    let truncated = &gzip(DOCUMENTS.as_bytes())[..30];
    let error = refused(&[("documents.json.gz", truncated)], &["cannot read", "documents.json.gz"]);
    assert!(matches!(error, CorpusError::Read { .. }));
}

#[test]
fn empty_texts_are_counted_and_the_first_five_named() {
    let documents: Vec<_> = (0..9)
        .map(|id| serde_json::json!({"id": id, "text": if id < 7 { " " } else { "text" }}))
        .collect();
    let documents = serde_json::Value::from(documents).to_string();
    refused(
        &[("documents.json", documents.as_bytes())],
        &["7 of the documents have an empty text", "0, 1, 2, 3, 4"],
    );
    let queries = br#"[{"id": "q", "query": "", "relevant_docs": [7]}]"#;
    refused(
        &[("documents.json", DOCUMENTS.as_bytes()), ("val_queries.json", queries)],
        &["1 of the validation queries have an empty text, the first with the ids: q"],
    );
}

#[test]
fn where_nothing_is_found_the_files_looked_for_are_named() {
    refused(
        &[("other.txt", b"")],
        &["documents.json", "corpus.jsonl with queries.jsonl", "*train*.jsonl"],
    );
    let files = directory(&[("documents.json", b"[]")]);
    for (layout, looked_for) in [(Layout::Beir, "queries.jsonl"), (Layout::Dsi, "documents.jsonl")]
    {
        let error = load(files.path(), layout).expect_err("nothing there");
        assert!(error.to_string().contains(looked_for), "{error}");
    }
    let error = load(files.path(), Layout::Paper).expect_err("no documents");
    assert!(error.to_string().contains("has no documents"), "{error}");
    let error = load(&files.path().join("gone"), Layout::Auto).expect_err("no such directory");
    assert!(error.to_string().contains("gone"), "{error}");
    refused(
        &[("corpus.jsonl", BEIR_CORPUS.as_bytes()), ("queries.jsonl", BEIR_QUERIES.as_bytes())],
        &["qrels/train.tsv, qrels/dev.tsv, qrels/test.tsv"],
    );
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let both = [
        ("documents.json", DOCUMENTS.as_bytes()),
        ("corpus.jsonl", BEIR_CORPUS.as_bytes()),
        ("queries.jsonl", BEIR_QUERIES.as_bytes()),
        ("qrels/dev.tsv", b"query-id\tcorpus-id\tscore\n".as_slice()),
    ];
    refused(&both, &["layout paper", "layout beir", "name the layout"]);
    let files = directory(&both);
    assert_eq!(load(files.path(), Layout::Paper).expect("paper").documents.len(), 2);
    assert_eq!(load(files.path(), Layout::Beir).expect("beir").documents.len(), 3);
    refused(
        &[("a_train.json", b""), ("b_train.jsonl.gz", b"")],
        &["a_train.json", "b_train.jsonl.gz", "leave one of them"],
    );
}

#[test]
fn only_the_bundled_corpus_that_exists_can_be_named() {
    let error = load(Path::new("bundled:atlantis"), Layout::Auto).expect_err("no such corpus");
    assert!(error.to_string().contains("`bundled:atlas`"), "{error}");
}
