//! Findings in a corpus: problems and remarks, counted by kind, with the first few of each.
//!
//! Findings do not end the reading, so that all of them are reported at once. [`OnProblem`] then decides whether they
//! are errors or warnings.

use std::collections::BTreeMap;
use std::fmt;

use super::location::FileLocation;
use crate::choice::choice;

/// Maximum number of occurrences of each kind that are listed.
pub const MAX_LISTED: usize = 5;

choice! {
    /// Treatment of data with problems.
    #[derive(Default)]
    OnProblem {
        /// Refuse the corpus, and report all problems.
        #[default]
        Refuse = "refuse",
        /// Skip and count the data.
        Skip = "skip",
    }
}

choice! {
    /// A kind of finding; its name is the key of its count in `environment.json`.
    #[derive(PartialOrd, Ord)]
    FindingKind {
        /// A line or an element that does not follow the layout.
        Malformed = "malformed",
        /// A document whose text is missing or blank.
        EmptyDocument = "empty_documents",
        /// A query whose text is missing or blank.
        EmptyQuery = "empty_queries",
        /// A document id of an earlier document with another text.
        DuplicateDocument = "duplicate_document_ids",
        /// A query id of an earlier query with another text or other judgements.
        DuplicateQuery = "duplicate_query_ids",
        /// A judgement of a document that is not in the corpus.
        AbsentDocument = "judgements_of_absent_documents",
        /// A judgement of a query that is not in the corpus.
        AbsentQuery = "judgements_of_absent_queries",
        /// A judgement of a query and a document that already have another grade.
        OtherGrade = "judgements_with_another_grade",
        /// A query without relevant documents.
        NoJudgement = "queries_without_judgement",
        /// A text with a lone surrogate, which is half of a character.
        LoneSurrogate = "lone_surrogates",
        /// A query with judgements of absent documents only.
        LeftWithoutJudgement = "queries_left_without_judgement",
        /// A judgement that repeats an earlier one.
        RepeatedJudgement = "repeated_judgements",
        /// A document that repeats an earlier one.
        RepeatedDocument = "repeated_documents",
        /// A query that repeats an earlier one.
        RepeatedQuery = "repeated_queries",
        /// A query with grades of 0 or below only.
        NotRelevant = "queries_without_a_grade_above_0",
        /// A query that is in no split.
        Unjudged = "queries_of_no_split",
        /// A file of a split without any query.
        NoQueries = "files_without_queries",
        /// A file that seems to belong to the corpus and is not read.
        NotRead = "files_not_read",
    }
}

