//! Evaluates a model on a set of queries: ranks, mean metrics, run files.

use std::collections::HashSet;
use std::convert::Infallible;

use burn::tensor::Device;

use super::measure::JudgedRanks;
use super::metrics::{MetricSums, Metrics};
use super::names;
use super::names::QuerySubset;
use super::ranking::{EncodedQuery, RankOptions, Ranking, rank, rank_with_tap};
use super::run_files::{RunFileError, RunWriter};
use crate::corpus::{Corpus, Query};
use crate::docid::{DocidVocabulary, EncodeOptions, TextTokenizer, TokenizerError};
use crate::prefix::TextSet;
use crate::random;
use crate::t5::{GenirModel, Tap};

/// Tokenized queries (or documents used as queries) with their relevance judgements.
pub struct QuerySet {
    /// Name in metrics: `validation`, `memorisation/indexing`.
    pub name: String,
    /// Token ids and docid rows of the relevant documents.
    pub queries: Vec<EncodedQuery>,
    /// The id of each query.
    pub ids: Vec<String>,
    /// Relevance grades of the relevant documents of each query.
    grades: Vec<Vec<u32>>,
    /// For each query, true if one of its relevant documents had a training query; `None` for a set that is not divided
    /// by this.
    seen: Option<Vec<bool>>,
}

/// The result of [`evaluate`]. Metrics of a subset without queries are `None`.
pub struct EvaluationResult {
    /// All queries.
    pub all: Option<Metrics>,
    /// Queries with a relevant document that had a training query.
    pub seen: Option<Metrics>,
    /// The other queries: their documents were learnt through indexing only, or not at all.
    pub unseen: Option<Metrics>,
    /// The ranks and grades of the relevant documents of each query, in the order of [`EncodedQuery::relevant`].
    pub judged: Vec<JudgedRanks>,
    /// Ties and NaN among the scores of relevant documents.
    pub diagnostics: ScoreDiagnostics,
}

/// Counts of ties and NaN among the scores of relevant documents, which make ranks unreliable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScoreDiagnostics {
    /// Number of relevant documents of all queries.
    pub relevant: u64,
    /// Those with exactly the score of another candidate.
    pub tied: u64,
    /// Those whose score is NaN.
    pub nan: u64,
}

/// A warning is given if more than this share of the relevant documents tie.
const TIE_WARNING_SHARE: f64 = 0.01;

impl ScoreDiagnostics {
    fn add(&mut self, ranking: &Ranking) {
        self.relevant += ranking.relevant.len() as u64;
        self.tied += ranking.relevant.iter().filter(|rank| rank.is_tied).count() as u64;
        self.nan += ranking.relevant.iter().filter(|rank| rank.is_nan).count() as u64;
    }

    /// Returns warnings for the log.
    pub fn warnings(&self) -> Vec<String> {
        let (of, mut warnings) = (self.relevant, Vec::new());
        if self.tied as f64 > TIE_WARNING_SHARE * of as f64 {
            let (tied, percent) = (self.tied, 100.0 * self.tied as f64 / of as f64);
            warnings.push(format!(
                "{tied} of {of} relevant documents ({percent:.1}%) have exactly the score of another candidate: \
                 ties are broken by docid, as in trec_eval, so these ranks do not reflect the model"
            ));
        }
        if self.nan > 0 {
            warnings.push(format!(
                "the scores of {} of {of} relevant documents are NaN and are ranked last: the model has diverged",
                self.nan
            ));
        }
        warnings
    }
}

impl QuerySet {
    /// Tokenizes `queries`, or a random sample of `most` of them. `left_out` are the documents without training
    /// examples.
    ///
    /// # Errors
    /// A query cannot be tokenized.
    pub fn of_queries(
        name: &str,
        corpus: &Corpus,
        queries: &[Query],
        left_out: &HashSet<u32>,
        most: Option<usize>,
        seed: u64,
        (tokenizer, encoding): (&TextTokenizer, &EncodeOptions),
    ) -> Result<Self, TokenizerError> {
        let (mut set, texts) = Self::without_tokens(name, corpus, queries, left_out, most, seed);
        let tokens = tokenizer.encode_batch(&texts, encoding)?;
        for (query, tokens) in set.queries.iter_mut().zip(tokens) {
            query.tokens = tokens;
        }
        Ok(set)
    }

