//! The layout of BEIR, a directory with:
//!
//! - `corpus.jsonl`: `{"_id": "7", "title": "..", "text": ".."}`; title and text become one text,
//!   joined by `. `, or the one of the two that is not empty;
//! - `queries.jsonl`: `{"_id": "q1", "text": ".."}`, the queries of all splits;
//! - `qrels/train.tsv`, `qrels/dev.tsv` (or `val`, `valid`, `validation`), `qrels/test.tsv`, each of them optional: a
//!   header of `query-id`, `corpus-id` and `score`, then one tab-separated judgement per line.
//!
//! A split has the queries with at least one score above 0, in the order of their first judgement in its file.
//! Judgements with a score of 0 or below are not relevant, and ignored.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::builder::{Aborted, CorpusBuilder, Queries, QueryKind, UnreadLines};
use super::error::CorpusError;
use super::files;
use super::findings::FindingKind;
use super::location::FileLocation;
use super::read::{self, Id, nullable};
use super::text::Text;
use super::{Layout, Split};

pub(super) const CORPUS: &str = "corpus.jsonl";
pub(super) const QUERIES: &str = "queries.jsonl";
pub(super) const QRELS: &str = "qrels";
pub(super) const JUDGEMENTS: &str =
    "qrels/train.tsv, qrels/dev.tsv (or val, valid, validation), qrels/test.tsv";

/// The key of the id of a document or query.
const ID: &str = "_id";
const EXPECTED_DOCUMENT: &str = r#"{"_id": "7", "title": "...", "text": "..."}"#;
const EXPECTED_QUERY: &str = r#"{"_id": "q1", "text": "..."}"#;
const EXPECTED_HEADER: &str = "the header `query-id<TAB>corpus-id<TAB>score`";
const EXPECTED_JUDGEMENT: &str = "query id, document id and an integer, separated by tabs";

#[derive(Deserialize)]
struct DocumentLine {
    #[serde(rename = "_id")]
    id: Id,
    #[serde(default, deserialize_with = "nullable")]
    title: Text,
    #[serde(deserialize_with = "nullable")]
    text: Text,
}

#[derive(Deserialize)]
struct QueryLine {
    #[serde(rename = "_id")]
    id: Id,
    #[serde(deserialize_with = "nullable")]
    text: Text,
}

/// The queries of `queries.jsonl`, of all splits.
struct AllQueries {
    queries: Vec<KnownQuery>,
    by_id: HashMap<String, usize>,
    /// The lines that could not be read.
    unread: UnreadLines,
}

struct KnownQuery {
    id: String,
    text: String,
    location: FileLocation,
    /// True if a split has a judgement of the query.
    is_judged: bool,
}

pub(super) fn is_layout_of(directory: &Path) -> bool {
    [CORPUS, QUERIES].into_iter().all(|name| files::find(directory, name).is_some())
}

/// Returns whether `corpus.jsonl` has documents in this layout. Without queries, its name is that of the layout dsi as well.
pub(super) fn has_documents(directory: &Path) -> bool {
    files::find(directory, CORPUS).is_some_and(|file| read::first_line_has(&file, ID))
}

/// Returns the files of judgements.
pub(super) fn judgements(directory: &Path) -> Result<Vec<(Split, PathBuf)>, CorpusError> {
    let directory = directory.join(QRELS);
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    files::of_splits(&directory, |name| name.strip_suffix(".tsv")?.parse().ok())
}

pub(super) fn read(directory: &Path, builder: &mut CorpusBuilder) -> Result<(), Aborted> {
    let judgements = judgements(directory).map_err(|error| builder.abort(error))?;
    let [documents, queries] = [CORPUS, QUERIES].map(|name| files::find(directory, name));
    let (documents, queries) = match (documents, queries) {
        (Some(documents), Some(queries)) if !judgements.is_empty() => (documents, Some(queries)),
        // Text alone, which denoising and indexing can be trained on.
        (Some(documents), None) if judgements.is_empty() => (documents, None),
        (documents, queries) => {
            let missing = match (&documents, &queries) {
                (None, None) => "corpus.jsonl and queries.jsonl",
                (None, Some(_)) => CORPUS,
                (Some(_), None) => QUERIES,
                (Some(_), Some(_)) => JUDGEMENTS,
            };
            let found = [documents.as_deref(), queries.as_deref()].into_iter().flatten();
            let found = found.chain(judgements.iter().map(|(_, file)| file.as_path()));
            return Err(builder.abort(files::missing(directory, Layout::Beir, missing, found)));
        }
    };
    read::json_lines(
        &documents,
        ID,
        EXPECTED_DOCUMENT,
        builder,
        |builder, location, line: DocumentLine| {
            builder.document(location, line.id.0, Text::titled(line.title, line.text));
        },
    );
    builder.finish_documents(&documents)?;
    let Some(queries) = queries else { return Ok(()) };
    let mut all = read_queries(&queries, builder);
    for (split, file) in judgements {
        read_judgements(&file, split, &mut all, builder);
    }
    for query in all.queries.iter().filter(|query| !query.is_judged) {
        builder.note(FindingKind::Unjudged, &query.location, format_args!("query `{}`", query.id));
    }
    Ok(())
}

