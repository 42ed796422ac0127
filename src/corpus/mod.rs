//! Corpora: documents, queries and judgements, read from any accepted layout.
//!
//! Each layout has a module: [`paper`], [`dsi`], [`beir`]; `generated` reads additional queries that a model has
//! generated. Every file may be plain or gzip, which is detected from its content. A file may have `.gz` appended to
//! its name; if both exist, the plain one is read. Ids may be JSON integers or strings; a text that is `null` is
//! treated as missing.
//!
//! [`load`] reads all files before it reports problems. Problems that would silently change the data are refused,
//! unless [`OnProblem::Skip`] is set; then they are counted in [`LoadedCorpus::findings`], together with remarks.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

pub mod almanac;
pub mod atlas;
pub mod beir;
mod builder;
pub mod dsi;
mod error;
mod files;
mod findings;
mod generated;
mod grammar;
mod leave_out;
mod location;
pub mod paper;
mod read;
mod table;
mod text;

pub use error::{CorpusError, CorpusErrors};
pub use findings::{Finding, FindingKind, Findings, MAX_LISTED, Occurrence, OnProblem};
pub use leave_out::LeaveOut;
pub use location::FileLocation;

use crate::choice::choice;
use builder::{Aborted, CorpusBuilder};

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The id; an integer is converted to its decimal digits.
    pub id: String,
    /// The texts, each preceded by the title if the layout has titles. Each gives an indexing example. Most documents
    /// have one text; a document without text that has been skipped has none.
    pub texts: Vec<String>,
}

impl Document {
    /// Returns the first text, which represents the document in displays; empty if there is none.
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

/// A query and its relevant documents, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The id, unique within the split.
    pub id: String,
    /// The text.
    pub text: String,
    /// The relevant documents, in the order of the file.
    pub relevant: Vec<Judgement>,
}

choice! {
    /// A split of the queries.
    Split {
        /// Used for training.
        Train = "train",
        /// Evaluated during training.
        Validation = "validation" | "val" | "valid" | "dev",
        /// Evaluated at the end.
        Test = "test",
    }
}

/// Documents, queries and judgements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corpus {
    /// The documents in the order of the file, which is the order of the docid rows.
    pub documents: Vec<Document>,
    /// Training queries.
    pub train: Vec<Query>,
    /// Validation queries.
    pub validation: Vec<Query>,
    /// Test queries.
    pub test: Vec<Query>,
    /// Extra generated queries, for training only.
    pub generated: Vec<Query>,
}

impl Corpus {
    /// Returns the queries of a split; generated queries are in no split.
    pub fn split(&self, split: Split) -> &[Query] {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
            Split::Test => &self.test,
        }
    }
}

choice! {
    /// The layout of the files of a corpus.
    #[derive(Default)]
    Layout {
        /// Detected from the names of the files.
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

/// Options for loading a corpus.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CorpusOptions {
    /// A directory, one DSI-style file, `bundled:atlas` or `bundled:almanac`.
    pub path: String,
    /// The layout of the files; ignored for a bundled corpus.
    pub layout: Layout,
    /// A JSONL file of `{"query": .., "docid": ..}`.
    pub generated_queries: Option<PathBuf>,
    /// Treatment of data with problems.
    pub on_problem: OnProblem,
    /// Documents that give no training example. Their texts may be empty.
    pub leave_out: LeaveOut,
    /// Limits of the files.
    pub limits: ReadLimits,
}

/// Limits of the files of a corpus, so that no file can exhaust the memory or the time of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// Maximum bytes of a line, or of an element of a JSON array with the white space before it.
    pub record: u64,
    /// Maximum bytes that a gzip file unpacks to; `None`: [`Self::MAX_RATIO`] times its size, at least
    /// [`Self::ALWAYS_UNPACKED`]. Plain files have no limit.
    pub unpacked: Option<u64>,
}

impl ReadLimits {
    /// How many times its size a gzip file may unpack to; text of a corpus shrinks to between a third and a tenth.
    pub const MAX_RATIO: u64 = 50;
    /// Bytes that any gzip file may unpack to.
    pub const ALWAYS_UNPACKED: u64 = 64 << 20;

