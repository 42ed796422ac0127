//! The probes of a run with their queries, which one process measures, or several together.

use std::ops::ControlFlow;
use std::sync::Arc;

use burn::module::Module;

use crate::prefix::{Prefix, TextSet};
use crate::probe::{
    ComparisonModel, ComparisonModels, PROBE_PRECISION, Probe, ProbeError, ProbeQueries, Record,
    Subject, Suite,
};
use crate::processes::World;
use crate::recipe::ProbesSection;
use crate::t5::GenirModel;
use crate::train::callback::Cadence;
use crate::train::checks::splits_to_probe;
use crate::train::plan::Plan;
use crate::train::{PlanError, PlanErrors, TrainError};

/// The probes of a run with their queries, encoded once.
pub(in crate::train) struct ProbeSets<'a> {
    plan: &'a Plan,
    section: &'a ProbesSection,
    /// When each probe is due; none for never in between.
    pub every: Vec<(Probe, Option<u64>)>,
    /// One for each number of queries that a probe asks for.
    sets: Vec<Set>,
    others: ComparisonModels,
}

/// Probes that use the same queries.
struct Set {
    probes: Vec<Probe>,
    queries: ProbeQueries,
    /// The queries that circuits are evaluated on.
    test: ProbeQueries,
}

/// The model that is measured.
#[derive(Clone, Copy)]
pub(in crate::train) struct Probed<'a> {
    /// With autodiff.
    pub model: &'a GenirModel,
    /// Updates done.
    pub step: u64,
    pub prefix: Option<&'a Arc<Prefix>>,
}

/// Results of a measurement.
#[derive(Default)]
pub(in crate::train) struct Measured {
    pub records: Vec<Record>,
    /// Probes that found no query to measure, with the reason as text.
    pub without: Vec<(Vec<Probe>, String)>,
}

impl<'a> ProbeSets<'a> {
    /// Encodes the queries.
    ///
    /// # Errors
    /// The split to probe has no queries, or a query cannot be encoded.
    pub fn new(plan: &'a Plan, section: &'a ProbesSection) -> Result<Self, TrainError> {
        let (split, test) = splits_to_probe(section, &plan.corpus).map_err(PlanErrors)?;
        let mut sets: Vec<(usize, Vec<Probe>)> = Vec::new();
        for &probe in &section.run {
            let count = section.queries(probe);
            match sets.iter_mut().find(|(known, _)| *known == count) {
                Some((_, probes)) => probes.push(probe),
                None => sets.push((count, vec![probe])),
            }
        }
        let set = |(count, probes)| {
            Ok(Set {
                probes,
                queries: ProbeQueries::new(plan.queries_of(split, Some(count))?),
                test: ProbeQueries::new(plan.queries_of(test, Some(count))?),
            })
        };
        let steps = |probe| {
            let evaluate = plan.recipe.evaluate.every;
            section.every(probe)?.steps(evaluate, &plan.epochs)
        };
        Ok(Self {
            plan,
            section,
            every: section.run.iter().map(|&probe| (probe, steps(probe))).collect(),
            sets: sets.into_iter().map(set).collect::<Result<_, TrainError>>()?,
            others: ComparisonModels::default(),
        })
    }

