//! What is fuzzed: the readers of everything that comes from outside. Each target takes the bytes of one input and
//! panics if a promise is broken; an error is a right answer to nearly every input.
//!
//! `fuzz/main.rs` hands them inputs of libFuzzer, `tests/fuzzed_inputs.rs` those in `fuzz/seeds` and `fuzz/found`.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use genir::checkpoint::Manifest;
use genir::component::{Selector, Stages, parse_layers, trainable_set};
use genir::corpus::{self, Corpus, CorpusOptions, Layout, OnProblem, Split};
use genir::docid::{EncodeOptions, TextTokenizer};
use genir::prefix::fuzzing as prefix;
use genir::probe::{
    HistoryLine, Inspection, Probe, ProbeOptions, Record, Suite, files as probe_files,
};
use genir::recipe::Recipe;
use genir::report;
use genir::retrieval::NamedMeasure;
use genir::retrieval::run_files::{read_correct_queries, read_qrels, read_run};
use genir::t5::weights::StoredType;
use genir::t5::weights::{self, StoredTensors, WeightsError};
use genir::t5::{GenirModel, T5Config};
use genir::train::TrainingState;
use serde_json::Value;

/// Reads one input, and panics if a promise is broken.
type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("corpus_paper", corpus_paper),
    ("corpus_dsi", corpus_dsi),
    ("corpus_beir", corpus_beir),
    ("recipe", recipe),
    ("selectors", selectors),
    ("run_files", run_files),
    ("safetensors", safetensors),
    ("shard_index", shard_index),
    ("t5_config", t5_config),
    ("prefix_file", prefix_file),
    ("tokenizer", tokenizer),
    ("probe_records", probe_records),
    ("inspection", inspection),
    ("checkpoint_state", checkpoint_state),
];

/// Separates the files of one input.
pub const SEPARATOR: &[u8] = b"\n=====\n";

/// The parts of an input; those that are not there are empty. The last one has what follows, separators included.
fn parts<const COUNT: usize>(mut bytes: &[u8]) -> [&[u8]; COUNT] {
    let mut parts = [&[][..]; COUNT];
    for (place, part) in parts.iter_mut().enumerate() {
        let end = bytes.windows(SEPARATOR.len()).position(|window| window == SEPARATOR);
        match end.filter(|_| place + 1 < COUNT) {
            Some(end) => (*part, bytes) = (&bytes[..end], &bytes[end + SEPARATOR.len()..]),
            None => {
                *part = bytes;
                break;
            }
        }
    }
    parts
}

/// A directory of its own for one input.
struct Scratch(PathBuf);

impl Scratch {
    /// Makes the directory with these files.
    fn with(files: &[(&str, &[u8])]) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("genir-fuzz-{}-{number}", std::process::id());
        let scratch = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(&scratch.0).expect("a directory for temporary files");
        for (name, bytes) in files {
            let path = scratch.file(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
            fs::write(path, bytes).expect("a temporary file");
        }
        scratch
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The value of a result; an error must say something.
fn value<T, E: Display>(result: Result<T, E>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            let message = error.to_string();
            assert!(!message.trim().is_empty(), "an error without a message");
            // A value that is quoted whole is as long as the input; nothing quotes it many times.
            None
        }
    }
}

/// `documents.json` and `val_queries.json`.
fn corpus_paper(bytes: &[u8]) {
    let [documents, queries] = parts(bytes);
    let scratch = Scratch::with(&[("documents.json", documents), ("val_queries.json", queries)]);
    load(&scratch.0, Layout::Paper, None);
}

/// One file of documents and queries, and a file of generated queries.
fn corpus_dsi(bytes: &[u8]) {
    let [mixed, generated] = parts(bytes);
    let scratch = Scratch::with(&[("train.jsonl", mixed), ("more.jsonl", generated)]);
    let generated = (!generated.is_empty()).then(|| scratch.file("more.jsonl"));
    load(&scratch.file("train.jsonl"), Layout::Dsi, generated);
}

