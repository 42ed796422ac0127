//! Problems of a corpus are reported with the file, the location and what was expected.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use genir::corpus::{
    self, CorpusError, CorpusErrors, CorpusOptions, FindingKind, Layout, LeaveOut, OnProblem,
};

use crate::corpus_files::{
    BEIR_CORPUS, BEIR_QUERIES, DOCUMENTS, beir, borrowed, directory, gzip, load, options,
    read_with, refused,
};

/// Returns the kinds of the refused data.
fn kinds(errors: &CorpusErrors) -> Vec<FindingKind> {
    let kind = |error: &CorpusError| match error {
        CorpusError::Found(finding) => finding.kind,
        other => panic!("{other}"),
    };
    errors.0.iter().map(kind).collect()
}

#[test]
fn duplicate_ids_are_refused_with_their_location() {
    refused(
        &[("documents.json", b"[{\"id\": 7, \"text\": \"a\"},\n{\"id\": \"7\", \"text\": \"b\"}]")],
        &["documents.json, element [1], line 2: `7` is the id of document number 1"],
    );
    refused(
        &[
            ("documents.json", DOCUMENTS.as_bytes()),
            (
                "train_queries.json",
                br#"[{"id": 1, "query": "a", "relevant_docs": [7]}, {"id": 1, "query": "b", "relevant_docs": [7]}]"#,
            ),
        ],
        &["1 query id is reused", "train_queries.json, element [1], line 1: query `1`"],
    );
    refused(
        &[
            ("corpus.jsonl", BEIR_CORPUS.as_bytes()),
            (
                "queries.jsonl",
                b"{\"_id\": \"q\", \"text\": \"a\"}\n{\"_id\": \"q\", \"text\": \"b\"}\n",
            ),
            ("qrels/test.tsv", b"query-id\tcorpus-id\tscore\nq\tb\t1\n"),
        ],
        &["queries.jsonl, line 2: query `q`"],
    );
}

#[test]
fn judgements_of_absent_documents_and_queries_are_refused_with_their_location() {
    refused(
        &[
            ("documents.json", DOCUMENTS.as_bytes()),
            ("val_queries.json", b"[\n{\"id\": 1, \"query\": \"a\", \"relevant_docs\": [7, 9]}]"),
        ],
        &[
            "val_queries.json, element [0], line 2: query `1`, document `9`",
            "corpus.on_problem = \"skip\"",
        ],
    );
    for (judgements, place) in [
        (["q1 x 1", "q2 7 1"], "test.tsv, line 2: query `q1`, document `x`"),
        (["q1 7 1", "q9 7 1"], "test.tsv, line 3: query `q9`, document `7`"),
    ] {
        refused(&borrowed(&beir(&judgements)), &[place]);
    }
    let two_grades = ["q1 7 1", "q2 7 1", "q1 7 2"];
    refused(
        &borrowed(&beir(&two_grades)),
        &["test.tsv, line 4: query `q1`, document `7`: grade 1, then 2"],
    );
    let no_document = br#"[{"id": 1, "query": "a", "relevant_docs": []}]"#;
    refused(
        &[("documents.json", DOCUMENTS.as_bytes()), ("test_queries.json", no_document)],
        &["1 query has no relevant document", "element [0], line 1: query `1`"],
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
        assert!(matches!(error.0[..], [CorpusError::NotUtf8 { line: 5002, .. }]));
    }
    refused(
        &[(
            "corpus.jsonl",
            b"{\"text_id\": 1, \"text\": \"a\"}\n{\"text_id\": 2, \"text\": \"\xff\"}\n",
        )],
        &["corpus.jsonl, line 2: not UTF-8"],
    );
    // A character that is truncated at the end of the file.
    refused(
        &[("documents.json", b"[\n{\"id\": 1, \"text\": \"\xe2\x82")],
        &["documents.json, line 2: not UTF-8"],
    );
}

