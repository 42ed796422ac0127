//! Measures probes during training, each at its own cadence, within a share of the training time.

mod budget;

use std::ops::ControlFlow;
use std::time::Instant;

use burn::module::Module;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::allocator;
use crate::component::Stages;
use crate::prefix::TextSet;
use crate::probe::{
    ComparisonModel, ComparisonModels, PROBE_PRECISION, Probe, ProbeError, ProbeQueries, Record,
    SkipReason, Skipped, Stored, Subject, Suite, files,
};
use crate::recipe::ProbesSection;
use crate::report;
use crate::run::RunDirectory;
use crate::t5::GenirModel;
use crate::train::callback::{Cadence, Callback, Ending, TrainerState, Verdict};
use crate::train::checks::splits_to_probe;
use crate::train::costs::Phase;
use crate::train::plan::Plan;
use crate::train::{PlanError, PlanErrors, TrainError};
use budget::{Budget, Wait};

/// The probes of a run with their queries, encoded once.
pub struct Probes<'a> {
    plan: &'a Plan,
    section: &'a ProbesSection,
    stages: Option<&'a Stages>,
    run: &'a RunDirectory,
    /// When each probe is due; none for never in between.
    every: Vec<(Probe, Option<u64>)>,
    /// One for each number of queries that a probe asks for.
    sets: Vec<Set>,
    others: ComparisonModels,
    budget: Budget,
    /// Probes that were due and had to wait.
    waiting: Vec<Probe>,
    /// All results of each probe in this run, for pictures of their history.
    histories: Vec<(Probe, Vec<Record>)>,
    /// True if the measurement at the end was made.
    ended: bool,
    /// When probes were due and not measured.
    skipped: Vec<Skipped>,
}

/// Probes that use the same queries.
struct Set {
    probes: Vec<Probe>,
    queries: ProbeQueries,
    /// The queries that circuits are evaluated on.
    test: ProbeQueries,
}

/// Results of a measurement.
#[derive(Default)]
struct Measured {
    records: Vec<Record>,
    /// Probes that found no query to measure, with the reason as text.
    without: Vec<(Vec<Probe>, String)>,
}

