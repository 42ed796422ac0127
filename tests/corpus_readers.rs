//! Corpora are read from every layout, and what is wrong with one is said with its place.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use genir::corpus::{self, Corpus, CorpusError, CorpusOptions, Layout, LeaveOut, Problem, Split};
use tempfile::TempDir;

#[path = "support/collections.rs"]
mod collections;

const DOCUMENTS: &str = r#"[{"id": 7, "text": "seven"}, {"id": "b", "text": "letter b"}]"#;
const TRAIN: &str = r#"[{"id": 1, "query": "which letter?", "relevant_docs": ["b", 7]}]"#;
const VALIDATION: &str = r#"[{"id": "v", "query": "which number?", "relevant_docs": [7]}]"#;

fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, content).expect("a file");
    }
    directory
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).expect("compressed");
    encoder.finish().expect("compressed")
}

fn load(path: &Path, layout: Layout) -> Result<Corpus, CorpusError> {
    corpus::load(&CorpusOptions {
        path: path.display().to_string(),
        layout,
        generated_queries: None,
    })
}

fn read(files: &[(&str, &[u8])]) -> Result<Corpus, CorpusError> {
    load(directory(files).path(), Layout::Auto)
}

/// The message of the error that these files give; all of `parts` must be in it.
fn refused(files: &[(&str, &[u8])], parts: &[&str]) -> CorpusError {
    let error = read(files).expect_err("the corpus is refused");
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in `{message}`");
    }
    error
}

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
    let relevant: Vec<u32> = corpus.train[0]
        .relevant
        .iter()
        .map(|j| j.document)
        .collect();
    assert_eq!((corpus.train[0].id.as_str(), relevant), ("1", vec![1, 0]));
    assert_eq!(corpus.split(Split::Validation)[0].text, "which number?");
    assert!(corpus.test.is_empty());
}

