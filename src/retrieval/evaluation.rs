//! Evaluates a model on a set of queries: ranks, means over them, run files.

use std::collections::HashSet;

use burn::tensor::Device;

use super::metrics::{JudgedRanks, MetricSums, Metrics};
use super::names;
use super::ranking::{Question, RankOptions, rank};
use super::run_files::{RunFileError, RunWriter};
use crate::corpus::{Corpus, Query};
use crate::docid::{DocidVocabulary, EncodeOptions, TextTokenizer, TokenizerError};
use crate::prefix::Reading;
use crate::random;
use crate::t5::GenirModel;

/// Queries (or documents, asked as queries) with what is right for them, encoded once.
pub struct QuerySet {
    /// What it is called in metrics: `validation`, `memorisation/indexing`.
    pub name: String,
    /// Tokens and relevant rows.
    pub questions: Vec<Question>,
    /// Each question's id.
    pub ids: Vec<String>,
    /// Grades of the relevant documents of each question.
    grades: Vec<Vec<u32>>,
    /// Whether a relevant document of the question had a training query; none where that is no question.
    seen: Option<Vec<bool>>,
}

/// Queries of a set that have metrics of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    All,
    /// Those with a relevant document that had a training query.
    Seen,
    /// The others.
    Unseen,
}

/// What an evaluation found. None where there was no query.
pub struct Evaluated {
    /// All queries.
    pub all: Option<Metrics>,
    /// Queries with a document that had a training query.
    pub seen: Option<Metrics>,
    /// The others: their documents were learnt through indexing only, or not at all.
    pub unseen: Option<Metrics>,
    /// Questions (by index) whose first relevant document has rank 1, in order.
    pub correct: Vec<usize>,
}

impl QuerySet {
    /// `queries`, or a sample of `most` of them that `seed` draws. Training had no example of the documents in
    /// `left_out`.
    pub fn of_queries(
        name: &str,
        corpus: &Corpus,
        queries: &[Query],
        left_out: &HashSet<u32>,
        most: Option<usize>,
        seed: u64,
        (tokenizer, encoding): (&TextTokenizer, &EncodeOptions),
    ) -> Result<Self, TokenizerError> {
        let sample = sample(queries.len(), most, seed, name);
        let queries: Vec<&Query> = sample.into_iter().map(|index| &queries[index]).collect();
        let texts: Vec<&str> = queries.iter().map(|query| query.text.as_str()).collect();
        let tokens = tokenizer.encode_batch(&texts, encoding)?;
        let trained = documents_with_training_queries(corpus, left_out);
        let relevant =
            |query: &Query| query.relevant.iter().map(|judged| judged.document).collect();
        Ok(Self {
            name: name.to_owned(),
            questions: tokens
                .into_iter()
                .zip(&queries)
                .map(|(tokens, query)| Question { tokens, relevant: relevant(query) })
                .collect(),
            ids: queries.iter().map(|query| query.id.clone()).collect(),
            grades: queries
                .iter()
                .map(|query| query.relevant.iter().map(|judged| judged.grade).collect())
                .collect(),
            seen: Some(
                queries
                    .iter()
                    .map(|query| query.relevant.iter().any(|j| trained[j.document as usize]))
                    .collect(),
            ),
        })
    }

    /// The documents in `rows` asked for by their own text, or a sample of `most` of them.
    pub fn of_documents(
        name: &str,
        corpus: &Corpus,
        rows: &[u32],
        most: usize,
        seed: u64,
        (tokenizer, encoding): (&TextTokenizer, &EncodeOptions),
    ) -> Result<Self, TokenizerError> {
        let sample = sample(rows.len(), Some(most), seed, name);
        let rows: Vec<u32> = sample.into_iter().map(|index| rows[index]).collect();
        let document = |&row: &u32| &corpus.documents[row as usize];
        let texts: Vec<&str> = rows.iter().map(|row| document(row).text.as_str()).collect();
        let tokens = tokenizer.encode_batch(&texts, encoding)?;
        Ok(Self {
            name: name.to_owned(),
            questions: tokens
                .into_iter()
                .zip(&rows)
                .map(|(tokens, &row)| Question { tokens, relevant: vec![row] })
                .collect(),
            ids: rows.iter().map(|row| document(row).id.clone()).collect(),
            grades: vec![vec![1]; rows.len()],
            seen: None,
        })
    }

