//! Evaluates a model on a set of queries: ranks, means over them, run files.

use std::collections::HashSet;

use burn::tensor::Device;

use super::measure::JudgedRanks;
use super::metrics::{MetricSums, Metrics};
use super::names;
use super::ranking::{Question, RankOptions, Ranking, rank};
use super::run_files::{RunFileError, RunWriter};
use crate::corpus::{Corpus, Query};
use crate::docid::{DocidVocabulary, EncodeOptions, TextTokenizer, TokenizerError};
use crate::prefix::TextSet;
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
pub enum QuerySubset {
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
    /// Where the relevant documents of each question are, in the order in which it names them.
    pub judged: Vec<JudgedRanks>,
    /// What these ranks are to be taken with care for.
    pub doubts: Doubts,
}

/// What makes ranks worth less than they seem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Doubts {
    /// Relevant documents of all questions.
    pub relevant: u64,
    /// Of these, those that have exactly the score of another document or word.
    pub tied: u64,
    /// Of these, those whose score is NaN.
    pub nan: u64,
}

/// More relevant documents than this share of them must tie before it is said.
const TIES_WORTH_SAYING: f64 = 0.01;

impl Doubts {
    fn add(&mut self, ranking: &Ranking) {
        self.relevant += ranking.relevant.len() as u64;
        self.tied += ranking.relevant.iter().filter(|rank| rank.is_tied).count() as u64;
        self.nan += ranking.relevant.iter().filter(|rank| rank.is_nan).count() as u64;
    }

    /// What must be said aloud, a sentence each.
    pub fn remarks(&self) -> Vec<String> {
        let (of, mut remarks) = (self.relevant, Vec::new());
        if self.tied as f64 > TIES_WORTH_SAYING * of as f64 {
            let (tied, percent) = (self.tied, 100.0 * self.tied as f64 / of as f64);
            remarks.push(format!(
                "{tied} of {of} relevant documents ({percent:.1}%) have exactly the score of another one: \
                 their order is that of their docids, as in trec_eval, and says nothing of the model"
            ));
        }
        if self.nan > 0 {
            remarks.push(format!(
                "the scores of {} of {of} relevant documents are NaN and rank last: the model has broken down",
                self.nan
            ));
        }
        remarks
    }
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

    /// The documents in `rows` asked for by their own texts, each a question, or a sample of `most` of these.
    pub fn of_documents(
        name: &str,
        corpus: &Corpus,
        rows: &[u32],
        most: usize,
        seed: u64,
        (tokenizer, encoding): (&TextTokenizer, &EncodeOptions),
    ) -> Result<Self, TokenizerError> {
        let document = |row: u32| &corpus.documents[row as usize];
        let own: Vec<(u32, &str)> = rows
            .iter()
            .flat_map(|&row| document(row).texts.iter().map(move |text| (row, text.as_str())))
            .collect();
        let sample = sample(own.len(), Some(most), seed, name);
        let (rows, texts): (Vec<u32>, Vec<&str>) =
            sample.into_iter().map(|index| own[index]).unzip();
        let tokens = tokenizer.encode_batch(&texts, encoding)?;
        Ok(Self {
            name: name.to_owned(),
            questions: tokens
                .into_iter()
                .zip(&rows)
                .map(|(tokens, &row)| Question { tokens, relevant: vec![row] })
                .collect(),
            ids: rows.iter().map(|&row| document(row).id.clone()).collect(),
            grades: vec![vec![1]; rows.len()],
            seen: None,
        })
    }