#[test]
fn malformed_content_is_refused_with_the_value_found_and_what_was_expected() {
    refused(
        &[("documents.json", b"[{\"id\": 1, \"text\": \"a\"},\n{\"id\": 2, \"txt\": \"b\"}]")],
        &[
            "documents.json, element [1], line 2, column",
            "missing field `text`",
            "expected an array of {\"id\": 7, \"text\": \"...\"}",
        ],
    );
    let error = refused(
        &[("documents.json", b"[{\"id\": 1, \"text\": \"a\"},\n{\"id\": 2, \"text\": \"b")],
        &["element [1], line 2", "EOF while parsing a string"],
    );
    assert_eq!(kinds(&error), [FindingKind::Malformed]);
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
            "1 line or element is malformed",
            "corpus.jsonl, line 2",
            "`not json at all`",
            "expected {\"text_id\": 7, \"text\": \"...\"}",
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
        &["test.tsv, line 2", "found `q1\t7\tgood`", "an integer"],
    );
    refused(
        &beir(b"query-id\tcorpus-id\tscore\nq1 7 1\nq1\t7\t1.5\nq1\tb\t1\n"),
        &[
            "2 lines",
            "test.tsv, line 2",
            "separated by tabs",
            "line 3: found `q1\t7\t1.5`, whose grade `1.5` is not",
        ],
    );
    let truncated = &gzip(DOCUMENTS.as_bytes())[..30];
    let error = refused(&[("documents.json.gz", truncated)], &["cannot read", "documents.json.gz"]);
    assert!(matches!(error.0[..], [CorpusError::Read { .. }]));
}

#[test]
fn empty_texts_are_counted_and_the_first_five_named() {
    let documents: Vec<_> = (0..9)
        .map(|id| serde_json::json!({"id": id, "text": if id < 7 { " " } else { "text" }}))
        .collect();
    let documents = serde_json::Value::from(documents).to_string();
    refused(
        &[("documents.json", documents.as_bytes())],
        &["7 documents have no text", "element [4], line 1: document `4`\n    and 2 more"],
    );
    let queries = br#"[{"id": "q", "query": "", "relevant_docs": [7]}]"#;
    refused(
        &[("documents.json", DOCUMENTS.as_bytes()), ("val_queries.json", queries)],
        &["1 query has no text", "val_queries.json, element [0], line 1: query `q`"],
    );
}

#[test]
fn the_error_for_an_empty_directory_names_the_expected_files() {
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
}

#[test]
fn an_ambiguous_directory_is_refused() {
    let both = [
        ("documents.json", DOCUMENTS.as_bytes()),
        ("corpus.jsonl", BEIR_CORPUS.as_bytes()),
        ("queries.jsonl", BEIR_QUERIES.as_bytes()),
        ("qrels/dev.tsv", b"query-id\tcorpus-id\tscore\n".as_slice()),
    ];
    refused(&both, &["layout paper", "layout beir", "set the layout"]);
    let files = directory(&both);
    assert_eq!(load(files.path(), Layout::Paper).expect("paper").documents.len(), 2);
    assert_eq!(load(files.path(), Layout::Beir).expect("beir").documents.len(), 3);
    refused(
        &[("a_train.json", b""), ("b_train.jsonl.gz", b"")],
        &["a_train.json", "b_train.jsonl.gz", "the train queries; leave one of them"],
    );
    refused(
        &[
            ("documents.json", DOCUMENTS.as_bytes()),
            ("val_queries.json", b"[]"),
            ("dev_queries.json.gz", b""),
        ],
        &["val_queries.json", "dev_queries.json.gz", "the validation queries; leave one"],
    );
    let mut judged = beir(&["q1 7 1", "q2 7 1"]);
    judged.push(("qrels/dev.tsv", Vec::new()));
    judged.push(("qrels/validation.tsv", Vec::new()));
    refused(&borrowed(&judged), &["qrels/dev.tsv", "qrels/validation.tsv", "leave one"]);
}

#[test]
fn an_unknown_bundled_corpus_is_refused() {
    let error = load(Path::new("bundled:atlantis"), Layout::Auto).expect_err("no such corpus");
    assert!(error.to_string().contains("`bundled:atlas`, `bundled:almanac`"), "{error}");
}

/// A corpus with every kind of skippable data, some of them twice.
fn full_of_problems() -> Vec<(&'static str, Vec<u8>)> {
    let corpus = br#"{"_id": "a", "title": "", "text": "letter a"}
{"_id": "b", "title": null, "text": " "}
{"_id": "c", "text": "half \ud83d of a character"}
{"_id": "a", "text": "another letter"}
{"_id": "d", "text": ""}
"#;
    let queries = br#"{"_id": "q1", "text": "one?"}
{"_id": "q2", "text": null}
{"_id": "q3", "text": "three?"}
{"_id": "q1", "text": "another?"}
"#;
    vec![
        ("corpus.jsonl", corpus.to_vec()),
        ("queries.jsonl", queries.to_vec()),
        (
            "qrels/train.tsv",
            b"query-id\tcorpus-id\tscore\nq1\ta\t1\nq1\ta\t3\nq1\tb\t1\nq3\tgone\t1\nq2\ta\t1\n"
                .to_vec(),
        ),
        (
            "qrels/test.tsv",
            b"query-id\tcorpus-id\tscore\nq9\ta\t1\nq2\ta\t1\nq3\tc\t1\nq3\tgone\t1\nq3\tgone\t0\n"
                .to_vec(),
        ),
    ]
}