    /// The texts of all sets in a run of `steps` updates.
    pub fn text_sets(&self, steps: u64) -> Vec<TextSet<'_>> {
        let (at_start, at_end) = (self.section.at_start, self.section.at_end);
        let times = |set: &Set| {
            let every = self.every.iter().filter(|(probe, _)| set.probes.contains(probe));
            let every = every.filter_map(|(_, every)| *every).min();
            Cadence { every, at_start, at_end }.times(steps)
        };
        let sets = self.sets.iter().map(|set| (set, times(set)));
        sets.flat_map(|(set, times)| {
            let judges = set.probes.contains(&Probe::Circuit);
            let test = judges.then(|| set.test.text_set(times));
            [set.queries.text_set(times)].into_iter().chain(test)
        })
        .collect()
    }

    /// The probes among those of the recipe whose bits are set in an [`Order::Probe`](crate::processes::Order::Probe).
    pub fn ordered(&self, probes: u64) -> Vec<Probe> {
        let run = self.section.run.iter().enumerate();
        run.filter(|(place, _)| probes >> place & 1 == 1).map(|(_, probe)| *probe).collect()
    }

    /// The bits of [`ProbeSets::ordered`].
    pub fn order_of(&self, due: &[Probe]) -> u64 {
        let place = |probe: &Probe| self.section.run.iter().position(|other| other == probe);
        due.iter().filter_map(place).fold(0, |probes, place| probes | 1 << place)
    }

    /// Measures `due`, each with its queries, in the precision of [`PROBE_PRECISION`]. That no query is correct yet is
    /// no error. `check` is called between rounds of batches. The processes of `world` share the batches: all of them measure
    /// the same and have all results.
    ///
    /// # Errors
    /// [`TrainError::Interrupted`] if `check` fails in any process; or a probe cannot be measured, the processes differ in
    /// queries, options or base model, or MPI failed.
    pub fn measure(
        &mut self,
        world: Option<&World>,
        due: &[Probe],
        probed: Probed,
        check: &dyn Fn() -> Result<(), TrainError>,
    ) -> Result<Measured, TrainError> {
        let model = probed.model.valid().merged();
        self.open_base(due, &model, world)?;
        let plan = self.plan;
        let subject = Subject {
            model: &model.with_precision(PROBE_PRECISION),
            device: &plan.device,
            tokenizer: &plan.tokenizer,
            docids: &plan.docids,
            checkpoint: plan.recipe.run.directory.display().to_string(),
            step: Some(probed.step),
            encoder_is_frozen: probed.prefix.is_some(),
        };
        let mut measured = Measured::default();
        for set in &mut self.sets {
            let probes: Vec<Probe> =
                set.probes.iter().copied().filter(|probe| due.contains(probe)).collect();
            if probes.is_empty() {
                continue;
            }
            let options = self.section.options(plan.stages.as_ref());
            let suite = Suite::new(&probes, options, plan.config())?.shared_by(world);
            set.queries.use_stored_prefix(probed.prefix, world)?;
            set.test.use_stored_prefix(probed.prefix, world)?;
            let (queries, test) = (&mut set.queries, Some(&mut set.test));
            let mut check = |_, _| match check() {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            match suite.measure(&subject, queries, test, &self.others, &mut check) {
                Ok(records) => measured.records.extend(records),
                Err(ProbeError::NoCorrect { set, ranked, best_rank, .. }) => {
                    let why = format!(
                        "none of {ranked} {set} queries has its relevant docid at rank 1, best rank {best_rank}"
                    );
                    measured.without.push((probes, why));
                }
                Err(ProbeError::Interrupted) => return Err(TrainError::Interrupted),
                Err(ProbeError::Processes(error)) => return Err(error.into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(measured)
    }

    /// Opens the base model beside `model` the first time that one of `due` uses it.
    fn open_base(
        &mut self,
        due: &[Probe],
        model: &GenirModel,
        world: Option<&World>,
    ) -> Result<(), TrainError> {
        let is_wanted = self.others.base.is_none() && due.iter().any(|probe| probe.uses_base());
        if let Some(base) = self.plan.probe_base().filter(|_| is_wanted) {
            let plan = self.plan;
            let mut other = match base.is_start() {
                true => ComparisonModel {
                    name: base.name.clone(),
                    t5: plan.base_sharing_frozen(&model.t5)?,
                    has_same_encoder: true,
                    left_out: Default::default(),
                },
                false => base.open(&plan.device).map_err(PlanError::from)?,
            };
            other.t5 = other.t5.with_precision(PROBE_PRECISION);
            self.others.base = Some(other);
            if let Some(world) = world {
                self.others.agree(world)?;
            }
        }
        Ok(())
    }
}
