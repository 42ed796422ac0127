//! Docids keep their rows in their file and in an exported tokenizer.

use std::fs;
use std::time::{Duration, Instant};

use genir::corpus::{Corpus, Document, Layout};
use genir::docid::{DocidVocabulary, EncodeOptions, TextTokenizer};
use serde_json::Value;

use crate::collections;
use crate::small_tokenizer;

const PLAIN: EncodeOptions =
    EncodeOptions { max_tokens: 32, prefix: String::new(), lowercase: false };

fn small() -> TextTokenizer {
    let directory = tempfile::tempdir().expect("a directory");
    small_tokenizer::write(directory.path(), &[]);
    TextTokenizer::load(directory.path()).expect("a tokenizer").tokenizer
}

#[test]
fn rows_are_in_document_order() {
    let document = |id: &str| Document { id: id.to_owned(), texts: vec!["t".to_owned()] };
    let corpus = Corpus {
        documents: vec![document("z"), document("10"), document("9"), document("@x@")],
        ..Corpus::default()
    };
    let vocabulary = DocidVocabulary::from_corpus(&corpus).expect("a vocabulary");
    assert_eq!(vocabulary.len(), 4);
    for (row, document) in (0..).zip(&corpus.documents) {
        assert_eq!(vocabulary.id(row), document.id);
        assert_eq!(vocabulary.row(&document.id), Some(row));
        let token = vocabulary.token(row);
        assert_eq!(token, format!("@DOC_ID_{}@", document.id));
        assert_eq!(DocidVocabulary::parse_token(&token), Some(document.id.as_str()));
    }
    assert_eq!(vocabulary.row("1"), None);
    assert_eq!(DocidVocabulary::parse_token("@DOC_ID_@"), None);
    assert_eq!(DocidVocabulary::parse_token("word"), None);
}

#[test]
fn a_docid_used_twice_is_refused_with_both_rows() {
    let error = DocidVocabulary::new(["a", "b", "c", "b"]).expect_err("refused").to_string();
    assert!(error.contains("docid `b` is used for row 1 and row 3"), "{error}");
}

#[test]
fn a_million_docids_are_written_and_read_in_seconds() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("docids.json");
    let vocabulary =
        DocidVocabulary::new((0..1_000_000_u64).map(|n| (n * 7919 % 1_000_003).to_string()))
            .expect("a vocabulary");
    let start = Instant::now();
    vocabulary.write(&file).expect("written");
    let read = DocidVocabulary::read(&file).expect("read");
    let took = start.elapsed();
    assert!(read == vocabulary);
    assert_eq!(read.row("7919"), Some(1));
    assert!(took < Duration::from_secs(5), "took {took:?}");
}

#[test]
fn a_broken_file_of_docids_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("docids.json");
    for content in ["[\"a\",\n3]", "{}", "[\"a\""] {
        fs::write(&file, content).expect("written");
        let error = DocidVocabulary::read(&file).expect_err("refused").to_string();
        assert!(error.contains("docids.json") && error.contains("array of docids"), "{error}");
    }
}

#[test]
fn a_truncated_text_ends_with_the_end_of_sequence_token() {
    let tokenizer = small();
    let encode = |text: &str, options: &EncodeOptions| {
        tokenizer.encode_batch(&[text], options).expect("encoded").remove(0)
    };
    assert_eq!((tokenizer.vocab_size(), tokenizer.pad_id(), tokenizer.end_id()), (9, 0, 1));
    assert_eq!(encode("one two unheard-of", &PLAIN), [3, 4, 2, 1]);
    assert_eq!(encode("", &PLAIN), [1]);
    let three = EncodeOptions { max_tokens: 3, ..PLAIN };
    assert_eq!(encode("one two", &three), [3, 4, 1]);
    assert_eq!(encode("one two three four", &three), [3, 4, 1]);
    // A word so long that the first bytes of the text have too few tokens.
    let four = EncodeOptions { max_tokens: 4, ..PLAIN };
    let text = format!("one {} two three four", "x".repeat(100));
    assert_eq!(encode(&text, &four), [3, 2, 4, 1]);
    let prefixed = EncodeOptions { prefix: "to: ".to_owned(), lowercase: true, ..three };
    assert_eq!(encode("ONE two", &prefixed), [8, 3, 1]);
}

