//! Says what a run costs and what comes of it: scalars while it runs, `summary.json` when it is over.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::improves;
use crate::device;
use crate::exact::{Exact, from_exact, to_exact};
use crate::files::write_atomically;
use crate::monitor::Hyperparameter;
use crate::recipe::OptimizerSettings;
use crate::retrieval::names;
use crate::run::{
    Best, EnergyMeter, Evaluation, GpuMeter, Parameters, RunDirectory, RunOutcome, Seconds,
    Summary, peak_memory,
};
use crate::train::TrainError;
use crate::train::callback::{Cadence, Callback, Ending, TrainerState, Verdict};
use crate::train::costs::{Costs, Phase};
use crate::train::plan::Plan;

/// Writes time and memory as scalars at the cadence of the log, the run's hyperparameters and how it ended to
/// TensorBoard, and `summary.json`.
pub struct WriteSummary<'a> {
    plan: &'a Plan,
    run: &'a RunDirectory,
    best: Option<Best>,
    last: Option<Evaluation>,
    /// The step whose costs were written last.
    written: Option<u64>,
    processors: Energy,
    /// Read only where it is reported or stored: one reading takes NVML 7 ms on an H100, as long as a small step.
    gpu: RefCell<Energy>,
    gpu_meter: Option<Rc<GpuMeter>>,
    /// The most GPU memory so far, in bytes.
    gpu_memory: Option<u64>,
}

/// The energy of a part of the machine.
struct Energy {
    /// Returns the joules since this process started, if they can be read.
    meter: Option<Box<dyn FnMut() -> Option<f64>>>,
    /// Joules of the processes that this one continues.
    before: f64,
    /// Joules so far; `None` if they are not known of the whole run.
    joules: Option<f64>,
}

impl Energy {
    fn new(meter: Option<impl FnMut() -> Option<f64> + 'static>) -> Self {
        let joules = meter.is_some().then_some(0.0);
        let meter = meter.map(|meter| Box::new(meter) as Box<dyn FnMut() -> Option<f64>>);
        Self { meter, before: 0.0, joules }
    }

    fn measure(&mut self) {
        self.joules = self.meter.as_mut().and_then(|meter| Some(self.before + meter()?));
    }

    /// Goes on from the joules of the processes before. If these are not known, those of the whole run are not either.
    fn restore(&mut self, before: Option<f64>) {
        match before {
            Some(joules) => self.before = joules,
            None => self.meter = None,
        }
        self.measure();
    }
}

impl<'a> WriteSummary<'a> {
    /// The summary of the run in `run`.
    pub fn new(plan: &'a Plan, run: &'a RunDirectory) -> Self {
        let processors = EnergyMeter::open().map(|mut meter| move || Some(meter.joules()));
        let bus_id = device::pci_bus_id(&plan.recipe.run.device);
        let gpu_meter = bus_id.and_then(GpuMeter::open).map(Rc::new);
        let gpu = gpu_meter.clone().filter(|meter| meter.counts_energy());
        let gpu = RefCell::new(Energy::new(gpu.map(|meter| move || meter.joules())));
        let processors = Energy::new(processors);
        let (best, last, written, gpu_memory) = (None, None, None, None);
        Self { plan, run, best, last, written, processors, gpu, gpu_meter, gpu_memory }
    }

    /// Joules of the GPU until now.
    fn gpu_joules(&self) -> Option<f64> {
        let mut gpu = self.gpu.borrow_mut();
        gpu.measure();
        gpu.joules
    }

    fn measure_gpu_memory(&mut self) {
        let now = self.gpu_meter.as_ref().and_then(|meter| meter.memory());
        self.gpu_memory = self.gpu_memory.max(now);
    }

