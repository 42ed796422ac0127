//! The text of `bundled:atlas` in the almanac: its documents, and its training questions joined to documents.
//!
//! The questions of a document stand side by side, so that a model that fills a gap in one of them learns from the others
//! that they ask about the same subject. The validation and test questions are not there.

use crate::corpus::atlas::atlas;
use crate::corpus::{Document, Query};
use crate::random;

/// The seed of the order of the questions. It is a part of the corpus: another seed would give another corpus.
const SEED: u64 = 1;
/// Number of documents of questions about each subject: each has the questions in another order.
const PER_SUBJECT: u64 = 3;
/// A document ends with the question that brings it to this number of words, or with the last one.
const WORDS: usize = 70;

/// Returns the documents of the atlas and those of its training questions, `ID` and `ID-questions-N` after `atlas-`.
pub(super) fn documents() -> Vec<Document> {
    let atlas = atlas();
    let mut questions: Vec<Vec<&Query>> = vec![Vec::new(); atlas.documents.len()];
    for query in &atlas.train {
        for judgement in &query.relevant {
            questions[judgement.document as usize].push(query);
        }
    }
    let mut documents = Vec::new();
    for (position, (document, questions)) in (0..).zip(atlas.documents.iter().zip(questions)) {
        let id = format!("atlas-{}", document.id);
        documents.push(Document { id: id.clone(), texts: vec![document.text().to_owned()] });
        documents.extend((0..PER_SUBJECT).map(|number| {
            let mut order = questions.clone();
            random::shuffle(&mut order, SEED, position * PER_SUBJECT + number, "atlas questions");
            Document { id: format!("{id}-questions-{}", number + 1), texts: vec![joined(&order)] }
        }));
    }
    documents
}

/// Returns the questions as one text, up to [`WORDS`].
fn joined(questions: &[&Query]) -> String {
    let mut text = String::new();
    for query in questions {
        if text.split_whitespace().count() >= WORDS {
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text += &query.text;
    }
    text
}