#[test]
fn gzip_is_told_by_content_whatever_the_name_is() {
    let plain = read(&[
        ("documents.json", DOCUMENTS.as_bytes()),
        ("train_queries.json", TRAIN.as_bytes()),
    ])
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
fn a_byte_order_mark_and_windows_line_ends_are_passed_over() {
    let documents = format!("\u{feff}{}", DOCUMENTS.replace(", {", ",\r\n{"));
    let corpus = read(&[("documents.json", documents.as_bytes())]).expect("a corpus");
    assert_eq!(ids(&corpus), ["7", "b"]);
}

#[test]
fn characters_cut_by_the_ends_of_buffers_are_read_whole() {
    // Three bytes a character and an odd start: some character lies across every 64 KiB boundary.
    let text = "x".to_owned() + &"€".repeat(200_000);
    let documents = serde_json::json!([{"id": 1, "text": text}]).to_string();
    for content in [documents.clone().into_bytes(), gzip(documents.as_bytes())] {
        let corpus = read(&[("documents.json", &content)]).expect("a corpus");
        assert!(corpus.documents[0].text == text);
    }
}

const BEIR_CORPUS: &str = "{\"_id\": \"7\", \"title\": \"Seven\", \"text\": \"a number\"}\n\n\
     {\"_id\": \"b\", \"title\": \"\", \"text\": \"letter b\", \"metadata\": {}}\n\
     {\"_id\": \"c\", \"title\": \"Only a title\", \"text\": \"\"}\n";
const BEIR_QUERIES: &str =
    "{\"_id\": \"q1\", \"text\": \"one?\"}\n{\"_id\": \"q2\", \"text\": \"two?\"}\n";

#[test]
fn a_beir_directory_joins_titles_and_keeps_grades_above_zero() {
    let corpus = read(&[
        ("corpus.jsonl", BEIR_CORPUS.as_bytes()),
        ("queries.jsonl", BEIR_QUERIES.as_bytes()),
        (
            "qrels/dev.tsv",
            b"query-id\tcorpus-id\tscore\nq2\t7\t2\nq1\tb\t0\nq2\tc\t1\r\n",
        ),
    ])
    .expect("a corpus");
    let texts: Vec<&str> = corpus.documents.iter().map(|d| d.text.as_str()).collect();
    assert_eq!(texts, ["Seven. a number", "letter b", "Only a title"]);
    assert_eq!(corpus.validation.len(), 1);
    let query = &corpus.validation[0];
    let judged: Vec<(u32, u32)> = query
        .relevant
        .iter()
        .map(|j| (j.document, j.grade))
        .collect();
    assert_eq!((query.id.as_str(), judged), ("q2", vec![(0, 2), (2, 1)]));
}

#[test]
fn dsi_documents_and_queries_in_files_of_their_own_share_their_text_id() {
    let corpus = read(&[
        (
            "corpus.jsonl",
            b"{\"text_id\": 7, \"text\": \"Passage: question: seven\"}\n{\"text_id\": \"b\", \"text\": \"letter b\"}\n",
        ),
        ("train.jsonl", b"{\"text_id\": \"b\", \"text\": \"document: which letter?\"}\n"),
        ("NQ_10k_valid.json", b"\n{\"text_id\": 7, \"text\": \"Question: which number?\"}\n"),
    ])
    .expect("a corpus");
    assert_eq!(corpus.documents[0].text, "question: seven");
    assert_eq!(corpus.train[0].text, "document: which letter?");
    assert_eq!(corpus.train[0].relevant[0].document, 1);
    assert_eq!(corpus.validation[0].id, "validation-2");
    assert_eq!(corpus.validation[0].text, "which number?");
}

#[test]
fn a_mixed_dsi_file_tells_documents_from_queries_by_their_marks() {
    let train: &[u8] = b"{\"text_id\": \"0\", \"text\": \"question: which one?\"}\n\
        {\"text_id\": \"0\", \"text\": \"document: the first\"}\n\
        {\"text_id\": \"1\", \"text\": \"Passage: the second\"}\n";
    let valid: &[u8] = b"{\"text_id\": \"1\", \"text\": \"question: and which other?\"}\n";
    let corpus = read(&[
        ("NQ_10k_multi_task_train.json", train),
        ("NQ_10k_valid.json", valid),
    ])
    .expect("a corpus");
    assert_eq!(ids(&corpus), ["0", "1"]);
    assert_eq!(corpus.documents[1].text, "the second");
    assert_eq!(corpus.train[0].text, "which one?");
    assert_eq!(corpus.validation[0].relevant[0].document, 1);

    let files = directory(&[("any_name", train)]);
    let one = load(&files.path().join("any_name"), Layout::Auto).expect("one file");
    assert_eq!(one.documents, corpus.documents);
    assert_eq!(one.train, corpus.train);

    refused(
        &[("train.jsonl", b"{\"text_id\": 0, \"text\": \"no mark\"}\n")],
        &[
            "train.jsonl, line 1",
            "`no mark` has no mark",
            "`document: `",
        ],
    );
}

#[test]
fn generated_queries_come_from_one_more_file() {
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
    };
    let corpus = corpus::load(&options("generated")).expect("a corpus");
    assert!(corpus.train.is_empty());
    let generated: Vec<(&str, &str, u32)> = corpus
        .generated
        .iter()
        .map(|q| (q.id.as_str(), q.text.as_str(), q.relevant[0].document))
        .collect();
    assert_eq!(
        generated,
        [
            ("generated-1", "a letter?", 1),
            ("generated-2", "a number?", 0)
        ]
    );
    let error = corpus::load(&options("unknown")).expect_err("an unknown document");
    assert!(
        error
            .to_string()
            .contains("unknown, line 1: query `generated-1` is judged for document `z`")
    );
}

