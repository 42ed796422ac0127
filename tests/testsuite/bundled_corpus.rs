//! What the bundled corpus promises: sizes, splits that share no question, questions with one answer, and
//! documents that open with what identifies them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use genir::corpus::{Corpus, Query, atlas::atlas};
use tokenizers::Tokenizer;

/// The tables as the corpus bundles them, read here without the corpus' own reader.
const TABLES: [(&str, &str); 4] = [
    ("element", include_str!("../../src/corpus/atlas/elements.tsv")),
    ("country", include_str!("../../src/corpus/atlas/countries.tsv")),
    ("constellation", include_str!("../../src/corpus/atlas/constellations.tsv")),
    ("state", include_str!("../../src/corpus/atlas/states.tsv")),
];

/// The row of each document: column to cell.
fn rows() -> BTreeMap<String, HashMap<&'static str, &'static str>> {
    let mut rows = BTreeMap::new();
    for (family, table) in TABLES {
        let mut lines = table.lines();
        let columns: Vec<_> = lines.next().unwrap().split('\t').collect();
        for line in lines {
            let row: HashMap<_, _> = columns.iter().copied().zip(line.split('\t')).collect();
            rows.insert(format!("{family}-{}", row["id"]), row);
        }
    }
    rows
}

fn queries(corpus: &Corpus) -> impl Iterator<Item = &Query> {
    corpus.train.iter().chain(&corpus.validation).chain(&corpus.test)
}

fn held_out(corpus: &Corpus) -> impl Iterator<Item = &Query> {
    corpus.validation.iter().chain(&corpus.test)
}

fn document<'a>(corpus: &'a Corpus, query: &Query) -> &'a genir::corpus::Document {
    &corpus.documents[query.relevant[0].document as usize]
}

/// Document, column, direction and wording of a query's id.
fn parts(query: &Query) -> [&str; 4] {
    let parts: Vec<_> = query.id.split('/').collect();
    parts.try_into().expect("four parts")
}