    /// Returns the same queries without tokens, and their texts: for a ranking that is not by a model.
    pub fn without_tokens<'a>(
        name: &str,
        corpus: &Corpus,
        queries: &'a [Query],
        left_out: &HashSet<u32>,
        most: Option<usize>,
        seed: u64,
    ) -> (Self, Vec<&'a str>) {
        let sample = sample(queries.len(), most, seed, name);
        let queries: Vec<&Query> = sample.into_iter().map(|index| &queries[index]).collect();
        let trained = documents_with_training_queries(corpus, left_out);
        let relevant =
            |query: &Query| query.relevant.iter().map(|judged| judged.document).collect();
        let set = Self {
            name: name.to_owned(),
            queries: queries
                .iter()
                .map(|query| EncodedQuery { tokens: Vec::new(), relevant: relevant(query) })
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
        };
        (set, queries.into_iter().map(|query| query.text.as_str()).collect())
    }

    /// Uses the texts of the documents in `rows` as queries for these documents: all, or a random sample of `most`.
    ///
    /// # Errors
    /// A text cannot be tokenized.
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
            queries: tokens
                .into_iter()
                .zip(&rows)
                .map(|(tokens, &row)| EncodedQuery { tokens, relevant: vec![row] })
                .collect(),
            ids: rows.iter().map(|&row| document(row).id.clone()).collect(),
            grades: vec![vec![1]; rows.len()],
            seen: None,
        })
    }

    /// Returns the names of the rankings that an evaluation of the set reports, with their subsets; empty subsets are
    /// omitted.
    pub fn rankings(&self) -> Vec<(String, QuerySubset)> {
        // A query without a relevant document cannot be judged.
        let is_judged = |index: &usize| !self.queries[*index].relevant.is_empty();
        let judged = || (0..self.queries.len()).filter(is_judged);
        let is_seen = |index: usize| self.seen.as_ref().map(|seen| seen[index]);
        let subsets = [
            (QuerySubset::Seen, judged().any(|index| is_seen(index) == Some(true))),
            (QuerySubset::Unseen, judged().any(|index| is_seen(index) == Some(false))),
            (QuerySubset::All, judged().next().is_some()),
        ];
        let there = subsets.into_iter().filter(|(_, is_there)| *is_there);
        there.map(|(subset, _)| (names::of_subset(&self.name, subset), subset)).collect()
    }

    /// Returns the same queries without the division into seen and unseen.
    pub fn without_seen_split(self) -> Self {
        Self { seen: None, ..self }
    }

    /// Pads every query to `length` tokens with `pad_id`, without a mask, as in the paper's released `eval.py`
    /// (`padding="max_length"` and no attention mask). Longer queries are not changed.
    pub fn pad_unmasked(&mut self, length: usize, pad_id: u32) {
        for query in &mut self.queries {
            let length = length.max(query.tokens.len());
            query.tokens.resize(length, pad_id);
        }
    }

    /// Returns whether a relevant document of the query had a training query; `None` if the set is not divided by this.
    pub fn is_seen(&self, query: usize) -> Option<bool> {
        self.seen.as_ref().map(|seen| seen[query])
    }

    /// Replaces document `i` of the corpus by docid row `rows[i]`, for a checkpoint whose docids are in another order.
    pub fn map_rows(&mut self, rows: &[u32]) {
        for row in self.queries.iter_mut().flat_map(|query| &mut query.relevant) {
            *row = rows[*row as usize];
        }
    }

    /// Returns the token ids of all queries, each read `times` times, for the cache of the frozen prefix.
    pub fn text_set(&self, times: u64) -> TextSet<'_> {
        TextSet {
            name: self.name.clone(),
            texts: self.queries.iter().map(|query| query.tokens.as_slice()).collect(),
            reads: times * self.queries.len() as u64,
        }
    }

    /// Returns the judgements as qrels lines: query id, docid, grade.
    pub fn judgements<'a>(
        &'a self,
        docids: &'a DocidVocabulary,
    ) -> impl Iterator<Item = (&'a str, &'a str, u32)> {
        self.ids.iter().zip(&self.queries).zip(&self.grades).flat_map(|((id, query), grades)| {
            query
                .relevant
                .iter()
                .zip(grades)
                .map(|(&row, &grade)| (id.as_str(), docids.id(row), grade))
        })
    }

    /// Returns the queries with a relevant document at rank 1, in the form of the paper: docid token of that document,
    /// and query id.
    pub fn correct_pairs(
        &self,
        evaluated: &EvaluationResult,
        docids: &DocidVocabulary,
    ) -> Vec<(String, String)> {
        let pair = |(judged, (query, id)): (&JudgedRanks, (&EncodedQuery, &String))| {
            let first = judged.relevant.iter().position(|(rank, _)| *rank == 1)?;
            Some((docids.token(*query.relevant.get(first)?), id.clone()))
        };
        let queries = self.queries.iter().zip(&self.ids);
        evaluated.judged.iter().zip(queries).filter_map(pair).collect()
    }
}

