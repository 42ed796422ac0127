//! `scripts/convert_corpus.py` turns public file formats into a corpus that genir reads.
//!
//! Needs Python 3.11 or newer (`GENIR_PYTHON`, else `python3`); skipped without.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use genir::corpus::{self, Corpus, CorpusOptions, Query};

/// A directory with the input files of one conversion.
struct Case {
    directory: tempfile::TempDir,
    python: PathBuf,
}

/// What the script printed, and whether it succeeded.
struct Converted {
    succeeded: bool,
    stdout: String,
    stderr: String,
}

impl Case {
    /// `None` where there is no Python.
    fn new(files: &[(&str, &str)]) -> Option<Self> {
        let python = PathBuf::from(std::env::var_os("GENIR_PYTHON").unwrap_or("python3".into()));
        if Command::new(&python).arg("--version").output().is_err() {
            eprintln!("skipped: there is no Python to run scripts/convert_corpus.py");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        Some(Self { directory, python })
    }

    fn convert(&self, arguments: &[&str]) -> Converted {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/convert_corpus.py");
        let output = Command::new(&self.python)
            .arg(script)
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        Converted {
            succeeded: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Converts to the directory `out` and reads that.
    #[track_caller]
    fn corpus(&self, arguments: &[&str]) -> (Corpus, Converted) {
        let converted = self.convert(arguments);
        assert!(converted.succeeded, "{}", converted.stderr);
        let path = self.directory.path().join("out").display().to_string();
        let options = CorpusOptions { path, ..CorpusOptions::default() };
        let loaded = corpus::load(&options).unwrap_or_else(|errors| panic!("{errors}"));
        (loaded.corpus, converted)
    }

    /// Runs a conversion that has to fail with all of `parts` in its message, and leave nothing behind.
    #[track_caller]
    fn is_refused(&self, arguments: &[&str], parts: &[&str]) {
        let before = names(self.directory.path());
        let Converted { succeeded, stderr, .. } = self.convert(arguments);
        assert!(!succeeded);
        assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{part:?} is not in {stderr}");
        }
        assert_eq!(names(self.directory.path()), before);
    }
}

fn names(directory: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

fn texts(corpus: &Corpus) -> Vec<&str> {
    corpus.documents.iter().map(|document| document.text()).collect()
}

/// `(query, row of its document)` of each query.
fn pairs(queries: &[Query]) -> Vec<(&str, u32)> {
    queries.iter().map(|query| (query.text.as_str(), query.relevant[0].document)).collect()
}

/// Two paragraphs, the first with four questions (one of them unanswerable), the second with two.
const SQUAD: &str = r#"{"version": "v2.0", "data": [{"title": "Metals", "paragraphs": [
  {"context": "Iron  rusts in\n damp air.", "qas": [
    {"id": "a", "question": "What rusts?", "answers": []},
    {"id": "b", "question": "Where does iron rust?", "answers": []},
    {"id": "c", "question": "What does iron do?", "is_impossible": false, "answers": []},
    {"id": "d", "question": "Does gold rust?", "is_impossible": true, "answers": []}]},
  {"context": "Gold does not rust.", "qas": [
    {"id": "e", "question": "Which metal does not rust?", "answers": []},
    {"id": "f", "question": "What keeps its shine?", "answers": []}]}]}]}"#;

#[test]
fn a_squad_paragraph_is_a_document_and_gives_a_question_to_each_split() {
    let Some(case) = Case::new(&[("squad.json", SQUAD)]) else { return };
    let (corpus, converted) = case.corpus(&["squad", "out", "squad.json"]);
    assert_eq!(texts(&corpus), ["Iron rusts in damp air.", "Gold does not rust."]);
    assert_eq!([corpus.train.len(), corpus.validation.len(), corpus.test.len()], [3, 1, 1]);
    assert_eq!(
        (corpus.validation[0].relevant[0].document, corpus.test[0].relevant[0].document),
        (0, 0)
    );
    assert!(pairs(&corpus.train).contains(&("Which metal does not rust?", 1)));
    let asked = [&corpus.train, &corpus.validation, &corpus.test];
    assert!(
        asked.iter().all(|queries| queries.iter().all(|query| query.text != "Does gold rust?"))
    );
    assert!(
        converted.stdout.contains("unanswerable questions, left out: 1"),
        "{}",
        converted.stdout
    );
}

