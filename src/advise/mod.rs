//! `genir advise`: which components of the decoder retrieval depends on, as the trainable set of a recipe; and the stages
//! of a decoder, detected.
//!
//! The effect of components is measured as in the paper's stage patching (P3): their outputs are replaced by the means
//! over the correct queries, and what counts is the fall of Hits@1, the share of these queries whose relevant docid is no
//! longer at rank 1. See `docs/restricted.md`.

mod boundaries;
mod evidence;
mod render;
mod search;
mod sizes;
mod stage_detection;

use std::collections::BTreeSet;

use serde::Serialize;
use thiserror::Error;

pub use boundaries::{FoundStages, UnclearStages, recipe_section, stages_from_ratios};
pub(crate) use stage_detection::instead;
pub use stage_detection::{Confirmation, DetectionError, StageDetection};

use self::search::{Group, eliminate};
use self::sizes::Sizes;
use crate::compare::{bootstrap_interval_of, mean};
use crate::component::{
    Component, Selector, SelectorError, Stack, Stage, Stages, Trainable, selectors_of,
};
use crate::probe::{
    Ablation, Over, Place, ProbeError, ProbeOptions, ProbeQueries, QueryOutcome, Subject, Suite,
};
use crate::retrieval::CandidateSet;

/// Options of [`Advice::measure`].
#[derive(Debug, Clone)]
pub struct AdviceOptions {
    /// The share of the causal effect that the set has to cover, above 0 and at most 1.
    pub share: f64,
    /// How queries are ranked and which are measured, and the stages. Probes of their own are not measured.
    pub probes: ProbeOptions,
}

/// Errors of [`Advice::measure`].
#[derive(Debug, Error)]
pub enum AdviceError {
    /// The share is not one.
    #[error("the share is {0}, expected a number above 0 and at most 1")]
    Share(f64),
    /// The effects cannot be measured.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The set that was found cannot be counted.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// Nothing depends on the decoder.
    #[error(
        "mean ablation of all components of the decoder together costs none of the {queries} {set} queries: what the model \
         ranks does not depend on the query, so there is no effect to divide among components"
    )]
    NoEffect {
        /// Number of queries.
        queries: usize,
        /// The name of their set.
        set: String,
    },
}

/// A mean over queries with its 95% bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The interval.
    pub interval: [f64; 2],
}

/// The effect of ablating components. A fall is positive if the model becomes worse.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Effect {
    /// The component.
    pub component: Component,
    /// The layer; `None` for all layers of a stage.
    pub layer: Option<usize>,
    /// The stage; `None` if the decoder has none.
    pub stage: Option<Stage>,
    /// Number of parameters, norms among them.
    pub parameters: usize,
    /// The fall of Hits@1, from 0 to 1.
    pub hits: Estimate,
    /// The fall of the reciprocal rank, from 0 to 1.
    pub reciprocal_rank: f64,
    /// The fall of the natural logarithm of the relevant docid's probability among docids.
    pub log_probability: Estimate,
    /// True if all of it is in the advised set.
    pub is_advised: bool,
}

/// The share of the causal effect that a set keeps if all components outside of it are ablated together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Coverage {
    /// The name of the query set.
    pub set: String,
    /// Number of queries.
    pub queries: usize,
    /// Hits@1 without ablation.
    pub intact: f64,
    /// Hits@1 with all components outside of the set ablated.
    pub kept: f64,
    /// Hits@1 with all components ablated.
    pub ablated: f64,
    /// `(kept - ablated) / (intact - ablated)`. Samples of queries in which ablating everything costs nothing are not in its
    /// interval.
    pub share: Estimate,
}

/// Coverage and size of the paper's set, for comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reference {
    /// The selector.
    pub selector: String,
    /// Its number of parameters.
    pub parameters: usize,
    /// Its coverage.
    pub coverage: Coverage,
}

