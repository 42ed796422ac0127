//! The queries of a probe, and the states that encoders make of them: computed once, stored without padding.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use burn::tensor::Device;

use super::ProbeError;
use crate::docid::DocidVocabulary;
use crate::prefix::{Element, Frozen, FrozenPrefix, Prefix, Reading, Store};
use crate::retrieval::evaluation::QuerySet;
use crate::retrieval::ranking::{EncodedQuery, by_length};
use crate::t5::{EncoderStates, NoTap, Pass, T5, Tokens};

/// States of more bytes than this are not stored but computed again for each use. It holds some 4,000 queries of a
/// T5-large.
pub(super) const STORED_BYTES: usize = 256 << 20;

/// A set of queries to look at a model with.
pub struct ProbeQueries {
    /// What it is called, such as `validation`.
    pub(super) name: String,
    pub(super) ids: Vec<String>,
    pub(super) questions: Vec<EncodedQuery>,
    /// Queries that are measured whatever the model ranks.
    pub(super) expected: Option<Expected>,
    /// What the newest measurement found correct.
    pub(super) correct: Vec<Measured>,
    /// States that the next measurement starts with: those of encoders that stay the same.
    stored: EncodedQueries,
}

/// Queries that were named.
pub(super) struct Expected {
    /// Pairs that were given.
    pub pairs: usize,
    /// Each pair once, with its docid row.
    pub measured: Vec<Measured>,
}

/// A query that is measured, and its relevant docid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Measured {
    /// Its index in the set.
    pub query: usize,
    /// The docid's row.
    pub target: u32,
}

impl ProbeQueries {
    /// The queries of `set` that have a relevant document.
    pub fn new(set: QuerySet) -> Self {
        let judged = set.ids.into_iter().zip(set.queries);
        let (ids, questions) = judged.filter(|(_, asked)| !asked.relevant.is_empty()).unzip();
        Self {
            name: set.name,
            ids,
            questions,
            expected: None,
            correct: Vec::new(),
            stored: EncodedQueries::default(),
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
        if self.stored.own.store.is_none() && prefix.has(&self.texts()) {
            self.stored.own.store = Some(StateStore::Run(prefix.clone()));
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

    /// The states that are known before a measurement.
    pub(super) fn stored(&self) -> EncodedQueries {
        self.stored.clone()
    }

    /// Stores the states of a measurement for the next one; those of the model's own encoder only if that is frozen.
    pub(super) fn store(&mut self, states: &EncodedQueries, encoder_is_frozen: bool) {
        let own = if encoder_is_frozen { states.own.clone() } else { States::default() };
        self.stored = EncodedQueries { own, ..states.clone() };
    }

    /// Some of the queries in batches of nearly equal length.
    pub(super) fn batches(&self, some: Vec<Measured>, batch_size: usize) -> Vec<Vec<Measured>> {
        by_length(some, batch_size, |found| self.questions[found.query].tokens.len())
    }

    /// Every query with its first relevant docid.
    pub(super) fn all(&self) -> Vec<Measured> {
        let first = |(query, question): (usize, &EncodedQuery)| {
            Some(Measured { query, target: *question.relevant.first()? })
        };
        self.questions.iter().enumerate().filter_map(first).collect()
    }

    /// Measures these queries whatever the model ranks: pairs of docid token and query id, as in the paper's
    /// `correct_valid.json`. A pair that comes twice is measured once.
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
        let mut measured: Vec<Measured> = measured.collect::<Result<_, _>>()?;
        let mut known = HashSet::new();
        measured.retain(|found| known.insert(*found));
        self.expected = Some(Expected { pairs: pairs.len(), measured });
        Ok(())
    }

    /// What the newest measurement found correct, as [`ProbeQueries::expect_correct`] takes it.
    pub fn correct_pairs(&self, docids: &DocidVocabulary) -> Vec<(String, String)> {
        let pair = |found: &Measured| (docids.token(found.target), self.ids[found.query].clone());
        self.correct.iter().map(pair).collect()
    }
}

/// The states of a set of queries in one measurement, by encoder. Clones share them.
#[derive(Clone, Default)]
pub(super) struct EncodedQueries {
    /// Of the model that is measured.
    pub own: States,
    /// Of its base model.
    pub base: States,
    /// Of the model whose encoder takes the place of the model's own.
    pub other: States,
}

/// The states that one encoder makes of a set of queries, where they are stored.
#[derive(Clone, Default)]
pub(super) struct States {
    store: Option<StateStore>,
}

/// Where states are stored.
#[derive(Clone)]
enum StateStore {
    /// With what a run has stored of its frozen prefix.
    Run(Arc<Prefix>),
    /// With the queries.
    Queries(Arc<Store>),
}

impl States {
    /// Encodes all `questions`, unless that was done before or there are too many to be stored.
    pub fn fill(&mut self, encoder: &QueryEncoder, questions: &[EncodedQuery]) {
        let config = encoder.t5.config();
        let tokens: usize = questions.iter().map(|question| question.tokens.len()).sum();
        let too_many = tokens * config.d_model * size_of::<f32>() > STORED_BYTES;
        if self.store.is_some() || questions.is_empty() || too_many {
            return;
        }
        let &QueryEncoder { t5, device, pad_id, .. } = encoder;
        let prefix = FrozenPrefix::encoder(config.num_decoder_layers);
        let frozen = Frozen { t5, prefix, device, pad_id };
        let texts = questions.iter().map(|question| question.tokens.as_slice());
        // All that could go wrong is a value that the type cannot hold: it is the one they have.
        let store = Store::compute(&frozen, texts, Element::F32, &mut |_| {});
        self.store = store.ok().map(|store| StateStore::Queries(Arc::new(store)));
    }

    /// States of the queries `batch`, padded to the longest: from what is stored, or computed now.
    pub fn of(
        &self,
        encoder: &QueryEncoder,
        questions: &[EncodedQuery],
        batch: &[usize],
    ) -> EncoderStates {
        let texts: Vec<&[u32]> =
            batch.iter().map(|&query| questions[query].tokens.as_slice()).collect();
        let stored = match &self.store {
            Some(StateStore::Run(prefix)) => prefix.of(&texts),
            Some(StateStore::Queries(store)) => store.output(&texts),
            None => None,
        };
        stored.map_or_else(|| encoder.encode(&texts), |prefix| prefix.states)
    }

    /// Takes what is stored of an encoder with the same weights, if nothing is stored yet.
    pub fn share(&mut self, same: &Self) {
        if self.store.is_none() {
            self.store = same.store.clone();
        }
    }
}

/// How queries are encoded.
#[derive(Clone, Copy)]
pub(super) struct QueryEncoder<'a> {
    pub t5: &'a T5,
    pub device: &'a Device,
    pub pad_id: u32,
}

impl QueryEncoder<'_> {
    fn encode(&self, texts: &[&[u32]]) -> EncoderStates {
        let tokens = Tokens::padded(texts, self.pad_id, self.device);
        self.t5.encode(&tokens, &mut Pass::evaluate(&mut NoTap))
    }
}
