//! Puts a corpus together and refuses what no layout may hold.

use std::collections::{HashMap, HashSet};

use super::error::{CorpusError, Problem};
use super::{Corpus, Document, Judgement, Query, Split};

/// Where a query belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Split(Split),
    Generated,
}

impl Part {
    fn name(self) -> String {
        match self {
            Self::Split(split) => format!("{split} queries"),
            Self::Generated => "generated queries".to_owned(),
        }
    }
}

/// A corpus in the making: documents first, then the queries that are judged for them.
#[derive(Default)]
pub(super) struct CorpusBuilder {
    corpus: Corpus,
    rows: HashMap<String, u32>,
}

impl CorpusBuilder {
    /// A builder that holds a corpus already.
    pub(super) fn from_corpus(corpus: Corpus) -> Self {
        let rows = (0..)
            .zip(&corpus.documents)
            .map(|(row, document)| (document.id.clone(), row))
            .collect();
        Self { corpus, rows }
    }

    pub(super) fn document(&mut self, id: String, text: String) -> Result<(), Problem> {
        let row = self.corpus.documents.len() as u32;
        match self.rows.get(&id) {
            Some(&first) => Err(Problem::DuplicateDocument { id, first: first as usize + 1 }),
            None => {
                self.rows.insert(id.clone(), row);
                self.corpus.documents.push(Document { id, text });
                Ok(())
            }
        }
    }

    /// Adds a query with the ids of its relevant documents, all of grade 1.
    pub(super) fn query(
        &mut self,
        part: Part,
        id: String,
        text: String,
        relevant: impl IntoIterator<Item = String>,
    ) -> Result<(), Problem> {
        let mut judgements = Vec::new();
        for document in relevant {
            self.judge(&id, &mut judgements, document, 1)?;
        }
        if judgements.is_empty() {
            return Err(Problem::NoJudgement { query: id });
        }
        self.queries(part).push(Query { id, text, relevant: judgements });
        Ok(())
    }

    /// Adds to `judgements` that `document` is relevant to `query`.
    pub(super) fn judge(
        &self,
        query: &str,
        judgements: &mut Vec<Judgement>,
        document: String,
        grade: u32,
    ) -> Result<(), Problem> {
        let Some(&row) = self.rows.get(&document) else {
            return Err(Problem::UnknownDocument {
                query: query.to_owned(),
                document,
                documents: self.corpus.documents.len(),
            });
        };
        if judgements.iter().any(|earlier| earlier.document == row) {
            return Err(Problem::DuplicateJudgement { query: query.to_owned(), document });
        }
        judgements.push(Judgement { document: row, grade });
        Ok(())
    }

    pub(super) fn queries(&mut self, part: Part) -> &mut Vec<Query> {
        match part {
            Part::Split(Split::Train) => &mut self.corpus.train,
            Part::Split(Split::Validation) => &mut self.corpus.validation,
            Part::Split(Split::Test) => &mut self.corpus.test,
            Part::Generated => &mut self.corpus.generated,
        }
    }

    /// The corpus, when it has documents and no text is empty. `path` is for the message.
    pub(super) fn finish(self, path: &str) -> Result<Corpus, CorpusError> {
        let corpus = self.corpus;
        if corpus.documents.is_empty() {
            return Err(CorpusError::NoDocuments { path: path.to_owned() });
        }
        refuse_empty("documents".to_owned(), corpus.documents.iter().map(|d| (&d.id, &d.text)))?;
        for &split in Split::ALL {
            let queries = corpus.split(split).iter().map(|q| (&q.id, &q.text));
            refuse_empty(Part::Split(split).name(), queries)?;
        }
        let generated = corpus.generated.iter().map(|q| (&q.id, &q.text));
        refuse_empty(Part::Generated.name(), generated)?;
        Ok(corpus)
    }
}

fn refuse_empty<'a>(
    part: String,
    texts: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<(), CorpusError> {
    let mut empty = texts.filter(|(_, text)| text.trim().is_empty()).map(|(id, _)| id.clone());
    let first: Vec<String> = empty.by_ref().take(5).collect();
    if first.is_empty() {
        return Ok(());
    }
    Err(CorpusError::EmptyTexts { part, count: first.len() + empty.count(), first })
}

/// The query ids of one split, to refuse the second of two.
pub(super) struct QueryIds {
    part: String,
    seen: HashSet<String>,
}

impl QueryIds {
    pub(super) fn new(part: Part) -> Self {
        Self { part: part.name(), seen: HashSet::new() }
    }

    pub(super) fn add(&mut self, id: &str) -> Result<(), Problem> {
        if self.seen.insert(id.to_owned()) {
            return Ok(());
        }
        Err(Problem::DuplicateQuery { id: id.to_owned(), part: self.part.clone() })
    }
}