const SKIPPABLE: [FindingKind; 8] = [
    FindingKind::EmptyDocument,
    FindingKind::EmptyQuery,
    FindingKind::DuplicateDocument,
    FindingKind::DuplicateQuery,
    FindingKind::AbsentDocument,
    FindingKind::AbsentQuery,
    FindingKind::OtherGrade,
    FindingKind::LoneSurrogate,
];

#[test]
fn all_problems_are_reported_at_once_with_counts_locations_and_the_key_that_skips_them() {
    let errors = refused(
        &borrowed(&full_of_problems()),
        &[
            "8 problems with the corpus",
            "2 documents have no text; corpus.on_problem = \"skip\" keeps the docid",
            "corpus.jsonl, line 2: document `b`",
            "corpus.jsonl, line 5: document `d`",
            // A query that two splits judge counts as one query without text.
            "1 query has no text; corpus.on_problem = \"skip\"",
            "queries.jsonl, line 2: query `q2`",
            "corpus.jsonl, line 4: `a` is the id of document number 1",
            "queries.jsonl, line 4: query `q1`",
            // A judgement of 0 for an absent document is not a problem.
            "2 judgements are of documents that are not in the corpus",
            "qrels/train.tsv, line 5: query `q3`, document `gone`",
            "qrels/test.tsv, line 5: query `q3`, document `gone`",
            "qrels/test.tsv, line 2: query `q9`, document `a`",
            "qrels/train.tsv, line 3: query `q1`, document `a`: grade 1, then 3",
            "1 text has a lone surrogate",
            "corpus.jsonl, line 3: document `c`: \\ud83d",
        ],
    );
    assert_eq!(kinds(&errors), SKIPPABLE);
    assert!(errors.are_skippable());
    let key = "corpus.on_problem = \"skip\"";
    assert_eq!(errors.to_string().matches(key).count(), SKIPPABLE.len());
}

#[test]
fn skipped_data_are_counted_and_the_rest_is_read() {
    let skipped = read_with(&borrowed(&full_of_problems()), OnProblem::Skip).expect("a corpus");
    let corpus = &skipped.corpus;
    let documents: Vec<(&str, &str)> =
        corpus.documents.iter().map(|d| (d.id.as_str(), d.text())).collect();
    let expected = [("a", "letter a"), ("b", ""), ("c", "half \u{fffd} of a character"), ("d", "")];
    assert_eq!(documents, expected);
    let queries = |queries: &[genir::corpus::Query]| -> Vec<String> {
        let judged = |query: &genir::corpus::Query| {
            let judged = query.relevant.iter().map(|j| format!(" {}:{}", j.document, j.grade));
            format!("{} {}{}", query.id, query.text, judged.collect::<String>())
        };
        queries.iter().map(judged).collect()
    };
    // The higher of two grades counts; documents without text keep their judgements.
    assert_eq!(queries(&corpus.train), ["q1 one? 0:3 1:1"]);
    assert_eq!(queries(&corpus.test), ["q3 three? 2:1"]);
    let counts = [2, 1, 1, 1, 2, 1, 1, 1];
    for (kind, count) in SKIPPABLE.into_iter().zip(counts) {
        assert_eq!(skipped.findings.count(kind), count, "{kind}");
    }
    // The train split is empty: its only judgement was of an absent document.
    assert_eq!(skipped.findings.count(FindingKind::LeftWithoutJudgement), 1);
    assert_eq!(skipped.findings.counts()["judgements_of_absent_documents"], 2);
    assert_eq!(skipped.findings.iter().count(), SKIPPABLE.len() + 1);

    let none = br#"[{"id": 1, "query": "a", "relevant_docs": []}, {"id": 2, "query": "b", "relevant_docs": [7]}]"#;
    let files = [("documents.json", DOCUMENTS.as_bytes()), ("test_queries.json", none.as_slice())];
    let skipped = read_with(&files, OnProblem::Skip).expect("a corpus");
    assert_eq!(skipped.corpus.test.len(), 1);
    assert_eq!(skipped.findings.count(FindingKind::NoJudgement), 1);
}

