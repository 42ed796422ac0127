//! `genir tokenizer train`: from a corpus and from text files, to files that transformers reads to the same tokens.
//!
//! The comparison with transformers needs a Python with `tests/python/requirements.txt`, named by `GENIR_PYTHON`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use genir::docid::{EncodeOptions, TextTokenizer};
use tempfile::TempDir;

use crate::command::{is_refused, succeeds, text};

const TEXTS: [&str; 7] = [
    "Which element has the symbol Fe?",
    "Bogotá is  the capital\tof Colombia.",
    "ﬁre ² Ａ",
    "a <extra_id_0> b<extra_id_1>c",
    "  x ",
    "",
    "日本 zzzqqq",
];

fn train(output: &Path, more: &[&str]) -> String {
    let output = output.to_str().unwrap();
    let arguments = [&["tokenizer", "train", "--output", output], more].concat();
    succeeds(&arguments).stdout
}

fn encode(directory: &Path) -> Vec<Vec<u32>> {
    let tokenizer = TextTokenizer::load(directory).unwrap().tokenizer;
    let options = EncodeOptions { max_tokens: 1000, prefix: String::new(), lowercase: false };
    tokenizer.encode_batch(&TEXTS, &options).unwrap()
}

#[test]
fn a_tokenizer_of_the_bundled_corpus_has_the_same_bytes_again_and_loads_in_transformers() {
    let home = TempDir::new().unwrap();
    let (one, other) = (home.path().join("one"), home.path().join("other"));
    for flags in [&[][..], &["--lowercase", "--strip-accents"]] {
        let more = [&["bundled:atlas", "--vocab-size", "2000"], flags].concat();
        for directory in [&one, &other] {
            let _ = fs::remove_dir_all(directory);
            let printed = train(directory, &more);
            assert!(printed.contains(": 2000 tokens, 100 of them sentinels"), "{printed}");
        }
        for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
            let read = |directory: &Path| fs::read(directory.join(file)).unwrap();
            assert!(read(&one) == read(&other), "{file}");
        }
        let ids = encode(&one);
        // All of the corpus's own characters are known; a Japanese text is not.
        assert!(ids[..6].iter().all(|ids| !ids.contains(&2)), "{ids:?}");
        assert!(ids[6].contains(&2) && ids[3].contains(&1999));
        let Some(python) = std::env::var_os("GENIR_PYTHON") else {
            eprintln!("skipped: GENIR_PYTHON names no Python with tests/python/requirements.txt");
            continue;
        };
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/check_trained_tokenizer.py");
        let mut command = Command::new(python);
        command.arg(script).arg(&one).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let texts = serde_json::to_vec(&TEXTS).unwrap();
        child.stdin.take().unwrap().write_all(&texts).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let found: Vec<Vec<u32>> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found, ids);
    }
}

#[test]
fn text_files_are_read_by_line_and_problems_name_the_input() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("notes.txt");
    fs::write(&file, "iron and gold\ngold and iron\nsilver and gold\n".repeat(20)).unwrap();
    let path = &*text(file);
    let printed =
        train(&home.path().join("base"), &[path, "--vocab-size", "40", "--extra-ids", "9"]);
    assert!(printed.contains("9 of them sentinels, from 60 texts"), "{printed}");

    let output = home.path().join("base");
    let arguments = |input: &'static str| {
        ["tokenizer", "train", input, "--vocab-size", "900", "--output", "/dev/null/no"]
    };
    is_refused(&arguments("/no/such.txt"), &["/no/such.txt", "cannot be read"]);
    is_refused(&arguments("/no/corpus"), &["/no/corpus"]);
    let output = output.to_str().unwrap();
    let again =
        ["tokenizer", "train", path, "--vocab-size", "40", "--extra-ids", "9", "--output", output];
    is_refused(&again, &["tokenizer.json: already exists; it is not overwritten"]);
    let small = ["tokenizer", "train", path, "--vocab-size", "100", "--output", path];
    is_refused(&small, &["a vocabulary of 100 tokens is too small", "100 sentinels"]);
}