/// A trainable set with the measurements that it rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// The checkpoint.
    pub checkpoint: String,
    /// Updates done, if known.
    pub step: Option<u64>,
    /// Number of queries ranked, and of those with the relevant docid at rank 1.
    pub ranked: usize,
    /// See `ranked`.
    pub correct: usize,
    /// The queries that effects are means over.
    pub over: Over,
    /// The candidate set of ranks.
    pub vocabulary: CandidateSet,
    /// The stages; `None` if the decoder has too few layers.
    pub stages: Option<Stages>,
    /// The share that was asked for.
    pub share: f64,
    /// Effects of single components, by layer.
    pub components: Vec<Effect>,
    /// Effects of each component in all layers of a stage.
    pub by_stage: Vec<Effect>,
    /// Selectors for `trainable.select`. The docid rows are among them: they are trained in any case, since a new document
    /// has a new row.
    pub select: Vec<String>,
    /// Number of parameters of the advised components.
    pub parameters: usize,
    /// Number of parameters of the decoder, without docid rows and word embedding.
    pub decoder_parameters: usize,
    /// Number of parameters of the docid rows.
    pub docid_parameters: usize,
    /// Coverage of the advised set on the queries that it was searched with.
    pub coverage: Coverage,
    /// The same on other queries; `None` if there are none.
    pub checked: Option<Coverage>,
    /// The set `restricted`; `None` if the decoder has no stages.
    pub restricted: Option<Reference>,
    /// The sum of the single effects on Hits@1 divided by the effect of ablating all components together.
    pub sum_of_effects: f64,
    /// Number of ablations that were measured.
    pub ablations: usize,
    /// Why the evidence is weak, in sentences; empty if it is not.
    pub weaknesses: Vec<String>,
}

/// Outcomes as numbers, by query.
struct Scores {
    hits: Vec<f64>,
    reciprocal_rank: Vec<f64>,
    log_probability: Vec<f64>,
}

impl Scores {
    fn of(outcomes: &[QueryOutcome]) -> Self {
        let each = |of: fn(&QueryOutcome) -> f64| outcomes.iter().map(of).collect();
        Self {
            hits: each(|outcome| f64::from(outcome.rank == 1)),
            reciprocal_rank: each(|outcome| 1.0 / f64::from(outcome.rank)),
            log_probability: each(|outcome| outcome.log_probability),
        }
    }
}

impl Estimate {
    /// The mean fall from `before` to `after`, query by query.
    fn of_fall(before: &[f64], after: &[f64]) -> Self {
        let falls: Vec<f64> = before.iter().zip(after).map(|(one, other)| one - other).collect();
        let interval = bootstrap_interval_of(falls.len(), |drawn| mean_at(&falls, drawn));
        Self { mean: mean(&falls), interval }
    }
}

/// The mean of the values at some places.
fn mean_at(values: &[f64], places: &[usize]) -> f64 {
    places.iter().map(|&place| values[place]).sum::<f64>() / places.len() as f64
}

impl Coverage {
    /// From Hits@1 of each query: without ablation, with all outside of the set ablated, with everything ablated.
    fn of(set: &str, intact: &[f64], kept: &[f64], ablated: &[f64]) -> Self {
        let share = |drawn: &[usize]| {
            let [intact, kept, ablated] =
                [intact, kept, ablated].map(|values| mean_at(values, drawn));
            (kept - ablated) / (intact - ablated)
        };
        let all: Vec<usize> = (0..intact.len()).collect();
        Self {
            set: set.to_owned(),
            queries: intact.len(),
            intact: mean(intact),
            kept: mean(kept),
            ablated: mean(ablated),
            share: Estimate {
                mean: share(&all),
                interval: bootstrap_interval_of(intact.len(), share),
            },
        }
    }
}

/// A model under ablation, with counts of what was measured.
struct Measuring<'a, 'b> {
    model: &'a Ablation<'b>,
    done: usize,
    progress: &'a mut dyn FnMut(usize),
}

impl Measuring<'_, '_> {
    /// The scores of each query with each of `sets` ablated.
    fn without(&mut self, sets: &[BTreeSet<Place>]) -> Vec<Scores> {
        /// Sets that are measured on each pass over the queries. The outputs of all are in memory at once.
        const AT_ONCE: usize = 16;
        let mut scores = Vec::with_capacity(sets.len());
        for sets in sets.chunks(AT_ONCE) {
            scores.extend(self.model.without(sets).iter().map(|outcomes| Scores::of(outcomes)));
            self.done += sets.len();
            (self.progress)(self.done);
        }
        scores
    }

    /// Hits@1 of each query with `set` ablated.
    fn hits_without(&mut self, set: &BTreeSet<Place>) -> Vec<f64> {
        let scores = self.without(std::slice::from_ref(set)).pop();
        scores.map_or(Vec::new(), |scores| scores.hits)
    }
}

