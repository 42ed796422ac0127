//! Builds a corpus from its parts and collects all problems with them. A corpus with skippable problems is still
//! built.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use super::error::{CorpusError, CorpusErrors};
use super::findings::{FindingKind, Findings};
use super::location::FileLocation;
use super::text::Text;
use super::{
    Corpus, CorpusOptions, Document, Judgement, LeaveOut, LoadedCorpus, Query, ReadLimits, Split,
};
use crate::run::available_to_process;

/// The part of a corpus that a query belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryKind {
    Split(Split),
    Generated,
}

/// Marks that reading was aborted. The reason is among the errors of the builder.
pub(super) struct Aborted;

/// A corpus that is being built: first its documents, then the queries with judgements of them.
#[derive(Default)]
pub(super) struct CorpusBuilder {
    corpus: Corpus,
    rows: HashMap<String, u32>,
    findings: Findings,
    errors: Vec<CorpusError>,
    /// Rows and locations of empty texts.
    empty: Vec<(u32, FileLocation)>,
    /// The files that have been opened.
    read: HashSet<PathBuf>,
    /// True if all documents were read: a document that is not among them is then absent from the corpus.
    has_all_documents: bool,
    /// Limits of the files.
    pub(super) limits: ReadLimits,
    /// Bytes of the texts so far.
    held: u64,
    /// Bytes that they may have.
    room: Option<u64>,
}

impl CorpusBuilder {
    /// Creates an empty builder that reads within `limits`, and no more text than the process can hold.
    pub(super) fn new(limits: ReadLimits) -> Self {
        Self { limits, room: available_to_process(), ..Self::default() }
    }

    /// Creates a builder that starts with a corpus.
    pub(super) fn from_corpus(corpus: Corpus, limits: ReadLimits) -> Self {
        let rows = (0..)
            .zip(&corpus.documents)
            .map(|(row, document)| (document.id.clone(), row))
            .collect();
        Self { corpus, rows, has_all_documents: true, ..Self::new(limits) }
    }

    /// Counts a problem, or something that the user should know.
    pub(super) fn note(
        &mut self,
        kind: FindingKind,
        location: &FileLocation,
        what: fmt::Arguments<'_>,
    ) {
        self.findings.add(kind, location, what);
    }

    /// Records an error that ends the reading of a file.
    pub(super) fn error(&mut self, error: CorpusError) {
        self.errors.push(error);
    }

    /// Records an error that ends the reading of the corpus.
    pub(super) fn abort(&mut self, error: CorpusError) -> Aborted {
        self.errors.push(error);
        Aborted
    }

    /// Returns whether a file could not be read to its end so far, or has malformed lines.
    pub(super) fn is_incomplete(&self) -> bool {
        !self.errors.is_empty() || self.findings.count(FindingKind::Malformed) > 0
    }

    /// Counts a text. One that no longer fits into memory ends the reading: see [`Self::is_full`].
    fn hold(&mut self, text: &str) {
        if self.is_full() {
            return;
        }
        self.held += text.len() as u64;
        if let Some(available) = self.room
            && self.is_full()
        {
            self.errors.push(CorpusError::Memory { held: self.held, available });
        }
    }

    /// Returns whether the texts have used up the memory that they may have: most of what the process can have, as
    /// ids, tokens and the model need some of it.
    pub(super) fn is_full(&self) -> bool {
        self.room.is_some_and(|room| self.held > room / 4 * 3)
    }

    /// Records that a file is read.
    pub(super) fn mark_read(&mut self, file: &Path) {
        self.read.insert(same_file(file));
    }

    /// Returns whether a file has been read.
    pub(super) fn has_read(&self, file: &Path) -> bool {
        self.read.contains(&same_file(file))
    }

