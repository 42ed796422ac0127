//! Metrics agree with `ir_measures` on the same run files, and run files survive a round trip.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use genir::retrieval::run_files::{
    RunFileError, RunWriter, read_correct_queries, read_qrels, read_run, write_correct_queries,
    write_qrels,
};
use genir::retrieval::{JudgedRanks, MetricSums, Metrics};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metrics").join(name)
}

/// What genir says of a run and its qrels.
fn judge(run: &Path, qrels: &Path) -> Metrics {
    let ranks: HashMap<(String, String), u32> = read_run(run)
        .unwrap()
        .into_iter()
        .map(|line| ((line.query, line.document), line.rank))
        .collect();
    let mut queries: BTreeMap<String, JudgedRanks> = BTreeMap::new();
    for line in read_qrels(qrels).unwrap() {
        if line.grade > 0 {
            let key = (line.query.clone(), line.document);
            let rank = ranks.get(&key).copied();
            queries
                .entry(line.query)
                .or_default()
                .relevant
                .push((rank.unwrap_or(JudgedRanks::NOT_RETRIEVED), line.grade.unsigned_abs()));
        }
    }
    let mut sums = MetricSums::default();
    for query in queries.values() {
        sums.add(query);
    }
    sums.means().unwrap()
}

#[test]
fn metrics_equal_those_of_ir_measures() {
    let metrics = judge(&fixture("run.trec"), &fixture("qrels.trec"));
    let text = std::fs::read_to_string(fixture("expected.json")).unwrap();
    let expected: HashMap<String, f64> = serde_json::from_str(&text).unwrap();
    assert_eq!(metrics.values().count(), expected.len());
    for (name, value) in metrics.values() {
        let difference = (value - expected[name]).abs();
        assert!(difference < 1e-9, "{name}: {value}, {}", expected[name]);
    }
}

#[test]
fn a_written_run_and_qrels_give_the_same_metrics_again() {
    let directory = tempfile::tempdir().unwrap();
    let run_path = directory.path().join("run.trec");
    let qrels_path = directory.path().join("qrels.trec");

    let lines = read_run(&fixture("run.trec")).unwrap();
    let mut writer = RunWriter::create(&run_path, "again").unwrap();
    for query in lines.chunk_by(|a, b| a.query == b.query) {
        let ranking = query.iter().map(|line| (line.document.as_str(), line.score as f32));
        writer.write(&query[0].query, ranking).unwrap();
    }
    assert!(!run_path.exists(), "the run stood there before it was whole");
    writer.finish().unwrap();
    let judgements = read_qrels(&fixture("qrels.trec")).unwrap();
    let judgements = judgements.iter().map(|line| {
        let grade = line.grade.unsigned_abs();
        (line.query.as_str(), line.document.as_str(), grade)
    });
    write_qrels(&qrels_path, judgements).unwrap();

    assert_eq!(judge(&run_path, &qrels_path), judge(&fixture("run.trec"), &fixture("qrels.trec")));
    assert_eq!(read_run(&run_path).unwrap()[0].tag, "again");
}

#[test]
fn ids_with_white_space_are_refused_by_name_and_leave_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.trec");
    let mut writer = RunWriter::create(&path, "genir").unwrap();
    let error = writer.write("q1", [("a b", 1.0)]).unwrap_err();
    assert!(error.to_string().contains("docid \"a b\""), "{error}");
    let error = writer.write("q\u{a0}1", [("a", 1.0)]).unwrap_err();
    assert!(error.to_string().contains("query id"), "{error}");
    drop(writer);
    let error = write_qrels(&path, [("q1", "", 1)]).unwrap_err();
    assert!(matches!(error, RunFileError::Id { .. }), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn scores_without_an_order_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = RunWriter::create(&directory.path().join("run.trec"), "genir").unwrap();
    let error = writer.write("q1", [("a", f32::NAN)]).unwrap_err();
    assert!(error.to_string().contains("score NaN at rank 1"), "{error}");
    let error = writer.write("q2", [("a", 1.0), ("b", 1.5)]).unwrap_err();
    assert!(error.to_string().contains("1.5 at rank 2"), "{error}");
}

#[test]
fn a_broken_line_is_named_with_file_line_and_field() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broken.trec");
    let message = |content: &[u8], run: bool| {
        std::fs::write(&path, content).unwrap();
        let error = if run { read_run(&path).unwrap_err() } else { read_qrels(&path).unwrap_err() };
        error.to_string()
    };
    let good = b"q1 Q0 d1 1 2.5 tag\n".as_slice();

    let text = message(&[good, b"q1 Q0 d2 2 2.4\n"].concat(), true);
    assert!(text.contains("broken.trec:2: the line is \"q1 Q0 d2 2 2.4\", expected 6 fields"));
    let text = message(&[good, b"\nq1 Q0 d2 2 NaN tag\n"].concat(), true);
    assert!(text.contains(":3: the score is \"NaN\", expected a finite number"));
    let text = message(b"q1 Q0 d1 one 2.5 tag\n", true);
    assert!(text.contains(":1: the rank is \"one\""));
    let text = message(&[good, b"q1 Q0 d\xff 2 2.4 tag\n"].concat(), true);
    assert!(text.contains(":2:") && text.contains("UTF-8"), "{text}");
    let text = message(b"q1 0 d1 high\n", false);
    assert!(text.contains(":1: the grade is \"high\", expected a whole number"));
}

#[test]
fn correct_queries_are_pairs_of_docid_token_and_query_id() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("correct_valid.json");
    let correct = vec![
        ("@DOC_ID_7@".to_string(), "val 1".to_string()),
        ("@DOC_ID_x y@".to_string(), "2".to_string()),
    ];
    write_correct_queries(&path, &correct).unwrap();
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        r#"[["@DOC_ID_7@","val 1"],["@DOC_ID_x y@","2"]]"#
    );
    assert_eq!(read_correct_queries(&path).unwrap(), correct);

    std::fs::write(&path, r#"[["@DOC_ID_7@", 12]]"#).unwrap();
    assert_eq!(read_correct_queries(&path).unwrap()[0].1, "12");
    std::fs::write(&path, "[[\"@DOC_ID_7@\", \"1\"],\n [\"@DOC_ID_8@\"]]").unwrap();
    let error = read_correct_queries(&path).unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("docid token"), "{error}");
}
