//! What is found in a corpus that is not as it should be: counted by kind, with the first few of each.
//!
//! Reading stops at none of it, so that everything is known at once. [`OnProblem`] then decides whether it is an error
//! or a warning.

use std::collections::BTreeMap;
use std::fmt;

use super::error::FileLocation;
use crate::choice::choice;

/// Offenders of each kind that are kept and shown.
pub const SHOWN: usize = 5;

choice! {
    /// What to do with data that cannot be used as they are.
    #[derive(Default)]
    OnProblem {
        /// Refuse the corpus, with everything that is wrong with it.
        #[default]
        Refuse = "refuse",
        /// Go on without them, and count them.
        Skip = "skip",
    }
}

choice! {
    /// A kind of finding; the word is what it is counted under in `environment.json`.
    #[derive(PartialOrd, Ord)]
    Kind {
        /// A line or an element that is not what the layout asks for.
        Malformed = "malformed",
        /// A document whose text is absent or white space.
        EmptyDocument = "empty_documents",
        /// A query whose text is absent or white space.
        EmptyQuery = "empty_queries",
        /// A document id that an earlier document with another text has.
        DuplicateDocument = "duplicate_document_ids",
        /// A query id that an earlier query with another text or other judgements has.
        DuplicateQuery = "duplicate_query_ids",
        /// A judgement of a document that the corpus does not have.
        AbsentDocument = "judgements_of_absent_documents",
        /// A judgement of a query that the corpus does not have.
        AbsentQuery = "judgements_of_absent_queries",
        /// A judgement of a query and a document that have one with another grade.
        OtherGrade = "judgements_with_another_grade",
        /// A query that names no relevant document.
        NoJudgement = "queries_without_judgement",
        /// A text with a lone surrogate, which is half of a character.
        LoneSurrogate = "lone_surrogates",
        /// A query whose judgements were all of absent documents.
        LeftWithoutJudgement = "queries_left_without_judgement",
        /// A judgement that is there already, with the same grade.
        RepeatedJudgement = "repeated_judgements",
        /// A document text that its id has already.
        RepeatedDocument = "repeated_documents",
        /// A query that is there already, with the same text and judgements.
        RepeatedQuery = "repeated_queries",
        /// A query of which every grade is 0 or below.
        NotRelevant = "queries_without_a_grade_above_0",
        /// A query that no split has.
        Unjudged = "queries_of_no_split",
        /// A file of a split without any query.
        NoQueries = "files_without_queries",
        /// A file that seems to belong to the corpus and is not read.
        NotRead = "files_not_read",
    }
}