#[test]
fn malformed_lines_are_never_skipped() {
    let files: [(&str, &[u8]); 2] = [
        ("documents.jsonl", b"{\"text_id\": 1, \"text\": \"a\"}\nnot json\n{\"text_id\": \"\\ud800\", \"text\": \"b\"}\n"),
        ("test.jsonl", b"{\"text_id\": 2, \"text\": \"of a document that was in the broken line\"}\n"),
    ];
    // A query for a malformed document is not reported again.
    let errors = read_with(&files, OnProblem::Refuse).expect_err("refused");
    assert_eq!(kinds(&errors), [FindingKind::Malformed]);
    let errors = read_with(&files, OnProblem::Skip).expect_err("refused");
    assert_eq!(kinds(&errors), [FindingKind::Malformed]);
    let message = errors.to_string();
    assert!(message.contains("2 lines or elements are malformed"), "{message}");
    assert!(message.contains("line 3: a lone surrogate (\\ud800 to \\udfff"), "{message}");
    assert!(!errors.are_skippable());
}

#[test]
fn malformed_lines_hide_no_problem_that_is_not_theirs() {
    let corpus =
        b"{\"_id\": \"a\", \"text\": \"letter a\"}\n{\"_id\": \"b\", \"txt\": \"letter b\"}\n\
        {\"_id\": 3, \"title\": \"cut off\n";
    let queries = b"{\"_id\": \"q1\", \"text\": \"one?\"}\n{\"_id\": \"q2\", \"text\": 2}\n";
    let judgements = b"query-id\tcorpus-id\tscore\nq1\tb\t1\nq1\t3\t1\nq1\tgone\t1\nq2\ta\t1\nq9\ta\t1\nq1\ta\tx\n";
    let files = |corpus: &[u8]| {
        vec![
            ("corpus.jsonl", corpus.to_vec()),
            ("queries.jsonl", queries.to_vec()),
            ("qrels/test.tsv", judgements.to_vec()),
        ]
    };
    let errors = refused(
        &borrowed(&files(corpus)),
        &[
            "3 problems",
            "4 lines or elements are malformed",
            "corpus.jsonl, line 2: missing field `text`",
            "corpus.jsonl, line 3: EOF while parsing",
            "queries.jsonl, line 2: invalid type",
            "test.tsv, line 7: found `q1\ta\tx`",
            // Neither those of the documents `b` and `3` nor those of the query `q2`, whose lines are malformed.
            "1 judgement is of a document that is not in the corpus",
            "test.tsv, line 4: query `q1`, document `gone`",
            "1 judgement is of a query",
            "test.tsv, line 6: query `q9`, document `a`",
        ],
    );
    assert_eq!(errors.0.len(), 3);

    // Any document may be in a line without a legible id. Queries and judgements are read even without a document.
    let errors = refused(
        &borrowed(&files(b"not json\n")),
        &[
            "2 problems",
            "corpus.jsonl, line 1",
            "queries.jsonl, line 2",
            "test.tsv, line 7",
            "query `q9`",
        ],
    );
    assert!(!errors.to_string().contains("gone"), "{errors}");
}

#[test]
fn a_broken_file_does_not_hide_problems_of_other_files() {
    let errors = refused(
        &[
            ("documents.json", b"[{\"id\": 7, \"text\": \"\"}]"),
            ("train_queries.json", b"[{\"id\": 1, \"query\": 3}]"),
            ("val_queries.json", b"\xff"),
            ("test_queries.json", b"[{\"id\": 1, \"query\": \"a\", \"relevant_docs\": [8]}]"),
        ],
        &[
            "4 problems",
            "train_queries.json, element [0], line 1, column 22: invalid type: integer `3`",
            "val_queries.json, line 1: not UTF-8",
            "1 document has no text",
            "test_queries.json, element [0], line 1: query `1`, document `8`",
        ],
    );
    assert_eq!(errors.0.len(), 4);
}

#[test]
fn documents_that_are_left_out_may_be_empty() {
    let documents = br#"[{"id": 1, "text": "a"}, {"id": 2, "text": ""}, {"id": 3, "text": null}]"#;
    let files = directory(&[("documents.json", documents)]);
    let with = |ids: &[&str]| {
        let ids = ids.iter().map(|&id| id.to_owned()).collect();
        let leave_out = LeaveOut::Ids(ids);
        corpus::load(&CorpusOptions { leave_out, ..options(files.path(), Layout::Auto) })
    };
    let loaded = with(&["2", "3"]).expect("a corpus");
    assert_eq!((loaded.left_out, loaded.corpus.documents.len()), ([1, 2].into(), 3));
    assert!(loaded.findings.is_empty());
    let errors = with(&["3"]).expect_err("one is not left out");
    assert!(errors.to_string().contains("1 document has no text"), "{errors}");
    assert!(errors.to_string().contains("element [1], line 1: document `2`"), "{errors}");
}

