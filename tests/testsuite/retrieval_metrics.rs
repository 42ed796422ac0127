//! Metrics agree with `ir_measures` on the same run files, and run files survive a round trip.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use genir::retrieval::run_files::{
    RunFileError, RunWriter, read_correct_queries, read_qrels, read_run, write_correct_queries,
    write_qrels,
};
use genir::retrieval::{JudgedRanks, MetricSums, Metrics, NamedMeasure};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metrics").join(name)
}

/// Returns the ranks of the relevant documents by query. The run is ordered as in `trec_eval`: by score in f32, and
/// equal scores by descending id; the ranks in the file are ignored.
fn judged(run: &Path, qrels: &Path) -> BTreeMap<String, JudgedRanks> {
    let mut lines = read_run(run).unwrap();
    lines.sort_by(|a, b| {
        let by_score = (b.score as f32).partial_cmp(&(a.score as f32)).unwrap();
        a.query.cmp(&b.query).then(by_score).then(b.document.cmp(&a.document))
    });
    let mut ranks: HashMap<(&str, &str), u32> = HashMap::new();
    for query in lines.chunk_by(|a, b| a.query == b.query) {
        ranks.extend(query.iter().map(|l| (l.query.as_str(), l.document.as_str())).zip(1..));
    }
    let mut queries: BTreeMap<String, JudgedRanks> = BTreeMap::new();
    for line in read_qrels(qrels).unwrap() {
        if line.grade > 0 {
            let rank = ranks.get(&(line.query.as_str(), line.document.as_str())).copied();
            let found = (rank.unwrap_or(JudgedRanks::NOT_RETRIEVED), line.grade.unsigned_abs());
            queries.entry(line.query).or_default().relevant.push(found);
        }
    }
    queries
}

/// Returns genir's metrics of a run and its qrels.
fn judge(run: &Path, qrels: &Path) -> Metrics {
    let mut sums = MetricSums::default();
    judged(run, qrels).values().for_each(|query| sums.add(query));
    sums.means().unwrap()
}

fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

/// Compares the measures of each query with those in `expected`, by query and name. Returns the number compared.
fn compare(queries: &BTreeMap<String, JudgedRanks>, expected: &Value) -> usize {
    let mut compared = 0;
    for (query, judged) in queries {
        for (name, value) in expected[query].as_object().unwrap() {
            let measure: NamedMeasure = name.parse().unwrap();
            let (found, expected) = (judged.values([measure.measure])[0], value.as_f64().unwrap());
            assert!((found - expected).abs() < 1e-12, "{query} {name}: {found}, {expected}");
            compared += 1;
        }
    }
    compared
}

#[test]
fn metrics_equal_those_of_ir_measures() {
    let metrics = judge(&fixture("run.trec"), &fixture("qrels.trec"));
    let expected: HashMap<String, f64> = serde_json::from_value(json("expected.json")).unwrap();
    assert_eq!(metrics.values().count(), expected.len());
    for (name, value) in metrics.values() {
        let difference = (value - expected[name]).abs();
        assert!(difference < 1e-9, "{name}: {value}, {}", expected[name]);
    }
}

#[test]
fn chosen_measures_equal_those_of_ir_measures_for_each_query() {
    let queries = judged(&fixture("run.trec"), &fixture("qrels.trec"));
    let expected = json("chosen.json");
    assert_eq!(compare(&queries, &expected["queries"]), 40 * 18);
    for (name, mean) in expected["means"].as_object().unwrap() {
        let measure = name.parse::<NamedMeasure>().unwrap().measure;
        let sum: f64 = queries.values().map(|query| query.values([measure])[0]).sum();
        let (found, expected) = (sum / queries.len() as f64, mean.as_f64().unwrap());
        assert!((found - expected).abs() < 1e-12, "{name}: {found}, {expected}");
    }
}

#[test]
fn measures_of_tied_scores_equal_those_of_ir_measures() {
    let queries = judged(&fixture("ties.trec"), &fixture("ties.qrels"));
    let expected = json("ties.json");
    assert!(compare(&queries, &expected["metrics"]) > 30 * 20);
    for (query, judged) in queries {
        let ranks = expected["ranks"][&query].as_object().unwrap().values();
        let mut ranks: Vec<u64> = ranks.map(|rank| rank.as_u64().unwrap()).collect();
        let mut found: Vec<u64> =
            judged.relevant.iter().map(|(rank, _)| u64::from(*rank)).collect();
        ranks.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, ranks, "{query}");
    }
}

#[test]
fn scores_in_a_run_file_have_the_same_ties_as_the_logits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.trec");
    // Neighbours in f32 at many magnitudes, some of them twice, and zeros of both signs.
    let mut scores: Vec<f32> = Vec::new();
    for magnitude in [3.4e38_f32, 1e6, 123.456, 8.0, 1.0, 0.1, 1e-3, 1e-7, 1e-38, 1e-45] {
        for value in [magnitude, -magnitude] {
            scores.extend([value, value, value.next_down(), value.next_up()]);
        }
    }
    scores.extend([0.0, -0.0]);
    scores.retain(|score| score.is_finite());
    scores.sort_by(|a, b| b.partial_cmp(a).unwrap());
    let ids: Vec<String> = (0..scores.len()).map(|row| format!("d{row}")).collect();
    let mut writer = RunWriter::create(&path, "genir").unwrap();
    writer.write("q", ids.iter().map(String::as_str).zip(scores.iter().copied())).unwrap();
    writer.finish().unwrap();
    // trec_eval keeps scores as f32, others read them as f64.
    let read: Vec<f64> = read_run(&path).unwrap().iter().map(|line| line.score).collect();
    for (at, pair) in scores.windows(2).enumerate() {
        let expected = pair[1].partial_cmp(&pair[0]);
        assert_eq!(read[at + 1].partial_cmp(&read[at]), expected, "{pair:?}");
        assert_eq!((read[at + 1] as f32).partial_cmp(&(read[at] as f32)), expected, "{pair:?}");
    }
}

#[test]
fn a_run_and_qrels_that_were_written_and_read_give_the_same_metrics() {
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
fn nan_and_increasing_scores_are_refused() {
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
