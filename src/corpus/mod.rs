//! Corpora: documents, queries and judgements, read from any accepted layout.
//!
//! One file a layout: [`paper`], [`dsi`], [`beir`]; `generated` adds queries made by a model. Every
//! file may be plain or gzip (told by its content; a name is looked for as it is, then with `.gz`
//! appended, and the plain file wins when both are there). Ids may be JSON integers or strings; a text that is
//! `null` is absent.
//!
//! [`load`] reads everything before it says what is wrong. What would silently change the data is refused, unless
//! [`OnProblem::Skip`] is asked for; then it is counted in [`LoadedCorpus::findings`], beside what is only worth knowing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub mod atlas;
pub mod beir;
mod builder;
pub mod dsi;
mod error;
mod files;
mod findings;
mod generated;
mod leave_out;
pub mod paper;
mod read;

pub use error::{CorpusError, CorpusErrors, FileLocation};
pub use findings::{Finding, Findings, Kind, Offender, OnProblem, SHOWN};
pub use leave_out::LeaveOut;

use crate::choice::choice;
use builder::{CorpusBuilder, Stop};

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its id: an integer is kept as its decimal digits.
    pub id: String,
    /// Its texts, each with the title in front where the layout has one. Each is an indexing example; most documents
    /// have one, and a document without text that is kept all the same has none.
    pub texts: Vec<String>,
}

impl Document {
    /// Its first text, which stands for it where one is shown; empty when it has none.
    pub fn text(&self) -> &str {
        self.texts.first().map_or("", String::as_str)
    }
}

/// A document that is relevant to a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// Index into [`Corpus::documents`].
    pub document: u32,
    /// Grade of relevance, above 0.
    pub grade: u32,
}

/// One query and the documents that are relevant to it: at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Its id, unique within its split.
    pub id: String,
    /// Its text.
    pub text: String,
    /// In the order of the file.
    pub relevant: Vec<Judgement>,
}

choice! {
    /// A part of the queries.
    #[derive(Hash)]
    Split {
        /// Trained on.
        Train = "train",
        /// Measured during training.
        Validation = "validation",
        /// Measured at the end.
        Test = "test",
    }
}

impl FromStr for Split {
    type Err = CorpusError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "train" => Ok(Self::Train),
            "validation" | "val" | "valid" | "dev" => Ok(Self::Validation),
            "test" => Ok(Self::Test),
            _ => Err(CorpusError::UnknownSplit { found: name.to_owned() }),
        }
    }
}

/// Documents, queries and judgements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corpus {
    /// In the order of the file; this is the order of the docid rows.
    pub documents: Vec<Document>,
    /// Queries to train on.
    pub train: Vec<Query>,
    /// Queries to measure on during training.
    pub validation: Vec<Query>,
    /// Queries to measure on at the end.
    pub test: Vec<Query>,
    /// Extra generated queries, for training only.
    pub generated: Vec<Query>,
}

impl Corpus {
    /// The queries of a split; generated queries are in none.
    pub fn split(&self, split: Split) -> &[Query] {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
            Split::Test => &self.test,
        }
    }
}

choice! {
    /// How the files of a corpus are laid out.
    #[derive(Default)]
    Layout {
        /// Told from the names of the files.
        #[default]
        Auto = "auto",
        /// See [`paper`].
        Paper = "paper",
        /// See [`dsi`].
        Dsi = "dsi",
        /// See [`beir`].
        Beir = "beir",
    }
}

/// Which corpus to load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CorpusOptions {
    /// A directory, one DSI-style file, or `bundled:atlas`.
    pub path: String,
    /// The layout of the files; without meaning for a bundled corpus.
    pub layout: Layout,
    /// A JSONL file of `{"query": .., "docid": ..}`.
    pub generated_queries: Option<PathBuf>,
    /// What to do with data that cannot be used as they are.
    pub on_problem: OnProblem,
    /// Documents that give no training example. These may be empty.
    pub leave_out: LeaveOut,
}