impl EvaluationResult {
    /// Returns the metrics of a subset of the queries.
    pub fn part(&self, part: QuerySubset) -> Option<&Metrics> {
        match part {
            QuerySubset::All => self.all.as_ref(),
            QuerySubset::Seen => self.seen.as_ref(),
            QuerySubset::Unseen => self.unseen.as_ref(),
        }
    }
}

/// Ranks documents for all queries of `set` with a model that is not on the autodiff graph, and writes the rankings to
/// `run`, if given.
///
/// # Errors
/// The run file cannot be written.
pub fn evaluate(
    model: &GenirModel,
    device: &Device,
    set: &QuerySet,
    options: RankOptions,
    run: Option<(&mut RunWriter, &DocidVocabulary)>,
) -> Result<EvaluationResult, RunFileError> {
    evaluate_by(set, run, || Ok(()), |each| rank(model, device, &set.queries, options, each))
}

/// Receives the index of each query and its ranking.
pub(crate) type TakeRanking<'a, E> = dyn FnMut(usize, Ranking) -> Result<(), E> + 'a;

/// Like [`evaluate`], but takes the rankings that `rank` passes to its argument. It calls `check` after each query and ends
/// with its first error.
///
/// # Errors
/// That error, that of `rank`, or the run file cannot be written.
pub(crate) fn evaluate_by<E: From<RunFileError>>(
    set: &QuerySet,
    mut run: Option<(&mut RunWriter, &DocidVocabulary)>,
    mut check: impl FnMut() -> Result<(), E>,
    rank: impl FnOnce(&mut TakeRanking<E>) -> Result<(), E>,
) -> Result<EvaluationResult, E> {
    let mut evaluation = Evaluation::of(set);
    rank(&mut |index, ranking| {
        evaluation.add(index, &ranking);
        check()?;
        if let Some((run, docids)) = &mut run {
            let best = ranking.best.iter().map(|&(row, score)| (docids.id(row), score));
            run.write(&set.ids[index], best)?;
        }
        Ok(())
    })?;
    Ok(evaluation.finish())
}

/// Like [`evaluate`], but every forward pass goes through `tap`, which may read or replace activations: the metrics of
/// an ablated or patched model.
///
/// All of the model is computed: [`RankOptions::prefix`] is not used, since a tap may replace what it was computed from.
pub fn evaluate_with_tap(
    model: &GenirModel,
    device: &Device,
    set: &QuerySet,
    options: RankOptions,
    tap: &mut dyn Tap,
) -> EvaluationResult {
    let mut evaluation = Evaluation::of(set);
    let Ok(()) = rank_with_tap(model, device, &set.queries, options, tap, |index, ranking| {
        evaluation.add(index, &ranking);
        Ok::<_, Infallible>(())
    });
    evaluation.finish()
}

/// The rankings of the queries of a set, as they come.
pub(super) struct Evaluation<'a> {
    set: &'a QuerySet,
    judged: Vec<JudgedRanks>,
    diagnostics: ScoreDiagnostics,
}

impl<'a> Evaluation<'a> {
    pub fn of(set: &'a QuerySet) -> Self {
        let judged = vec![JudgedRanks::default(); set.queries.len()];
        Self { set, judged, diagnostics: ScoreDiagnostics::default() }
    }

    /// Adds the ranking of the query with this index.
    pub fn add(&mut self, index: usize, ranking: &Ranking) {
        self.diagnostics.add(ranking);
        let ranks = ranking.relevant.iter().map(|found| found.rank);
        self.judged[index].relevant = ranks.zip(self.set.grades[index].iter().copied()).collect();
    }

    /// Returns the metrics of all queries, and of those seen and unseen.
    pub fn finish(self) -> EvaluationResult {
        let Self { set, judged, diagnostics } = self;
        let means = |contains: &dyn Fn(usize) -> bool| {
            let mut sums = MetricSums::default();
            let subset = judged.iter().enumerate().filter(|(index, _)| contains(*index));
            subset.for_each(|(_, judged)| sums.add(judged));
            sums.means()
        };
        let (all, seen, unseen) = (
            means(&|_| true),
            means(&|index| set.is_seen(index) == Some(true)),
            means(&|index| set.is_seen(index) == Some(false)),
        );
        EvaluationResult { all, seen, unseen, judged, diagnostics }
    }
}

/// Returns for each document whether it is relevant to a training query.
fn documents_with_training_queries(corpus: &Corpus, left_out: &HashSet<u32>) -> Vec<bool> {
    let mut trained = vec![false; corpus.documents.len()];
    for query in corpus.train.iter().chain(&corpus.generated) {
        for judged in &query.relevant {
            trained[judged.document as usize] = !left_out.contains(&judged.document);
        }
    }
    trained
}

/// Returns the indices of a random sample without replacement, in ascending order; all of them if `most` is `None` or
/// not less than `count`.
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