fn read_queries(file: &Path, builder: &mut CorpusBuilder) -> AllQueries {
    let (mut queries, mut by_id) = (Vec::<KnownQuery>::new(), HashMap::new());
    read::json_lines(file, ID, EXPECTED_QUERY, builder, |builder, location, line: QueryLine| {
        let id = line.id.0;
        let text = builder.checked_text(location, format_args!("query `{id}`"), line.text);
        if let Some(&earlier) = by_id.get(&id) {
            let same: &KnownQuery = &queries[earlier];
            let same = same.text == text;
            let kind = if same { FindingKind::RepeatedQuery } else { FindingKind::DuplicateQuery };
            return builder.note(kind, location, format_args!("query `{id}`"));
        }
        by_id.insert(id.clone(), queries.len());
        queries.push(KnownQuery { id, text, location: location.clone(), is_judged: false });
    });
    AllQueries { queries, by_id, unread: builder.take_unread() }
}

fn read_judgements(file: &Path, split: Split, all: &mut AllQueries, builder: &mut CorpusBuilder) {
    let mut of_split = Queries::new(QueryKind::Split(split));
    let mut header = None;
    read::lines(file, builder, |builder, location, line| {
        let malformed = |builder: &mut CorpusBuilder, why: &str, expected: &str| {
            let line = read::beginning(line);
            let what = format_args!("found `{line}`{why}; expected {expected}");
            builder.note(FindingKind::Malformed, location, what);
        };
        let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
        match header {
            None => {
                // Without this check, a judgement in the first line would be treated as the header and lost.
                let is_header = fields.len() == 3 && fields[2].parse::<f64>().is_err();
                header = Some(is_header);
                if !is_header {
                    malformed(builder, "", EXPECTED_HEADER);
                }
                return;
            }
            // In a file of another format, every line would be reported.
            Some(false) => return,
            Some(true) => {}
        }
        let &[query, document, score] = fields.as_slice() else {
            return malformed(builder, "", EXPECTED_JUDGEMENT);
        };
        let Some(grade) = grade(score) else {
            let why = format!(", whose grade `{score}` is not an integer");
            return malformed(builder, &why, EXPECTED_JUDGEMENT);
        };
        let Some(&known) = all.by_id.get(query) else {
            // A judgement of 0 for an absent query has no effect.
            if grade > 0 && !all.unread.may_have(query) {
                let what = format_args!("query `{query}`, document `{document}`");
                builder.note(FindingKind::AbsentQuery, location, what);
            }
            return;
        };
        let at = of_split.get(query).unwrap_or_else(|| {
            let known = &mut all.queries[known];
            let (id, text) = (known.id.clone(), known.text.clone());
            // A query that two splits judge is reported once.
            if text.trim().is_empty() && !known.is_judged {
                builder.note(
                    FindingKind::EmptyQuery,
                    &known.location,
                    format_args!("query `{id}`"),
                );
            }
            known.is_judged = true;
            of_split.add(location, id, text)
        });
        of_split.judge(builder, location, at, document, grade);
    });
    of_split.finish(builder, file);
}

/// Parses an integer, which may be written as `1.0`.
fn grade(score: &str) -> Option<i64> {
    /// 2^53: above it, not every integer is an `f64`.
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    score.parse().ok().or_else(|| {
        let number: f64 = score.parse().ok()?;
        (number.fract() == 0.0 && number.abs() < MAX_EXACT).then_some(number as i64)
    })
}