/// `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv`.
fn corpus_beir(bytes: &[u8]) {
    let [documents, queries, judgements] = parts(bytes);
    let scratch = Scratch::with(&[
        ("corpus.jsonl", documents),
        ("queries.jsonl", queries),
        ("qrels/test.tsv", judgements),
    ]);
    load(&scratch.0, Layout::Auto, None);
}

/// Loads a corpus with both treatments of problems, which may differ in nothing but what they refuse.
fn load(path: &Path, layout: Layout, generated: Option<PathBuf>) {
    let load = |on_problem| {
        let path = path.to_string_lossy().into_owned();
        let generated_queries = generated.clone();
        let options =
            CorpusOptions { path, layout, generated_queries, on_problem, ..Default::default() };
        value(corpus::load(&options))
    };
    let skipped = load(OnProblem::Skip);
    if let Some(loaded) = load(OnProblem::Refuse) {
        assert_eq!(Some(&loaded), skipped.as_ref(), "what is not refused, nothing was skipped in");
    }
    if let Some(loaded) = skipped {
        check_corpus(&loaded.corpus);
        for finding in loaded.findings.iter() {
            assert!(finding.count >= finding.first.len() && !finding.to_string().is_empty());
        }
    }
}

fn check_corpus(corpus: &Corpus) {
    assert!(!corpus.documents.is_empty(), "a corpus without documents");
    let mut ids = HashSet::new();
    for document in &corpus.documents {
        assert!(!document.id.is_empty() && ids.insert(&document.id), "ids differ");
        assert!(document.texts.iter().all(|text| !text.trim().is_empty()));
    }
    let splits = Split::ALL.iter().map(|&split| corpus.split(split));
    for queries in splits.chain([corpus.generated.as_slice()]) {
        let mut ids = HashSet::new();
        for query in queries {
            assert!(ids.insert(&query.id), "ids of queries differ");
            assert!(!query.text.trim().is_empty() && !query.relevant.is_empty());
            for judgement in &query.relevant {
                assert!((judgement.document as usize) < corpus.documents.len());
                assert!(judgement.grade > 0);
            }
        }
    }
}

/// A recipe, and overrides, one a line.
fn recipe(bytes: &[u8]) {
    let [text, overrides] = parts(bytes).map(String::from_utf8_lossy);
    let overrides: Vec<String> = overrides.lines().map(str::to_owned).collect();
    let Some(recipe) = value(Recipe::from_text("recipe.toml", &text, &overrides)) else { return };
    let written = recipe.to_toml().expect("every recipe can be written");
    let again = Recipe::from_text("written.toml", &written, &[]).expect("and read again");
    assert_eq!(recipe, again, "as it was");
    if let Some(probes) = &recipe.probes {
        assert!(!probes.to_string().is_empty());
    }
}

/// The decoder is deep enough for stages.
const CONFIG: &str = r#"{"model_type": "t5", "d_model": 6, "d_kv": 2, "d_ff": 8, "num_heads": 2, "num_layers": 1,
    "num_decoder_layers": 3, "vocab_size": 9}"#;

fn small_config() -> &'static T5Config {
    static SMALL: OnceLock<T5Config> = OnceLock::new();
    SMALL
        .get_or_init(|| T5Config::from_json(Path::new("config.json"), CONFIG).expect("it is right"))
}

fn small_sizes() -> &'static [(String, usize)] {
    static SIZES: OnceLock<Vec<(String, usize)>> = OnceLock::new();
    SIZES.get_or_init(|| GenirModel::parameter_sizes(small_config(), false, 2))
}