#[test]
fn a_git_lfs_pointer_is_reported_as_one() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let says = &["is a Git LFS pointer", "`git lfs pull`"];
    refused(&[("documents.json", pointer)], says);
    refused(&[("documents.json.gz", pointer)], says);
    refused(&[("documents.json", DOCUMENTS.as_bytes()), ("val_queries.json", pointer)], says);
    refused(&[("train.jsonl", pointer)], says);
    let mut judged = beir(&[]);
    judged[2].1 = pointer.to_vec();
    refused(&borrowed(&judged), says);
}

#[test]
fn a_missing_file_is_named_with_the_layout_that_needs_it() {
    refused(
        &[("train_queries.json", b"[]"), ("dev_queries.json", b"[]")],
        &["has no documents.json", "layout paper", "it has train_queries.json, dev_queries.json"],
    );
    let queries = ("queries.jsonl", BEIR_QUERIES.as_bytes());
    let corpus = ("corpus.jsonl", BEIR_CORPUS.as_bytes());
    let judgements: (&str, &[u8]) = ("qrels/test.tsv", b"query-id\tcorpus-id\tscore\n");
    refused(
        &[queries, judgements],
        &["has no corpus.jsonl", "layout beir", "it has queries.jsonl"],
    );
    refused(
        &[corpus, judgements],
        &["has no queries.jsonl", "it has corpus.jsonl, qrels/test.tsv"],
    );
    refused(
        &[corpus, queries],
        &["has no qrels/train.tsv, qrels/dev.tsv", "qrels/test.tsv, which"],
    );
    let line: &[u8] = b"{\"text_id\": 1, \"text\": \"question: a\"}\n";
    refused(&[("dev.jsonl", line)], &["has no documents.jsonl, corpus.jsonl or *train*.jsonl"]);
}

#[test]
fn an_empty_file_of_documents_is_the_only_problem_reported() {
    let queries = br#"[{"id": 1, "query": "a", "relevant_docs": [7]}]"#;
    let with = |documents: &'static [u8]| {
        [("documents.json", documents), ("train_queries.json", queries.as_slice())]
    };
    let errors = refused(&with(b"[]"), &["documents.json has no documents"]);
    assert_eq!(errors.0.len(), 1);
    let errors = refused(&with(b""), &["documents.json: the file is empty; expected an array"]);
    assert_eq!(errors.0.len(), 1);
    refused(
        &[("documents.jsonl", b"\n"), ("train.jsonl", b"")],
        &["documents.jsonl has no documents"],
    );
}

#[test]
fn what_is_not_a_regular_file_is_refused_by_type_without_waiting() {
    let home = tempfile::tempdir().expect("a directory");
    let at = |name: &str| home.path().join(name);
    assert!(Command::new("mkfifo").arg(at("pipe")).status().expect("mkfifo").success());
    let _listener = UnixListener::bind(at("socket")).expect("a socket");
    fs::create_dir(at("directory")).expect("a directory");
    for (target, is) in [
        (at("pipe"), "it is a named pipe"),
        (at("socket"), "it is a socket"),
        (at("directory"), "it is a directory"),
        ("/dev/zero".into(), "it is a device"),
        (at("gone"), "a symbolic link to a file that does not exist"),
    ] {
        let files = |name| {
            let documents = ("documents.json", DOCUMENTS.as_bytes());
            let files = directory(
                &[documents].into_iter().filter(|file| file.0 != name).collect::<Vec<_>>(),
            );
            symlink(&target, files.path().join(name)).expect("a link");
            files
        };
        for name in ["documents.json", "train_queries.json"] {
            let error = load(files(name).path(), Layout::Auto).expect_err("no regular file");
            let error = error.to_string();
            assert!(error.contains(&format!("{name}: ")) && error.contains(is), "{error}");
        }
        let generated = CorpusOptions {
            generated_queries: Some(target.clone()),
            ..options(files("other").path(), Layout::Auto)
        };
        corpus::load(&generated).expect_err("no regular file");
        if !target.is_dir() {
            // A path that is not a directory is a file of the layout `dsi`.
            load(&target, Layout::Auto).expect_err("no regular file");
        }
    }
}
