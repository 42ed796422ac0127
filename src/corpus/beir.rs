//! BEIR directories:
//!
//! - `corpus.jsonl`: `{"_id": "7", "title": "..", "text": ".."}`; title and text become one text,
//!   joined by `. `, or the one of the two that is not empty;
//! - `queries.jsonl`: `{"_id": "q1", "text": ".."}`, the queries of all splits;
//! - `qrels/train.tsv`, `qrels/dev.tsv` (or `val`, `valid`, `validation`), `qrels/test.tsv`, as far as they are there: a
//!   header of `query-id`, `corpus-id` and `score`, then one judgement a line, separated by tabs.
//!
//! A split holds the queries with at least one score above 0, in the order in which its file first names
//! them. Scores of 0 and below are judgements of not being relevant and are passed over.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::builder::{CorpusBuilder, Queries, QueryKind, Stop};
use super::error::{CorpusError, FileLocation};
use super::files;
use super::findings::Kind;
use super::read::{self, Id, Text, nullable};
use super::{Layout, Split};

pub(super) const CORPUS: &str = "corpus.jsonl";
pub(super) const QUERIES: &str = "queries.jsonl";
pub(super) const QRELS: &str = "qrels";
pub(super) const JUDGEMENTS: &str =
    "qrels/train.tsv, qrels/dev.tsv (or val, valid, validation), qrels/test.tsv";

const RIGHT_DOCUMENT: &str = r#"{"_id": "7", "title": "...", "text": "..."}"#;
const RIGHT_QUERY: &str = r#"{"_id": "q1", "text": "..."}"#;
const RIGHT_HEADER: &str = "the header `query-id<TAB>corpus-id<TAB>score`";
const RIGHT_JUDGEMENT: &str = "query id, document id and a whole number, separated by tabs";

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
    /// Whether all of them are there, so that a query which is not is absent from the corpus.
    is_whole: bool,
}

struct KnownQuery {
    id: String,
    text: String,
    place: FileLocation,
    /// Whether a split judges it.
    is_judged: bool,
}

pub(super) fn is_here(directory: &Path) -> bool {
    [CORPUS, QUERIES].into_iter().all(|name| files::find(directory, name).is_some())
}

/// The files of judgements.
pub(super) fn judgements(directory: &Path) -> Result<Vec<(Split, PathBuf)>, CorpusError> {
    let directory = directory.join(QRELS);
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    files::of_splits(&directory, |name| name.strip_suffix(".tsv")?.parse().ok())
}

pub(super) fn read(directory: &Path, builder: &mut CorpusBuilder) -> Result<(), Stop> {
    let judgements = judgements(directory).map_err(|error| builder.stop(error))?;
    let [documents, queries] = [CORPUS, QUERIES].map(|name| files::find(directory, name));
    let (documents, queries) = match (documents, queries) {
        (Some(documents), Some(queries)) if !judgements.is_empty() => (documents, queries),
        (documents, queries) => {
            let missing = match (&documents, &queries) {
                (None, None) => "corpus.jsonl and queries.jsonl",
                (None, Some(_)) => CORPUS,
                (Some(_), None) => QUERIES,
                (Some(_), Some(_)) => JUDGEMENTS,
            };
            let found = [documents.as_deref(), queries.as_deref()].into_iter().flatten();
            let found = found.chain(judgements.iter().map(|(_, file)| file.as_path()));
            return Err(builder.stop(files::missing(directory, Layout::Beir, missing, found)));
        }
    };
    read::json_lines(&documents, RIGHT_DOCUMENT, builder, |builder, place, line: DocumentLine| {
        builder.document(place, line.id.0, Text::titled(line.title, line.text));
    });
    builder.documents_end(&documents)?;
    let mut all = read_queries(&queries, builder);
    for (split, file) in judgements {
        read_judgements(&file, split, &mut all, builder);
    }
    for query in all.queries.iter().filter(|query| !query.is_judged) {
        builder.note(Kind::Unjudged, &query.place, format_args!("query `{}`", query.id));
    }
    Ok(())
}

fn read_queries(file: &Path, builder: &mut CorpusBuilder) -> AllQueries {
    let (mut queries, mut by_id) = (Vec::<KnownQuery>::new(), HashMap::new());
    read::json_lines(file, RIGHT_QUERY, builder, |builder, place, line: QueryLine| {
        let id = line.id.0;
        let text = builder.whole(place, format_args!("query `{id}`"), line.text);
        if let Some(&earlier) = by_id.get(&id) {
            let same: &KnownQuery = &queries[earlier];
            let same = same.text == text;
            let kind = if same { Kind::RepeatedQuery } else { Kind::DuplicateQuery };
            return builder.note(kind, place, format_args!("query `{id}`"));
        }
        by_id.insert(id.clone(), queries.len());
        queries.push(KnownQuery { id, text, place: place.clone(), is_judged: false });
    });
    AllQueries { queries, by_id, is_whole: !builder.lacks_something() }
}

fn read_judgements(file: &Path, split: Split, all: &mut AllQueries, builder: &mut CorpusBuilder) {
    let mut of_split = Queries::new(QueryKind::Split(split));
    let mut header = None;
    read::lines(file, builder, |builder, place, line| {
        let malformed = |builder: &mut CorpusBuilder, why: &str, right: &str| {
            let line = read::beginning(line);
            let what = format_args!("found `{line}`{why}; right would be {right}");
            builder.note(Kind::Malformed, place, what);
        };
        let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
        match header {
            None => {
                // Without this a first judgement would be taken for the header and lost.
                let right = fields.len() == 3 && fields[2].parse::<f64>().is_err();
                header = Some(right);
                if !right {
                    malformed(builder, "", RIGHT_HEADER);
                }
                return;
            }
            // In a file of another form each line would be told to be wrong.
            Some(false) => return,
            Some(true) => {}
        }
        let &[query, document, score] = fields.as_slice() else {
            return malformed(builder, "", RIGHT_JUDGEMENT);
        };
        let Some(grade) = grade(score) else {
            let why = format!(", whose grade `{score}` is not a whole number");
            return malformed(builder, &why, RIGHT_JUDGEMENT);
        };
        let Some(&known) = all.by_id.get(query) else {
            // That a document is not relevant to an absent query changes nothing.
            if grade > 0 && all.is_whole {
                let what = format_args!("query `{query}`, document `{document}`");
                builder.note(Kind::AbsentQuery, place, what);
            }
            return;
        };
        let at = of_split.get(query).unwrap_or_else(|| {
            let known = &mut all.queries[known];
            let (id, text) = (known.id.clone(), known.text.clone());
            // One that two splits judge is told once.
            if text.trim().is_empty() && !known.is_judged {
                builder.note(Kind::EmptyQuery, &known.place, format_args!("query `{id}`"));
            }
            known.is_judged = true;
            of_split.add(place, id, text)
        });
        of_split.judge(builder, place, at, document, grade);
    });
    of_split.finish(builder, file);
}

/// A whole number, which may be written as `1.0`.
fn grade(score: &str) -> Option<i64> {
    /// From here on not every whole number is an `f64`.
    const WHOLE: f64 = 9_007_199_254_740_992.0;
    score.parse().ok().or_else(|| {
        let number: f64 = score.parse().ok()?;
        (number.fract() == 0.0 && number.abs() < WHOLE).then_some(number as i64)
    })
}