/// Lines that are read as selectors, layers, patches, measures and names of devices.
fn selectors(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let stages = Stages::scaled(3).expect("three layers");
    for stages in [Some(&stages), None] {
        let sizes = small_sizes().iter().map(|(name, size)| (name.as_str(), *size));
        if let Some(selected) = value(trainable_set(&lines, stages, sizes)) {
            assert!(!selected.is_empty());
        }
    }
    for line in &lines {
        if let Some(selector) = value(line.parse::<Selector>()) {
            let again = selector.to_string().parse();
            assert_eq!(Ok(selector), again, "a selector is printed as it is read");
        }
        if let Some(layers) = value(parse_layers(line)) {
            assert!(layers.start < layers.end);
        }
        if let Some(measure) = value(line.parse::<NamedMeasure>()) {
            assert_eq!(measure.to_string().parse().ok(), Some(measure));
        }
        genir::device::is_valid_name(line);
    }
    let mut options = ProbeOptions::new(Some(stages));
    options.patches = lines.clone();
    value(Suite::new(&[Probe::StagePatching], options.clone(), small_config()));
    (options.patches, options.circuit) = (Vec::new(), lines);
    value(Suite::new(&[Probe::Circuit], options, small_config()));
}

/// A file that is read as a TREC run, as qrels and as a list of correct queries.
fn run_files(bytes: &[u8]) {
    let scratch = Scratch::with(&[("file", bytes)]);
    let file = scratch.file("file");
    if let Some(lines) = value(read_run(&file)) {
        let text: String = lines
            .iter()
            .map(|line| {
                assert!(line.score.is_finite());
                let (rank, score) = (line.rank, line.score);
                format!("{} Q0 {} {rank} {score} {}\n", line.query, line.document, line.tag)
            })
            .collect();
        fs::write(scratch.file("again"), text).expect("a temporary file");
        assert_eq!(value(read_run(&scratch.file("again"))), Some(lines));
    }
    if let Some(lines) = value(read_qrels(&file)) {
        let written =
            lines.iter().map(|line| format!("{} 0 {} {}\n", line.query, line.document, line.grade));
        fs::write(scratch.file("again"), written.collect::<String>()).expect("a temporary file");
        assert_eq!(value(read_qrels(&scratch.file("again"))), Some(lines));
    }
    value(read_correct_queries(&file));
}

/// `config.json` (if it is empty, that of a small T5) and `model.safetensors`.
fn safetensors(bytes: &[u8]) {
    let [config, tensors] = parts(bytes);
    let config = if config.is_empty() { CONFIG.as_bytes() } else { config };
    let scratch = Scratch::with(&[("config.json", config), ("model.safetensors", tensors)]);
    let config = value(T5Config::read(&scratch.0)).filter(is_shallow);
    let opened = value(StoredTensors::open(&scratch.0));
    let (Some(config), Some(tensors)) = (config, opened) else { return };
    let Some(tied) = value(weights::is_tied(&tensors)) else { return };
    // What a plan checks, and what opening a checkpoint does.
    let docids = [9, 10];
    let words = config.with_words(9);
    let problems = weights::problems(&tensors, &words, tied, &docids);
    let device = genir::device::device("cpu").expect("there is a processor");
    let loaded = weights::load(&tensors, &config, 9, &device).map(drop);
    let rows = weights::load_docids(&tensors, &config, &docids, &device.device).map(drop);
    for loaded in [loaded, rows] {
        // The check reads headers alone: it has not seen the values.
        let is_right = matches!(loaded, Ok(()) | Err(WeightsError::NotFinite { .. }));
        value(loaded);
        assert!(is_right || !problems.is_empty(), "what is checked can be loaded");
    }
}

/// Deeper models are right, but take long to look at.
fn is_shallow(config: &T5Config) -> bool {
    config.num_layers + config.num_decoder_layers <= 8
}

/// Returns whether two JSON values are the same. Numbers may differ in their last digits: without its feature `float_roundtrip`,
/// serde_json reads some of them not exactly as it wrote them.
fn same_json(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| other.get(key).is_some_and(|other| same_json(value, other)))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| same_json(one, other))
        }
        (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
            let (one, other) = (one.as_f64().unwrap_or(0.0), other.as_f64().unwrap_or(0.0));
            (one - other).abs() <= one.abs() * 1e-14 + f64::MIN_POSITIVE
        }
        _ => one == other,
    }
}

