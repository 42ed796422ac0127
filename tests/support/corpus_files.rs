//! Corpora written to temporary directories.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use genir::corpus::{self, Corpus, CorpusErrors, CorpusOptions, Layout, LoadedCorpus, OnProblem};
use tempfile::TempDir;

pub const DOCUMENTS: &str = r#"[{"id": 7, "text": "seven"}, {"id": "b", "text": "letter b"}]"#;

pub const BEIR_CORPUS: &str = "{\"_id\": \"7\", \"title\": \"Seven\", \"text\": \"a number\"}\n\n\
     {\"_id\": \"b\", \"title\": \"\", \"text\": \"letter b\", \"metadata\": {}}\n\
     {\"_id\": \"c\", \"title\": \"Only a title\", \"text\": \"\"}\n";
pub const BEIR_QUERIES: &str =
    "{\"_id\": \"q1\", \"text\": \"one?\"}\n{\"_id\": \"q2\", \"text\": \"two?\"}\n";

pub fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, content).expect("a file");
    }
    directory
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).expect("compressed");
    encoder.finish().expect("compressed")
}

pub fn options(path: &Path, layout: Layout) -> CorpusOptions {
    CorpusOptions { path: path.display().to_string(), layout, ..CorpusOptions::default() }
}

pub fn load(path: &Path, layout: Layout) -> Result<Corpus, CorpusErrors> {
    corpus::load(&options(path, layout)).map(|loaded| loaded.corpus)
}

pub fn read(files: &[(&str, &[u8])]) -> Result<Corpus, CorpusErrors> {
    load(directory(files).path(), Layout::Auto)
}

/// What these files give where problems are skipped (or not).
pub fn read_with(
    files: &[(&str, &[u8])],
    on_problem: OnProblem,
) -> Result<LoadedCorpus, CorpusErrors> {
    let files = directory(files);
    corpus::load(&CorpusOptions { on_problem, ..options(files.path(), Layout::Auto) })
}

/// The errors that these files give; all of `parts` must be in their message.
#[track_caller]
pub fn refused(files: &[(&str, &[u8])], parts: &[&str]) -> CorpusErrors {
    let errors = read(files).expect_err("the corpus is refused");
    let message = errors.to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in `{message}`");
    }
    errors
}

/// A BEIR directory of three documents and two queries, one split of which has these judgements.
pub fn beir(judgements: &[&str]) -> Vec<(&'static str, Vec<u8>)> {
    let judgements = format!("query-id\tcorpus-id\tscore\n{}\n", judgements.join("\n"));
    vec![
        ("corpus.jsonl", BEIR_CORPUS.into()),
        ("queries.jsonl", BEIR_QUERIES.into()),
        ("qrels/test.tsv", judgements.replace(' ', "\t").into()),
    ]
}

/// The same files, as the functions above take them.
pub fn borrowed<'a>(files: &'a [(&'a str, Vec<u8>)]) -> Vec<(&'a str, &'a [u8])> {
    files.iter().map(|(name, content)| (*name, content.as_slice())).collect()
}