    /// The rankings that an evaluation of the set has metrics of, each by its name: a part without a query has none.
    pub fn rankings(&self) -> Vec<(String, QuerySubset)> {
        // A query without a relevant document cannot be judged.
        let is_judged = |index: &usize| !self.questions[*index].relevant.is_empty();
        let judged = || (0..self.questions.len()).filter(is_judged);
        let is_seen = |index: usize| self.seen.as_ref().map(|seen| seen[index]);
        let parts = [
            (QuerySubset::Seen, judged().any(|index| is_seen(index) == Some(true))),
            (QuerySubset::Unseen, judged().any(|index| is_seen(index) == Some(false))),
            (QuerySubset::All, judged().next().is_some()),
        ];
        let there = parts.into_iter().filter(|(_, is_there)| *is_there);
        there.map(|(part, _)| (names::of_part(&self.name, part), part)).collect()
    }

    /// The same questions as one whole, not told apart by whether their documents had training queries.
    pub fn undivided(self) -> Self {
        Self { seen: None, ..self }
    }

    /// Pads every question to `length` tokens with `pad_id`, as tokens like any other: nothing masks them. This is how
    /// the paper's released `eval.py` asks (`padding="max_length"`, and no attention mask). Longer ones stay.
    pub fn pad_unmasked(&mut self, length: usize, pad_id: u32) {
        for question in &mut self.questions {
            let length = length.max(question.tokens.len());
            question.tokens.resize(length, pad_id);
        }
    }

    /// Whether a relevant document of the question had a training query; none where that is no question.
    pub fn is_seen(&self, question: usize) -> Option<bool> {
        self.seen.as_ref().map(|seen| seen[question])
    }

    /// Takes documents for the rows that `rows` says, where a checkpoint has its docids in an order of its own.
    pub fn use_rows(&mut self, rows: &[u32]) {
        for row in self.questions.iter_mut().flat_map(|question| &mut question.relevant) {
            *row = rows[*row as usize];
        }
    }

    /// The questions' texts, to be read `times` times.
    pub fn text_set(&self, times: u64) -> TextSet<'_> {
        TextSet {
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

    /// The questions that have a relevant document at rank 1, as the paper lists them: that document's docid token,
    /// and the query's id.
    pub fn correct_pairs(
        &self,
        evaluated: &Evaluated,
        docids: &DocidVocabulary,
    ) -> Vec<(String, String)> {
        let pair = |(judged, (question, id)): (&JudgedRanks, (&Question, &String))| {
            let first = judged.relevant.iter().position(|(rank, _)| *rank == 1)?;
            Some((docids.token(*question.relevant.get(first)?), id.clone()))
        };
        let questions = self.questions.iter().zip(&self.ids);
        evaluated.judged.iter().zip(questions).filter_map(pair).collect()
    }
}

impl Evaluated {
    /// The metrics of one part of the queries.
    pub fn part(&self, part: QuerySubset) -> Option<&Metrics> {
        match part {
            QuerySubset::All => self.all.as_ref(),
            QuerySubset::Seen => self.seen.as_ref(),
            QuerySubset::Unseen => self.unseen.as_ref(),
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
    let mut judged = vec![JudgedRanks::default(); set.questions.len()];
    let mut doubts = Doubts::default();
    rank(model, device, &set.questions, options, |index, ranking| {
        doubts.add(&ranking);
        let ranks = ranking.relevant.iter().map(|found| found.rank);
        judged[index].relevant = ranks.zip(set.grades[index].iter().copied()).collect();
        if let Some((run, docids)) = &mut run {
            let best = ranking.best.iter().map(|&(row, score)| (docids.id(row), score));
            run.write(&set.ids[index], best)?;
        }
        Ok::<(), RunFileError>(())
    })?;
    let means = |counts: &dyn Fn(usize) -> bool| {
        let mut sums = MetricSums::default();
        let counted = judged.iter().enumerate().filter(|(index, _)| counts(*index));
        counted.for_each(|(_, judged)| sums.add(judged));
        sums.means()
    };
    let (all, seen, unseen) = (
        means(&|_| true),
        means(&|index| set.is_seen(index) == Some(true)),
        means(&|index| set.is_seen(index) == Some(false)),
    );
    Ok(Evaluated { all, seen, unseen, judged, doubts })
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
