//! Runs probes: ranks the queries, finds the correct ones, and shows each batch of them to every probe.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::time::Instant;

use serde_json::json;

use super::context::{ComparisonModel, ComparisonModels, ProbeContext, RunningProbe};
use super::patch::{Patch, PatchedPart};
use super::queries::{EncodedQueries, ProbeQueries, QueryEncoder, QueryTarget};
use super::record::{MeasuredOn, NamedQueries, QueryRanks, Record, SCHEMA};
use super::{
    EncoderNorm, Over, Probe, ProbeError, ProbeOptions, ProbeResult, Replacement, Subject,
};
use super::{
    attention_reads, attention_writes, circuit, direct_effect, encoder_swap, logit_lens,
    neuron_reads, residual_contribution, stage_patching,
};
use crate::processes::{Group, ProcessesError, World};
use crate::retrieval::ranks::relevant_ranks;
use crate::retrieval::ties::Ties;
use crate::t5::{NoTap, Pass, T5, T5Config};

/// Probes that are measured together, with the queries shared by processes if there are several.
pub struct Suite<'a> {
    probes: Vec<Probe>,
    group: Group<'a>,
    pub(super) options: ProbeOptions,
    /// Read from `options`.
    parts: Vec<PatchedPart>,
    circuit: Vec<Patch>,
}

impl<'a> Suite<'a> {
    /// Prepares `probes` for models of the shape `config`.
    ///
    /// # Errors
    /// Stages that do not fit the decoder, or a probe that needs some where there are none; selectors that are not
    /// understood, name nothing or nothing that can be patched.
    pub fn new(
        probes: &[Probe],
        options: ProbeOptions,
        config: &T5Config,
    ) -> Result<Self, ProbeError> {
        let depth = config.num_decoder_layers;
        let stages = options.stages.as_ref();
        if let Some(stages) = stages {
            stages.check_depth(depth)?;
        }
        let parts = options.patches.iter().map(|text| PatchedPart::parse(text, stages, config));
        let parts = parts.collect::<Result<_, _>>()?;
        let circuit = options.circuit.iter().map(|text| Patch::parse(text, stages, config));
        let circuit = circuit.collect::<Result<_, _>>()?;
        if let Some(&probe) = probes.iter().find(|probe| probe.needs_stages(&options)) {
            return Err(ProbeError::NeedsStages { probe, depth });
        }
        let group = Group::default();
        Ok(Self { probes: probes.to_vec(), group, parts, circuit, options })
    }

    /// Returns the suite so that the processes of `world` share the batches of queries. Each of them measures the same queries
    /// with the same models, and has the results of all. Queries and options are compared; that the models are the same is the
    /// caller's part, and so is to end all processes after an error of one. [`Suite::ablate`] shares the ranking of the queries
    /// alone.
    #[must_use]
    pub fn shared_by(self, world: Option<&'a World>) -> Self {
        Self { group: Group::of(world), ..self }
    }