    fn note_metrics(&mut self, state: &TrainerState) {
        if state.metrics.is_empty() {
            return;
        }
        let (step, metrics) = (state.step, &state.metrics);
        let metric = &self.plan.recipe.save.best_metric;
        if let Some(&value) = metrics.get(metric)
            && improves(metric, value, self.best.as_ref().map(|best| best.value), 0.0)
        {
            self.best = Some(Best { metric: metric.clone(), value, step });
        }
        self.last = Some(Evaluation { step, metrics: metrics.clone() });
    }

    fn write_costs(&mut self, state: &mut TrainerState) {
        if self.written == Some(state.step) {
            return;
        }
        self.written = Some(state.step);
        self.measure_gpu_memory();
        // Those of the prefix and of probes are written where they are measured.
        let mut values = vec![
            ("time/steps_seconds", state.costs.seconds(Phase::Steps)),
            ("time/evaluation_seconds", state.costs.seconds(Phase::Evaluation)),
            ("time/saving_seconds", state.costs.seconds(Phase::Saving)),
            ("time/total_seconds", state.costs.total_seconds()),
            ("time/processor_seconds", state.costs.processor_seconds),
            ("memory/optimizer_mebibytes", mebibytes(state.costs.optimizer_bytes)),
        ];
        let of_processors = self.processors.joules;
        values.extend(of_processors.map(|joules| ("energy/processor_joules", joules)));
        values.extend(self.gpu_joules().map(|joules| ("energy/gpu_joules", joules)));
        values.extend(peak_memory().map(|bytes| ("memory/peak_mebibytes", mebibytes(bytes))));
        let of_gpu = self.gpu_memory;
        values.extend(of_gpu.map(|bytes| ("memory/gpu_peak_mebibytes", mebibytes(bytes))));
        state.monitor.scalars(state.step, state.epoch, &values);
    }

    fn contents(&self, state: &TrainerState, ending: Ending) -> Summary {
        let (ended, reason) = match ending {
            Ending::Finished => (RunOutcome::Finished, None),
            Ending::Stopped(reason) => (RunOutcome::Stopped, Some(reason.to_owned())),
            Ending::Interrupted(signal) => {
                (RunOutcome::Interrupted, Some(format!("signal {signal}")))
            }
            Ending::Failed(error) => (RunOutcome::Failed, Some(error.to_string())),
        };
        let total = &self.plan.table.total;
        Summary {
            genir: env!("CARGO_PKG_VERSION").to_owned(),
            device: device::describe(&self.plan.device, self.plan.precision),
            ended,
            reason,
            steps: state.step,
            total_steps: state.total_steps,
            epochs: state.epoch,
            examples: state.costs.examples,
            loss: (state.step > 0).then_some(state.loss),
            best: self.best.clone(),
            last: self.last.clone(),
            parameters: Parameters {
                trained: total.trained,
                frozen: total.parameters - total.trained,
            },
            optimizer_state_bytes: state.costs.optimizer_bytes,
            peak_memory_bytes: peak_memory(),
            peak_gpu_memory_bytes: self.gpu_memory,
            processor_joules: self.processors.joules,
            gpu_joules: self.gpu_joules(),
            processor_seconds: Some(state.costs.processor_seconds),
            seconds: seconds(&state.costs),
        }
    }

