//! The bundled corpus `bundled:almanac`: general facts in plain sentences, without queries, to pre-train on.
//!
//! A family is two files in this directory and needs no code: a table (`rivers.tsv`, one subject a row, in the format of
//! `table.rs`) and its wordings (`rivers.txt`, see `facts.rs`), the sentences that each fact can be told in. The
//! families of `bundled:atlas` are here too, in other wordings than there. `paragraphs.rs` joins sentences to documents;
//! `of_the_atlas.rs` adds the documents and the training questions of `bundled:atlas`.
//! The corpus is identical on every machine and in every run.

mod facts;
mod of_the_atlas;
mod paragraphs;

use super::Corpus;
use super::table::Table;
use facts::Fact;

/// A table and the wordings of its facts.
struct Family {
    /// First part of each document's id.
    name: &'static str,
    table_file: &'static str,
    table: &'static str,
    wordings_file: &'static str,
    wordings: &'static str,
}

macro_rules! family {
    ($name:literal, $table:literal, $wordings:literal) => {
        Family {
            name: $name,
            table_file: $table,
            table: include_str!($table),
            wordings_file: $wordings,
            wordings: include_str!($wordings),
        }
    };
}

const FAMILIES: &[Family] = &[
    family!("element", "../atlas/elements.tsv", "elements.txt"),
    family!("country", "../atlas/countries.tsv", "countries.txt"),
    family!("constellation", "../atlas/constellations.tsv", "constellations.txt"),
    family!("state", "../atlas/states.tsv", "states.txt"),
    family!("planet", "planets.tsv", "planets.txt"),
    family!("moon", "moons.tsv", "moons.txt"),
    family!("river", "rivers.tsv", "rivers.txt"),
    family!("mountain", "mountains.tsv", "mountains.txt"),
    family!("island", "islands.tsv", "islands.txt"),
    family!("city", "cities.tsv", "cities.txt"),
    family!("province", "provinces.tsv", "provinces.txt"),
    family!("president", "presidents.tsv", "presidents.txt"),
    family!("letter", "letters.tsv", "letters.txt"),
    family!("unit", "units.tsv", "units.txt"),
    family!("prefix", "prefixes.tsv", "prefixes.txt"),
    family!("compound", "compounds.tsv", "compounds.txt"),
    family!("mineral", "minerals.tsv", "minerals.txt"),
    family!("tree", "trees.tsv", "trees.txt"),
    family!("mammal", "mammals.tsv", "mammals.txt"),
    family!("bird", "birds.tsv", "birds.txt"),
    family!("composer", "composers.tsv", "composers.txt"),
    family!("painter", "painters.tsv", "painters.txt"),
    family!("writer", "writers.tsv", "writers.txt"),
    family!("invention", "inventions.tsv", "inventions.txt"),
    family!("instrument", "instruments.tsv", "instruments.txt"),
    family!("bone", "bones.tsv", "bones.txt"),
    family!("organ", "organs.tsv", "organs.txt"),
    family!("language", "languages.tsv", "languages.txt"),
    family!("programming", "programming.tsv", "programming.txt"),
    family!("sport", "sports.tsv", "sports.txt"),
    family!("month", "months.tsv", "months.txt"),
    family!("holiday", "holidays.tsv", "holidays.txt"),
    family!("verb", "verbs.tsv", "verbs.txt"),
    family!("opposite", "opposites.tsv", "opposites.txt"),
    family!("word", "words.tsv", "words.txt"),
    family!("god", "gods.tsv", "gods.txt"),
    family!("scientist", "scientists.tsv", "scientists.txt"),
    family!("mission", "missions.tsv", "missions.txt"),
    family!("event", "events.tsv", "events.txt"),
    family!("job", "jobs.tsv", "jobs.txt"),
    family!("dish", "foods.tsv", "foods.txt"),
    family!("root", "roots.tsv", "roots.txt"),
    family!("shape", "shapes.tsv", "shapes.txt"),
    family!("term", "computing.tsv", "computing.txt"),
    family!("material", "materials.tsv", "materials.txt"),
    family!("animal", "animals.tsv", "animals.txt"),
    family!("building", "buildings.tsv", "buildings.txt"),
    family!("lake", "lakes.tsv", "lakes.txt"),
    family!("plant", "plants.tsv", "plants.txt"),
    family!("number", "numbers.tsv", "numbers.txt"),
];