impl<'a> Probes<'a> {
    /// Encodes the queries.
    ///
    /// # Errors
    /// The split to probe has no queries, a query cannot be encoded, or the decoder has no stages and a probe needs
    /// them.
    pub fn new(
        plan: &'a Plan,
        section: &'a ProbesSection,
        run: &'a RunDirectory,
    ) -> Result<Self, TrainError> {
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
            stages: plan.stages.as_ref(),
            run,
            every: section.run.iter().map(|&probe| (probe, steps(probe))).collect(),
            sets: sets.into_iter().map(set).collect::<Result<_, TrainError>>()?,
            others: ComparisonModels::default(),
            budget: Budget::new(section.max_share),
            waiting: Vec::new(),
            histories: section.run.iter().map(|&probe| (probe, Vec::new())).collect(),
            ended: false,
            skipped: Vec::new(),
        })
    }

    /// The probes that are due in between by their own cadence.
    fn newly_due(&self, step: u64) -> Vec<Probe> {
        let is_due = |every: &Option<u64>| every.is_some_and(|every| step.is_multiple_of(every));
        self.every.iter().filter(|(_, every)| is_due(every)).map(|(probe, _)| *probe).collect()
    }

    /// The probes that are due in between, those that had to wait among them.
    fn due(&self, step: u64) -> Vec<Probe> {
        let newly = self.newly_due(step);
        if newly.is_empty() {
            return Vec::new();
        }
        let due = self.every.iter().map(|(probe, _)| *probe);
        due.filter(|probe| newly.contains(probe) || self.waiting.contains(probe)).collect()
    }

    /// Postpones `due`. Logs this once until they are measured, and records it in the results of the probes that were
    /// due now.
    fn wait(
        &mut self,
        due: Vec<Probe>,
        wait: Wait,
        state: &mut TrainerState,
    ) -> Result<(), TrainError> {
        let reason = format!(
            "probes would take more than their share of training time (probes.max_share = {}; {:.1} s more \
             after {:.1} s of training)",
            self.section.max_share.unwrap_or_default(),
            wait.cost,
            state.training_seconds,
        );
        self.skip(&self.newly_due(state.step), state, SkipReason::MaxShare, &reason)?;
        if self.waiting.is_empty() {
            let steps = state.step as f64 * wait.training / state.training_seconds;
            let every = self.every.iter().filter(|(probe, _)| due.contains(probe));
            let least = every.filter_map(|(_, every)| *every).min().unwrap_or(1);
            let next = (steps / least as f64).ceil() as u64 * least;
            let when = match next <= state.total_steps {
                true => format!("next at about step {next}"),
                false => "none before the end".to_owned(),
            };
            state.monitor.message(&format!("step {}: {reason}: {when}", state.step));
        }
        self.waiting = due;
        Ok(())
    }

    /// Records in the results of `probes` that they were due and not measured.
    fn skip(
        &mut self,
        probes: &[Probe],
        state: &mut TrainerState,
        reason: SkipReason,
        message: &str,
    ) -> Result<(), TrainError> {
        for &probe in probes {
            let skipped = Skipped::new(probe, state.step, reason, message.to_owned());
            let (path, line) = files::skipped_line(&self.run.probes(), &skipped)?;
            state.monitor.append(&path, &line);
            self.skipped.push(skipped);
        }
        Ok(())
    }

    /// Measures `due`, and notes the time; whether it `counts` against the share.
    fn measure_now(
        &mut self,
        due: &[Probe],
        counts: bool,
        state: &mut TrainerState,
    ) -> Result<(), TrainError> {
        let begun = Instant::now();
        let _memory = allocator::MemoryScope::begin();
        let model = state.model.valid().merged();
        self.open_base(due, state, &model)?;
        let measured = self.measure(due, &model, state)?;
        let cost = |record: &Record| (record.result.probe(), record.seconds);
        let parts: Vec<(Probe, f64)> = measured.records.iter().map(cost).collect();
        self.keep(measured, state)?;
        let seconds = begun.elapsed().as_secs_f64();
        self.budget.spend(seconds, &parts, counts);
        self.waiting.clear();

        state.monitor.pause();
        if !parts.is_empty() {
            let names: Vec<&str> = parts.iter().map(|(probe, _)| probe.name()).collect();
            let names = names.join(", ");
            state
                .monitor
                .message(&format!("step {}: probed {names} in {seconds:.1} s", state.step));
        }
        let mut values = vec![("time/probes_seconds", self.budget.total)];
        if state.training_seconds > 0.0 {
            values.push(("time/probes_share", self.budget.total / state.training_seconds));
        }
        state.monitor.scalars(state.step, state.epoch, &values);
        Ok(())
    }

    /// Opens the base model beside `model` the first time that one of `due` uses it, and logs where it was found.
    fn open_base(
        &mut self,
        due: &[Probe],
        state: &TrainerState,
        model: &GenirModel,
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
            if let Some(note) = &base.note {
                state.monitor.message(note);
            }
        }
        Ok(())
    }

    /// Measures `due`, each with its queries, in the precision of [`PROBE_PRECISION`]. That no query is correct yet is
    /// no error.
    fn measure(
        &mut self,
        due: &[Probe],
        model: &GenirModel,
        state: &TrainerState,
    ) -> Result<Measured, TrainError> {
        let (plan, prefix) = (self.plan, state.prefix.as_ref());
        let model = &model.clone().with_precision(PROBE_PRECISION);
        let subject = Subject {
            model,
            device: &plan.device,
            tokenizer: &plan.tokenizer,
            docids: &plan.docids,
            checkpoint: self.run.path().display().to_string(),
            step: Some(state.step),
            encoder_is_frozen: prefix.is_some(),
        };
        let mut measured = Measured::default();
        for set in &mut self.sets {
            let probes: Vec<Probe> =
                set.probes.iter().copied().filter(|probe| due.contains(probe)).collect();
            if probes.is_empty() {
                continue;
            }
            let suite = Suite::new(&probes, self.section.options(self.stages), plan.config())?;
            if let Some(prefix) = prefix {
                set.queries.use_stored_prefix(prefix);
                set.test.use_stored_prefix(prefix);
            }
            let (queries, test) = (&mut set.queries, Some(&mut set.test));
            let mut check = |_, _| match state.check_interrupt() {
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
                Err(error) => return Err(error.into()),
            }
        }
        Ok(measured)
    }

    /// Writes results to the run's files and to TensorBoard.
    fn keep(&mut self, measured: Measured, state: &mut TrainerState) -> Result<(), TrainError> {
        let step = state.step;
        for (probes, why) in &measured.without {
            state.monitor.message(&format!("step {step}: probes skipped: {why}"));
            self.skip(probes, state, SkipReason::NoCorrectQuery, why)?;
        }
        for record in measured.records {
            let (path, line) = files::line(&self.run.probes(), &record)?;
            state.monitor.append(&path, &line);
            state.monitor.points(step, state.epoch, &report::points(&record));
            state.monitor.histograms(step, &report::histograms(&record));
            let probe = record.result.probe();
            let own = self.histories.iter_mut().find(|(known, _)| *known == probe);
            let Some((_, history)) = own else { continue };
            history.push(record);
            if !is_drawn(history.len(), state.is_last) {
                continue;
            }
            for figure in report::figures(history, &self.skipped) {
                match figure.image() {
                    Ok(image) => state.monitor.images(step, &[image]),
                    // Not a reason to lose a run: the result is stored, and can be drawn later.
                    Err(error) => tracing::warn!("{error}"),
                }
            }
        }
        Ok(())
    }
}