/// A corpus, and what should be known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadedCorpus {
    /// The corpus.
    pub corpus: Corpus,
    /// Indices of the documents that [`CorpusOptions::leave_out`] names.
    pub left_out: HashSet<u32>,
    /// What was skipped, and what else a reader of the data may not expect.
    pub findings: Findings,
}

/// Loads a corpus whole, or says everything that is wrong with it.
pub fn load(options: &CorpusOptions) -> Result<LoadedCorpus, CorpusErrors> {
    let mut builder = match options.path.strip_prefix("bundled:") {
        Some("atlas") => CorpusBuilder::from_corpus(atlas::atlas()),
        Some(name) => {
            return Err(CorpusErrors(vec![CorpusError::UnknownBundled { name: name.to_owned() }]));
        }
        None => CorpusBuilder::default(),
    };
    // What ended the reading is among the builder's errors.
    let _: Result<(), Stop> = read(options, &mut builder);
    builder.finish(options)
}

fn read(options: &CorpusOptions, builder: &mut CorpusBuilder) -> Result<(), Stop> {
    let path = Path::new(&options.path);
    let generated = options.generated_queries.as_deref();
    let mut expected = None;
    if !options.path.starts_with("bundled:") {
        let layout =
            detect(path, options.layout, generated).map_err(|error| builder.stop(error))?;
        match layout {
            Layout::Paper => paper::read(path, builder)?,
            Layout::Beir => beir::read(path, builder)?,
            Layout::Dsi | Layout::Auto => dsi::read(path, generated, builder)?,
        }
        expected = Some(layout);
    }
    if let Some(file) = generated {
        generated::read(file, builder);
    }
    if let Some(layout) = expected.filter(|_| path.is_dir()) {
        note_unread(path, layout, builder);
    }
    Ok(())
}

/// Notes the files that seem to belong to the corpus and were not read.
fn note_unread(path: &Path, layout: Layout, builder: &mut CorpusBuilder) {
    let dsi = dsi::looked_for().join(", ");
    let expected = match layout {
        Layout::Paper => paper::QUERIES,
        Layout::Beir => beir::JUDGEMENTS,
        Layout::Dsi | Layout::Auto => &dsi,
    };
    files::note_unread(path, layout, expected, builder);
    if layout == Layout::Beir {
        files::note_unread(&path.join(beir::QRELS), layout, expected, builder);
    }
}

/// The layout that `path` has, given the one that was asked for; never `Auto`.
fn detect(path: &Path, asked: Layout, generated: Option<&Path>) -> Result<Layout, CorpusError> {
    std::fs::metadata(path)
        .map_err(|source| CorpusError::Read { file: path.to_path_buf(), source })?;
    if asked != Layout::Auto {
        return Ok(asked);
    }
    if !path.is_dir() {
        return Ok(Layout::Dsi);
    }
    match (paper::is_here(path), beir::is_here(path)) {
        (true, false) => return Ok(Layout::Paper),
        (false, true) => return Ok(Layout::Beir),
        (true, true) => {
            return Err(CorpusError::Ambiguous {
                path: path.display().to_string(),
                candidates: vec![
                    format!("{} (layout paper)", paper::DOCUMENTS),
                    format!("{} with {} (layout beir)", beir::CORPUS, beir::QUERIES),
                ],
                right: "name the layout".to_owned(),
            });
        }
        (false, false) => {}
    }
    // Files that only one layout has; its reader names those that are missing.
    if files::find(path, beir::QUERIES).is_some() || !beir::judgements(path)?.is_empty() {
        return Ok(Layout::Beir);
    }
    if !paper::queries(path)?.is_empty() && !dsi::has_documents(path) {
        return Ok(Layout::Paper);
    }
    let files = dsi::files(path, generated)?;
    if files.documents.is_some() || !files.splits.is_empty() {
        return Ok(Layout::Dsi);
    }
    Err(CorpusError::NothingFound {
        path: path.display().to_string(),
        layout: Layout::Auto,
        looked_for: [
            vec![paper::DOCUMENTS.to_owned()],
            vec![format!("{} with {}", beir::CORPUS, beir::QUERIES)],
            dsi::looked_for(),
        ]
        .concat(),
    })
}
