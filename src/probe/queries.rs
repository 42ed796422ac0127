//! The queries of a probe with their encoder states, which are computed once and stored without padding.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ProbeError;
use crate::docid::DocidVocabulary;
use crate::prefix::{CacheError, Element, FrozenModel, FrozenPrefix, Prefix, Store, TextSet};
use crate::processes::{Group, ProcessesError, World};
use crate::retrieval::evaluation::QuerySet;
use crate::retrieval::ranking::{EncodedQuery, by_length};
use crate::t5::{EncoderStates, NoTap, Pass, T5, Tokens};

/// States of more bytes than this are not stored but recomputed for each use. It holds some 4,000 queries of a
/// T5-large.
pub(super) const STORED_BYTES: usize = 256 << 20;

/// The beginning of the name of the texts of a set that probes read: `probed validation`.
pub(crate) const PROBED: &str = "probed ";

/// A set of queries that probes use.
pub struct ProbeQueries {
    /// The set's name, such as `validation`.
    pub(super) name: String,
    pub(super) ids: Vec<String>,
    pub(super) questions: Vec<EncodedQuery>,
    /// Queries that are measured whatever the model ranks.
    pub(super) selected: Option<SelectedQueries>,
    /// The correct queries of the latest measurement.
    pub(super) correct: Vec<QueryTarget>,
    /// States that the next measurement starts with: those of encoders that stay the same.
    stored: EncodedQueries,
}

/// Queries that were named.
pub(super) struct SelectedQueries {
    /// Pairs that were given.
    pub pairs: usize,
    /// Each pair once, with its docid row.
    pub measured: Vec<QueryTarget>,
}

/// A query that is measured, and its relevant docid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct QueryTarget {
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
            selected: None,
            correct: Vec::new(),
            stored: EncodedQueries::default(),
        }
    }

    /// One query, measured by the docid row `target`.
    pub(super) fn single(id: String, tokens: Vec<u32>, target: u32) -> Self {
        Self {
            name: id.clone(),
            ids: vec![id],
            questions: vec![EncodedQuery { tokens, relevant: vec![target] }],
            selected: None,
            correct: Vec::new(),
            stored: EncodedQueries::default(),
        }
    }

    /// The queries' texts, to be read `times` times.
    pub fn text_set(&self, times: u64) -> TextSet<'_> {
        TextSet {
            name: format!("{PROBED}{}", self.name),
            texts: self.texts(),
            reads: times * self.questions.len() as u64,
        }
    }

    /// Uses the encoder states in a run's stored frozen prefix, if it has all of them in each process of `world`. The probed
    /// model must have the same encoder.
    ///
    /// # Errors
    /// MPI failed.
    pub fn use_stored_prefix(
        &mut self,
        prefix: Option<&Arc<Prefix>>,
        world: Option<&World>,
    ) -> Result<(), ProcessesError> {
        if self.stored.own.store.is_none() {
            let prefix = prefix.filter(|prefix| prefix.has(&self.texts()));
            // One batch would be rounded as the run stores it, and another one not.
            let is_missing = Group::of(world).any(prefix.is_none())?;
            let prefix = prefix.filter(|_| !is_missing);
            self.stored.own.store = prefix.cloned().map(StateStore::Run);
        }
        Ok(())
    }

    /// Describes all that the batches of a measurement depend on, in JSON.
    pub(super) fn identity(&self) -> Value {
        let questions = self.questions.iter().map(|asked| (&asked.tokens, &asked.relevant));
        let selected = self.selected.as_ref().map(|selected| &selected.measured);
        json!([self.name, self.ids, questions.collect::<Vec<_>>(), selected])
    }

    fn texts(&self) -> Vec<&[u32]> {
        self.questions.iter().map(|question| question.tokens.as_slice()).collect()
    }

    /// The name of the set, such as `validation`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.questions.len()
    }

    /// True if there are no queries.
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
    pub(super) fn batches(
        &self,
        some: Vec<QueryTarget>,
        batch_size: usize,
    ) -> Vec<Vec<QueryTarget>> {
        by_length(some, batch_size, |found| self.questions[found.query].tokens.len())
    }

    /// Every query with its first relevant docid.
    pub(super) fn all(&self) -> Vec<QueryTarget> {
        let first = |(query, question): (usize, &EncodedQuery)| {
            Some(QueryTarget { query, target: *question.relevant.first()? })
        };
        self.questions.iter().enumerate().filter_map(first).collect()
    }

    /// Measures these queries whatever the model ranks: pairs of docid token and query id, as in the paper's
    /// `correct_valid.json`. A pair that comes twice is measured once.
    ///
    /// # Errors
    /// No pair, a query that is not in the set, or a token that is no docid of the model.
    pub fn measure_only(
        &mut self,
        pairs: &[(String, String)],
        docids: &DocidVocabulary,
    ) -> Result<(), ProbeError> {
        if pairs.is_empty() {
            return Err(ProbeError::EmptyList);
        }
        let index: HashMap<&str, usize> =
            self.ids.iter().enumerate().map(|(index, id)| (id.as_str(), index)).collect();
        let measured = pairs.iter().enumerate().map(|(place, (token, id))| {
            let Some(&query) = index.get(id.as_str()) else {
                let (set, query) = (self.name.clone(), id.clone());
                return Err(ProbeError::UnknownQuery { place, query, set });
            };
            let row = DocidVocabulary::parse_token(token).and_then(|id| docids.row(id));
            let target =
                row.ok_or_else(|| ProbeError::UnknownDocid { place, token: token.clone() });
            Ok(QueryTarget { query, target: target? })
        });
        let mut measured: Vec<QueryTarget> = measured.collect::<Result<_, _>>()?;
        let mut known = HashSet::new();
        measured.retain(|found| known.insert(*found));
        self.selected = Some(SelectedQueries { pairs: pairs.len(), measured });
        Ok(())
    }

    /// The correct queries of the latest measurement, in the form of [`ProbeQueries::measure_only`].
    pub fn correct_pairs(&self, docids: &DocidVocabulary) -> Vec<(String, String)> {
        let pair =
            |found: &QueryTarget| (docids.token(found.target), self.ids[found.query].clone());
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
    /// Encodes all `questions`, which the processes of `group` share, unless all of them have that already, or there are too
    /// many to be stored.
    ///
    /// # Errors
    /// They cannot exchange the states.
    pub fn fill(
        &mut self,
        encoder: &QueryEncoder,
        questions: &[EncodedQuery],
        group: Group,
    ) -> Result<(), ProcessesError> {
        let config = encoder.t5.config();
        let tokens: usize = questions.iter().map(|question| question.tokens.len()).sum();
        let too_many = tokens * config.d_model * size_of::<f32>() > STORED_BYTES;
        if questions.is_empty() || too_many {
            return Ok(());
        }
        // One process may have states that the others do not have, of a measurement that it has made alone.
        if !group.any(self.store.is_none())? {
            return Ok(());
        }
        let &QueryEncoder { t5, device, pad_id } = encoder;
        let prefix = FrozenPrefix::encoder(config.num_decoder_layers);
        let frozen = FrozenModel { t5, prefix, device, pad_id };
        let texts = questions.iter().map(|question| question.tokens.as_slice());
        match Store::compute(&frozen, texts, Element::F32, group, &mut |_| {}) {
            Ok(store) => self.store = Some(StateStore::Queries(Arc::new(store))),
            Err(CacheError::Processes(error)) => return Err(error),
            // A value that the type cannot hold, which is the one they have: that cannot be.
            Err(_) => {}
        }
        Ok(())
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

/// An encoder with its device and padding token.
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
