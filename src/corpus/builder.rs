//! Puts a corpus together, as it is where problems are skipped, and collects all that is wrong with it on the way.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use super::error::{CorpusError, CorpusErrors, FileLocation};
use super::findings::{Findings, Kind};
use super::read::Text;
use super::{Corpus, CorpusOptions, Document, Judgement, LeaveOut, LoadedCorpus, Query, Split};

/// Where a query belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryKind {
    Split(Split),
    Generated,
}

/// That reading cannot go on. The reason is among the builder's errors.
pub(super) struct Stop;

/// A corpus in the making: documents first, then the queries that are judged for them.
#[derive(Default)]
pub(super) struct CorpusBuilder {
    corpus: Corpus,
    rows: HashMap<String, u32>,
    findings: Findings,
    errors: Vec<CorpusError>,
    /// Rows and places of texts that are empty.
    empty: Vec<(u32, FileLocation)>,
    /// The files that were opened.
    read: HashSet<PathBuf>,
    /// Whether all documents are there, so that a document which is not is absent from the corpus.
    has_all_documents: bool,
}

impl CorpusBuilder {
    /// A builder that holds a corpus already.
    pub(super) fn from_corpus(corpus: Corpus) -> Self {
        let rows = (0..)
            .zip(&corpus.documents)
            .map(|(row, document)| (document.id.clone(), row))
            .collect();
        Self { corpus, rows, has_all_documents: true, ..Self::default() }
    }

    /// Counts something that is wrong, or that should be known.
    pub(super) fn note(&mut self, kind: Kind, place: &FileLocation, what: fmt::Arguments<'_>) {
        self.findings.add(kind, place, what);
    }

    /// Keeps an error that ends the reading of a file.
    pub(super) fn error(&mut self, error: CorpusError) {
        self.errors.push(error);
    }

    /// Keeps an error that ends the reading of the corpus.
    pub(super) fn stop(&mut self, error: CorpusError) -> Stop {
        self.errors.push(error);
        Stop
    }

    /// Whether a file that was read so far could not be read to its end, or has lines that cannot be understood.
    pub(super) fn lacks_something(&self) -> bool {
        !self.errors.is_empty() || self.findings.count(Kind::Malformed) > 0
    }

    /// Remembers that a file is read.
    pub(super) fn reads(&mut self, file: &Path) {
        self.read.insert(same_file(file));
    }

    /// Whether a file has been read.
    pub(super) fn has_read(&self, file: &Path) -> bool {
        self.read.contains(&same_file(file))
    }

    /// Adds a document of a layout in which each has one text.
    pub(super) fn document(&mut self, place: &FileLocation, id: String, text: Text) {
        let text = self.whole(place, format_args!("document `{id}`"), text);
        let Some(&row) = self.rows.get(&id) else {
            let row = self.new_document(id);
            return self.add_text(place, row, text);
        };
        let earlier = &self.corpus.documents[row as usize];
        if earlier.text() == text || (earlier.texts.is_empty() && text.trim().is_empty()) {
            self.note(Kind::RepeatedDocument, place, format_args!("document `{id}`"));
        } else {
            let first = row + 1;
            let what = format_args!("`{id}` is the id of document number {first} of the corpus");
            self.note(Kind::DuplicateDocument, place, what);
        }
    }

    /// Adds a text to the document `id`, which may have others.
    pub(super) fn text(&mut self, place: &FileLocation, id: String, text: Text) {
        let text = self.whole(place, format_args!("document `{id}`"), text);
        let row = match self.rows.get(&id) {
            Some(&row) if self.corpus.documents[row as usize].texts.contains(&text) => {
                return self.note(Kind::RepeatedDocument, place, format_args!("document `{id}`"));
            }
            Some(&row) => row,
            None => self.new_document(id),
        };
        self.add_text(place, row, text);
    }

    fn new_document(&mut self, id: String) -> u32 {
        let row = self.corpus.documents.len() as u32;
        self.rows.insert(id.clone(), row);
        self.corpus.documents.push(Document { id, texts: Vec::new() });
        row
    }

    fn add_text(&mut self, place: &FileLocation, row: u32, text: String) {
        if text.trim().is_empty() {
            self.empty.push((row, place.clone()));
        } else {
            self.corpus.documents[row as usize].texts.push(text);
        }
    }

