//! Questions about the bundled facts, and their splits.
//!
//! A topic is a document with a fact that is asked or given. The wordings of a topic are assigned to splits in a
//! random order: two to training and, for some topics, one to validation and one to test. So a held-out question always
//! asks a fact that training asks with another wording, and its wording is trained with other documents.

use std::collections::{HashMap, HashSet};

use super::{Fact, Family};
use crate::corpus::grammar::{capitalised, listed};
use crate::corpus::table::{Row, Table};
use crate::corpus::{Corpus, Judgement, Query};
use crate::random;

/// The seed of the splits. It is a part of the corpus: another seed would give another corpus.
const SEED: u64 = 1;
/// Number of topics per document.
const TOPICS: usize = 5;
/// Number of these topics that give the fact and ask for the subject.
const GIVEN_TOPICS: usize = 2;
/// Number of wordings of each topic for training.
const TRAIN_WORDINGS: usize = 2;

/// The values of each column that several documents share: a question must not give them.
pub(super) struct SharedValues(HashSet<(&'static str, String)>);

impl SharedValues {
    pub(super) fn of(tables: &[(Family, Table)]) -> Self {
        let mut counts: HashMap<(&'static str, String), usize> = HashMap::new();
        for (family, table) in tables {
            for row in table.rows() {
                for fact in family.facts {
                    for value in row.list(fact.column) {
                        *counts.entry((fact.column, value.to_lowercase())).or_default() += 1;
                    }
                }
            }
        }
        let shared = counts.into_iter().filter(|(_, count)| *count > 1);
        Self(shared.map(|(value, _)| value).collect())
    }

    /// Returns whether another document shares any value of the fact.
    fn contains(&self, fact: &Fact, row: &Row) -> bool {
        row.list(fact.column)
            .iter()
            .any(|value| self.0.contains(&(fact.column, value.to_lowercase())))
    }
}

/// A fact of a document in one direction.
struct Topic {
    column: &'static str,
    direction: &'static str,
    wordings: &'static [&'static str],
    placeholder: &'static str,
    filling: String,
}

/// Adds the questions of the next document, described by `row`, to the splits.
pub(super) fn ask(
    corpus: &mut Corpus,
    family: &Family,
    row: &Row,
    document_id: &str,
    shared: &SharedValues,
) {
    let document = corpus.documents.len() as u32;
    let (asked, given) = topics(family, row, shared, u64::from(document));
    for (first, topics) in [(0, &asked), (asked.len(), &given)] {
        // The first topic of a direction is for validation, the second (or else the first) for test.
        let test_rank = usize::from(topics.len() > 1);
        for (rank, topic) in topics.iter().enumerate() {
            let mut order: Vec<usize> = (0..topic.wordings.len()).collect();
            let position = u64::from(document) * 64 + (first + rank) as u64;
            random::shuffle(&mut order, SEED, position, "atlas wordings");
            let query = |wording: usize| topic.query(document_id, document, wording);
            let train = order[..TRAIN_WORDINGS].iter().map(|wording| query(*wording));
            corpus.train.extend(train);
            if rank == 0 {
                corpus.validation.push(query(order[TRAIN_WORDINGS]));
            }
            if rank == test_rank {
                corpus.test.push(query(order[TRAIN_WORDINGS + 1]));
            }
        }
    }
}

impl Topic {
    fn query(&self, document_id: &str, document: u32, wording: usize) -> Query {
        let text = self.wordings[wording].replace(self.placeholder, &self.filling);
        Query {
            id: format!("{document_id}/{}/{}/{wording}", self.column, self.direction),
            text: capitalised(&text),
            relevant: vec![Judgement { document, grade: 1 }],
        }
    }
}

/// Returns the topics of a document: those that name its subject, and those that name a fact.
fn topics(
    family: &Family,
    row: &Row,
    shared: &SharedValues,
    document: u64,
) -> (Vec<Topic>, Vec<Topic>) {
    let known = || family.facts.iter().filter(|fact| row.get(fact.column).is_some());
    let mut asked: Vec<Topic> = known()
        .map(|fact| Topic {
            column: fact.column,
            direction: "asked",
            wordings: fact.asked,
            placeholder: "{subject}",
            filling: row.name().to_owned(),
        })
        .collect();
    let mut given: Vec<Topic> = known()
        .filter(|fact| !fact.given.is_empty() && !shared.contains(fact, row))
        .map(|fact| Topic {
            column: fact.column,
            direction: "given",
            wordings: fact.given,
            placeholder: "{value}",
            filling: listed(&row.list(fact.column)),
        })
        .collect();
    random::shuffle(&mut asked, SEED, document, "atlas asked topics");
    random::shuffle(&mut given, SEED, document, "atlas given topics");
    given.truncate(GIVEN_TOPICS);
    asked.truncate(TOPICS - given.len());
    (asked, given)
}