    /// The most bytes that a gzip file of `size` bytes may unpack to.
    fn unpacked_of(&self, size: u64) -> u64 {
        let usual = || size.saturating_mul(Self::MAX_RATIO).max(Self::ALWAYS_UNPACKED);
        self.unpacked.unwrap_or_else(usual)
    }
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self { record: 16 << 20, unpacked: None }
    }
}

/// A corpus with its findings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadedCorpus {
    /// The corpus.
    pub corpus: Corpus,
    /// Indices of the documents in [`CorpusOptions::leave_out`].
    pub left_out: HashSet<u32>,
    /// Skipped data, and other unexpected properties of the data.
    pub findings: Findings,
}

/// Loads a corpus, or returns all problems with it.
///
/// # Errors
/// All problems at once: an unknown bundled corpus; a path without the files of a layout, or with those of two; files
/// that cannot be read, are not regular files, are Git LFS pointers or not UTF-8; malformed lines; no documents; ids to
/// leave out that no document has. Data that would silently change (empty texts, repeated ids, judgements of absent
/// documents) are errors unless `options.on_problem` is [`OnProblem::Skip`].
pub fn load(options: &CorpusOptions) -> Result<LoadedCorpus, CorpusErrors> {
    let mut builder = match options.path.strip_prefix("bundled:") {
        Some("atlas") => CorpusBuilder::from_corpus(atlas::atlas(), options.limits),
        Some("almanac") => CorpusBuilder::from_corpus(almanac::almanac(), options.limits),
        Some(name) => {
            return Err(CorpusErrors(vec![CorpusError::UnknownBundled { name: name.to_owned() }]));
        }
        None => CorpusBuilder::new(options.limits),
    };
    // The reason of an aborted reading is among the errors of the builder.
    let _: Result<(), Aborted> = read(options, &mut builder);
    builder.finish(options)
}

fn read(options: &CorpusOptions, builder: &mut CorpusBuilder) -> Result<(), Aborted> {
    let path = Path::new(&options.path);
    let generated = options.generated_queries.as_deref();
    let mut expected = None;
    if !options.path.starts_with("bundled:") {
        let layout =
            detect(path, options.layout, generated).map_err(|error| builder.abort(error))?;
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

/// Reports files that seem to belong to the corpus and were not read.
fn note_unread(path: &Path, layout: Layout, builder: &mut CorpusBuilder) {
    let dsi = dsi::expected_files().join(", ");
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

/// Returns the layout of the files at `path`, never `Auto`: the requested one, or the detected one.
fn detect(path: &Path, requested: Layout, generated: Option<&Path>) -> Result<Layout, CorpusError> {
    std::fs::metadata(path)
        .map_err(|source| CorpusError::Read { file: path.to_path_buf(), source })?;
    if requested != Layout::Auto {
        return Ok(requested);
    }
    if !path.is_dir() {
        return Ok(Layout::Dsi);
    }
    match (paper::is_layout_of(path), beir::is_layout_of(path)) {
        (true, false) => return Ok(Layout::Paper),
        (false, true) => return Ok(Layout::Beir),
        (true, true) => {
            return Err(CorpusError::Ambiguous {
                path: path.display().to_string(),
                candidates: vec![
                    format!("{} (layout paper)", paper::DOCUMENTS),
                    format!("{} with {} (layout beir)", beir::CORPUS, beir::QUERIES),
                ],
                solution: "set the layout".to_owned(),
            });
        }
        (false, false) => {}
    }
    // Files that only one layout has; the reader of the layout reports missing files.
    if files::find(path, beir::QUERIES).is_some() || !beir::judgements(path)?.is_empty() {
        return Ok(Layout::Beir);
    }
    if !paper::queries(path)?.is_empty() && !dsi::has_documents(path) {
        return Ok(Layout::Paper);
    }
    let files = dsi::files(path, generated)?;
    if files.splits.is_empty() && beir::has_documents(path) {
        return Ok(Layout::Beir);
    }
    if files.documents.is_some() || !files.splits.is_empty() {
        return Ok(Layout::Dsi);
    }
    Err(CorpusError::NothingFound {
        path: path.display().to_string(),
        layout: Layout::Auto,
        looked_for: [
            vec![paper::DOCUMENTS.to_owned()],
            vec![format!("{} with {}", beir::CORPUS, beir::QUERIES)],
            dsi::expected_files(),
        ]
        .concat(),
    })
}