    /// The text, in which lone surrogates have been replaced.
    pub(super) fn whole(
        &mut self,
        place: &FileLocation,
        of: fmt::Arguments<'_>,
        text: Text,
    ) -> String {
        if let Some(code) = text.surrogate {
            self.note(Kind::LoneSurrogate, place, format_args!("{of}: \\u{code:04x}"));
        }
        text.text
    }

    /// Says that all of the file of documents has been read. Without any document there is nothing to go on with.
    pub(super) fn documents_end(&mut self, file: &Path) -> Result<(), Stop> {
        self.has_all_documents = !self.lacks_something();
        match (self.corpus.documents.is_empty(), self.has_all_documents) {
            (false, _) => Ok(()),
            (true, true) => Err(self.stop(CorpusError::NoDocuments { file: file.to_path_buf() })),
            // Why there is none has been said.
            (true, false) => Err(Stop),
        }
    }

    /// Adds a query with its one relevant document, of a layout whose queries have no ids that could be given twice.
    pub(super) fn pair(
        &mut self,
        part: QueryKind,
        place: &FileLocation,
        (id, text): (String, Text),
        document: &str,
    ) {
        let text = self.whole(place, format_args!("query `{id}`"), text);
        if text.trim().is_empty() {
            return self.note(Kind::EmptyQuery, place, format_args!("query `{id}`"));
        }
        match self.rows.get(document) {
            Some(&row) => {
                let relevant = vec![Judgement { document: row, grade: 1 }];
                self.queries(part).push(Query { id, text, relevant });
            }
            None => {
                self.absent_document(place, format_args!("query `{id}`, document `{document}`"));
                self.note(Kind::LeftWithoutJudgement, place, format_args!("query `{id}`"));
            }
        }
    }

    /// Counts a judgement of a document that is not there, unless documents are missing for a reason that is told.
    fn absent_document(&mut self, place: &FileLocation, what: fmt::Arguments<'_>) {
        if self.has_all_documents {
            self.note(Kind::AbsentDocument, place, what);
        }
    }

    /// Says that all of a file of queries has been read.
    pub(super) fn queries_end(&mut self, part: QueryKind, file: &Path) {
        if self.queries(part).is_empty() {
            self.note(Kind::NoQueries, &FileLocation::file(file), format_args!("no query to use"));
        }
    }

    fn queries(&mut self, part: QueryKind) -> &mut Vec<Query> {
        match part {
            QueryKind::Split(Split::Train) => &mut self.corpus.train,
            QueryKind::Split(Split::Validation) => &mut self.corpus.validation,
            QueryKind::Split(Split::Test) => &mut self.corpus.test,
            QueryKind::Generated => &mut self.corpus.generated,
        }
    }

    /// The corpus, or everything that is wrong with it.
    pub(super) fn finish(mut self, options: &CorpusOptions) -> Result<LoadedCorpus, CorpusErrors> {
        let left_out = self.left_out(&options.leave_out);
        for (row, place) in &self.empty {
            // Nobody reads the text of a document that is left out.
            if left_out.as_ref().is_ok_and(|rows| !rows.contains(row)) {
                let id = &self.corpus.documents[*row as usize].id;
                self.findings.add(Kind::EmptyDocument, place, format_args!("document `{id}`"));
            }
        }
        let left_out = left_out.unwrap_or_default();
        let (refused, findings) = self.findings.refused(options.on_problem);
        self.errors.extend(refused.into_iter().map(CorpusError::Found));
        match self.errors.is_empty() {
            true => Ok(LoadedCorpus { corpus: self.corpus, left_out, findings }),
            false => Err(CorpusErrors(self.errors)),
        }
    }

    /// The rows of the documents to leave out, where it can be known which these are.
    fn left_out(&mut self, leave_out: &LeaveOut) -> Result<HashSet<u32>, Stop> {
        match (leave_out, self.has_all_documents) {
            (LeaveOut::None, _) => Ok(HashSet::new()),
            (_, true) => leave_out.resolve(&self.corpus).map_err(|error| self.stop(error)),
            (_, false) => Err(Stop),
        }
    }
}

/// One name for a file, whatever it was reached by.
fn same_file(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.to_path_buf())
}

