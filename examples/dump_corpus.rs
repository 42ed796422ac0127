//! Writes a bundled corpus as files in the layout of the paper's code (`documents.json` and one
//! `*_queries.json` a split), to be read by other programs:
//!
//!     cargo run --release --example dump_corpus -- DIRECTORY            # bundled:atlas
//!     cargo run --release --example dump_corpus -- DIRECTORY almanac    # bundled:almanac, which has no queries

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use genir::corpus::{Query, almanac::almanac, atlas::atlas};
use serde_json::{Value, json};

fn main() -> Result<()> {
    let directory =
        std::env::args().nth(1).context("usage: dump_corpus DIRECTORY [atlas|almanac]")?;
    let directory = Path::new(&directory);
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let corpus = match std::env::args().nth(2).as_deref() {
        None | Some("atlas") => atlas(),
        Some("almanac") => almanac(),
        Some(other) => bail!("there is no bundled corpus {other}; expected atlas or almanac"),
    };
    let documents = corpus.documents.iter();
    let documents = documents.map(|document| json!({"id": document.id, "text": document.text()}));
    write(directory, "documents.json", documents.collect())?;
    for (name, queries) in [
        ("train_queries.json", &corpus.train),
        ("val_queries.json", &corpus.validation),
        ("test_queries.json", &corpus.test),
    ] {
        let record = |query: &Query| {
            let relevant = query.relevant.iter();
            let relevant =
                relevant.map(|judgement| &corpus.documents[judgement.document as usize].id);
            json!({"id": query.id, "query": query.text, "relevant_docs": relevant.collect::<Vec<_>>()})
        };
        write(directory, name, queries.iter().map(record).collect())?;
    }
    Ok(())
}

fn write(directory: &Path, name: &str, records: Vec<Value>) -> Result<()> {
    let path = directory.join(name);
    let text = serde_json::to_string_pretty(&records)?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