#[test]
fn duplicate_ids_are_refused_with_their_place() {
    refused(
        &[(
            "documents.json",
            b"[{\"id\": 7, \"text\": \"a\"},\n{\"id\": \"7\", \"text\": \"b\"}]",
        )],
        &[
            "documents.json, element [1], line 2",
            "document id `7` is used twice",
            "number 1",
        ],
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
fn the_same_query_id_may_stand_in_two_splits() {
    let corpus = read(&[
        ("documents.json", DOCUMENTS.as_bytes()),
        ("train_queries.json", VALIDATION.as_bytes()),
        ("val_queries.json", VALIDATION.as_bytes()),
    ])
    .expect("a corpus");
    assert_eq!(corpus.train, corpus.validation);
}

#[test]
fn judgements_that_fit_nothing_are_refused_with_their_place() {
    refused(
        &[
            ("documents.json", DOCUMENTS.as_bytes()),
            (
                "val_queries.json",
                b"[\n{\"id\": 1, \"query\": \"a\", \"relevant_docs\": [7, 9]}]",
            ),
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
        &[
            "train.tsv, line 3",
            "document `7` is judged twice for query `q1`",
        ],
    );
    let no_document = br#"[{"id": 1, "query": "a", "relevant_docs": []}]"#;
    refused(
        &[
            ("documents.json", DOCUMENTS.as_bytes()),
            ("test_queries.json", no_document),
        ],
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
        let error = refused(
            &[("documents.json", &content)],
            &["documents.json, line 5002: not UTF-8"],
        );
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
        &[(
            "documents.json",
            b"[{\"id\": 1, \"text\": \"a\"},\n{\"id\": 2, \"txt\": \"b\"}]",
        )],
        &[
            "documents.json, element [1], line 2, column",
            "missing field `text`",
            "right would be an array of {\"id\": 7, \"text\": \"...\"}",
        ],
    );
    let error = refused(
        &[(
            "documents.json",
            b"[{\"id\": 1, \"text\": \"a\"},\n{\"id\": 2, \"text\": \"b",
        )],
        &["element [1], line 2", "EOF while parsing a string"],
    );
    assert!(matches!(
        error,
        CorpusError::At {
            problem: Problem::Malformed { .. },
            ..
        }
    ));
    refused(
        &[("documents.json", b"{\"id\": 1}")],
        &["invalid type: map, expected an array"],
    );
    refused(
        &[("documents.json", br#"[{"id": 1, "text": "a"}] more"#)],
        &["trailing characters"],
    );
    refused(
        &[("documents.json", br#"[{"id": 1.5, "text": "a"}]"#)],
        &["expected an id (an integer or a string)"],
    );
    refused(
        &[("documents.json", br#"[{"id": "", "text": "a"}]"#)],
        &["an empty id"],
    );
    refused(
        &[(
            "corpus.jsonl",
            b"{\"text_id\": 1, \"text\": \"a\"}\nnot json at all\n",
        )],
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
    refused(
        &beir(b"q1\t7\t1\n"),
        &["test.tsv, line 1", "found `q1\t7\t1`", "the header"],
    );
    refused(
        &beir(b"query-id\tcorpus-id\tscore\nq1\t7\tgood\n"),
        &[
            "test.tsv, line 2",
            "found `q1\t7\tgood`",
            "an integer score",
        ],
    );
    refused(
        &beir(b"query-id\tcorpus-id\tscore\nq1 7 1\n"),
        &["test.tsv, line 2", "separated by tabs"],
    );
    let truncated = &gzip(DOCUMENTS.as_bytes())[..30];
    let error = refused(
        &[("documents.json.gz", truncated)],
        &["cannot read", "documents.json.gz"],
    );
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
        &[
            ("documents.json", DOCUMENTS.as_bytes()),
            ("val_queries.json", queries),
        ],
        &["1 of the validation queries have an empty text, the first with the ids: q"],
    );
}

#[test]
fn where_nothing_is_found_the_files_looked_for_are_named() {
    refused(
        &[("other.txt", b"")],
        &[
            "documents.json",
            "corpus.jsonl with queries.jsonl",
            "*train*.jsonl",
        ],
    );
    let files = directory(&[("documents.json", b"[]")]);
    for (layout, looked_for) in [
        (Layout::Beir, "queries.jsonl"),
        (Layout::Dsi, "documents.jsonl"),
    ] {
        let error = load(files.path(), layout).expect_err("nothing there");
        assert!(error.to_string().contains(looked_for), "{error}");
    }
    let error = load(files.path(), Layout::Paper).expect_err("no documents");
    assert!(error.to_string().contains("has no documents"), "{error}");
    let error = load(&files.path().join("gone"), Layout::Auto).expect_err("no such directory");
    assert!(error.to_string().contains("gone"), "{error}");
    refused(
        &[
            ("corpus.jsonl", BEIR_CORPUS.as_bytes()),
            ("queries.jsonl", BEIR_QUERIES.as_bytes()),
        ],
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
    assert_eq!(
        load(files.path(), Layout::Paper)
            .expect("paper")
            .documents
            .len(),
        2
    );
    assert_eq!(
        load(files.path(), Layout::Beir)
            .expect("beir")
            .documents
            .len(),
        3
    );
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

#[test]
fn documents_are_left_out_by_id_or_by_count_and_seed() {
    let documents: Vec<_> = (0..100)
        .map(|id| serde_json::json!({"id": id, "text": "t"}))
        .collect();
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
    assert!(
        unknown
            .expect_err("unknown")
            .to_string()
            .contains("1 of the ids to leave out")
    );
    let all = count(100, 1).expect_err("nothing left").to_string();
    assert!(
        all.contains("cannot leave out 100 of 100 documents"),
        "{all}"
    );
}