/// `model.safetensors.index.json`.
fn shard_index(bytes: &[u8]) {
    let scratch = Scratch::with(&[("model.safetensors.index.json", bytes)]);
    value(StoredTensors::open(&scratch.0));
}

/// `config.json`.
/// `genir.json` and `trainer_state.json` of a checkpoint.
fn checkpoint_state(bytes: &[u8]) {
    let [manifest, state] = parts(bytes);
    let scratch = Scratch::with(&[("genir.json", manifest), ("trainer_state.json", state)]);
    if let Some(Some(manifest)) = value(Manifest::read(&scratch.0)) {
        // Files that it names may lie anywhere, and are not there.
        let is_whole = value(manifest.verify(&scratch.0)).is_some();
        assert!(
            !is_whole
                || manifest.files.is_empty()
                || manifest.files.contains_key("trainer_state.json")
        );
        let text = serde_json::to_value(&manifest).expect("it can be written");
        let again: Manifest = serde_json::from_value(text).expect("it is right");
        assert_eq!(again.files, manifest.files);
    }
    if let Some(Some(state)) = value(TrainingState::read(&scratch.0)) {
        let text = serde_json::to_string(&state).expect("it can be written");
        let again: TrainingState = serde_json::from_str(&text).expect("it is right");
        assert_eq!(
            (again.step, again.recipe, again.arithmetic),
            (state.step, state.recipe, state.arithmetic)
        );
    }
}

fn t5_config(bytes: &[u8]) {
    let scratch = Scratch::with(&[("config.json", bytes)]);
    let Some(config) = value(T5Config::read(&scratch.0)) else { return };
    value(config.check_tokens(&scratch.0));
    if is_shallow(&config) {
        for tied in [true, false] {
            let sizes = GenirModel::parameter_sizes(&config, tied, 3);
            assert!(sizes.iter().all(|(_, size)| *size > 0), "no size is 0 or overflows");
            let all = sizes.iter().try_fold(0_usize, |all, (_, size)| all.checked_add(*size));
            assert!(all.and_then(|all| all.checked_mul(4)).is_some(), "all bytes can be counted");
        }
    }
    let exported =
        config.export(config.vocab_size, config.tie_word_embeddings, StoredType::Float32);
    let text = exported.to_string();
    let again = T5Config::from_json(Path::new("config.json"), &text).expect("it is right");
    let again = again.export(again.vocab_size, again.tie_word_embeddings, StoredType::Float32);
    assert!(same_json(&exported, &again), "an exported configuration is read as it was written");
}

/// Edits of a stored prefix: records of a place (2 bytes), a length (1 byte) and as many bytes, which replace what is
/// there. A first byte of 1 gives the file the right checksum over its index again, 2 cuts it behind the last edit.
fn prefix_file(bytes: &[u8]) {
    let whole = prefix::file();
    let mut edited = whole.clone();
    let Some((&kind, mut edits)) = bytes.split_first() else { return };
    let mut end = edited.len();
    while let [low, high, length, rest @ ..] = edits {
        let place = usize::from(u16::from_le_bytes([*low, *high])) % (whole.len() + 64);
        let (new, later) = rest.split_at(usize::from(*length).min(rest.len()));
        end = place + new.len();
        edited.resize(edited.len().max(end), 0);
        edited[place..end].copy_from_slice(new);
        edits = later;
    }
    match kind {
        1 if edited.len() >= whole.len() => {
            let root = edited.len() - 32;
            let index = [&edited[..prefix::ROWS.start], &edited[prefix::ROWS.end..root]].concat();
            edited[root..].copy_from_slice(blake3::hash(&index).as_bytes());
        }
        2 => edited.truncate(end),
        _ => {}
    }
    let scratch = Scratch::with(&[("file", &edited)]);
    if let Some(rows) = value(prefix::open(&scratch.file("file"))) {
        assert_eq!(edited, whole, "a file that differs in a byte is used");
        assert_eq!(rows, whole[prefix::ROWS]);
    }
}

