//! Extra generated queries: one JSONL file of `{"query": "..", "docid": 7}`.
//!
//! `{"text": "..", "text_id": 7}`, which is how DSI-QG writes the queries it generates, means the same.

use std::path::Path;

use serde::Deserialize;

use super::builder::{CorpusBuilder, QueryKind};
use super::read::{self, Id, Text, nullable};

const RIGHT: &str = r#"{"query": "...", "docid": 7}"#;

#[derive(Deserialize)]
struct GeneratedLine {
    #[serde(alias = "text", deserialize_with = "nullable")]
    query: Text,
    #[serde(alias = "text_id")]
    docid: Id,
}

/// Reads the file; its queries get the ids `generated-<line>`.
pub(super) fn read(file: &Path, builder: &mut CorpusBuilder) {
    read::json_lines(file, RIGHT, builder, |builder, place, line: GeneratedLine| {
        let id = format!("generated-{}", place.line.unwrap_or(0));
        builder.pair(QueryKind::Generated, place, (id, line.query), &line.docid.0);
    });
    builder.queries_end(QueryKind::Generated, file);
}
