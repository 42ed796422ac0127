//! Where a TREC run file comes from, in the schema of ir_metadata (<https://www.ir-metadata.org>, version 0.1): platform,
//! research goal, implementation, method, actor and data; and, as tirex-tracker adds them, resources.
//!
//! The metadata of `FILE` are in `FILE.ir_metadata.yaml`, or in comments at the beginning of the run file, as `repro_eval`
//! reads them. `trec_eval` does not know comments, so that a run file has none unless they are asked for.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::corpus::{Corpus, Query, Split};
use crate::files::{FileError, write_atomically};
use crate::recipe::Recipe;
use crate::run::Environment;

/// The suffix of the name of the file with the metadata.
pub const SUFFIX: &str = ".ir_metadata.yaml";

/// The first line of the comments in a run file.
pub(crate) const HEADER_START: &str = "# ir_metadata.start";

/// Their last line.
pub(crate) const HEADER_END: &str = "# ir_metadata.end";

/// The version of the schema of ir_metadata.
const SCHEMA: f64 = 0.1;

/// The commit of genir's source, if the build was told so.
const BUILT_FROM: Option<&str> = option_env!("GENIR_COMMIT");

const GIBIBYTE: f64 = (1_u64 << 30) as f64;

/// The metadata of a run file. Keys are those of the schema; what is not known is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IrMetadata {
    #[serde(rename = "schema-version")]
    schema: f64,
    #[serde(rename = "run-version")]
    version: f64,
    /// The last column of the run file.
    tag: String,
    actor: Value,
    platform: Value,
    #[serde(rename = "research goal")]
    research_goal: Value,
    implementation: Value,
    data: Value,
    method: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    resources: Value,
}

impl IrMetadata {
    /// The metadata of a run with this tag, ranked in this environment by the stage `method` of a retrieval pipeline.
    pub fn new(tag: &str, environment: &Environment, method: Value) -> Self {
        Self {
            schema: SCHEMA,
            version: 1.0,
            tag: tag.to_owned(),
            actor: json!({ "role": "experimenter" }),
            platform: platform(environment),
            research_goal: json!({}),
            implementation: implementation(environment),
            data: json!({}),
            method: json!({
                "automatic": true,
                "score ties": "docid, descending, as trec_eval",
                "retrieval": [method],
            }),
            resources: Value::Null,
        }
    }

    /// Adds the collection, named by its path: the queries of `split`, and the documents.
    #[must_use]
    pub fn with_collection(mut self, path: &str, corpus: &Corpus, split: Split) -> Self {
        let queries = corpus.split(split);
        self.data["test collection"] = json!({
            "name": path,
            "source": path,
            "documents": corpus.documents.len(),
            "documents blake3": documents_hash(corpus),
            "topics": format!("{} {split} queries", queries.len()),
            "topics and qrels blake3": queries_hash(queries),
        });
        self
    }

    /// Adds what `recipe` was trained on: this corpus.
    #[must_use]
    pub fn with_training(mut self, recipe: &Recipe, corpus: &Corpus) -> Self {
        let mut sources = vec![json!({
            "name": recipe.corpus.path,
            "source": recipe.corpus.path,
            "tasks": recipe.task.tasks.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "documents blake3": documents_hash(corpus),
            "queries": corpus.train.len(),
            "queries blake3": queries_hash(&corpus.train),
        })];
        sources.extend(recipe.corpus.generated_queries.as_ref().map(|path| {
            json!({
                "name": "generated queries",
                "source": path,
                "queries": corpus.generated.len(),
                "queries blake3": queries_hash(&corpus.generated),
            })
        }));
        self.data["training data"] = json!(sources);
        self
    }

    /// Sets a parameter of the retrieval method, such as the checkpoint that ranked.
    #[must_use]
    pub fn with_parameter(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.method["retrieval"][0][name] = value.into();
        self
    }

    /// Adds how the texts of documents are indexed: `tokenizer`, `stemmer`, `stopwords`.
    #[must_use]
    pub fn with_indexing(mut self, indexing: Value) -> Self {
        self.method["indexing"] = indexing;
        self
    }

