//! A corpus of eight documents in the paper's layout, and a recipe that trains on it in a moment.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

/// Docid and text. The first two ids are integers in the files.
pub const DOCUMENTS: [(&str, &str); 8] = [
    ("7", "Iron is a metal with the symbol Fe and the atomic number 26."),
    ("0", "Gold is a metal with the symbol Au."),
    ("oxygen", "Oxygen is a gas that fires need, with the atomic number 8."),
    ("neon", "Neon is a noble gas that glows in signs."),
    ("Zürich", "The largest city of Switzerland lies on a lake."),
    ("Oslo", "The capital of Norway lies on a fjord in the south of the country."),
    ("lima", "The capital of Peru is a city on the coast of the Pacific."),
    ("nile", "A river in Africa that flows to the north, through Egypt."),
];

/// Two training queries for each document but the last, which has none.
const TRAINING: [[&str; 2]; 7] = [
    ["Which element has the symbol Fe?", "what has the atomic number 26"],
    ["Which element has the symbol Au?", "what is gold"],
    ["Which gas do fires need?", "what has the atomic number 8"],
    ["Which gas glows in signs?", "name a noble gas"],
    ["What is the largest city of Switzerland?", "a city on a lake"],
    ["What is the capital of Norway?", "a capital on a fjord"],
    ["What is the capital of Peru?", "a capital on the coast of the Pacific"],
];

/// Writes the corpus into `directory`: 8 documents, 14 training, 8 validation and 8 test queries.
pub fn write(directory: &Path) {
    fs::create_dir_all(directory).expect("a directory");
    let id = |row: usize| match DOCUMENTS[row].0.parse::<u64>() {
        Ok(number) => json!(number),
        Err(_) => json!(DOCUMENTS[row].0),
    };
    let put = |name: &str, values: Vec<serde_json::Value>| {
        fs::write(directory.join(name), json!(values).to_string()).expect("a file");
    };
    let documents =
        (0..DOCUMENTS.len()).map(|row| json!({"id": id(row), "text": DOCUMENTS[row].1}));
    put("documents.json", documents.collect());
    let training = TRAINING.iter().enumerate().flat_map(|(row, queries)| {
        queries.iter().enumerate().map(move |(number, query)| {
            json!({"id": format!("train-{row}-{number}"), "query": query, "relevant_docs": [id(row)]})
        })
    });
    put("train_queries.json", training.collect());
    for (name, question) in [("val", "tell me about"), ("test", "what do you know of")] {
        let queries = (0..DOCUMENTS.len()).map(|row| {
            let words: Vec<&str> = DOCUMENTS[row].1.split(' ').take(4).collect();
            let query = format!("{question} {}", words.join(" "));
            json!({"id": format!("{name}-{row}"), "query": query, "relevant_docs": [id(row)]})
        });
        put(&format!("{name}_queries.json"), queries.collect());
    }
}

/// A recipe for the corpus in `home/corpus` (written when it is not there) and a run in `home/run`: 30 steps of a
/// tiny T5 from scratch, dropout on, evaluated and saved after the last step.
pub fn recipe(home: &Path) -> String {
    let corpus = home.join("corpus");
    if !corpus.exists() {
        write(&corpus);
    }
    let base = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("checkpoints/atlas-base");
    format!(
        "run = {{ directory = {run:?}, seed = 3, device = \"cpu\" }}\n\
         corpus.path = {corpus:?}\n\
         optimizer.learning_rate = 3e-3\n\
         train = {{ steps = 30, batch_size = 8 }}\n\
         evaluate = {{ memorisation = 8 }}\n\
         log.every_steps = 1\n\
         cache.directory = {cache:?}\n\
         [model]\n\
         base = {base:?}\n\
         init = \"scratch\"\n\
         dropout = 0.1\n\
         config = {{ d_model = 16, d_ff = 32, d_kv = 8, num_heads = 2, num_layers = 1, num_decoder_layers = 3 }}\n",
        run = home.join("run"),
        cache = home.join("cache"),
    )
}