/// The consequence of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// Always an error.
    Refused,
    /// An error, unless problems are skipped; with a description of how they are skipped.
    Skippable(&'static str),
    /// A warning, with a description of what is done.
    Warned(&'static str),
}

impl FindingKind {
    /// Returns the message for one occurrence, the message for several, and the consequence.
    fn messages(self) -> (&'static str, &'static str, Treatment) {
        use Treatment::{Refused, Skippable, Warned};
        let queries_left_out = Skippable("leaves such queries out");
        let judgements_left_out = Skippable("leaves such judgements out");
        match self {
            Self::Malformed => {
                ("line or element is malformed", "lines or elements are malformed", Refused)
            }
            Self::EmptyDocument => (
                "document has no text",
                "documents have no text",
                Skippable("keeps the docid and creates no indexing example"),
            ),
            Self::EmptyQuery => ("query has no text", "queries have no text", queries_left_out),
            Self::DuplicateDocument => (
                "document id is reused for another text",
                "document ids are reused for another text",
                Skippable("takes the first text"),
            ),
            Self::DuplicateQuery => (
                "query id is reused for another query",
                "query ids are reused for another query",
                Skippable("takes the first query"),
            ),
            Self::AbsentDocument => (
                "judgement is of a document that is not in the corpus",
                "judgements are of documents that are not in the corpus",
                judgements_left_out,
            ),
            Self::AbsentQuery => (
                "judgement is of a query that is not in the corpus",
                "judgements are of queries that are not in the corpus",
                judgements_left_out,
            ),
            Self::OtherGrade => (
                "judgement is repeated with another grade",
                "judgements are repeated with another grade",
                Skippable("takes the highest grade"),
            ),
            Self::NoJudgement => (
                "query has no relevant document",
                "queries have no relevant document",
                queries_left_out,
            ),
            Self::LoneSurrogate => (
                "text has a lone surrogate, which is half of a character",
                "texts have a lone surrogate, which is half of a character",
                Skippable("replaces it by U+FFFD"),
            ),
            Self::LeftWithoutJudgement => (
                "query is left without a judgement",
                "queries are left without a judgement",
                Warned("not used"),
            ),
            Self::RepeatedJudgement => (
                "judgement is repeated with the same grade",
                "judgements are repeated with the same grade",
                Warned("counted once"),
            ),
            Self::RepeatedDocument => (
                "document is repeated with the same text",
                "documents are repeated with the same text",
                Warned("counted once"),
            ),
            Self::RepeatedQuery => (
                "query is repeated with the same judgements",
                "queries are repeated with the same judgements",
                Warned("counted once"),
            ),
            Self::NotRelevant => (
                "judged query has no grade above 0",
                "judged queries have no grade above 0",
                Warned("not used"),
            ),
            Self::Unjudged => (
                "query is judged in no split",
                "queries are judged in no split",
                Warned("not used"),
            ),
            Self::NoQueries => {
                ("file has no query", "files have no query", Warned("the split is empty"))
            }
            Self::NotRead => (
                "file seems to belong to the corpus",
                "files seem to belong to the corpus",
                Warned("not read"),
            ),
        }
    }

    /// Returns whether a corpus with such a finding is refused.
    pub(super) fn is_refused(self, on_problem: OnProblem) -> bool {
        match self.messages().2 {
            Treatment::Refused => true,
            Treatment::Skippable(_) => on_problem == OnProblem::Refuse,
            Treatment::Warned(_) => false,
        }
    }

    /// Returns whether [`OnProblem::Skip`] skips such a finding instead of refusing the corpus.
    pub fn is_skippable(self) -> bool {
        matches!(self.messages().2, Treatment::Skippable(_))
    }
}

/// One occurrence of a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    /// The location.
    pub location: FileLocation,
    /// The ids and values: ``query `x3`, document `d9` ``.
    pub what: String,
}

/// The findings of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The kind.
    pub kind: FindingKind,
    /// Number of occurrences.
    pub count: usize,
    /// The first [`MAX_LISTED`] occurrences.
    pub first: Vec<Occurrence>,
}

impl fmt::Display for Finding {
    /// Formats the count, the message and the consequence or how to skip it; then one line for each listed occurrence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (one, many, treatment) = self.kind.messages();
        write!(f, "{} {}", self.count, if self.count == 1 { one } else { many })?;
        match treatment {
            Treatment::Refused => {}
            Treatment::Skippable(does) => write!(f, "; corpus.on_problem = \"skip\" {does}")?,
            Treatment::Warned(done) => write!(f, ": {done}")?,
        }
        for Occurrence { location, what } in &self.first {
            write!(f, "\n    {location}: {what}")?;
        }
        match self.count.saturating_sub(self.first.len()) {
            0 => Ok(()),
            more => write!(f, "\n    and {more} more"),
        }
    }
}

/// All findings, one entry per kind, in the order of [`FindingKind`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Counts an occurrence of a kind.
    pub(super) fn add(
        &mut self,
        kind: FindingKind,
        location: &FileLocation,
        what: fmt::Arguments<'_>,
    ) {
        let at = match self.0.binary_search_by_key(&kind, |finding| finding.kind) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, Finding { kind, count: 0, first: Vec::new() });
                at
            }
        };
        let finding = &mut self.0[at];
        finding.count += 1;
        if finding.first.len() < MAX_LISTED {
            finding.first.push(Occurrence { location: location.clone(), what: what.to_string() });
        }
    }

    /// Splits the findings into those that refuse the corpus, and the others.
    pub(super) fn refused(self, on_problem: OnProblem) -> (Vec<Finding>, Self) {
        let (refused, others) =
            self.0.into_iter().partition(|finding| finding.kind.is_refused(on_problem));
        (refused, Self(others))
    }

    /// Returns the number of occurrences of a kind.
    pub fn count(&self, kind: FindingKind) -> usize {
        self.iter().find(|finding| finding.kind == kind).map_or(0, |finding| finding.count)
    }

    /// Iterates over the findings, one entry per kind.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter()
    }

    /// Returns whether there are no findings.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of occurrences by the name of the kind.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        self.iter().map(|finding| (finding.kind.to_string(), finding.count)).collect()
    }
}