    /// The keys of the recipe that runs are compared by, and what follows from them.
    fn hyperparameters(&self) -> Vec<(&'static str, Hyperparameter)> {
        let recipe = &self.plan.recipe;
        let text = |value: &dyn ToString| Hyperparameter::Text(value.to_string());
        let number = Hyperparameter::Number;
        let (optimizer, weight_decay) = match recipe.optimizer.optimizer {
            OptimizerSettings::AdamW { weight_decay, .. } => ("adamw", weight_decay),
            OptimizerSettings::Adafactor { weight_decay, .. } => ("adafactor", weight_decay),
        };
        let ratio = recipe.task.ratio;
        let ratio = ratio.map_or("none".to_owned(), |ratio| ratio.to_string());
        vec![
            ("corpus.path", text(&recipe.corpus.path)),
            ("model.base", text(&recipe.model.base)),
            ("model.init", text(&recipe.model.init)),
            ("model.dropout", number(self.plan.dropout())),
            ("task.tasks", Hyperparameter::Text(words(&recipe.task.tasks))),
            ("task.ratio", Hyperparameter::Text(ratio)),
            ("docids.rows", text(&recipe.docids.rows)),
            ("trainable.select", Hyperparameter::Text(words(&recipe.trainable.select))),
            ("trained_parameters", number(self.plan.table.total.trained as f64)),
            ("optimizer.name", text(&optimizer)),
            ("optimizer.learning_rate", number(recipe.optimizer.learning_rate)),
            ("optimizer.weight_decay", number(weight_decay)),
            ("optimizer.clip_norm", number(recipe.optimizer.clip_norm.unwrap_or(0.0))),
            ("schedule.name", text(&recipe.schedule.name)),
            ("schedule.warmup_steps", number(recipe.schedule.warmup_steps as f64)),
            ("train.steps", number(self.plan.total_steps() as f64)),
            ("train.batch_size", number(recipe.train.batch_size as f64)),
            ("train.accumulate", number(recipe.train.accumulate as f64)),
            ("train.label_smoothing", number(recipe.train.label_smoothing)),
            ("run.seed", number(recipe.run.seed as f64)),
        ]
    }

    /// The metrics that TensorBoard shows next to them: the loss, and the main metrics of each ranking.
    fn metrics(&self) -> Vec<String> {
        let recipe = &self.plan.recipe;
        let splits = recipe.evaluate.splits.iter().map(|&split| split.to_string());
        let of_docids = recipe.task.tasks.iter().copied().filter(|task| task.is_of_docids());
        let memorised = of_docids.map(names::of_memorisation);
        let memorised = memorised.filter(|_| recipe.evaluate.memorisation > 0);
        let rankings: Vec<String> = splits.chain(memorised).collect();
        let metrics = rankings.iter().flat_map(|ranking| {
            ["hits@1", "hits@10", "mrr@10"].map(|metric| format!("{ranking}/{metric}"))
        });
        let mut all = vec!["loss/train".to_owned()];
        all.extend(metrics);
        all.extend(recipe.evaluate.denoising.then(|| names::DENOISING_LOSS.to_owned()));
        if !all.contains(&recipe.save.best_metric) {
            all.insert(1, recipe.save.best_metric.clone());
        }
        all
    }
}

impl Callback for WriteSummary<'_> {
    fn cadence(&self) -> Cadence {
        Cadence { every: Some(1), at_start: true, at_end: false }
    }

    fn reads_no_other_texts(&self) -> bool {
        true
    }

    fn call(&mut self, state: &mut TrainerState) -> Result<Verdict, TrainError> {
        self.note_metrics(state);
        self.processors.measure();
        if state.step == 0 {
            state.monitor.hyperparameters(&self.hyperparameters(), &self.metrics());
        } else if !state.is_last && state.step.is_multiple_of(self.plan.recipe.log.every_steps) {
            self.write_costs(state);
        }
        Ok(Verdict::Continue)
    }

    fn end(&mut self, state: &mut TrainerState, ending: Ending) -> Result<(), TrainError> {
        // An evaluation that fails leaves metrics of some queries only.
        if !matches!(ending, Ending::Failed(_)) {
            self.note_metrics(state);
        }
        self.processors.measure();
        self.measure_gpu_memory();
        let contents = self.contents(state, ending);
        // A run that continues has no costs at this step, and has not ended for TensorBoard.
        if !matches!(ending, Ending::Interrupted(_)) {
            self.write_costs(state);
            state.monitor.message(&in_words(&contents));
            state.monitor.ended(contents.ended);
        }
        // Last: a run with a summary is complete.
        write_atomically(&self.run.summary(), |file| {
            serde_json::to_writer_pretty(&mut *file, &contents)?;
            file.write_all(b"\n")
        })?;
        Ok(())
    }

    fn name(&self) -> String {
        "summary".to_owned()
    }

    fn state(&self) -> Option<Value> {
        let best = self.best.as_ref();
        let best = best.map(|Best { metric, value, step }| json!([metric, Exact(*value), step]));
        let last = self.last.as_ref();
        let last = last.map(|Evaluation { step, metrics }| json!([step, to_exact(metrics)]));
        let (joules, gpu_joules) = (self.processors.joules, self.gpu_joules());
        Some(json!({
            "best": best, "last": last, "written": self.written,
            "joules": joules, "gpu_joules": gpu_joules,
        }))
    }

    fn restore(&mut self, state: Value) -> serde_json::Result<()> {
        #[derive(Deserialize)]
        struct State {
            best: Option<(String, Exact, u64)>,
            last: Option<(u64, BTreeMap<String, Exact>)>,
            written: Option<u64>,
            /// Not in states of genir from before they were measured.
            joules: Option<f64>,
            gpu_joules: Option<f64>,
        }
        let State { best, last, written, joules, gpu_joules } = serde_json::from_value(state)?;
        self.best = best.map(|(metric, Exact(value), step)| Best { metric, value, step });
        self.last = last.map(|(step, metrics)| Evaluation { step, metrics: from_exact(metrics) });
        self.written = written;
        self.processors.restore(joules);
        self.gpu.get_mut().restore(gpu_joules);
        Ok(())
    }
}