#[test]
fn an_exported_tokenizer_is_read_again_with_its_docids() {
    let directory = tempfile::tempdir().expect("a directory");
    let tokenizer = small();
    let vocabulary = DocidVocabulary::new(["9", "10", "a \"quoted\" id"]).expect("a vocabulary");
    tokenizer.export(directory.path(), Some(&vocabulary)).expect("exported");

    let loaded = TextTokenizer::load(directory.path()).expect("loaded");
    let docids = loaded.docids.expect("docids");
    assert_eq!(docids.vocabulary, vocabulary);
    assert_eq!(docids.rows, [9, 10, 11]);
    assert_eq!(loaded.tokenizer.vocab_size(), 9);
    let texts = ["one five", "two @DOC_ID_9@"];
    assert_eq!(
        loaded.tokenizer.encode_batch(&texts, &PLAIN).expect("encoded"),
        tokenizer.encode_batch(&texts, &PLAIN).expect("encoded")
    );

    let json = |name: &str| -> Value {
        let text = fs::read_to_string(directory.path().join(name)).expect("a file");
        serde_json::from_str(&text).expect("JSON")
    };
    assert_eq!(
        json("tokenizer.json")["added_tokens"][3],
        small_tokenizer::added_token(9, "@DOC_ID_9@", false)
    );
    let config = json("tokenizer_config.json");
    assert_eq!(config["model_max_length"], 512);
    assert!(config.get("added_tokens_decoder").is_none());

    let without = tempfile::tempdir().expect("a directory");
    loaded.tokenizer.export(without.path(), None).expect("exported");
    assert!(TextTokenizer::load(without.path()).expect("loaded").docids.is_none());
}

#[test]
fn imported_docids_are_sorted_by_token_id() {
    let directory = tempfile::tempdir().expect("a directory");
    let docid = |id, name: &str| small_tokenizer::added_token(id, name, false);
    small_tokenizer::write(
        directory.path(),
        &[docid(11, "@DOC_ID_x@"), docid(9, "@DOC_ID_y@"), docid(10, "@DOC_ID_z@")],
    );
    let docids = TextTokenizer::load(directory.path()).expect("loaded").docids.expect("docids");
    assert_eq!(docids.vocabulary.ids().collect::<Vec<_>>(), ["y", "z", "x"]);
    assert_eq!(docids.rows, [9, 10, 11]);
}

#[test]
fn tokens_after_the_docids_are_renumbered_and_keep_their_rows() {
    let token = |id, name: &str| small_tokenizer::added_token(id, name, false);
    let directory = tempfile::tempdir().expect("a directory");
    small_tokenizer::write(
        directory.path(),
        &[token(12, "<b>"), token(9, "@DOC_ID_x@"), token(11, "<a>"), token(10, "@DOC_ID_y@")],
    );
    let loaded = TextTokenizer::load(directory.path()).expect("loaded");
    assert_eq!(loaded.docids.expect("docids").rows, [9, 10]);
    // In the order in which the tokenizers library adds them.
    assert_eq!((loaded.tokenizer.vocab_size(), loaded.moved_rows), (11, vec![12, 11]));
    let encode = |tokenizer: &TextTokenizer| {
        tokenizer.encode_batch(&["one <a> <b> @DOC_ID_x@"], &PLAIN).expect("encoded")
    };
    assert_eq!(encode(&loaded.tokenizer), [[3, 10, 9, 2, 1]]);

    let exported = tempfile::tempdir().expect("a directory");
    let vocabulary = DocidVocabulary::new(["z"]).expect("a vocabulary");
    loaded.tokenizer.export(exported.path(), Some(&vocabulary)).expect("exported");
    let again = TextTokenizer::load(exported.path()).expect("loaded");
    assert_eq!((again.tokenizer.vocab_size(), again.moved_rows), (11, Vec::new()));
    assert_eq!(again.docids.expect("docids").rows, [11]);
    assert_eq!(encode(&again.tokenizer), encode(&loaded.tokenizer));
}