/// `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`.
fn tokenizer(bytes: &[u8]) {
    let [tokenizer, config, special] = parts(bytes).map(String::from_utf8_lossy);
    let config = (!config.is_empty()).then_some(&*config);
    let special = (!special.is_empty()).then(|| special.clone().into_owned());
    let read = TextTokenizer::from_texts(Path::new("base"), &tokenizer, config, special);
    let Some(read) = value(read) else { return };
    let options = EncodeOptions { max_tokens: 8, prefix: "to: ".to_owned(), lowercase: true };
    let texts = ["", "one two", "\u{0}\u{301}\u{fffd} İ\t ＡＢＣ", "@DOC_ID_7@ </s><pad>"];
    if let Some(encoded) = value(read.tokenizer.encode_batch(&texts, &options)) {
        for ids in encoded {
            assert!((1..=8).contains(&ids.len()));
            assert!(ids.iter().all(|&id| (id as usize) < read.tokenizer.vocab_size()));
        }
    }
    let scratch = Scratch::with(&[]);
    let docids = read.docids.as_ref().map(|docids| &docids.vocabulary);
    if value(read.tokenizer.export(&scratch.0, docids)).is_some() {
        let again = TextTokenizer::load(&scratch.0).expect("an exported tokenizer is read again");
        assert_eq!(again.tokenizer.vocab_size(), read.tokenizer.vocab_size());
        let again = again.docids.map(|docids| docids.vocabulary);
        assert_eq!(again.as_ref(), docids);
    }
}

/// A file of probe results.
fn probe_records(bytes: &[u8]) {
    let scratch = Scratch::with(&[("logit_lens.jsonl", bytes)]);
    let Some(stored) = value(probe_files::read_all(&scratch.file("logit_lens.jsonl"))) else {
        return;
    };
    for record in &stored.records {
        report::tables(record).iter().for_each(|titled| drop(titled.table.to_string()));
        report::measured_on(record);
        report::points(record);
        report::histograms(record);
        let value = serde_json::to_value(record).expect("a record can be written");
        let again = Record::parse(&value.to_string(), || "again".to_owned());
        let again = serde_json::to_value(again.expect("and read again")).expect("and written");
        assert!(same_json(&value, &again), "a record is read as it was written: {value}");
    }
    for skipped in &stored.skipped {
        let line = serde_json::to_string(skipped).expect("a line can be written");
        value(HistoryLine::parse(&line, || "again".to_owned()).map(drop)).expect("and read again");
    }
    report::skipped(&stored.skipped);
    let mut out = Vec::new();
    value(report::write_csv(&stored.records, &mut out));
    value(report::write_query_ranks(&stored.records, &mut out));
    for figure in report::figures(&stored.records, &stored.skipped) {
        value(figure.svg());
    }
}

/// A file of `genir inspect --json`.
fn inspection(bytes: &[u8]) {
    let scratch = Scratch::with(&[("query.json", bytes)]);
    let Some(found) = value(Inspection::read(&scratch.file("query.json"))) else { return };
    report::inspection_tables(&found).iter().for_each(|titled| drop(titled.table.to_string()));
    report::inspection_page(&found);
    let written = serde_json::to_value(&found).expect("an inspection can be written");
    let scratch = Scratch::with(&[("query.json", written.to_string().as_bytes())]);
    let again = Inspection::read(&scratch.file("query.json")).expect("and read again");
    let again = serde_json::to_value(again).expect("and written");
    assert!(same_json(&written, &again), "an inspection is read as it was written: {written}");
}
