//! Joins the sentences of a family to documents.
//!
//! A document starts with its own subject. If its facts do not fill the document, other subjects of the family follow.
//! Every choice is a function of the row, the document's number and the fact.

use super::facts::Fact;
use crate::corpus::Document;
use crate::corpus::table::{Row, Table};
use crate::random;

/// The seed of all choices. It is a part of the corpus: another seed would give another corpus.
const SEED: u64 = 1;
/// Number of documents for each subject.
const PER_SUBJECT: u64 = 3;
/// A document ends with the sentence that brings it to a number of words from this range.
const MIN_WORDS: u64 = 60;
const MAX_TARGET: u64 = 115;

/// Returns the documents of a family, in the order of its table.
pub(super) fn documents(family: &str, table: &Table, facts: &[Fact]) -> Vec<Document> {
    let rows = table.rows().count() as u64;
    let numbers = (0..rows).flat_map(|row| (0..PER_SUBJECT).map(move |number| (row, number)));
    let document = |(row, number)| {
        let mut subjects: Vec<(u64, Row)> = (0..).zip(table.rows()).collect();
        let own = subjects.remove(row as usize);
        random::shuffle(&mut subjects, SEED, row * PER_SUBJECT + number, family);
        let id = format!("{family}-{}-{}", own.1.id(), number + 1);
        subjects.insert(0, own);
        Document { id, texts: vec![paragraph(family, &subjects, number, facts)] }
    };
    numbers.map(document).collect()
}

/// Returns the text of a document about the first of `subjects`, each of them with its row's number, and as many of the
/// others as it needs.
fn paragraph(family: &str, subjects: &[(u64, Row)], number: u64, facts: &[Fact]) -> String {
    let position = subjects.first().map_or(0, |(row, _)| row * PER_SUBJECT + number);
    let key = random::key(SEED, position, "almanac length");
    let target = (MIN_WORDS + key % (MAX_TARGET - MIN_WORDS + 1)) as usize;
    let mut text = String::new();
    let mut words = 0;
    for (rank, (row_number, row)) in subjects.iter().enumerate() {
        // The subjects that come next are the first to be compared with this one.
        let (before, after) = subjects.split_at(rank);
        let others: Vec<_> = after.iter().skip(1).chain(before).map(|(_, other)| *other).collect();
        let mut waiting: Vec<usize> = (0..facts.len()).collect();
        random::shuffle(&mut waiting, SEED, position * 64 + rank as u64, "almanac facts");
        // A sentence that follows one about this subject alone may call it `it`.
        let mut follows = false;
        while !waiting.is_empty() && words < target {
            let told = (0..waiting.len()).find_map(|place| {
                let fact = waiting[place];
                let mut wordings: Vec<usize> = (0..facts[fact].wordings()).collect();
                let kind = row_number * 64 + fact as u64;
                random::shuffle(&mut wordings, SEED, kind, family);
                // Each document about a row starts from another wording.
                let first = (number as usize + rank) % wordings.len().max(1);
                wordings.rotate_left(first);
                let tell = |wording: usize| facts[fact].tell(wording, row, &others, !follows);
                let mut sentences = wordings.into_iter().filter_map(tell);
                // Two subjects may compare each other, or list the same group.
                let sentence = sentences.find(|sentence| !text.contains(sentence.as_str()))?;
                Some((place, sentence))
            });
            let Some((place, sentence)) = told else { break };
            follows = !facts[waiting.remove(place)].names_others();
            words += sentence.split_whitespace().count();
            if !text.is_empty() {
                text.push(' ');
            }
            text += &sentence;
        }
        if words >= target {
            break;
        }
    }
    text
}
