//! Corpora written to temporary directories.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use genir::corpus::{self, Corpus, CorpusError, CorpusOptions, Layout};
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

pub fn load(path: &Path, layout: Layout) -> Result<Corpus, CorpusError> {
    corpus::load(&CorpusOptions {
        path: path.display().to_string(),
        layout,
        generated_queries: None,
    })
}

pub fn read(files: &[(&str, &[u8])]) -> Result<Corpus, CorpusError> {
    load(directory(files).path(), Layout::Auto)
}

/// The error that these files give; all of `parts` must be in its message.
pub fn refused(files: &[(&str, &[u8])], parts: &[&str]) -> CorpusError {
    let error = read(files).expect_err("the corpus is refused");
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in `{message}`");
    }
    error
}
