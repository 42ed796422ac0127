//! The queries of a probe, and the states that encoders make of them: computed once, kept without padding.

use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::Device;

use super::ProbeError;
use crate::docid::DocidVocabulary;
use crate::prefix::{Element, Frozen, FrozenPrefix, Prefix, Reading, Store};
use crate::retrieval::evaluation::QuerySet;
use crate::retrieval::ranking::{Question, by_length};
use crate::t5::{EncoderStates, NoTap, Pass, T5, Tokens};

/// States of more bytes than this are not kept but computed again for each use. It holds some 4,000 queries of a
/// T5-large.
pub(super) const KEPT_BYTES: usize = 256 << 20;

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

    /// The queries' texts, to be read `times` times.
    pub fn reading(&self, times: u64) -> Reading<'_> {
        Reading {
            name: format!("probed {}", self.name),
            texts: self.texts(),
            reads: times * self.questions.len() as u64,
        }
    }

    /// Takes the model's encoder states from what a run has stored of its frozen prefix, if all are in it: the
    /// encoder that is measured must be that one.
    pub fn start_from(&mut self, prefix: &Arc<Prefix>) {
        if self.own.kept.is_none() && prefix.has(&self.texts()) {
            self.own.kept = Some(Kept::Run(prefix.clone()));
        }
    }

    fn texts(&self) -> Vec<&[u32]> {
        self.questions.iter().map(|question| question.tokens.as_slice()).collect()
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

/// The states that one encoder makes of a set of queries, where they are kept.
#[derive(Default)]
pub(super) struct States {
    kept: Option<Kept>,
}

/// Where states are kept.
#[derive(Clone)]
enum Kept {
    /// With what a run has stored of its frozen prefix.
    Run(Arc<Prefix>),
    /// With the queries.
    Here(Arc<Store>),
}

impl States {
    /// Encodes all `questions`, unless that was done before or there are too many to be kept.
    pub fn fill(&mut self, encoder: &Encoding, questions: &[Question]) {
        let config = encoder.t5.config();
        let tokens: usize = questions.iter().map(|question| question.tokens.len()).sum();
        let too_many = tokens * config.d_model * size_of::<f32>() > KEPT_BYTES;
        if self.kept.is_some() || questions.is_empty() || too_many {
            return;
        }
        let &Encoding { t5, device, pad_id, .. } = encoder;
        let prefix = FrozenPrefix::encoder(config.num_decoder_layers);
        let frozen = Frozen { t5, prefix, device, pad_id };
        let texts = questions.iter().map(|question| question.tokens.as_slice());
        // All that could go wrong is a value that the type cannot hold: it is the one they have.
        let store = Store::compute(&frozen, texts, Element::F32, &mut |_| {});
        self.kept = store.ok().map(|store| Kept::Here(Arc::new(store)));
    }

    /// States of the queries `batch`, padded to the longest: from what is kept, or computed now.
    pub fn of(&self, encoder: &Encoding, questions: &[Question], batch: &[usize]) -> EncoderStates {
        let texts: Vec<&[u32]> =
            batch.iter().map(|&query| questions[query].tokens.as_slice()).collect();
        let kept = match &self.kept {
            Some(Kept::Run(prefix)) => prefix.of(&texts),
            Some(Kept::Here(store)) => store.output(&texts),
            None => None,
        };
        kept.map_or_else(|| encoder.encode(&texts), |prefix| prefix.states)
    }

    /// Takes what is kept of an encoder with the same weights, if nothing is kept yet.
    pub fn share(&mut self, same: &Self) {
        if self.kept.is_none() {
            self.kept = same.kept.clone();
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
    pub pad_id: u32,
}

impl Encoding<'_> {
    fn encode(&self, texts: &[&[u32]]) -> EncoderStates {
        let tokens = Tokens::padded(texts, self.pad_id, self.device);
        self.t5.encode(&tokens, &mut Pass::evaluate(&mut NoTap))
    }
}
