//! Bad input of every kind is refused in words: no panic, no abort, no hang, no memory beyond a bound, nothing misread.
//!
//! Each module lists cases: what is wrong, the command that is given it, and the words that must be in its answer. A case
//! fails if the command is killed by a signal, panics, takes longer than [`harness::LIMIT`] or more memory than
//! [`harness::MEMORY`]. The table in `docs/reliability.md` has the same cases with the same words.

#[path = "../support/probe_records.rs"]
mod probe_records;
#[path = "../support/tiny_corpus.rs"]
mod tiny_corpus;

mod cache;
mod checkpoint;
mod corpus;
mod harness;
mod home;
mod mutated;
mod recipe;
mod results;
mod run_directory;
mod table;
mod tensors;
mod tokenizer;

use harness::{Case, try_all};

/// The cases by the subject of their heading in the documents.
pub const SUBJECTS: [(&str, &str, &[&[Case]]); 7] = [
    ("Recipes", "recipe", &[recipe::CASES]),
    ("Corpora", "corpus", &[corpus::FILES, corpus::RECORDS]),
    ("Tokenizers", "tokenizer", &[tokenizer::CASES]),
    ("Checkpoints and base models", "checkpoint", &[checkpoint::CONFIG, tensors::CASES]),
    ("Stored prefixes", "cache", &[cache::CASES]),
    ("Run directories", "run_directory", &[run_directory::CASES]),
    ("Probe results and query files", "results", &[results::CASES]),
];

#[test]
fn bad_recipes_are_refused_in_words() {
    try_all(&[recipe::CASES]);
}

#[test]
fn bad_files_of_a_corpus_are_refused_in_words() {
    try_all(&[corpus::FILES]);
}

#[test]
fn bad_records_of_a_corpus_are_refused_in_words() {
    try_all(&[corpus::RECORDS]);
}

#[test]
fn bad_tokenizers_are_refused_in_words() {
    try_all(&[tokenizer::CASES]);
}

#[test]
fn bad_configurations_and_companions_of_weights_are_refused_in_words() {
    try_all(&[checkpoint::CONFIG]);
}

#[test]
fn bad_weights_are_refused_in_words() {
    try_all(&[tensors::CASES]);
}

#[test]
fn bad_stored_prefixes_are_computed_again_with_a_warning() {
    try_all(&[cache::CASES]);
}

#[test]
fn bad_run_directories_are_refused_in_words() {
    try_all(&[run_directory::CASES]);
}

#[test]
fn bad_probe_results_and_query_files_are_refused_in_words() {
    try_all(&[results::CASES]);
}
