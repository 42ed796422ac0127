//! BEIR directories:
//!
//! - `corpus.jsonl`: `{"_id": "7", "title": "..", "text": ".."}`; title and text become one text,
//!   joined by `. `, or the one of the two that is not empty;
//! - `queries.jsonl`: `{"_id": "q1", "text": ".."}`, the queries of all splits;
//! - `qrels/train.tsv`, `qrels/dev.tsv`, `qrels/test.tsv`, as far as they are there: a header of
//!   `query-id`, `corpus-id` and `score`, then one judgement a line, separated by tabs.
//!
//! A split holds the queries with at least one score above 0, in the order in which its file first names
//! them. Scores of 0 and below are judgements of not being relevant and are passed over.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::builder::{CorpusBuilder, Part};
use super::error::{CorpusError, Problem};
use super::read::{self, Id};
use super::{Layout, Query, Split};

pub(super) const CORPUS: &str = "corpus.jsonl";
pub(super) const QUERIES: &str = "queries.jsonl";
const JUDGEMENTS: [(Split, &str); 3] = [
    (Split::Train, "qrels/train.tsv"),
    (Split::Validation, "qrels/dev.tsv"),
    (Split::Test, "qrels/test.tsv"),
];

const RIGHT_DOCUMENT: &str = r#"{"_id": "7", "title": "...", "text": "..."}"#;
const RIGHT_QUERY: &str = r#"{"_id": "q1", "text": "..."}"#;
const RIGHT_HEADER: &str = "the header `query-id<TAB>corpus-id<TAB>score`";
const RIGHT_JUDGEMENT: &str = "query id, document id and an integer score, separated by tabs";

#[derive(Deserialize)]
struct DocumentLine {
    #[serde(rename = "_id")]
    id: Id,
    #[serde(default)]
    title: String,
    text: String,
}

#[derive(Deserialize)]
struct QueryLine {
    #[serde(rename = "_id")]
    id: Id,
    text: String,
}

pub(super) fn is_here(directory: &Path) -> bool {
    [CORPUS, QUERIES].into_iter().all(|name| read::find(directory, name).is_some())
}

pub(super) fn read(directory: &Path, builder: &mut CorpusBuilder) -> Result<(), CorpusError> {
    let (Some(documents), Some(queries)) =
        (read::find(directory, CORPUS), read::find(directory, QUERIES))
    else {
        return Err(CorpusError::NothingFound {
            path: directory.display().to_string(),
            layout: Layout::Beir,
            looked_for: vec![CORPUS.to_owned(), QUERIES.to_owned()],
        });
    };
    read::json_lines(&documents, RIGHT_DOCUMENT, |_, line: DocumentLine| {
        let text = match (line.title.is_empty(), line.text.is_empty()) {
            (false, false) => format!("{}. {}", line.title, line.text),
            (false, true) => line.title,
            (true, _) => line.text,
        };
        builder.document(line.id.0, text)
    })?;
    let mut texts = HashMap::new();
    read::json_lines(&queries, RIGHT_QUERY, |_, line: QueryLine| {
        match texts.insert(line.id.0.clone(), line.text) {
            None => Ok(()),
            Some(_) => Err(Problem::DuplicateQuery { id: line.id.0, part: QUERIES.to_owned() }),
        }
    })?;
    let mut splits = 0;
    for (split, name) in JUDGEMENTS {
        if let Some(file) = read::find(directory, name) {
            read_judgements(&file, split, &texts, builder)?;
            splits += 1;
        }
    }
    if splits == 0 {
        return Err(CorpusError::NothingFound {
            path: directory.display().to_string(),
            layout: Layout::Beir,
            looked_for: JUDGEMENTS.map(|(_, name)| name.to_owned()).to_vec(),
        });
    }
    Ok(())
}

fn read_judgements(
    file: &Path,
    split: Split,
    texts: &HashMap<String, String>,
    builder: &mut CorpusBuilder,
) -> Result<(), CorpusError> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut queries: Vec<Query> = Vec::new();
    let mut header = false;
    read::lines(file, |_, line| {
        let malformed = |right| Problem::Malformed {
            found: format!("found `{}`", read::beginning(line)),
            right,
        };
        let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
        if !header {
            // Without this a first judgement would be taken for the header and lost.
            if fields.len() != 3 || fields[2].parse::<i64>().is_ok() {
                return Err(malformed(RIGHT_HEADER));
            }
            header = true;
            return Ok(());
        }
        let &[query, document, score] = fields.as_slice() else {
            return Err(malformed(RIGHT_JUDGEMENT));
        };
        let grade: i64 = score.parse().map_err(|_| malformed(RIGHT_JUDGEMENT))?;
        let Some(text) = texts.get(query) else {
            return Err(Problem::UnknownQuery {
                query: query.to_owned(),
                queries: QUERIES.to_owned(),
            });
        };
        let grade = u32::try_from(grade).unwrap_or(if grade < 0 { 0 } else { u32::MAX });
        if grade == 0 {
            return Ok(());
        }
        let place = *places.entry(query.to_owned()).or_insert_with(|| {
            queries.push(Query { id: query.to_owned(), text: text.clone(), relevant: Vec::new() });
            queries.len() - 1
        });
        builder.judge(query, &mut queries[place].relevant, document.to_owned(), grade)
    })?;
    builder.queries(Part::Split(split)).append(&mut queries);
    Ok(())
}
