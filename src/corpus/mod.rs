//! Corpora: documents, queries and judgements, read from any accepted layout.
//!
//! One file a layout: [`paper`], [`dsi`], [`beir`]; `generated` adds queries made by a model. Every
//! file may be plain or gzip (told by its content; a name is looked for as it is, then with `.gz`
//! appended, and the plain file wins when both are there). Ids may be JSON integers or strings.

use std::path::{Path, PathBuf};
use std::str::FromStr;

pub mod atlas;
pub mod beir;
mod builder;
pub mod dsi;
mod error;
mod generated;
mod leave_out;
pub mod paper;
mod read;

pub use error::{CorpusError, Place, Problem};
pub use leave_out::LeaveOut;

use crate::choice::choice;
use builder::CorpusBuilder;

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its id: an integer is kept as its decimal digits.
    pub id: String,
    /// Its text, with the title in front where the layout has one.
    pub text: String,
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
}

/// Loads a corpus whole, or says what is wrong with it.
pub fn load(options: &CorpusOptions) -> Result<Corpus, CorpusError> {
    let mut builder = match options.path.strip_prefix("bundled:") {
        Some("atlas") => CorpusBuilder::from_corpus(atlas::atlas()),
        Some(name) => {
            return Err(CorpusError::UnknownBundled { name: name.to_owned() });
        }
        None => {
            let mut builder = CorpusBuilder::default();
            let path = Path::new(&options.path);
            match detect(path, options.layout)? {
                Layout::Paper => paper::read(path, &mut builder)?,
                Layout::Beir => beir::read(path, &mut builder)?,
                Layout::Dsi | Layout::Auto => dsi::read(path, &mut builder)?,
            }
            builder
        }
    };
    if let Some(file) = &options.generated_queries {
        generated::read(file, &mut builder)?;
    }
    builder.finish(&options.path)
}

/// The layout that `path` has, given the one that was asked for; never `Auto`.
fn detect(path: &Path, asked: Layout) -> Result<Layout, CorpusError> {
    std::fs::metadata(path)
        .map_err(|source| CorpusError::Read { file: path.to_path_buf(), source })?;
    if asked != Layout::Auto {
        return Ok(asked);
    }
    let nothing = |looked_for: Vec<String>| CorpusError::NothingFound {
        path: path.display().to_string(),
        layout: Layout::Auto,
        looked_for,
    };
    match (paper::is_here(path), beir::is_here(path)) {
        (true, false) => Ok(Layout::Paper),
        (false, true) => Ok(Layout::Beir),
        (true, true) => Err(CorpusError::Ambiguous {
            path: path.display().to_string(),
            candidates: vec![
                format!("{} (layout paper)", paper::DOCUMENTS),
                format!("{} with {} (layout beir)", beir::CORPUS, beir::QUERIES),
            ],
            right: "name the layout",
        }),
        (false, false) if dsi::is_here(path)? => Ok(Layout::Dsi),
        (false, false) => Err(nothing(
            [
                vec![paper::DOCUMENTS.to_owned()],
                vec![format!("{} with {}", beir::CORPUS, beir::QUERIES)],
                dsi::looked_for(),
            ]
            .concat(),
        )),
    }
}