fn seconds(costs: &Costs) -> Seconds {
    let total = costs.total_seconds();
    let [prefix, steps, evaluation, probes, saving] =
        [Phase::Prefix, Phase::Steps, Phase::Evaluation, Phase::Probes, Phase::Saving]
            .map(|phase| costs.seconds(phase));
    let other = total - (prefix + steps + evaluation + probes + saving);
    Seconds { total, prefix, steps, evaluation, probes, saving, other }
}

/// `12.3 s: steps 8.0, evaluation 2.1, saving 0.4, other 1.8; peak memory 507 MiB`; phases without time are left out.
fn in_words(contents: &Summary) -> String {
    let Seconds { total, prefix, steps, evaluation, probes, saving, other } = contents.seconds;
    let parts = [
        ("prefix", prefix),
        ("steps", steps),
        ("evaluation", evaluation),
        ("probes", probes),
        ("saving", saving),
        ("other", other),
    ];
    let parts = parts.iter().filter(|(_, seconds)| *seconds > 0.0);
    let parts: Vec<String> = parts.map(|(name, seconds)| format!("{name} {seconds:.1}")).collect();
    let peak =
        [("memory", contents.peak_memory_bytes), ("GPU memory", contents.peak_gpu_memory_bytes)];
    let peak = peak.iter().filter_map(|(name, bytes)| Some((name, mebibytes((*bytes)?))));
    let peak: String = peak.map(|(name, peak)| format!("; peak {name} {peak:.0} MiB")).collect();
    let energy = [("processors", contents.processor_joules), ("GPU", contents.gpu_joules)];
    let energy = energy.iter().filter_map(|(name, joules)| Some((name, (*joules)?)));
    let energy: String = energy.map(|(name, joules)| format!("; {name} {joules:.0} J")).collect();
    format!("{total:.1} s: {}{peak}{energy}", parts.join(", "))
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn words<T: ToString>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_energy_of_a_run_is_known_if_that_of_all_its_processes_is() {
        let metered = || Energy::new(Some(|| Some(5.0)));
        let after = |mut energy: Energy, before| {
            energy.restore(before);
            energy.measure();
            energy.joules
        };
        assert_eq!(after(metered(), Some(2.0)), Some(7.0));
        assert_eq!(after(metered(), None), None, "the processes before were not measured");
        assert_eq!(after(Energy::new(None::<fn() -> Option<f64>>), Some(2.0)), None);
    }
}