impl Advice {
    /// Measures the effects of components of `subject` on `queries`, and searches the smallest set whose coverage is at
    /// least the share that was asked for. The coverage is measured again on `others`, which the search does not see.
    /// `progress` is called with the number of ablations measured.
    ///
    /// The search removes components from the complete decoder: first all layers of a stage for one kind of component,
    /// then single ones, in the order of the fall of the log probability that each causes alone, per parameter. What is
    /// removed stays ablated, so that each step is measured together with all before it. In the end no single component
    /// can be removed without falling below the share. A second search removes single components from the beginning, and
    /// the smaller set of the two is taken.
    ///
    /// # Errors
    /// No query to measure over; stages that do not fit; a model whose ranks do not depend on its decoder.
    pub fn measure(
        subject: &Subject,
        queries: &mut ProbeQueries,
        others: Option<&mut ProbeQueries>,
        options: &AdviceOptions,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self, AdviceError> {
        if !(options.share > 0.0 && options.share <= 1.0) {
            return Err(AdviceError::Share(options.share));
        }
        // All measurements are of the same weights: the states of the first one are used again.
        let subject = &Subject {
            encoder_is_frozen: true,
            checkpoint: subject.checkpoint.clone(),
            ..*subject
        };
        let sizes = Sizes::of(subject.model);
        let suite = Suite::new(&[], options.probes.clone(), subject.model.t5.config())?;
        let set = queries.name().to_owned();
        let mut advice = suite.ablate(subject, queries, |model| {
            let mut measuring = Measuring { model, done: 0, progress: &mut *progress };
            Self::search(subject, &set, &sizes, &mut measuring, options)
        })??;
        if let Some(others) = others {
            advice.check_on(&suite, subject, others, &sizes)?;
        }
        advice.weaknesses = evidence::weaknesses(&advice);
        Ok(advice)
    }

    fn search(
        subject: &Subject,
        set: &str,
        sizes: &Sizes,
        measuring: &mut Measuring,
        options: &AdviceOptions,
    ) -> Result<Self, AdviceError> {
        let intact = Scores::of(measuring.model.intact());
        let all = sizes.all();
        let ablated = measuring.hits_without(&all);
        let total = mean(&intact.hits) - mean(&ablated);
        if total <= 0.0 {
            let queries = intact.hits.len();
            return Err(AdviceError::NoEffect { queries, set: set.to_owned() });
        }
        let stages = options.probes.stages.as_ref();
        let singles: Vec<BTreeSet<Place>> =
            all.iter().map(|&place| BTreeSet::from([place])).collect();
        let groups: Vec<BTreeSet<Place>> = stages.into_iter().flat_map(stage_groups).collect();
        let mut effects = |sets: &[BTreeSet<Place>]| -> Vec<Effect> {
            let scores = measuring.without(sets);
            let each = sets.iter().zip(&scores);
            each.map(|(places, scores)| effect(places, sizes, stages, &intact, scores)).collect()
        };
        let (mut components, mut by_stage) = (effects(&singles), effects(&groups));
        by_stage.iter_mut().for_each(|effect| effect.layer = None);
        let candidates = |sets: &[BTreeSet<Place>], effects: &[Effect]| -> Vec<Group> {
            let group = |(places, effect): (&BTreeSet<Place>, &Effect)| Group {
                places: places.clone(),
                parameters: effect.parameters,
                cost: effect.log_probability.mean,
            };
            sets.iter().zip(effects).map(group).collect()
        };
        let levels = [candidates(&groups, &by_stage), candidates(&singles, &components)];
        let covered = |hits: &[f64]| (mean(hits) - mean(&ablated)) / total;
        let mut kept = all.clone();
        // With stages first, then with single components alone.
        for levels in [&levels[..], &levels[1..]] {
            let found = eliminate(&all, levels, |removed| {
                Ok::<_, AdviceError>(covered(&measuring.hits_without(removed)) >= options.share)
            })?;
            if sizes.of_places(&found) < sizes.of_places(&kept) {
                kept = found;
            }
        }
        for (sets, effects) in [(&singles, &mut components), (&groups, &mut by_stage)] {
            for (places, effect) in sets.iter().zip(effects) {
                effect.is_advised = places.is_subset(&kept);
            }
        }
        let mut coverage_of = |kept: &BTreeSet<Place>| {
            let hits = measuring.hits_without(&all.difference(kept).copied().collect());
            Coverage::of(set, &intact.hits, &hits, &ablated)
        };
        let coverage = coverage_of(&kept);
        let restricted = stages.map(|stages| {
            let places = restricted_places(&all, stages);
            let parameters = sizes.of_places(&places);
            let selector = "restricted".to_owned();
            Reference { selector, parameters, coverage: coverage_of(&places) }
        });
        let depth = subject.model.t5.config().num_decoder_layers;
        let mut select = selectors_of(&kept, stages, depth);
        select.push("docids".to_owned());
        let trained = Trainable::of(&select, stages, &sizes.shapes)?.trained;
        let in_recipe = sizes.shapes.iter().filter(|(name, _)| trained.contains(name));
        let parameters: usize = in_recipe.map(|(_, shape)| shape.iter().product::<usize>()).sum();
        let (ranked, correct) = measuring.model.ranked();
        let sum: f64 = components.iter().map(|effect| effect.hits.mean).sum();
        Ok(Self {
            checkpoint: subject.checkpoint.clone(),
            step: subject.step,
            ranked,
            correct,
            over: options.probes.over,
            vocabulary: options.probes.candidates,
            stages: stages.cloned(),
            share: options.share,
            components,
            by_stage,
            select,
            parameters: parameters - sizes.docids,
            decoder_parameters: sizes.decoder,
            docid_parameters: sizes.docids,
            coverage,
            checked: None,
            restricted,
            sum_of_effects: sum / total,
            ablations: measuring.done,
            weaknesses: Vec::new(),
        })
    }

    /// Measures the coverage on `others`. That none of them is correct leaves it unknown.
    fn check_on(
        &mut self,
        suite: &Suite,
        subject: &Subject,
        others: &mut ProbeQueries,
        sizes: &Sizes,
    ) -> Result<(), AdviceError> {
        let (set, all, kept) = (others.name().to_owned(), sizes.all(), self.places());
        let found = suite.ablate(subject, others, |model| {
            let sets = [all.difference(&kept).copied().collect(), all.clone()];
            let hits = |outcomes: &[QueryOutcome]| Scores::of(outcomes).hits;
            let outcomes: Vec<Vec<f64>> =
                model.without(&sets).iter().map(|outcomes| hits(outcomes)).collect();
            match outcomes.as_slice() {
                [kept, ablated] => Some(Coverage::of(&set, &hits(model.intact()), kept, ablated)),
                _ => None,
            }
        });
        self.checked = match found {
            Ok(found) => found,
            Err(ProbeError::NoCorrect { .. } | ProbeError::NoQueries { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(())
    }

    /// The advised components: layer and component.
    pub fn places(&self) -> BTreeSet<Place> {
        let advised = self.components.iter().filter(|effect| effect.is_advised);
        advised.filter_map(|effect| Some((effect.layer?, effect.component))).collect()
    }
}

/// Each kind of component in all layers of each stage.
fn stage_groups(stages: &Stages) -> Vec<BTreeSet<Place>> {
    let group = |component, stage| -> BTreeSet<Place> {
        stages.layers(stage).clone().map(|layer| (layer, component)).collect()
    };
    let of_stage = |stage| Component::ALL.map(|component| group(component, stage));
    Stage::ALL.into_iter().flat_map(of_stage).collect()
}

fn restricted_places(all: &BTreeSet<Place>, stages: &Stages) -> BTreeSet<Place> {
    let restricted = "restricted".parse::<Selector>();
    let names = |&(layer, component): &Place| {
        restricted.as_ref().is_ok_and(|selector| {
            selector.matches_component(Stack::Decoder, layer, component, Some(stages))
        })
    };
    all.iter().copied().filter(names).collect()
}

/// The effect of ablating `places`, all of one kind of component and of one layer (the first) or stage.
fn effect(
    places: &BTreeSet<Place>,
    sizes: &Sizes,
    stages: Option<&Stages>,
    intact: &Scores,
    scores: &Scores,
) -> Effect {
    let &(layer, component) = places.first().unwrap_or(&(0, Component::SelfAttention));
    Effect {
        component,
        layer: Some(layer),
        stage: stages.map(|stages| stages.of(layer)),
        parameters: sizes.of_places(places),
        hits: Estimate::of_fall(&intact.hits, &scores.hits),
        reciprocal_rank: mean(&intact.reciprocal_rank) - mean(&scores.reciprocal_rank),
        log_probability: Estimate::of_fall(&intact.log_probability, &scores.log_probability),
        is_advised: false,
    }
}