    /// Measures all probes on `queries` (circuits on `test`) in rounds, of one batch in each process. `progress` is called
    /// after each round with the number of queries done and their total, and may break off the measurement of all.
    ///
    /// # Errors
    /// `progress` broke off; no query to measure over; another model of the wrong shape; a probe without what it needs: the encoder swap
    /// any other encoder, the circuit a test set, a patch with the base its base model (without a base model the
    /// paper's patches with it are left out); or the processes cannot exchange their results.
    pub fn measure(
        &self,
        subject: &Subject,
        queries: &mut ProbeQueries,
        test: Option<&mut ProbeQueries>,
        others: &ComparisonModels,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Vec<Record>, ProbeError> {
        self.agree(queries, test.as_deref(), others)?;
        self.check(subject, others, test.as_ref().is_some_and(|test| !test.is_empty()))?;
        let own = self.encoder(subject, &subject.model.t5);
        let mut states = self.encode(subject, &own, others, queries)?;
        let targets = self.targets(subject, &own, queries, &states)?;
        // Where there is nothing to measure, nothing else is encoded.
        let chosen = self.select_queries(subject, &own, queries, &states, &targets)?;
        let measured: Vec<QueryTarget> = chosen.iter().map(|(found, _)| *found).collect();
        self.encode_with_others(subject, others, queries, &mut states)?;
        let test = test.filter(|_| self.probes.contains(&Probe::Circuit));
        let test = test.map(|test| self.encode_test(subject, &own, others, test)).transpose()?;
        let mut context = ProbeContext {
            group: self.group,
            test: test.as_ref().map(|(test, states)| (*test, states)),
            base: others.base.as_ref(),
            encoder: others.encoder.as_ref(),
            ..ProbeContext::new(subject, own, &self.options, (queries, &states), &measured)
        };
        let found = self.run_probes(&mut context, subject, progress)?;
        Ok(self.records(subject, &context, &targets, &chosen, found))
    }

    /// Checks that all processes measure the same. They would wait for each other for ever if they had other batches.
    pub(super) fn agree(
        &self,
        queries: &ProbeQueries,
        test: Option<&ProbeQueries>,
        others: &ComparisonModels,
    ) -> Result<(), ProcessesError> {
        self.group.agree("the queries and options of their probes, by BLAKE3", || {
            let left_out = |model: &Option<ComparisonModel>| {
                model
                    .as_ref()
                    .map(|model| model.left_out.iter().copied().collect::<BTreeSet<u32>>())
            };
            let sets = json!([queries.identity(), test.map(ProbeQueries::identity)]);
            let left_out = [left_out(&others.base), left_out(&others.encoder)];
            let all = json!([self.probes, format!("{:?}", self.options), sets, left_out]);
            blake3::hash(all.to_string().as_bytes()).to_hex()[..16].to_owned()
        })
    }

    /// Checks that the probes have the models and sets that they need.
    pub(super) fn check(
        &self,
        subject: &Subject,
        others: &ComparisonModels,
        has_test: bool,
    ) -> Result<(), ProbeError> {
        if let Some(stages) = &self.options.stages {
            stages.check_depth(subject.model.t5.config().num_decoder_layers)?;
        }
        others.check(&subject.model.t5)?;
        let has = |probe| self.probes.contains(&probe);
        if has(Probe::EncoderSwap) && others.base.is_none() && others.encoder.is_none() {
            return Err(ProbeError::NoOtherEncoder);
        }
        if has(Probe::Circuit) && !has_test {
            return Err(ProbeError::NoTestSet);
        }
        let mut given = self.circuit.iter().filter(|_| has(Probe::Circuit));
        match given.find(|patch| patch.replacement == Replacement::Base) {
            Some(patch) if others.base.is_none() => {
                Err(ProbeError::NoBase { patch: patch.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Encodes a set with the model's encoder, and with the base's if that is the same.
    pub(super) fn encode(
        &self,
        subject: &Subject,
        own: &QueryEncoder,
        others: &ComparisonModels,
        queries: &mut ProbeQueries,
    ) -> Result<EncodedQueries, ProcessesError> {
        let mut states = queries.stored();
        states.own.fill(own, &queries.questions, self.group)?;
        if subject.encoder_is_frozen
            && others.base.as_ref().is_some_and(|base| base.has_same_encoder)
        {
            states.base.share(&states.own);
        }
        queries.store(&states, subject.encoder_is_frozen);
        Ok(states)
    }

    /// Encodes the set on which circuits are evaluated, with the base's encoder too.
    fn encode_test<'q>(
        &self,
        subject: &Subject,
        own: &QueryEncoder,
        others: &ComparisonModels,
        test: &'q mut ProbeQueries,
    ) -> Result<(&'q ProbeQueries, EncodedQueries), ProcessesError> {
        let mut states = self.encode(subject, own, others, test)?;
        if let Some(base) = &others.base {
            let encoder = self.encoder(subject, &base.t5);
            states.base.fill(&encoder, &test.questions, self.group)?;
            test.store(&states, subject.encoder_is_frozen);
        }
        Ok((test, states))
    }

    /// Encodes a set with every other encoder that a probe needs.
    fn encode_with_others(
        &self,
        subject: &Subject,
        others: &ComparisonModels,
        queries: &mut ProbeQueries,
        states: &mut EncodedQueries,
    ) -> Result<(), ProcessesError> {
        if let Some(base) = others.base.as_ref().filter(|_| self.uses_base()) {
            let encoder = self.encoder(subject, &base.t5);
            states.base.fill(&encoder, &queries.questions, self.group)?;
        }
        let swaps = self.probes.contains(&Probe::EncoderSwap)
            && self.options.encoder_norm == EncoderNorm::Other;
        if let Some(other) = others.encoder.as_ref().filter(|_| swaps) {
            let encoder = self.encoder(subject, &other.t5);
            states.other.fill(&encoder, &queries.questions, self.group)?;
        }
        queries.store(states, subject.encoder_is_frozen);
        Ok(())
    }

    pub(super) fn encoder<'m>(&self, subject: &Subject<'m>, t5: &'m T5) -> QueryEncoder<'m> {
        QueryEncoder { t5, device: subject.device, pad_id: subject.tokenizer.pad_id() }
    }

    /// The relevant docid that each query is measured by, with its rank: the best ranked one, of equals the first.
    pub(super) fn targets(
        &self,
        subject: &Subject,
        own: &QueryEncoder,
        queries: &ProbeQueries,
        states: &EncodedQueries,
    ) -> Result<Vec<(QueryTarget, u32)>, ProcessesError> {
        let batches = queries.batches(queries.all(), self.options.batch_size);
        let mut targets = self.in_rounds(&batches, |batch| {
            let relevant: Vec<&[u32]> = batch
                .iter()
                .map(|found| queries.questions[found.query].relevant.as_slice())
                .collect();
            let ranks = self.ranks(subject, own, queries, states, batch, &relevant);
            let ranked = batch.iter().zip(relevant).zip(ranks);
            let best = ranked.filter_map(|((found, relevant), ranks)| {
                let best = relevant.iter().zip(ranks).min_by_key(|(_, rank)| *rank);
                best.map(|(&target, rank)| (QueryTarget { query: found.query, target }, rank))
            });
            best.collect()
        })?;
        targets.sort_by_key(|(found, _)| found.query);
        Ok(targets)
    }

    /// Returns the results of `rank` for all batches, one after another.
    fn in_rounds(
        &self,
        batches: &[Vec<QueryTarget>],
        rank: impl Fn(&[QueryTarget]) -> Vec<(QueryTarget, u32)>,
    ) -> Result<Vec<(QueryTarget, u32)>, ProcessesError> {
        let mut all = Vec::new();
        let take = |found| {
            all.extend::<Vec<_>>(found);
            Ok::<_, ProcessesError>(())
        };
        self.group.share(batches, |batch| rank(batch), take)?;
        Ok(all)
    }

    /// The ranks of the docid rows in `of` for each query of `batch`, without intervention.
    fn ranks(
        &self,
        subject: &Subject,
        own: &QueryEncoder,
        queries: &ProbeQueries,
        states: &EncodedQueries,
        batch: &[QueryTarget],
        of: &[&[u32]],
    ) -> Vec<Vec<u32>> {
        let model = subject.model;
        let batch: Vec<usize> = batch.iter().map(|found| found.query).collect();
        let states = states.own.of(own, &queries.questions, &batch);
        let output = model.t5.decode_start(&states, &mut Pass::evaluate(&mut NoTap)); // [batch, d_model]
        let docids = model.docid_logits(output.clone()); // [batch, documents]
        let vocabulary = self.options.candidates;
        relevant_ranks(model, output, &docids, vocabulary, Ties::Shared, of)
            .into_iter()
            .map(|ranks| ranks.into_iter().map(|found| found.rank).collect())
            .collect()
    }

    fn uses_base(&self) -> bool {
        self.probes.iter().any(|probe| probe.uses_base())
    }

    /// The queries that are measured, each with its rank without intervention; notes what was found correct.
    pub(super) fn select_queries(
        &self,
        subject: &Subject,
        own: &QueryEncoder,
        queries: &mut ProbeQueries,
        states: &EncodedQueries,
        targets: &[(QueryTarget, u32)],
    ) -> Result<Vec<(QueryTarget, u32)>, ProbeError> {
        let set = || queries.name.clone();
        let best = targets.iter().min_by_key(|(_, rank)| *rank);
        let Some(&(best, best_rank)) = best else {
            return Err(ProbeError::NoQueries { set: set() });
        };
        let correct = || targets.iter().filter(|(_, rank)| *rank == 1).copied();
        let measured: Vec<(QueryTarget, u32)> = match (&queries.selected, self.options.over) {
            (Some(selected), _) => self.named(subject, own, queries, states, &selected.measured)?,
            (None, Over::Correct) => correct().collect(),
            (None, Over::All) => targets.to_vec(),
        };
        if measured.is_empty() {
            let (ranked, query) = (targets.len(), queries.ids[best.query].clone());
            let vocabulary = self.options.candidates;
            return Err(ProbeError::NoCorrect { set: set(), ranked, best_rank, query, vocabulary });
        }
        queries.correct = correct().map(|(found, _)| found).collect();
        Ok(measured)
    }

    /// Queries that were named, each with the rank of its docid.
    fn named(
        &self,
        subject: &Subject,
        own: &QueryEncoder,
        queries: &ProbeQueries,
        states: &EncodedQueries,
        named: &[QueryTarget],
    ) -> Result<Vec<(QueryTarget, u32)>, ProcessesError> {
        let place: HashMap<QueryTarget, usize> =
            named.iter().enumerate().map(|(place, found)| (*found, place)).collect();
        let batches = queries.batches(named.to_vec(), self.options.batch_size);
        let mut ranked = self.in_rounds(&batches, |batch| {
            let of: Vec<&[u32]> =
                batch.iter().map(|found| std::slice::from_ref(&found.target)).collect();
            let ranks = self.ranks(subject, own, queries, states, batch, &of);
            batch.iter().copied().zip(ranks.into_iter().flatten()).collect()
        })?;
        ranked.sort_by_key(|(found, _)| place.get(found).copied());
        Ok(ranked)
    }

    /// Shows every batch to every probe; each result with the seconds that its probe took.
    fn run_probes(
        &self,
        context: &mut ProbeContext,
        subject: &Subject,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Vec<(ProbeResult, f64)>, ProbeError> {
        if self.probes.iter().any(|probe| probe.uses_means()) {
            context.compute_means()?;
        }
        let mut running: Vec<(Box<dyn RunningProbe + '_>, f64)> =
            self.probes.iter().map(|&probe| (self.start(probe, context, subject), 0.0)).collect();
        let (mut done, all) = (0, context.measured.len());
        for own in context.rounds(self.uses_base()) {
            let measured = own.as_ref().map_or(0, |batch| batch.measured.len());
            tracing::debug!("{:?} has computed the activations for {measured} queries", self.group);
            // Before the probes: the time of the first one has not that of waiting for the others' activations.
            done += self.group.gather(Some(measured))?.iter().sum::<usize>();
            for (probe, seconds) in &mut running {
                let begun = Instant::now();
                probe.add_round(context, own.as_ref())?;
                *seconds += begun.elapsed().as_secs_f64();
            }
            if self.group.any(progress(done, all).is_break())? {
                return Err(ProbeError::Interrupted);
            }
        }
        let finish = |(probe, seconds): (Box<dyn RunningProbe + '_>, f64)| {
            let begun = Instant::now();
            let result = probe.finish(context)?;
            Ok((result, seconds + begun.elapsed().as_secs_f64()))
        };
        running.into_iter().map(finish).collect()
    }

    fn start<'m>(
        &self,
        probe: Probe,
        context: &ProbeContext,
        subject: &Subject<'m>,
    ) -> Box<dyn RunningProbe + 'm> {
        match probe {
            Probe::ResidualContribution => {
                Box::new(residual_contribution::Accumulator::new(context))
            }
            Probe::LogitLens => Box::new(logit_lens::Accumulator::new(context)),
            Probe::DirectEffect => Box::new(direct_effect::Accumulator::default()),
            Probe::StagePatching => {
                Box::new(stage_patching::Accumulator::new(context, self.parts.clone()))
            }
            Probe::Circuit => Box::new(circuit::Accumulator::new(context, &self.circuit)),
            Probe::EncoderSwap => Box::new(encoder_swap::Accumulator::new(context)),
            Probe::NeuronReads => Box::new(neuron_reads::accumulator(context)),
            Probe::AttentionReads => Box::new(attention_reads::accumulator(context)),
            Probe::AttentionWrites => {
                Box::new(attention_writes::Accumulator::new(context, subject))
            }
        }
    }

    fn records(
        &self,
        subject: &Subject,
        context: &ProbeContext,
        targets: &[(QueryTarget, u32)],
        chosen: &[(QueryTarget, u32)],
        found: Vec<(ProbeResult, f64)>,
    ) -> Vec<Record> {
        let first =
            |ranked: &[(QueryTarget, u32)]| ranked.iter().filter(|(_, rank)| *rank == 1).count();
        let correct = first(targets);
        let named = context.queries.selected.as_ref().map(|selected| NamedQueries {
            pairs: selected.pairs,
            used: chosen.len(),
            ranked_first: first(chosen),
        });
        let measured_queries = match self.options.per_query {
            true => self.query_ranks_in_order(context, chosen),
            false => Vec::new(),
        };
        let record = |(result, seconds): (ProbeResult, f64)| Record {
            schema: SCHEMA,
            genir: env!("CARGO_PKG_VERSION").to_owned(),
            measured_on: MeasuredOn {
                checkpoint: subject.checkpoint.clone(),
                step: subject.step,
                queries: context.queries.name.clone(),
                ranked: targets.len(),
                correct,
                over: self.options.over,
                measured: context.measured.len(),
                named,
                vocabulary: self.options.candidates,
                stages: self.options.stages.clone(),
                base: context
                    .base
                    .filter(|_| result.probe().uses_base())
                    .map(|base| base.name.clone()),
                measured_queries: match result.probe().has_ranks() {
                    true => measured_queries.clone(),
                    false => Vec::new(),
                },
            },
            seconds,
            result,
        };
        found.into_iter().map(record).collect()
    }

    /// The measured queries, in the order of the batches.
    fn query_ranks_in_order(
        &self,
        context: &ProbeContext,
        chosen: &[(QueryTarget, u32)],
    ) -> Vec<QueryRanks> {
        let rank: HashMap<QueryTarget, u32> = chosen.iter().copied().collect();
        let batches = context.queries.batches(context.measured.to_vec(), self.options.batch_size);
        let of = |found: QueryTarget| {
            let ranks = rank.get(&found).copied().into_iter().collect();
            context.query_ranks(context.queries, found.query, found.target, ranks)
        };
        batches.into_iter().flatten().map(of).collect()
    }
}

impl Probe {
    /// Returns whether the probe cannot measure anything with these options unless the decoder has stages. The paper's
    /// table of stage patching and its circuit are made of stages; other patches are not. The other probes omit means
    /// over stages.
    pub fn needs_stages(self, options: &ProbeOptions) -> bool {
        options.stages.is_none()
            && match self {
                Self::StagePatching => options.patches.is_empty(),
                Self::Circuit => options.circuit.is_empty(),
                _ => false,
            }
    }

    /// True if the probe uses the base model, if there is one.
    pub fn uses_base(self) -> bool {
        matches!(self, Self::StagePatching | Self::Circuit | Self::EncoderSwap)
    }

    /// Returns whether the probe ranks the relevant docid of every measured query.
    fn has_ranks(self) -> bool {
        matches!(
            self,
            Self::LogitLens | Self::DirectEffect | Self::StagePatching | Self::EncoderSwap
        )
    }

    fn uses_means(self) -> bool {
        matches!(self, Self::StagePatching | Self::Circuit)
    }
}