/// Returns whether the pictures of a measurement go to TensorBoard: those of the first four, then of each power of two,
/// and of the last. Each shows all measurements before it, and they are most of a file that would otherwise grow by a
/// megabyte with each.
fn is_drawn(measurement: usize, is_last: bool) -> bool {
    measurement <= 4 || measurement.is_power_of_two() || is_last
}

impl Callback for Probes<'_> {
    fn cadence(&self) -> Cadence {
        Cadence { every: Some(1), at_start: true, at_end: true }
    }

    fn text_sets(&self, steps: u64) -> Vec<TextSet<'_>> {
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

    fn reads_no_other_texts(&self) -> bool {
        // Probes record activations of complete stacks.
        self.every.is_empty()
    }

    fn phase(&self) -> Option<Phase> {
        Some(Phase::Probes)
    }

    fn call(&mut self, state: &mut TrainerState) -> Result<Verdict, TrainError> {
        let at_start = state.step == 0 && self.section.at_start;
        let at_end = state.is_last && self.section.at_end;
        if at_start || at_end {
            self.ended |= at_end;
            self.measure_now(&self.section.run, false, state)?;
        } else if state.step > 0 {
            let due = self.due(state.step);
            if !due.is_empty() {
                match self.budget.wait(&due, state.training_seconds) {
                    Some(wait) => self.wait(due, wait, state)?,
                    None => self.measure_now(&due, true, state)?,
                }
            }
        }
        Ok(Verdict::Continue)
    }

    fn end(&mut self, state: &mut TrainerState, ending: Ending) -> Result<(), TrainError> {
        if !ending.is_final() {
            return Ok(());
        }
        if self.section.at_end && !self.ended {
            self.measure_now(&self.section.run, false, state)?;
        }
        if state.step > 0 {
            state.monitor.message(&format!(
                "probes took {:.1} s, {:.1}% of {:.1} s of training",
                self.budget.total,
                100.0 * self.budget.total / state.training_seconds,
                state.training_seconds,
            ));
        }
        Ok(())
    }

    fn state(&self) -> Option<Value> {
        Some(json!({
            "budget": self.budget,
            "waiting": self.waiting,
            "ended": self.ended,
        }))
    }

    fn restore(&mut self, state: Value) -> serde_json::Result<()> {
        #[derive(Deserialize)]
        struct State {
            budget: Budget,
            waiting: Vec<Probe>,
            ended: bool,
        }
        let State { mut budget, waiting, ended } = serde_json::from_value(state)?;
        budget.max_share = self.section.max_share;
        self.budget = budget;
        (self.waiting, self.ended) = (waiting, ended);
        // The results themselves are in the run's files, which end where the checkpoint was written.
        match files::read_histories(&self.run.probes()) {
            Ok(Stored { records, skipped }) => {
                for (probe, history) in &mut self.histories {
                    let own = records.iter().filter(|record| record.result.probe() == *probe);
                    history.extend(own.cloned());
                }
                self.skipped = skipped;
            }
            Err(error) => {
                tracing::warn!("pictures of the probes begin where the run continues: {error}");
            }
        }
        Ok(())
    }

    fn name(&self) -> String {
        "probes".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::is_drawn;

    #[test]
    fn pictures_of_a_long_run_are_few_and_show_its_end() {
        let drawn: Vec<usize> = (1..=120).filter(|&at| is_drawn(at, at == 120)).collect();
        assert_eq!(drawn, [1, 2, 3, 4, 8, 16, 32, 64, 120]);
    }
}
