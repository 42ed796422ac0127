//! Measures probes during training, each at its own cadence, within a share of the training time.

mod budget;
mod sets;

use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::allocator;
use crate::prefix::TextSet;
use crate::probe::{Probe, Record, SkipReason, Skipped, Stored, files};
use crate::processes::Order;
use crate::recipe::ProbesSection;
use crate::report;
use crate::run::RunDirectory;
use crate::train::TrainError;
use crate::train::callback::{Cadence, Callback, Ending, TrainerState, Verdict};
use crate::train::costs::Phase;
use crate::train::plan::Plan;
use budget::{Budget, Wait};
use sets::Measured;
pub(in crate::train) use sets::{ProbeSets, Probed};

/// The probes of a run, their results, and when they are due.
pub struct Probes<'a> {
    plan: &'a Plan,
    section: &'a ProbesSection,
    run: &'a RunDirectory,
    sets: ProbeSets<'a>,
    /// True if it was logged where the base model was found.
    has_named_base: bool,
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

impl<'a> Probes<'a> {
    /// Encodes the queries.
    ///
    /// # Errors
    /// The split to probe has no queries, or a query cannot be encoded.
    pub fn new(
        plan: &'a Plan,
        section: &'a ProbesSection,
        run: &'a RunDirectory,
    ) -> Result<Self, TrainError> {
        Ok(Self {
            plan,
            section,
            run,
            sets: ProbeSets::new(plan, section)?,
            has_named_base: false,
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
        let every = self.sets.every.iter();
        every.filter(|(_, every)| is_due(every)).map(|(probe, _)| *probe).collect()
    }

    /// The probes that are due in between, those that had to wait among them.
    fn due(&self, step: u64) -> Vec<Probe> {
        let newly = self.newly_due(step);
        if newly.is_empty() {
            return Vec::new();
        }
        let due = self.sets.every.iter().map(|(probe, _)| *probe);
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
            let every = self.sets.every.iter().filter(|(probe, _)| due.contains(probe));
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
        self.name_base(due, state);
        let (step, prefix) = (state.step, state.prefix.as_ref());
        let probed = Probed { model: state.model, step, prefix };
        let check = || state.check_interrupt();
        if let Some(world) = state.world {
            world.order(Order::Probe { probes: self.sets.order_of(due) })?;
        }
        let measured = self.sets.measure(state.world, due, probed, &check)?;
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

    /// Logs where the base model was found, the first time that one of `due` uses it.
    fn name_base(&mut self, due: &[Probe], state: &TrainerState) {
        if !self.has_named_base && due.iter().any(|probe| probe.uses_base()) {
            self.has_named_base = true;
            if let Some(note) = self.plan.probe_base().and_then(|base| base.note.as_ref()) {
                state.monitor.message(note);
            }
        }
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
        self.sets.text_sets(steps)
    }

    fn reads_no_other_texts(&self) -> bool {
        // Probes record activations of complete stacks.
        self.section.run.is_empty()
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