/// What follows from a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// Always an error.
    Refused,
    /// An error, unless problems are skipped: what is done with them then.
    Skippable(&'static str),
    /// A warning: what is done with them.
    Told(&'static str),
}

impl Kind {
    /// What one of them is, what several are, and what follows.
    fn words(self) -> (&'static str, &'static str, Treatment) {
        use Treatment::{Refused, Skippable, Told};
        let queries_left_out = Skippable("leaves such queries out");
        let judgements_left_out = Skippable("leaves such judgements out");
        match self {
            Self::Malformed => {
                ("line or element is malformed", "lines or elements are malformed", Refused)
            }
            Self::EmptyDocument => (
                "document has no text",
                "documents have no text",
                Skippable("keeps the docid and makes no indexing example"),
            ),
            Self::EmptyQuery => ("query has no text", "queries have no text", queries_left_out),
            Self::DuplicateDocument => (
                "document id is used again for another text",
                "document ids are used again for another text",
                Skippable("takes the first text"),
            ),
            Self::DuplicateQuery => (
                "query id is used again for another query",
                "query ids are used again for another query",
                Skippable("takes the first query"),
            ),
            Self::AbsentDocument => (
                "judgement is of a document that the corpus does not have",
                "judgements are of documents that the corpus does not have",
                judgements_left_out,
            ),
            Self::AbsentQuery => (
                "judgement is of a query that the corpus does not have",
                "judgements are of queries that the corpus does not have",
                judgements_left_out,
            ),
            Self::OtherGrade => (
                "judgement is given again with another grade",
                "judgements are given again with another grade",
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
                Skippable("puts U+FFFD in its place"),
            ),
            Self::LeftWithoutJudgement => (
                "query is left without a judgement",
                "queries are left without a judgement",
                Told("not used"),
            ),
            Self::RepeatedJudgement => (
                "judgement is given twice with the same grade",
                "judgements are given twice with the same grade",
                Told("counted once"),
            ),
            Self::RepeatedDocument => (
                "document is given twice with the same text",
                "documents are given twice with the same text",
                Told("counted once"),
            ),
            Self::RepeatedQuery => (
                "query is given twice with the same judgements",
                "queries are given twice with the same judgements",
                Told("counted once"),
            ),
            Self::NotRelevant => (
                "judged query has no grade above 0",
                "judged queries have no grade above 0",
                Told("not used"),
            ),
            Self::Unjudged => {
                ("query is judged in no split", "queries are judged in no split", Told("not used"))
            }
            Self::NoQueries => {
                ("file has no query", "files have no query", Told("the split is empty"))
            }
            Self::NotRead => (
                "file seems to belong to the corpus",
                "files seem to belong to the corpus",
                Told("not read"),
            ),
        }
    }

    /// Whether a corpus with such a finding is refused.
    pub(super) fn is_refused(self, on_problem: OnProblem) -> bool {
        match self.words().2 {
            Treatment::Refused => true,
            Treatment::Skippable(_) => on_problem == OnProblem::Refuse,
            Treatment::Told(_) => false,
        }
    }

    /// Whether [`OnProblem::Skip`] lets a run go on that [`OnProblem::Refuse`] stops.
    pub fn is_skippable(self) -> bool {
        matches!(self.words().2, Treatment::Skippable(_))
    }
}

/// One of a kind: where it is, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offender {
    /// Where.
    pub place: FileLocation,
    /// Its ids and values: ``query `x3`, document `d9` ``.
    pub what: String,
}

/// All that was found of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The kind.
    pub kind: Kind,
    /// How many.
    pub count: usize,
    /// The first [`SHOWN`] of them.
    pub first: Vec<Offender>,
}

impl fmt::Display for Finding {
    /// What it is, how many, what follows or what would let the run go on; then one line each of the first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (one, many, treatment) = self.kind.words();
        write!(f, "{} {}", self.count, if self.count == 1 { one } else { many })?;
        match treatment {
            Treatment::Refused => {}
            Treatment::Skippable(does) => write!(f, "; corpus.on_problem = \"skip\" {does}")?,
            Treatment::Told(done) => write!(f, ": {done}")?,
        }
        for Offender { place, what } in &self.first {
            write!(f, "\n    {place}: {what}")?;
        }
        match self.count.saturating_sub(self.first.len()) {
            0 => Ok(()),
            more => write!(f, "\n    and {more} more"),
        }
    }
}

/// What was found, one entry a kind, in the order of [`Kind`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Counts one more of a kind.
    pub(super) fn add(&mut self, kind: Kind, place: &FileLocation, what: fmt::Arguments<'_>) {
        let at = match self.0.binary_search_by_key(&kind, |finding| finding.kind) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, Finding { kind, count: 0, first: Vec::new() });
                at
            }
        };
        let finding = &mut self.0[at];
        finding.count += 1;
        if finding.first.len() < SHOWN {
            finding.first.push(Offender { place: place.clone(), what: what.to_string() });
        }
    }

    /// Those that make the corpus refused, and the others.
    pub(super) fn refused(self, on_problem: OnProblem) -> (Vec<Finding>, Self) {
        let (refused, others) =
            self.0.into_iter().partition(|finding| finding.kind.is_refused(on_problem));
        (refused, Self(others))
    }

    /// How many there are of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.iter().find(|finding| finding.kind == kind).map_or(0, |finding| finding.count)
    }

    /// One entry a kind.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter()
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of each kind, by its word.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        self.iter().map(|finding| (finding.kind.to_string(), finding.count)).collect()
    }
}