    /// Adds the names of the measures that are reported.
    #[must_use]
    pub fn with_measures<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: Vec<&str> = names.into_iter().collect();
        self.research_goal["evaluation"] = json!({ "reported measures": names });
        self
    }

    /// Adds resources that were used: wall time in seconds, and peak resident memory in bytes.
    #[must_use]
    pub fn with_resources(mut self, seconds: f64, memory: Option<u64>) -> Self {
        let mut used = json!({ "runtime": { "wallclock": format!("{:.0} ms", 1e3 * seconds) } });
        if let Some(bytes) = memory {
            used["ram"] = json!({ "used process": gigabytes(bytes) });
        }
        self.resources = used;
        self
    }

    /// Writes the metadata beside the run file at `path`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_beside(&self, path: &Path) -> Result<(), FileError> {
        write_atomically(&beside(path), |file| file.write_all(self.yaml()?.as_bytes()))
    }

    /// Returns the metadata as comments for the beginning of a run file.
    ///
    /// # Errors
    /// The metadata cannot be written as YAML.
    pub fn header(&self) -> io::Result<String> {
        let lines: String = self.yaml()?.lines().map(|line| format!("# {line}\n")).collect();
        Ok(format!("{HEADER_START}\n{lines}{HEADER_END}\n"))
    }

    /// Every JSON document is a YAML document, and `repro_eval` and other readers take it as one. A crate that writes YAML's
    /// block style would be a dependency for this alone: serde_yaml is archived, and serde-saphyr asks serde for a feature
    /// with which Burn and everything else is compiled anew.
    fn yaml(&self) -> io::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// Returns the file with the metadata of the run file at `path`.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SUFFIX);
    PathBuf::from(name)
}

/// Returns the stage of a retrieval pipeline that is a model which `recipe` trained.
pub fn trained_method(recipe: &Recipe) -> Value {
    let mut method = json!({
        "name": "generative retrieval",
        "method": "T5 that generates atomic docids",
        "base model": recipe.model.base,
        "init": recipe.model.init.to_string(),
        "trainable set": recipe.trainable.select,
        "seed": recipe.run.seed,
        "docid rows": recipe.docids.rows.to_string(),
        "candidates": recipe.evaluate.vocabulary.to_string(),
        "optimizer": recipe.optimizer,
        "batch size": recipe.train.batch_size * recipe.train.accumulate,
        "depth": recipe.evaluate.run_depth,
    });
    if let Some(revision) = &recipe.model.revision {
        method["revision"] = json!(revision);
    }
    method
}

fn platform(environment: &Environment) -> Value {
    let mut cpu = Map::new();
    cpu.insert("architecture".to_owned(), json!(environment.target));
    cpu.insert("operation mode".to_owned(), json!(format!("{}-bit", usize::BITS)));
    cpu.extend(environment.cpu.as_ref().map(|name| ("model".to_owned(), json!(name))));
    cpu.extend(environment.cores.map(|cores| ("number of cores".to_owned(), json!(cores))));
    let mut hardware = Map::from_iter([("cpu".to_owned(), Value::Object(cpu))]);
    hardware.extend(environment.memory.map(|bytes| ("ram".to_owned(), json!(gigabytes(bytes)))));
    if !environment.device.starts_with("cpu") {
        hardware.insert("gpu".to_owned(), json!({ "model": environment.device }));
    }
    // `NAME, Linux RELEASE`
    let system = environment.system.as_deref().unwrap_or(std::env::consts::OS);
    let operating_system = match system.rsplit_once(", ") {
        Some((distribution, kernel)) => json!({ "distribution": distribution, "kernel": kernel }),
        None => json!({ "distribution": system }),
    };
    json!({
        "hardware": hardware,
        "operating system": operating_system,
        "software": {
            "libraries": { "rust": [format!("burn=={}", environment.burn)] },
            "retrieval toolkit": [format!("genir=={}", environment.genir)],
        },
    })
}

fn implementation(environment: &Environment) -> Value {
    let mut source = json!({ "lang": ["rust"] });
    if let Some(commit) = BUILT_FROM {
        source["commit of genir"] = json!(commit);
    }
    if let Some(git) = &environment.git {
        source["commit"] = json!(git.commit);
        source["uncommitted changes"] = json!(git.dirty);
    }
    json!({ "executable": { "cmd": environment.command.join(" ") }, "source": source })
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / GIBIBYTE)
}

/// Returns a hash of the documents: ids and texts, in their order.
pub(crate) fn documents_hash(corpus: &Corpus) -> String {
    let mut hasher = Hasher::default();
    for document in &corpus.documents {
        hasher.add(&document.id);
        document.texts.iter().for_each(|text| hasher.add(text));
        hasher.end();
    }
    hasher.hex()
}

/// Returns a hash of queries: ids, texts, relevant documents (by their position) and grades, in their order.
pub(crate) fn queries_hash(queries: &[Query]) -> String {
    let mut hasher = Hasher::default();
    for query in queries {
        hasher.add(&query.id);
        hasher.add(&query.text);
        for judgement in &query.relevant {
            hasher.add(&format!("{} {}", judgement.document, judgement.grade));
        }
        hasher.end();
    }
    hasher.hex()
}

/// Hashes texts, so that no other division of them gives the same hash.
#[derive(Default)]
struct Hasher(blake3::Hasher);

impl Hasher {
    fn add(&mut self, text: &str) {
        self.0.update(&(text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
    }

    /// Ends a document or a query, which has any number of texts.
    fn end(&mut self) {
        self.0.update(&u64::MAX.to_le_bytes());
    }

    fn hex(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}
