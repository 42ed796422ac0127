//! The layout of the paper's released code, a directory with:
//!
//! - `documents.json`: `[{"id": 7, "text": ".."}, ..]`,
//! - `train_queries.json`, `val_queries.json` (or `validation_`, `valid_`, `dev_`), `test_queries.json`, each of them
//!   optional: `[{"id": "q1", "query": "..", "relevant_docs": [7]}, ..]`.
//!
//! The files are read element by element, so that only one element is in memory in addition to the corpus.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::builder::{Aborted, CorpusBuilder, Queries, QueryKind};
use super::error::CorpusError;
use super::files;
use super::read::{self, Id, nullable};
use super::text::Text;
use super::{Layout, Split};

pub(super) const DOCUMENTS: &str = "documents.json";
pub(super) const QUERIES: &str =
    "train_queries.json, val_queries.json (or validation_, valid_, dev_), test_queries.json";

const EXPECTED_DOCUMENT: &str = r#"an array of {"id": 7, "text": "..."}"#;
const EXPECTED_QUERY: &str = r#"an array of {"id": "q1", "query": "...", "relevant_docs": [7]}"#;

#[derive(Deserialize)]
struct DocumentElement {
    id: Id,
    #[serde(deserialize_with = "nullable")]
    text: Text,
}

#[derive(Deserialize)]
struct QueryElement {
    id: Id,
    #[serde(deserialize_with = "nullable")]
    query: Text,
    #[serde(deserialize_with = "nullable")]
    relevant_docs: Vec<Id>,
}

pub(super) fn is_layout_of(directory: &Path) -> bool {
    files::find(directory, DOCUMENTS).is_some()
}

/// Returns the files of queries.
pub(super) fn queries(directory: &Path) -> Result<Vec<(Split, PathBuf)>, CorpusError> {
    files::of_splits(directory, |name| name.strip_suffix("_queries.json")?.parse().ok())
}

pub(super) fn read(directory: &Path, builder: &mut CorpusBuilder) -> Result<(), Aborted> {
    let queries = queries(directory).map_err(|error| builder.abort(error))?;
    let Some(documents) = files::find(directory, DOCUMENTS) else {
        let found = queries.iter().map(|(_, file)| file.as_path());
        return Err(builder.abort(files::missing(directory, Layout::Paper, DOCUMENTS, found)));
    };
    read::json_array(
        &documents,
        EXPECTED_DOCUMENT,
        builder,
        |builder, location, element: DocumentElement| {
            builder.document(location, element.id.0, element.text);
        },
    );
    builder.finish_documents(&documents)?;
    for (split, file) in queries {
        let mut of_split = Queries::new(QueryKind::Split(split));
        read::json_array(
            &file,
            EXPECTED_QUERY,
            builder,
            |builder, location, element: QueryElement| {
                let relevant = element.relevant_docs.into_iter().map(|id| id.0).collect();
                of_split.add_judged(builder, location, (element.id.0, element.query), relevant);
            },
        );
        of_split.finish(builder, &file);
    }
    Ok(())
}
