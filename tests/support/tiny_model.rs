//! A GenIR model of few parameters, from T5's initialisation.

use std::collections::BTreeMap;

use burn::tensor::Device;
use genir::checkpoint::Manifest;
use genir::docid::DocidVocabulary;
use genir::t5::weights::{docids_from, initialise, random_rows};
use genir::t5::{GenirModel, T5Config};
use genir::task::Encoding;

/// Docids as corpora have them: numbers, words, white space, quotes, many scripts.
pub const DOCIDS: [&str; 20] = [
    "7",
    "0",
    "10",
    "-3",
    "18446744073709551616",
    "a",
    "A",
    "two words",
    " spaces  around ",
    "tab\tinside",
    "Zürich",
    "Zu\u{308}rich",
    "東京",
    "القاهرة",
    "🦀 crab",
    "\"quoted\"",
    "back\\slash/and/slash",
    "user@example.org",
    "</s>",
    "DOC_ID_7",
];

pub fn docids() -> DocidVocabulary {
    DocidVocabulary::new(DOCIDS).expect("they differ")
}

/// A model of these sizes with a row for each of [`DOCIDS`].
pub fn model(config: &T5Config) -> GenirModel {
    let device = Device::flex();
    let rows = random_rows(config, 0..DOCIDS.len(), 2);
    GenirModel {
        t5: initialise(config, 2, &device),
        docids: docids_from(rows, config.d_model, &device),
    }
}

/// A manifest in which nothing has its default.
pub fn manifest() -> Manifest {
    Manifest {
        format: Manifest::FORMAT,
        genir: "0.0.1".to_owned(),
        step: 12,
        metrics: BTreeMap::from([("validation/hits@1".to_owned(), 1.0 / 3.0)]),
        encoding: Encoding {
            document_tokens: 48,
            query_tokens: 16,
            indexing_prefix: "index: ".to_owned(),
            retrieval_prefix: "find: ".to_owned(),
            lowercase: true,
        },
        files: BTreeMap::new(),
    }
}