    /// The rankings that an evaluation of the set has metrics of, each by its name: a part without a query has none.
    pub fn rankings(&self) -> Vec<(String, Part)> {
        // A query without a relevant document cannot be judged.
        let is_judged = |index: &usize| !self.questions[*index].relevant.is_empty();
        let judged = || (0..self.questions.len()).filter(is_judged);
        let is_seen = |index: usize| self.seen.as_ref().map(|seen| seen[index]);
        let parts = [
            (Part::Seen, judged().any(|index| is_seen(index) == Some(true))),
            (Part::Unseen, judged().any(|index| is_seen(index) == Some(false))),
            (Part::All, judged().next().is_some()),
        ];
        let there = parts.into_iter().filter(|(_, is_there)| *is_there);
        there.map(|(part, _)| (names::of_part(&self.name, part), part)).collect()
    }

    /// The same questions as one whole, not told apart by whether their documents had training queries.
    pub fn undivided(self) -> Self {
        Self { seen: None, ..self }
    }

    /// Takes documents for the rows that `rows` says, where a checkpoint has its docids in an order of its own.
    pub fn use_rows(&mut self, rows: &[u32]) {
        for row in self.questions.iter_mut().flat_map(|question| &mut question.relevant) {
            *row = rows[*row as usize];
        }
    }

    /// The questions' texts, to be read `times` times.
    pub fn reading(&self, times: u64) -> Reading<'_> {
        Reading {
            name: self.name.clone(),
            texts: self.questions.iter().map(|question| question.tokens.as_slice()).collect(),
            reads: times * self.questions.len() as u64,
        }
    }

    /// Judgements as qrels lines: query id, docid, grade.
    pub fn judgements<'a>(
        &'a self,
        docids: &'a DocidVocabulary,
    ) -> impl Iterator<Item = (&'a str, &'a str, u32)> {
        self.ids.iter().zip(&self.questions).zip(&self.grades).flat_map(
            |((id, question), grades)| {
                question
                    .relevant
                    .iter()
                    .zip(grades)
                    .map(|(&row, &grade)| (id.as_str(), docids.id(row), grade))
            },
        )
    }

    /// The correct queries as the paper lists them: docid token and query id.
    pub fn correct_pairs(
        &self,
        evaluated: &Evaluated,
        docids: &DocidVocabulary,
    ) -> Vec<(String, String)> {
        let pair = |&index: &usize| {
            let row = *self.questions[index].relevant.first()?;
            Some((docids.token(row), self.ids[index].clone()))
        };
        evaluated.correct.iter().filter_map(pair).collect()
    }
}

impl Evaluated {
    /// The metrics of one part of the queries.
    pub fn part(&self, part: Part) -> Option<&Metrics> {
        match part {
            Part::All => self.all.as_ref(),
            Part::Seen => self.seen.as_ref(),
            Part::Unseen => self.unseen.as_ref(),
        }
    }
}

/// Ranks all questions of `set` with a model off the autodiff graph, and writes them to `run` if there is one.
pub fn evaluate(
    model: &GenirModel,
    device: &Device,
    set: &QuerySet,
    options: RankOptions,
    mut run: Option<(&mut RunWriter, &DocidVocabulary)>,
) -> Result<Evaluated, RunFileError> {
    let (mut all, mut seen, mut unseen) =
        (MetricSums::default(), MetricSums::default(), MetricSums::default());
    let mut correct = Vec::new();
    rank(model, device, &set.questions, options, |index, ranking| {
        let grades = set.grades[index].iter().copied();
        let judged = JudgedRanks { relevant: ranking.ranks.iter().copied().zip(grades).collect() };
        all.add(&judged);
        if let Some(had_query) = &set.seen {
            let part = if had_query[index] { &mut seen } else { &mut unseen };
            part.add(&judged);
        }
        if ranking.ranks.first() == Some(&1) {
            correct.push(index);
        }
        if let Some((run, docids)) = &mut run {
            let best = ranking.best.iter().map(|&(row, score)| (docids.id(row), score));
            run.write(&set.ids[index], best)?;
        }
        Ok::<(), RunFileError>(())
    })?;
    correct.sort_unstable();
    Ok(Evaluated { all: all.means(), seen: seen.means(), unseen: unseen.means(), correct })
}

/// Whether each document is relevant to a query that is trained on.
fn documents_with_training_queries(corpus: &Corpus, left_out: &HashSet<u32>) -> Vec<bool> {
    let mut trained = vec![false; corpus.documents.len()];
    for query in corpus.train.iter().chain(&corpus.generated) {
        for judged in &query.relevant {
            trained[judged.document as usize] = !left_out.contains(&judged.document);
        }
    }
    trained
}

/// Indices of a sample without repetition, in ascending order; all of them when `most` is none or not less.
fn sample(count: usize, most: Option<usize>, seed: u64, name: &str) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..count).collect();
    if let Some(most) = most
        && most < count
    {
        random::shuffle(&mut indices, seed, 0, &format!("sample of {name}"));
        indices.truncate(most);
        indices.sort_unstable();
    }
    indices
}