/// Lower-case words only, so that questions that differ in case or punctuation are the same.
fn normalised(text: &str) -> String {
    let letters = text.chars().map(|letter| {
        if letter.is_alphanumeric() || letter == '+' {
            letter.to_lowercase().next().unwrap_or(letter)
        } else {
            ' '
        }
    });
    let text: String = letters.collect();
    format!(" {} ", text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// How a cell stands in a sentence: several values become a list.
fn written(cell: &str) -> String {
    normalised(
        &cell
            .rsplitn(2, "; ")
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
            .join(" and "),
    )
}

#[test]
fn every_row_of_the_tables_is_a_document_with_an_id_of_its_own() {
    let corpus = atlas();
    assert_eq!(corpus.documents.len(), 451);
    let ids: BTreeSet<_> = corpus.documents.iter().map(|document| document.id.clone()).collect();
    assert_eq!(ids, rows().into_keys().collect());
    assert!(ids.contains("element-iron") && ids.contains("country-france"));
}

#[test]
fn the_corpus_is_the_same_each_time() {
    assert_eq!(atlas(), atlas());
}

#[test]
fn documents_have_40_to_120_words() {
    for document in atlas().documents {
        let words = document.text().split_whitespace().count();
        assert!((40..=120).contains(&words), "{}: {words} words", document.id);
    }
}

#[test]
fn every_document_has_questions_in_each_split_and_at_least_eight_in_all() {
    let corpus = atlas();
    let count = |queries: &[Query]| {
        let mut counts = vec![0_usize; corpus.documents.len()];
        for query in queries {
            counts[query.relevant[0].document as usize] += 1;
        }
        counts
    };
    let (train, validation, test) =
        (count(&corpus.train), count(&corpus.validation), count(&corpus.test));
    for (index, document) in corpus.documents.iter().enumerate() {
        let total = train[index] + validation[index] + test[index];
        assert!(total >= 8, "{}: {total} questions", document.id);
        assert!(train[index] >= 6, "{}: {} training questions", document.id, train[index]);
        assert!((1..=2).contains(&validation[index]), "{}", document.id);
        assert!((1..=2).contains(&test[index]), "{}", document.id);
    }
}

#[test]
fn both_directions_are_asked_about_every_document() {
    let corpus = atlas();
    for direction in ["asked", "given"] {
        let documents: HashSet<_> = (corpus.train.iter())
            .filter(|query| parts(query)[2] == direction)
            .map(|query| query.relevant[0].document)
            .collect();
        assert_eq!(documents.len(), corpus.documents.len(), "{direction}");
    }
}

#[test]
fn no_question_is_in_two_splits_or_right_for_two_documents() {
    let corpus = atlas();
    let mut seen: HashMap<String, &str> = HashMap::new();
    for query in queries(&corpus) {
        assert_eq!(query.relevant.len(), 1, "{}", query.id);
        let before = seen.insert(normalised(&query.text), &query.id);
        assert_eq!(before, None, "{} asks the same as {before:?}", query.id);
    }
}

#[test]
fn subjects_are_unique_over_all_documents() {
    let mut seen = HashSet::new();
    for (id, row) in rows() {
        assert!(
            seen.insert(normalised(row["name"])),
            "{id}: another document is called {:?}",
            row["name"]
        );
    }
}

#[test]
fn a_question_that_gives_a_fact_gives_one_that_no_other_document_has() {
    let corpus = atlas();
    let rows = rows();
    for query in queries(&corpus) {
        let [id, column, direction, _] = parts(query);
        if direction != "given" {
            continue;
        }
        for value in rows[id][column].split("; ") {
            assert!(
                normalised(&query.text).contains(&normalised(value)),
                "{} lacks {value:?}",
                query.id
            );
            let others = rows.iter().filter(|(other, row)| {
                other.as_str() != id
                    && row.get(column).is_some_and(|cell| {
                        cell.split("; ").any(|other| normalised(other) == normalised(value))
                    })
            });
            assert_eq!(others.count(), 0, "{}: {value:?} is not unique", query.id);
        }
    }
}

#[test]
fn a_question_that_asks_for_a_fact_names_its_subject() {
    let corpus = atlas();
    let rows = rows();
    for query in queries(&corpus) {
        let [id, _, direction, _] = parts(query);
        if direction == "asked" {
            let name = normalised(rows[id]["name"]);
            assert!(normalised(&query.text).contains(&name), "{} lacks {name:?}", query.id);
        }
    }
}

#[test]
fn a_document_says_what_its_questions_are_about() {
    let corpus = atlas();
    let rows = rows();
    for query in queries(&corpus) {
        let [id, column, _, _] = parts(query);
        let document = document(&corpus, query);
        assert_eq!(document.id, id);
        let (text, fact) = (normalised(document.text()), written(rows[id][column]));
        assert!(text.contains(&normalised(rows[id]["name"])), "{id} does not name its subject");
        // An island's table cell says "none" where the document says that it has no land border.
        let said =
            text.contains(&fact) || (column == "borders" && text.contains(" no land border "));
        assert!(said, "{id} does not say its {column}, {fact:?}");
    }
}

#[test]
fn a_held_out_question_asks_what_training_asks_of_the_document_in_other_words() {
    let corpus = atlas();
    let mut trained: HashMap<(&str, &str, &str), HashSet<&str>> = HashMap::new();
    for query in &corpus.train {
        let [id, column, direction, wording] = parts(query);
        trained.entry((id, column, direction)).or_default().insert(wording);
    }
    for query in held_out(&corpus) {
        let [id, column, direction, wording] = parts(query);
        let wordings =
            trained.get(&(id, column, direction)).expect("training asks for the same fact");
        assert!(wordings.len() >= 2, "{}: trained in {} wordings", query.id, wordings.len());
        assert!(!wordings.contains(wording), "{}: trained in the same wording", query.id);
    }
}

#[test]
fn the_wording_of_a_held_out_question_is_trained_on_other_documents() {
    let corpus = atlas();
    let wording = |query: &Query| {
        let [id, column, direction, wording] = parts(query).map(str::to_owned);
        let family = id.split('-').next().unwrap_or_default().to_owned();
        [family, column, direction, wording]
    };
    let trained: HashSet<_> = corpus.train.iter().map(wording).collect();
    for query in held_out(&corpus) {
        assert!(trained.contains(&wording(query)), "{}: its wording is never trained", query.id);
    }
}

#[test]
fn the_first_32_tokens_name_the_subject_and_its_identifying_facts() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/atlas-base/tokenizer.json");
    let tokenizer = Tokenizer::from_file(base).expect("the bundled tokenizer loads");
    let opening = |text: &str, tokens: usize| {
        let encoding = tokenizer.encode(text, false).expect("text is tokenized");
        encoding.get_ids().iter().take(tokens).copied().collect::<Vec<_>>()
    };
    let rows = rows();
    let mut openings = HashSet::new();
    for document in atlas().documents {
        // One of the 32 is the end of the text.
        let found = opening(document.text(), 31);
        let row = &rows[&document.id];
        for column in [
            "name",
            "symbol",
            "number",
            "capital",
            "calling",
            "alpha3",
            "abbreviation",
            "genitive",
            "postal",
        ] {
            let Some(cell) = row.get(column).filter(|cell| !cell.is_empty()) else {
                continue;
            };
            let wanted = opening(cell, usize::MAX);
            let there = found.windows(wanted.len()).any(|window| window == wanted);
            assert!(there, "{}: {cell:?} is not in the first 32 tokens", document.id);
        }
        assert!(openings.insert(found), "{} opens as another document does", document.id);
    }
}

#[test]
fn the_bundled_tokenizer_knows_every_word_of_the_corpus() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/atlas-base/tokenizer.json");
    let tokenizer = Tokenizer::from_file(base).expect("the bundled tokenizer loads");
    let special = ["<pad>", "</s>", "<unk>"].map(|token| tokenizer.token_to_id(token));
    assert_eq!(special, [Some(0), Some(1), Some(2)]);
    let corpus = atlas();
    let documents = corpus.documents.iter().map(|document| document.text());
    for text in documents.chain(queries(&corpus).map(|query| query.text.as_str())) {
        let encoding = tokenizer.encode(text, true).expect("text is tokenized");
        assert_eq!(encoding.get_ids().last(), Some(&1), "{text:?} does not end with </s>");
        assert!(!encoding.get_ids().contains(&2), "{text:?} has an unknown token");
    }
}