/// Returns the bundled corpus: documents of 60 to 150 words, several for each subject, and no queries; then the documents of
/// the atlas, and its training questions as text.
///
/// The id of a document is its family, its first subject and a number: `river-danube-2`. Those of the atlas begin with
/// `atlas-`.
pub fn almanac() -> Corpus {
    let part = "a bundled file is part of the program, and the tests read each of them";
    let documents = FAMILIES.iter().flat_map(|family| {
        let table = Table::parse(family.table_file, family.table).expect(part);
        let facts = Fact::parse_all(family.wordings_file, family.wordings, &table).expect(part);
        paragraphs::documents(family.name, &table, &facts)
    });
    Corpus { documents: documents.chain(of_the_atlas::documents()).collect(), ..Corpus::default() }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::corpus::atlas::atlas;
    use crate::corpus::{CorpusOptions, Document, load};

    /// Lower-case words only, so that texts that differ in case or punctuation are the same.
    fn normalised(text: &str) -> String {
        let letters = text.to_lowercase();
        let words = letters.split(|letter: char| !letter.is_alphanumeric() && letter != '+');
        format!(" {} ", words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn every_table_is_read_with_its_wordings_and_has_a_name_and_a_file_of_its_own() {
        let mut names = HashSet::new();
        for family in FAMILIES {
            let table = Table::parse(family.table_file, family.table).unwrap_or_else(|error| {
                panic!("{error}");
            });
            let facts = Fact::parse_all(family.wordings_file, family.wordings, &table);
            let facts = facts.unwrap_or_else(|error| panic!("{error}"));
            assert!(facts.len() >= 2, "{}", family.name);
            for fact in facts {
                assert!(fact.wordings() > 0, "{}: a fact without wordings", family.wordings_file);
            }
            assert!(
                names.insert(family.name) && names.insert(family.table_file),
                "{}",
                family.name
            );
        }
    }

    #[test]
    fn the_almanac_is_the_same_on_every_machine() {
        let corpus = almanac();
        let mut hasher = blake3::Hasher::new();
        for document in &corpus.documents {
            for part in [document.id.as_str(), "\t", document.text(), "\n"] {
                hasher.update(part.as_bytes());
            }
        }
        // A changed table, wording or choice is another corpus, on which other weights are trained.
        assert_eq!(
            hasher.finalize().to_hex().as_str(),
            "3c07d15bb028cca51cf527fff93373e22286f83c5dcd9ac4ea524f00fa1dab50"
        );
    }

    #[test]
    fn the_almanac_has_text_to_pre_train_on_and_no_queries() {
        let corpus = almanac();
        let bytes: usize = corpus.documents.iter().map(|document| document.text().len()).sum();
        assert!((1_000_000..6_000_000).contains(&bytes), "{bytes} bytes");
        let queries = [&corpus.train, &corpus.validation, &corpus.test, &corpus.generated];
        assert!(queries.iter().all(|queries| queries.is_empty()));
    }

    #[test]
    fn the_almanac_is_loaded_by_its_name() {
        let options =
            CorpusOptions { path: "bundled:almanac".to_owned(), ..CorpusOptions::default() };
        let loaded = load(&options).unwrap();
        assert_eq!(loaded.corpus, almanac());
    }

    #[test]
    fn documents_of_the_almanac_have_60_to_150_words_and_a_full_stop() {
        let told = |document: &Document| !document.id.starts_with("atlas-");
        for Document { id, texts } in almanac().documents.into_iter().filter(told) {
            assert_eq!(texts.len(), 1, "{id}");
            let words = texts[0].split_whitespace().count();
            assert!((60..=150).contains(&words), "{id}: {words} words");
            assert!(texts[0].ends_with('.') && !texts[0].contains(['{', '}', '\t']), "{id}");
            assert!(!texts[0].contains("  ") && !texts[0].contains(".."), "{id}: {}", texts[0]);
        }
    }

    #[test]
    fn no_document_or_id_of_the_almanac_is_there_twice() {
        let (mut ids, mut texts) = (HashSet::new(), HashSet::new());
        for document in almanac().documents {
            assert!(texts.insert(normalised(document.text())), "{}", document.id);
            assert!(ids.insert(document.id.clone()), "{}", document.id);
        }
    }

    #[test]
    fn no_document_repeats_a_sentence() {
        for document in almanac().documents {
            let text = document.text();
            // A stop after a capital letter is the one of an initial.
            let stops = text.match_indices(". ").map(|(place, _)| place);
            let stops = stops.filter(|place| !text[..*place].ends_with(char::is_uppercase));
            let (mut sentences, mut start) = (HashSet::new(), 0);
            for stop in stops.chain([text.len() - 1]) {
                let sentence = &text[start..stop];
                assert!(sentences.insert(sentence), "{}: {sentence:?}", document.id);
                start = (stop + 2).min(text.len());
            }
        }
    }

    #[test]
    fn the_text_of_the_atlas_is_its_documents_and_training_questions() {
        let atlas = atlas();
        let questions: HashSet<&str> =
            atlas.train.iter().map(|query| query.text.as_str()).collect();
        let texts: HashSet<&str> = atlas.documents.iter().map(|document| document.text()).collect();
        let documents = almanac().documents;
        let own = documents.iter().filter(|document| document.id.starts_with("atlas-"));
        let mut asked = HashSet::new();
        for document in own {
            let mut text = document.text();
            if texts.contains(text) {
                continue;
            }
            while !text.is_empty() {
                let starts = |question: &&&str| text.starts_with(**question);
                let question =
                    questions.iter().filter(starts).max_by_key(|question| question.len());
                let question = question.unwrap_or_else(|| panic!("{}: {text}", document.id));
                asked.insert(*question);
                text = text[question.len()..].trim_start();
            }
        }
        assert!(asked.len() * 10 > questions.len() * 9, "{} of {}", asked.len(), questions.len());
    }

    #[test]
    fn the_sentences_of_the_almanac_have_no_document_and_no_held_out_question_of_the_atlas() {
        let atlas = atlas();
        let documents: HashSet<_> =
            atlas.documents.iter().map(|document| normalised(document.text())).collect();
        // By the first three words, as there are many documents to look through.
        let questions: Vec<_> = (atlas.validation.iter().chain(&atlas.test))
            .map(|query| normalised(&query.text))
            .collect();
        let questions: Vec<Vec<&str>> =
            questions.iter().map(|question| question.split_whitespace().collect()).collect();
        let mut starting: HashMap<&[&str], Vec<&[&str]>> = HashMap::new();
        for question in &questions {
            starting.entry(&question[..3]).or_default().push(question);
        }
        for document in almanac().documents {
            if document.id.starts_with("atlas-") {
                continue;
            }
            assert!(!document.text().contains('?'), "{} asks", document.id);
            let text = normalised(document.text());
            assert!(!documents.contains(&text), "{}", document.id);
            let words: Vec<&str> = text.split_whitespace().collect();
            for (place, start) in words.windows(3).enumerate() {
                let candidates = starting.get(start).into_iter().flatten();
                let asked = candidates.copied().find(|asked| words[place..].starts_with(asked));
                assert_eq!(asked, None, "{}", document.id);
            }
        }
    }
}
