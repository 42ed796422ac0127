//! Extra generated queries: one JSONL file of `{"query": "..", "docid": 7}`.
//!
//! `{"text": "..", "text_id": 7}`, which is how DSI-QG writes the queries it generates, means the same.

use std::path::Path;

use serde::Deserialize;

use super::builder::{CorpusBuilder, Part};
use super::error::CorpusError;
use super::read::{self, Id};

const RIGHT: &str = r#"{"query": "...", "docid": 7}"#;

#[derive(Deserialize)]
struct GeneratedLine {
    #[serde(alias = "text")]
    query: String,
    #[serde(alias = "text_id")]
    docid: Id,
}

/// Reads the file; its queries get the ids `generated-<line>`.
pub(super) fn read(file: &Path, builder: &mut CorpusBuilder) -> Result<(), CorpusError> {
    read::json_lines(file, RIGHT, |number, line: GeneratedLine| {
        let id = format!("generated-{number}");
        builder.query(Part::Generated, id, line.query, [line.docid.0])
    })
}
