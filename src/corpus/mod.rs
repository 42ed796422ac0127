//! Corpora: documents, queries and judgements.

pub mod atlas;

/// A text to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub id: String,
    pub text: String,
}

/// A document that answers a query, and how well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Index into [`Corpus::documents`].
    pub document: u32,
    /// Above zero.
    pub grade: u32,
}

/// A question with the documents that answer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub id: String,
    pub text: String,
    pub relevant: Vec<Judgement>,
}

/// Documents with the queries of each split.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corpus {
    pub documents: Vec<Document>,
    pub train: Vec<Query>,
    pub validation: Vec<Query>,
    pub test: Vec<Query>,
    /// Extra generated queries, for training only.
    pub generated: Vec<Query>,
}
