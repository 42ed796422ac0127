//! Extra generated queries: one JSONL file of `{"query": "..", "docid": 7}`.
//!
//! Lines of the form `{"text": "..", "text_id": 7}`, as written by DSI-QG, are accepted too.

use std::path::Path;

use serde::Deserialize;

use super::builder::{CorpusBuilder, QueryKind};
use super::read::{self, Id, nullable};
use super::text::Text;

const EXPECTED: &str = r#"{"query": "...", "docid": 7}"#;

#[derive(Deserialize)]
struct GeneratedLine {
    #[serde(alias = "text", deserialize_with = "nullable")]
    query: Text,
    #[serde(alias = "text_id")]
    docid: Id,
}

/// Reads the file. Its queries get the ids `generated-<line>`.
pub(super) fn read(file: &Path, builder: &mut CorpusBuilder) {
    read::json_lines(file, "docid", EXPECTED, builder, |builder, location, line: GeneratedLine| {
        let id = format!("generated-{}", location.line.unwrap_or(0));
        builder.pair(QueryKind::Generated, location, (id, line.query), &line.docid.0);
    });
    builder.finish_queries(QueryKind::Generated, file);
}