#[test]
fn a_sample_of_documents_depends_on_the_seed_alone() {
    let article = |id: usize| {
        format!(
            r#"{{"title": "", "paragraphs": [{{"context": "Paragraph {id}.", "qas": [{{"id": "{id}", "question": "Q {id}?"}}]}}]}}"#
        )
    };
    let data = |ids: &mut dyn Iterator<Item = usize>| {
        format!(r#"{{"data": [{}]}}"#, ids.map(article).collect::<Vec<_>>().join(","))
    };
    let files = [("there.json", data(&mut (0..50))), ("back.json", data(&mut (0..50).rev()))];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let sample = |file: &str, seed: &str| {
        let case = Case::new(&files)?;
        let (corpus, _) = case.corpus(&["squad", "out", file, "--documents", "7", "--seed", seed]);
        assert_eq!(corpus.train.len(), 7);
        let mut kept: Vec<String> = texts(&corpus).iter().map(|text| (*text).to_owned()).collect();
        kept.sort();
        Some(kept)
    };
    let Some(kept) = sample("there.json", "1") else { return };
    assert_eq!(kept.len(), 7);
    assert_eq!(sample("back.json", "1"), Some(kept.clone()));
    assert_ne!(sample("there.json", "2"), Some(kept));
}

/// A line of the simplified form; `title` is part of the page's address.
fn simplified(id: u64, question: &str, title: &str, text: &str) -> String {
    let url = format!("https://en.wikipedia.org//w/index.php?title={title}&amp;oldid=1");
    let line = serde_json::json!({
        "example_id": id, "question_text": question, "document_url": url, "document_text": text,
        "annotations": [], "long_answer_candidates": [],
    });
    format!("{line}\n")
}

/// A line of the original form.
fn original(id: u64, question: &str, title: &str, tokens: &[(&str, bool)]) -> String {
    let token = |(token, is_html): &(&str, bool)| serde_json::json!({"token": token, "html_token": is_html});
    let tokens: Vec<_> = tokens.iter().map(token).collect();
    let line = serde_json::json!({
        "example_id": id, "question_text": question, "document_title": title, "document_tokens": tokens,
    });
    format!("{line}\n")
}

const IRON: &str = "<H1> Iron ( metal ) </H1> <Table> <Td_colspan=\"2\"> 26 </Td> </Table> <P> Iron rusts . </P> \
                    <Ul> See also </Ul> <P> It is < 8 g . </P>";

#[test]
fn pages_of_natural_questions_are_documents_once_whatever_form_they_come_in() {
    let train = [
        simplified(1, "what rusts", "Iron_%28metal%29", IRON),
        simplified(2, "where is iron", "Iron_%28metal%29", "another revision"),
        simplified(3, "what shines", "Gold", "<H1> Gold </H1> Gold shines ."),
    ]
    .concat();
    let huggingface = serde_json::json!({
        "id": "9", "question": {"text": "which metal is liquid", "tokens": []},
        "document": {"title": "Mercury", "url": "", "tokens": {
            "token": ["<P>", "Mercury", "flows", ".", "</P>"], "is_html": [true, false, false, false, true]}},
    });
    let page = [("<P>", true), ("Never", false), ("read", false), ("</P>", true)];
    let test = format!("{}{huggingface}\n", original(8, "does iron rust", "Iron (metal)", &page));
    let Some(case) = Case::new(&[("test.jsonl", &test)]) else { return };
    // Packed, and named as if it were not.
    let file = fs::File::create(case.directory.path().join("train.jsonl")).unwrap();
    let mut packed = GzEncoder::new(file, Compression::fast());
    packed.write_all(train.as_bytes()).unwrap();
    packed.finish().unwrap();

    let arguments =
        ["nq", "out", "--train", "train.jsonl", "--test", "test.jsonl", "--validation", "1"];
    let (corpus, converted) = case.corpus(&arguments);
    let expected = [
        "Iron (metal). Iron rusts . It is < 8 g .",
        "Gold. Gold Gold shines .",
        "Mercury. Mercury flows .",
    ];
    assert_eq!(texts(&corpus), expected);
    assert_eq!(pairs(&corpus.test), [("does iron rust", 0), ("which metal is liquid", 2)]);
    assert_eq!((corpus.train.len(), corpus.validation.len()), (2, 1));
    assert!(converted.stdout.contains("about documents without a training question"));

    fs::remove_dir_all(case.directory.path().join("out")).unwrap();
    let arguments = [
        "nq",
        "out",
        "--train",
        "test.jsonl",
        "--validation",
        "0",
        "--text",
        "article",
        "--words",
        "2",
    ];
    let (corpus, _) = case.corpus(&arguments);
    assert_eq!(texts(&corpus), ["Iron (metal).", "Mercury. Mercury"]);
}

#[test]
fn the_tables_of_nq320k_are_read_as_pandas_writes_them() {
    let row =
        |query: &str, title: &str, text: &str| format!("{query}\t7\t\t\t{title}\t\t\t{text}\ten\n");
    let train = [
        row("what rusts", "iron", "\"iron \"\"rusts\"\"\nin damp air\""),
        row("what shines", "gold", "gold shines"),
        row("what else shines", "gold", "gold shines more"),
    ]
    .concat();
    let test = row("who rusts", "Iron", "not read");
    let Some(case) = Case::new(&[("train.tsv", &train), ("dev.tsv", &test), ("bad.tsv", "a\tb\n")])
    else {
        return;
    };
    let arguments =
        ["nq-tsv", "out", "--train", "train.tsv", "--test", "dev.tsv", "--validation", "0"];
    let (corpus, _) = case.corpus(&arguments);
    assert_eq!(texts(&corpus), ["iron \"rusts\" in damp air", "gold shines"]);
    assert_eq!(
        pairs(&corpus.train),
        [("what rusts", 0), ("what shines", 1), ("what else shines", 1)]
    );
    assert_eq!(pairs(&corpus.test), [("who rusts", 0)]);
    case.is_refused(
        &["nq-tsv", "new", "--train", "bad.tsv"],
        &["bad.tsv:1: expected 9 columns", "found 2"],
    );
}

#[test]
fn the_first_positive_passage_of_dpr_is_the_document_of_its_question() {
    let train = r#"[{"question": "what rusts", "positive_ctxs": [
        {"title": "Iron", "text": "It rusts.", "passage_id": "5"}, {"title": "Rust", "text": "Oxide.", "passage_id": "6"}]},
      {"question": "what is lost", "positive_ctxs": []},
      {"question": "what rusts in rain", "positive_ctxs": [{"title": "Iron", "text": "It rusts.", "passage_id": "5"}]}]"#;
    let Some(case) = Case::new(&[
        ("train.json", train),
        ("cut.json", &train[..train.len() - 8]),
        ("wrong.json", "[{\"question\": \"a\",\n \"positive_ctxs\": 3}]"),
        ("object.json", "{}"),
    ]) else {
        return;
    };
    let (corpus, converted) =
        case.corpus(&["dpr", "out", "--train", "train.json", "--validation", "0"]);
    assert_eq!(texts(&corpus), ["Iron. It rusts."]);
    assert_eq!(pairs(&corpus.train), [("what rusts", 0), ("what rusts in rain", 0)]);
    assert!(converted.stdout.contains("without a positive passage, left out: 1"));
    let refused =
        |file: &str, parts: &[&str]| case.is_refused(&["dpr", "new", "--train", file], parts);
    refused("cut.json", &["cut.json:4: "]);
    refused("wrong.json", &["wrong.json:1: expected a list for `positive_ctxs`, found 3"]);
    refused("object.json", &["object.json:1: expected a JSON array"]);
}

