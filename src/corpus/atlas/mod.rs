//! The bundled corpus `bundled:atlas`: chemical elements, countries, constellations and states of the United States,
//! so that a first command needs no network and no data.
//!
//! The facts are in tables in this directory. A family of documents consists of a table, the facts for questions, and
//! a template that formats a row as a document; questions are formatted from the wordings of a fact. The corpus is
//! identical on every machine and in every run.

mod constellations;
mod countries;
mod elements;
mod questions;
mod states;

use super::table::{Row, Table};
use super::{Corpus, Document};

/// The documents of one kind: their table, their template and the facts for questions.
struct Family {
    /// First part of each document's id.
    name: &'static str,
    /// The table's file name, for error messages.
    file: &'static str,
    /// The table's text, tab separated, with a header line.
    table: &'static str,
    facts: &'static [Fact],
    describe: fn(&Row) -> String,
}

/// A column of a table, with the wordings of questions about it.
struct Fact {
    column: &'static str,
    /// Wordings that name the subject, as `{subject}`, and ask for the fact.
    asked: &'static [&'static str],
    /// Wordings that name the fact, as `{value}`, and ask for the subject. Used only for a value that no
    /// other document shares.
    given: &'static [&'static str],
}

const FAMILIES: [Family; 4] =
    [elements::FAMILY, countries::FAMILY, constellations::FAMILY, states::FAMILY];

/// Returns the bundled corpus: 451 documents, each with ten training questions and two questions each for validation
/// and test.
///
/// The id of a document is its family and subject (`element-iron`). The id of a query is the document's id, the column
/// of the fact, `asked` (the question names the subject) or `given` (it names the fact), and the index of the wording:
/// `element-iron/symbol/given/2`.
pub fn atlas() -> Corpus {
    let tables = FAMILIES.map(|family| {
        let table = Table::parse(family.file, family.table)
            .expect("a bundled table is part of the program, and the tests read each of them");
        (family, table)
    });
    let mut corpus = Corpus {
        documents: Vec::new(),
        train: Vec::new(),
        validation: Vec::new(),
        test: Vec::new(),
        generated: Vec::new(),
    };
    let shared = questions::SharedValues::of(&tables);
    for (family, table) in &tables {
        for row in table.rows() {
            let document = Document {
                id: format!("{}-{}", family.name, row.id()),
                texts: vec![(family.describe)(&row)],
            };
            questions::ask(&mut corpus, family, &row, &document.id, &shared);
            corpus.documents.push(document);
        }
    }
    corpus
}