#[test]
fn an_invalid_tokenizer_is_refused_with_its_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let refused = |part: &str| {
        let error = TextTokenizer::load(directory.path()).expect_err("refused").to_string();
        assert!(error.contains("tokenizer.json") && error.contains(part), "{error}");
    };
    refused("does not exist");
    fs::write(directory.path().join("tokenizer.json"), "{}").expect("written");
    refused("no array `added_tokens`");
    fs::write(directory.path().join("tokenizer.json"), r#"{"added_tokens": [{"id": 1}]}"#)
        .expect("written");
    refused("missing field `content`");
    // Two tokens with the same id.
    let token = |id, name: &str| small_tokenizer::added_token(id, name, false);
    small_tokenizer::write(directory.path(), &[token(9, "@DOC_ID_x@"), token(9, "<sep>")]);
    refused("has id 9, which another token has too");
    small_tokenizer::write(directory.path(), &[]);
    fs::write(directory.path().join("tokenizer_config.json"), r#"{"pad_token": "[PAD]"}"#)
        .expect("written");
    refused("no token `[PAD]`, which is its pad_token");
}

#[test]
fn the_t5_tokenizer_encodes_as_transformers_does() {
    let Some(collections) = collections::collections() else {
        return;
    };
    let loaded = TextTokenizer::load(&collections.join("tokenizer")).expect("loaded");
    let tokenizer = loaded.tokenizer;
    assert!(loaded.docids.is_none());
    assert_eq!((tokenizer.vocab_size(), tokenizer.pad_id(), tokenizer.end_id()), (32_100, 0, 1));
    let encoded = tokenizer.encode_batch(&["Hello world"], &PLAIN).expect("encoded");
    assert_eq!(encoded, [[8774, 296, 1]]);

    let directory = tempfile::tempdir().expect("a directory");
    let vocabulary =
        DocidVocabulary::new((0..20_000).map(|id| id.to_string())).expect("a vocabulary");
    tokenizer.export(directory.path(), Some(&vocabulary)).expect("exported");
    let again = TextTokenizer::load(directory.path()).expect("loaded");
    let docids = again.docids.expect("docids");
    assert_eq!(docids.vocabulary, vocabulary);
    assert_eq!((docids.rows[0], docids.rows.len()), (32_100, 20_000));
}

#[test]
fn the_first_words_of_a_document_give_the_tokens_of_the_whole_document() {
    let Some(collections) = collections::collections() else {
        return;
    };
    let tokenizer = TextTokenizer::load(&collections.join("tokenizer")).expect("loaded").tokenizer;
    let corpus = genir::corpus::load(&genir::corpus::CorpusOptions {
        path: collections.join("data/scifact").display().to_string(),
        layout: Layout::Auto,
        ..Default::default()
    })
    .expect("a corpus")
    .corpus;
    let texts: Vec<&str> = corpus.documents[..500].iter().map(|d| d.text()).collect();
    let whole = EncodeOptions { max_tokens: usize::MAX, ..PLAIN };
    let whole = tokenizer.encode_batch(&texts, &whole).expect("encoded");
    for max_tokens in [1, 2, 32, 200] {
        let cut = tokenizer
            .encode_batch(&texts, &EncodeOptions { max_tokens, ..PLAIN })
            .expect("encoded");
        for (cut, whole) in cut.iter().zip(&whole) {
            if whole.len() <= max_tokens {
                assert_eq!(cut, whole);
            } else {
                assert_eq!(cut[..max_tokens - 1], whole[..max_tokens - 1]);
                assert_eq!(cut[max_tokens - 1..], [1]);
            }
        }
    }
}
