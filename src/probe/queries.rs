//! The queries of a probe, and the states that encoders make of them: computed once, kept without padding.

use std::collections::HashMap;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::ProbeError;
use crate::docid::DocidVocabulary;
use crate::retrieval::evaluation::QuerySet;
use crate::retrieval::ranking::{Question, by_length, tokens_of};
use crate::t5::{EncoderStates, NoTap, Pass, T5, padding_mask};

/// States of more bytes than this are not kept but computed again for each use. It holds some 4,000 queries of a
/// T5-large.
const KEPT_BYTES: usize = 256 << 20;

/// A set of queries to look at a model with.
pub struct ProbeQueries {
    /// What it is called, such as `validation`.
    pub(super) name: String,
    pub(super) ids: Vec<String>,
    pub(super) questions: Vec<Question>,
    /// Queries that are measured whatever the model ranks, with their docid row.
    pub(super) expected: Option<Vec<Measured>>,
    /// What the newest measurement found correct.
    pub(super) correct: Vec<Measured>,
    pub(super) own: States,
    pub(super) base: States,
    pub(super) other: States,
}

/// A query that is measured, and its relevant docid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measured {
    /// Its index in the set.
    pub query: usize,
    /// The docid's row.
    pub target: u32,
}

impl ProbeQueries {
    /// The queries of `set` that have a relevant document.
    pub fn new(set: QuerySet) -> Self {
        let judged = set.ids.into_iter().zip(set.questions);
        let (ids, questions) = judged.filter(|(_, asked)| !asked.relevant.is_empty()).unzip();
        Self {
            name: set.name,
            ids,
            questions,
            expected: None,
            correct: Vec::new(),
            own: States::default(),
            base: States::default(),
            other: States::default(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.questions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }

    /// Some of the queries in batches of nearly equal length.
    pub(super) fn batches(&self, some: Vec<Measured>, batch_size: usize) -> Vec<Vec<Measured>> {
        by_length(some, batch_size, |found| self.questions[found.query].tokens.len())
    }

    /// Every query with its first relevant docid.
    pub(super) fn all(&self) -> Vec<Measured> {
        let first = |(query, question): (usize, &Question)| {
            Some(Measured { query, target: *question.relevant.first()? })
        };
        self.questions.iter().enumerate().filter_map(first).collect()
    }

    /// Measures these queries whatever the model ranks: pairs of docid token and query id, as in the paper's
    /// `correct_valid.json`.
    ///
    /// # Errors
    /// No pair, a query that is not in the set, or a token that is no docid of the model.
    pub fn expect_correct(
        &mut self,
        pairs: &[(String, String)],
        docids: &DocidVocabulary,
    ) -> Result<(), ProbeError> {
        if pairs.is_empty() {
            return Err(ProbeError::NothingNamed);
        }
        let index: HashMap<&str, usize> =
            self.ids.iter().enumerate().map(|(index, id)| (id.as_str(), index)).collect();
        let measured = pairs.iter().enumerate().map(|(place, (token, id))| {
            let Some(&query) = index.get(id.as_str()) else {
                let (set, query) = (self.name.clone(), id.clone());
                return Err(ProbeError::NoSuchQuery { place, query, set });
            };
            let row = DocidVocabulary::parse_token(token).and_then(|id| docids.row(id));
            let target = row.ok_or_else(|| ProbeError::NoSuchDocid { place, token: token.clone() });
            Ok(Measured { query, target: target? })
        });
        self.expected = Some(measured.collect::<Result<_, _>>()?);
        Ok(())
    }

    /// What the newest measurement found correct, as [`ProbeQueries::expect_correct`] takes it.
    pub fn correct_pairs(&self, docids: &DocidVocabulary) -> Vec<(String, String)> {
        let pair = |found: &Measured| (docids.token(found.target), self.ids[found.query].clone());
        self.correct.iter().map(pair).collect()
    }
}

/// The states that one encoder makes of a set of queries.
#[derive(Default)]
pub(super) struct States {
    kept: Option<Kept>,
}

/// States of all queries, one after another, without padding.
struct Kept {
    /// `[tokens of all queries, d_model]`
    rows: Tensor<2>,
    /// Where each query begins in `rows`; one more for the end.
    starts: Vec<usize>,
}

impl States {
    /// Encodes all `questions`, unless that was done before or there are too many to be kept.
    pub fn fill(&mut self, encoder: &Encoding, questions: &[Question]) {
        let width = encoder.t5.config().d_model;
        let tokens: usize = questions.iter().map(|question| question.tokens.len()).sum();
        let too_many = tokens * width * size_of::<f32>() > KEPT_BYTES;
        if self.kept.is_some() || questions.is_empty() || too_many {
            return;
        }
        let mut starts = vec![0; questions.len() + 1];
        let mut parts = Vec::new();
        let mut at = 0;
        let length = |&query: &usize| questions[query].tokens.len();
        for batch in by_length((0..questions.len()).collect(), encoder.batch_size, length) {
            let states = encoder.encode(questions, &batch);
            let longest = states.rows.dims()[0] / batch.len();
            let mut real = Vec::new();
            for (row, &query) in batch.iter().enumerate() {
                let length = questions[query].tokens.len();
                starts[query] = at;
                at += length;
                real.extend((0..length).map(|token| (row * longest + token) as i32));
            }
            parts.push(states.rows.select(0, indices(real, encoder.device)));
        }
        starts[questions.len()] = at;
        self.kept = Some(Kept { rows: Tensor::cat(parts, 0), starts });
    }

    /// States of the queries `batch`, padded to the longest: from what is kept, or computed now.
    pub fn of(&self, encoder: &Encoding, questions: &[Question], batch: &[usize]) -> EncoderStates {
        let Some(kept) = &self.kept else {
            return encoder.encode(questions, batch);
        };
        let lengths: Vec<u32> =
            batch.iter().map(|&query| questions[query].tokens.len() as u32).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut from = Vec::with_capacity(batch.len() * longest as usize);
        for (&query, &length) in batch.iter().zip(&lengths) {
            let start = kept.starts[query] as u32;
            // Padding repeats the first token: whatever it holds is masked.
            let token = |token: u32| (start + if token < length { token } else { 0 }) as i32;
            from.extend((0..longest).map(token));
        }
        EncoderStates {
            rows: kept.rows.clone().select(0, indices(from, encoder.device)),
            batch: batch.len(),
            mask: padding_mask(&lengths, longest as usize, encoder.device),
        }
    }

    /// Forgets what was kept: the encoder has changed.
    pub fn forget(&mut self) {
        self.kept = None;
    }
}

/// How queries are encoded.
#[derive(Clone, Copy)]
pub(super) struct Encoding<'a> {
    pub t5: &'a T5,
    pub device: &'a Device,
    pub batch_size: usize,
    pub pad_id: u32,
}

impl Encoding<'_> {
    fn encode(&self, questions: &[Question], batch: &[usize]) -> EncoderStates {
        let asked: Vec<&Question> = batch.iter().map(|&query| &questions[query]).collect();
        let tokens = tokens_of(&asked, self.pad_id, self.device);
        self.t5.encode(&tokens, &mut Pass::evaluate(&mut NoTap))
    }
}

fn indices(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