    /// Adds a document of a layout with one text per document.
    pub(super) fn document(&mut self, location: &FileLocation, id: String, text: Text) {
        let text = self.checked_text(location, format_args!("document `{id}`"), text);
        let Some(&row) = self.rows.get(&id) else {
            let row = self.new_document(id);
            return self.add_text(location, row, text);
        };
        let earlier = &self.corpus.documents[row as usize];
        if earlier.text() == text || (earlier.texts.is_empty() && text.trim().is_empty()) {
            self.note(FindingKind::RepeatedDocument, location, format_args!("document `{id}`"));
        } else {
            let first = row + 1;
            let what = format_args!("`{id}` is the id of document number {first} of the corpus");
            self.note(FindingKind::DuplicateDocument, location, what);
        }
    }

    /// Adds a text to the document `id`, which may have other texts.
    pub(super) fn text(&mut self, location: &FileLocation, id: String, text: Text) {
        let text = self.checked_text(location, format_args!("document `{id}`"), text);
        let row = match self.rows.get(&id) {
            Some(&row) if self.corpus.documents[row as usize].texts.contains(&text) => {
                return self.note(
                    FindingKind::RepeatedDocument,
                    location,
                    format_args!("document `{id}`"),
                );
            }
            Some(&row) => row,
            None => self.new_document(id),
        };
        self.add_text(location, row, text);
    }

    fn new_document(&mut self, id: String) -> u32 {
        let row = self.corpus.documents.len() as u32;
        self.rows.insert(id.clone(), row);
        self.corpus.documents.push(Document { id, texts: Vec::new() });
        row
    }

    fn add_text(&mut self, location: &FileLocation, row: u32, text: String) {
        if text.trim().is_empty() {
            self.empty.push((row, location.clone()));
        } else {
            self.corpus.documents[row as usize].texts.push(text);
        }
    }

    /// Returns the text, and counts it if lone surrogates in it have been replaced.
    pub(super) fn checked_text(
        &mut self,
        location: &FileLocation,
        of: fmt::Arguments<'_>,
        text: Text,
    ) -> String {
        if let Some(code) = text.surrogate {
            self.note(FindingKind::LoneSurrogate, location, format_args!("{of}: \\u{code:04x}"));
        }
        self.hold(&text.text);
        text.text
    }

    /// Ends the file of documents. Reading cannot continue without any document.
    pub(super) fn finish_documents(&mut self, file: &Path) -> Result<(), Aborted> {
        self.has_all_documents = !self.is_incomplete();
        match (self.corpus.documents.is_empty(), self.has_all_documents) {
            (false, _) => Ok(()),
            (true, true) => Err(self.abort(CorpusError::NoDocuments { file: file.to_path_buf() })),
            // The reason has been reported.
            (true, false) => Err(Aborted),
        }
    }

    /// Adds a query with its only relevant document, for layouts whose queries have no ids of their own.
    pub(super) fn pair(
        &mut self,
        kind: QueryKind,
        location: &FileLocation,
        (id, text): (String, Text),
        document: &str,
    ) {
        let text = self.checked_text(location, format_args!("query `{id}`"), text);
        if text.trim().is_empty() {
            return self.note(FindingKind::EmptyQuery, location, format_args!("query `{id}`"));
        }
        match self.rows.get(document) {
            Some(&row) => {
                let relevant = vec![Judgement { document: row, grade: 1 }];
                self.queries(kind).push(Query { id, text, relevant });
            }
            None => {
                self.absent_document(location, format_args!("query `{id}`, document `{document}`"));
                self.note(
                    FindingKind::LeftWithoutJudgement,
                    location,
                    format_args!("query `{id}`"),
                );
            }
        }
    }

    /// Counts a judgement of an absent document, unless documents are missing for a reason that is reported.
    fn absent_document(&mut self, location: &FileLocation, what: fmt::Arguments<'_>) {
        if self.has_all_documents {
            self.note(FindingKind::AbsentDocument, location, what);
        }
    }