/// The queries of one part in the making.
pub(super) struct Queries {
    part: QueryKind,
    /// In the order in which they were added.
    drafts: Vec<Draft>,
    by_id: HashMap<String, usize>,
    /// Of a query and a document: the place among the query's judgements, and the grade as it was given.
    judged: HashMap<(usize, u32), (usize, i64)>,
}

struct Draft {
    place: FileLocation,
    /// With grades of 0, which the finished query has not.
    query: Query,
    /// Whether a judgement of it is of an absent document.
    lost: bool,
}

impl Queries {
    pub(super) fn new(part: QueryKind) -> Self {
        Self { part, drafts: Vec::new(), by_id: HashMap::new(), judged: HashMap::new() }
    }

    /// The query with this id, if it was added.
    pub(super) fn get(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// Adds a query without judgements. One without text, which the caller tells, is dropped at the end.
    pub(super) fn add(&mut self, place: &FileLocation, id: String, text: String) -> usize {
        let at = self.drafts.len();
        self.by_id.insert(id.clone(), at);
        let query = Query { id, text, relevant: Vec::new() };
        self.drafts.push(Draft { place: place.clone(), query, lost: false });
        at
    }

    /// Adds a query with the ids of its relevant documents, all of grade 1.
    pub(super) fn add_judged(
        &mut self,
        builder: &mut CorpusBuilder,
        place: &FileLocation,
        (id, text): (String, Text),
        relevant: Vec<String>,
    ) {
        let text = builder.whole(place, format_args!("query `{id}`"), text);
        if let Some(earlier) = self.get(&id) {
            let known = |document: &String| {
                let row = builder.rows.get(document);
                row.is_some_and(|row| self.judged.contains_key(&(earlier, *row)))
            };
            let same = self.drafts[earlier].query.text == text && relevant.iter().all(known);
            let kind = if same { Kind::RepeatedQuery } else { Kind::DuplicateQuery };
            return builder.note(kind, place, format_args!("query `{id}`"));
        }
        if text.trim().is_empty() {
            builder.note(Kind::EmptyQuery, place, format_args!("query `{id}`"));
        }
        let at = self.add(place, id, text);
        for document in relevant {
            self.judge(builder, place, at, &document, 1);
        }
    }

    /// Adds the grade of a document for query `at`; 0 and below is not relevant.
    pub(super) fn judge(
        &mut self,
        builder: &mut CorpusBuilder,
        place: &FileLocation,
        at: usize,
        document: &str,
        grade: i64,
    ) {
        let draft = &mut self.drafts[at];
        let what = format_args!("query `{}`, document `{document}`", draft.query.id);
        let Some(&row) = builder.rows.get(document) else {
            // That an absent document is not relevant changes nothing.
            if grade > 0 {
                builder.absent_document(place, what);
            }
            draft.lost |= grade > 0;
            return;
        };
        let counted = u32::try_from(grade.max(0)).unwrap_or(u32::MAX);
        let relevant = &mut draft.query.relevant;
        match self.judged.get_mut(&(at, row)) {
            None => {
                self.judged.insert((at, row), (relevant.len(), grade));
                relevant.push(Judgement { document: row, grade: counted });
            }
            Some((_, earlier)) if *earlier == grade => {
                builder.note(Kind::RepeatedJudgement, place, what);
            }
            Some((index, earlier)) => {
                builder.note(
                    Kind::OtherGrade,
                    place,
                    format_args!("{what}: grade {earlier}, then {grade}"),
                );
                *earlier = grade.max(*earlier);
                relevant[*index].grade = counted.max(relevant[*index].grade);
            }
        }
    }

    /// Hands the queries over that have a text and a relevant document. `file` is where they come from.
    pub(super) fn finish(self, builder: &mut CorpusBuilder, file: &Path) {
        for Draft { place, mut query, lost } in self.drafts {
            if query.text.trim().is_empty() {
                continue;
            }
            let judged = !query.relevant.is_empty();
            query.relevant.retain(|judgement| judgement.grade > 0);
            if query.relevant.is_empty() {
                let kind = match (lost, judged) {
                    (true, _) => Kind::LeftWithoutJudgement,
                    (false, true) => Kind::NotRelevant,
                    (false, false) => Kind::NoJudgement,
                };
                builder.note(kind, &place, format_args!("query `{}`", query.id));
                continue;
            }
            builder.queries(self.part).push(query);
        }
        builder.queries_end(self.part, file);
    }
}