#[test]
fn what_cannot_be_converted_is_named_with_file_and_line_and_nothing_is_written() {
    let good = simplified(1, "what rusts", "Iron", "<P> Iron rusts </P>");
    let lines = |second: &str| format!("{good}{second}\n");
    let Some(case) = Case::new(&[
        ("squad.json", SQUAD),
        ("not.json", "{\n\"data\": [}"),
        ("keys.json", r#"{"data": [{"paragraphs": [{"context": 3, "qas": []}]}]}"#),
        ("broken.jsonl", &lines("{")),
        ("keys.jsonl", &lines(r#"{"example_id": 2, "document_text": "<H1> A </H1> b", "q": 1}"#)),
        ("twice.jsonl", &lines(good.trim_end())),
        ("empty.jsonl", ""),
    ]) else {
        return;
    };
    let nq = |file: &str, parts: &[&str]| case.is_refused(&["nq", "new", "--train", file], parts);
    nq("broken.jsonl", &["broken.jsonl:2: not JSON"]);
    nq(
        "keys.jsonl",
        &[
            "keys.jsonl:2: the key `question_text` is missing; there are document_text, example_id, q",
        ],
    );
    nq("twice.jsonl", &["twice.jsonl:2: the question id `1` was used before"]);
    nq("empty.jsonl", &["there are no documents"]);
    nq("absent.jsonl", &["absent.jsonl: No such file"]);
    case.is_refused(&["squad", "new", "not.json"], &["not.json:2: not JSON"]);
    let context = "keys.json: data[0].paragraphs[0]: expected text for `context`, found 3";
    case.is_refused(&["squad", "new", "keys.json"], &[context]);
    // An existing directory that holds something is left as it is.
    fs::create_dir(case.directory.path().join("full")).unwrap();
    fs::write(case.directory.path().join("full/mine"), "mine").unwrap();
    case.is_refused(&["squad", "full", "squad.json"], &["full: exists"]);
    assert_eq!(names(&case.directory.path().join("full")).len(), 1);
}