    /// Ends a file of queries.
    pub(super) fn finish_queries(&mut self, kind: QueryKind, file: &Path) {
        if self.queries(kind).is_empty() {
            self.note(
                FindingKind::NoQueries,
                &FileLocation::file(file),
                format_args!("no usable query"),
            );
        }
    }

    fn queries(&mut self, kind: QueryKind) -> &mut Vec<Query> {
        match kind {
            QueryKind::Split(Split::Train) => &mut self.corpus.train,
            QueryKind::Split(Split::Validation) => &mut self.corpus.validation,
            QueryKind::Split(Split::Test) => &mut self.corpus.test,
            QueryKind::Generated => &mut self.corpus.generated,
        }
    }

    /// Returns the corpus, or all problems with it.
    pub(super) fn finish(mut self, options: &CorpusOptions) -> Result<LoadedCorpus, CorpusErrors> {
        let left_out = self.left_out(&options.leave_out);
        for (row, location) in &self.empty {
            // The text of a document that is left out is never read.
            if left_out.as_ref().is_ok_and(|rows| !rows.contains(row)) {
                let id = &self.corpus.documents[*row as usize].id;
                self.findings.add(
                    FindingKind::EmptyDocument,
                    location,
                    format_args!("document `{id}`"),
                );
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

    /// Returns the rows of the documents to leave out, if all documents were read.
    fn left_out(&mut self, leave_out: &LeaveOut) -> Result<HashSet<u32>, Aborted> {
        match (leave_out, self.has_all_documents) {
            (LeaveOut::None, _) => Ok(HashSet::new()),
            (_, true) => leave_out.resolve(&self.corpus).map_err(|error| self.abort(error)),
            (_, false) => Err(Aborted),
        }
    }
}

/// Returns the same path for all paths of a file.
fn same_file(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.to_path_buf())
}

/// The queries of one file while they are read.
pub(super) struct Queries {
    kind: QueryKind,
    /// The queries in the order of addition.
    drafts: Vec<Draft>,
    by_id: HashMap<String, usize>,
    /// For a pair of query and document: the index among the query's judgements, and the grade in the file.
    judged: HashMap<(usize, u32), (usize, i64)>,
}

struct Draft {
    location: FileLocation,
    /// The query, including judgements of grade 0, which are removed at the end.
    query: Query,
    /// True if the query has a judgement of an absent document.
    has_absent_document: bool,
}

impl Queries {
    pub(super) fn new(kind: QueryKind) -> Self {
        Self { kind, drafts: Vec::new(), by_id: HashMap::new(), judged: HashMap::new() }
    }

    /// Returns the index of the query with this id, if it was added.
    pub(super) fn get(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// Adds a query without judgements and returns its index. A query without text, which the caller reports, is
    /// dropped at the end.
    pub(super) fn add(&mut self, location: &FileLocation, id: String, text: String) -> usize {
        let at = self.drafts.len();
        self.by_id.insert(id.clone(), at);
        let query = Query { id, text, relevant: Vec::new() };
        self.drafts.push(Draft { location: location.clone(), query, has_absent_document: false });
        at
    }

    /// Adds a query with the ids of its relevant documents, all with grade 1.
    pub(super) fn add_judged(
        &mut self,
        builder: &mut CorpusBuilder,
        location: &FileLocation,
        (id, text): (String, Text),
        relevant: Vec<String>,
    ) {
        let text = builder.checked_text(location, format_args!("query `{id}`"), text);
        if let Some(earlier) = self.get(&id) {
            let known = |document: &String| {
                let row = builder.rows.get(document);
                row.is_some_and(|row| self.judged.contains_key(&(earlier, *row)))
            };
            let same = self.drafts[earlier].query.text == text && relevant.iter().all(known);
            let kind = if same { FindingKind::RepeatedQuery } else { FindingKind::DuplicateQuery };
            return builder.note(kind, location, format_args!("query `{id}`"));
        }
        if text.trim().is_empty() {
            builder.note(FindingKind::EmptyQuery, location, format_args!("query `{id}`"));
        }
        let at = self.add(location, id, text);
        for document in relevant {
            self.judge(builder, location, at, &document, 1);
        }
    }

    /// Adds the grade of a document for query `at`; grades of 0 and below are not relevant.
    pub(super) fn judge(
        &mut self,
        builder: &mut CorpusBuilder,
        location: &FileLocation,
        at: usize,
        document: &str,
        grade: i64,
    ) {
        let draft = &mut self.drafts[at];
        let what = format_args!("query `{}`, document `{document}`", draft.query.id);
        let Some(&row) = builder.rows.get(document) else {
            // A judgement of 0 for an absent document has no effect.
            if grade > 0 {
                builder.absent_document(location, what);
            }
            draft.has_absent_document |= grade > 0;
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
                builder.note(FindingKind::RepeatedJudgement, location, what);
            }
            Some((index, earlier)) => {
                builder.note(
                    FindingKind::OtherGrade,
                    location,
                    format_args!("{what}: grade {earlier}, then {grade}"),
                );
                *earlier = grade.max(*earlier);
                relevant[*index].grade = counted.max(relevant[*index].grade);
            }
        }
    }

    /// Moves the queries that have a text and a relevant document to the builder. `file` is their file.
    pub(super) fn finish(self, builder: &mut CorpusBuilder, file: &Path) {
        for Draft { location, mut query, has_absent_document } in self.drafts {
            if query.text.trim().is_empty() {
                continue;
            }
            let judged = !query.relevant.is_empty();
            query.relevant.retain(|judgement| judgement.grade > 0);
            if query.relevant.is_empty() {
                let kind = match (has_absent_document, judged) {
                    (true, _) => FindingKind::LeftWithoutJudgement,
                    (false, true) => FindingKind::NotRelevant,
                    (false, false) => FindingKind::NoJudgement,
                };
                builder.note(kind, &location, format_args!("query `{}`", query.id));
                continue;
            }
            builder.queries(self.kind).push(query);
        }
        builder.finish_queries(self.kind, file);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{beir, dsi, paper};
    use super::*;

    #[test]
    fn texts_that_do_not_fit_into_memory_end_the_reading() {
        let line = |key: &str, id: usize| {
            format!("{{\"{key}\": {id}, \"text\": \"{}\"}}", "a".repeat(1000))
        };
        let lines = |key: &str, between: &str| {
            (0..100).map(|id| line(key, id)).collect::<Vec<_>>().join(between)
        };
        let home = tempfile::tempdir().unwrap();
        let put = |name: &str, text: String| fs::write(home.path().join(name), text).unwrap();
        put("documents.json", format!("[{}]", lines("id", ",")));
        put("documents.jsonl", lines("text_id", "\n"));
        put("corpus.jsonl", lines("_id", "\n"));
        put("queries.jsonl", lines("_id", "\n"));
        fs::create_dir(home.path().join("qrels")).unwrap();
        put("qrels/test.tsv", "q\td\ts\n".to_owned());
        type Read = fn(&Path, &mut CorpusBuilder) -> Result<(), Aborted>;
        let readers: [(Read, u32); 3] = [
            (paper::read, 38),
            (|path, builder| dsi::read(&path.join("documents.jsonl"), None, builder), 0),
            (beir::read, 38),
        ];
        for (read, documents) in &readers[..] {
            let mut builder = CorpusBuilder { room: Some(50_000), ..CorpusBuilder::default() };
            let _ = read(home.path(), &mut builder);
            assert_eq!(builder.corpus.documents.len() as u32, *documents);
            if *documents > 0 {
                assert!(builder.is_full() && builder.held < 40_000, "{}", builder.held);
                let errors = builder.finish(&CorpusOptions::default()).unwrap_err();
                assert!(
                    errors.to_string().contains("the texts of the corpus take more than"),
                    "{errors}"
                );
                assert_eq!(errors.0.len(), 1, "{errors}");
            }
        }
    }
}
