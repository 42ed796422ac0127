//! The layout of the paper's released code: a directory with
//!
//! - `documents.json`: `[{"id": 7, "text": ".."}, ..]`,
//! - `train_queries.json`, `val_queries.json`, `test_queries.json`, as far as they are there:
//!   `[{"id": "q1", "query": "..", "relevant_docs": [7]}, ..]`.
//!
//! The files are read element by element, so no more than one is held beside the corpus itself.

use std::path::Path;

use serde::Deserialize;

use super::builder::{CorpusBuilder, Part, QueryIds};
use super::error::CorpusError;
use super::read::{self, Id};
use super::{Layout, Split};

pub(super) const DOCUMENTS: &str = "documents.json";
const QUERIES: [(Split, &str); 3] = [
    (Split::Train, "train_queries.json"),
    (Split::Validation, "val_queries.json"),
    (Split::Test, "test_queries.json"),
];

const RIGHT_DOCUMENT: &str = r#"an array of {"id": 7, "text": "..."}"#;
const RIGHT_QUERY: &str = r#"an array of {"id": "q1", "query": "...", "relevant_docs": [7]}"#;

#[derive(Deserialize)]
struct DocumentElement {
    id: Id,
    text: String,
}

#[derive(Deserialize)]
struct QueryElement {
    id: Id,
    query: String,
    relevant_docs: Vec<Id>,
}

pub(super) fn is_here(directory: &Path) -> bool {
    read::find(directory, DOCUMENTS).is_some()
}

pub(super) fn read(directory: &Path, builder: &mut CorpusBuilder) -> Result<(), CorpusError> {
    let documents = read::find(directory, DOCUMENTS).ok_or_else(|| CorpusError::NothingFound {
        path: directory.display().to_string(),
        layout: Layout::Paper,
        looked_for: vec![DOCUMENTS.to_owned()],
    })?;
    read::array(&documents, RIGHT_DOCUMENT, |element: DocumentElement| {
        builder.document(element.id.0, element.text)
    })?;
    for (split, name) in QUERIES {
        let Some(file) = read::find(directory, name) else {
            continue;
        };
        let part = Part::Split(split);
        let mut ids = QueryIds::new(part);
        read::array(&file, RIGHT_QUERY, |element: QueryElement| {
            ids.add(&element.id.0)?;
            let relevant = element.relevant_docs.into_iter().map(|id| id.0);
            builder.query(part, element.id.0, element.query, relevant)
        })?;
    }
    Ok(())
}
