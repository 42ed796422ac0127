//! Ranks the queries of the recipe's splits, and samples of the training texts, and measures the denoising loss of
//! held-out documents, at the evaluation cadence.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::allocator;
use crate::corpus::Split;
use crate::device;
use crate::prefix::TextSet;
use crate::processes::Order;
use crate::provenance::{IrMetadata, trained_method};
use crate::retrieval::Metrics;
use crate::retrieval::evaluation::{EvaluationResult, QuerySet, evaluate_by};
use crate::retrieval::names::{DENOISING_LOSS, QuerySubset};
use crate::retrieval::run_files::{RunWriter, write_correct_queries, write_qrels};
use crate::run::{Environment, RunDirectory, peak_memory};
use crate::t5::GenirModel;
use crate::train::TrainError;
use crate::train::callback::{Cadence, Callback, Ending, TrainerState, Verdict};
use crate::train::costs::Phase;
use crate::train::plan::Plan;
use crate::train::ranked_sets::RankedSets;

/// Evaluates the query sets of a plan.
pub struct Evaluate<'a> {
    plan: &'a Plan,
    run: &'a RunDirectory,
    cadence: Cadence,
    ranked: RankedSets<'a>,
    /// Of each set of the plan the metadata of its run file; `None` if its rankings are not written.
    metadata: Vec<Option<IrMetadata>>,
    /// Remarks that were logged already.
    logged: HashSet<String>,
    /// The step of the latest evaluation.
    evaluated: Option<u64>,
}

impl<'a> Evaluate<'a> {
    /// Nothing is written yet: the run has not begun.
    pub fn new(plan: &'a Plan, run: &'a RunDirectory) -> Self {
        let ranked = RankedSets::new(plan);
        let metadata = |(at, (_, split)): (usize, &(QuerySet, Option<Split>))| {
            split.filter(|_| ranked.is_written(at)).map(|split| metadata(plan, split))
        };
        Self {
            plan,
            run,
            cadence: plan.evaluations(),
            metadata: plan.query_sets.iter().enumerate().map(metadata).collect(),
            ranked,
            logged: HashSet::new(),
            evaluated: None,
        }
    }

    /// Evaluates the set with the index `at` among those of the plan.
    fn evaluate(
        &self,
        at: usize,
        model: &GenirModel,
        state: &TrainerState,
    ) -> Result<EvaluationResult, TrainError> {
        let set = &self.plan.query_sets[at].0;
        let evaluate = |run: Option<&mut RunWriter>| {
            let run = run.map(|run| (run, &self.plan.docids));
            let prefix = state.prefix.as_deref();
            evaluate_by(
                set,
                run,
                || state.check_interrupt(),
                |each| self.ranked.rank(at, state.world, model, prefix, each),
            )
        };
        let Some(metadata) = &self.metadata[at] else { return evaluate(None) };
        let directory = self.run.retrieval();
        let qrels = directory.join(format!("{}.qrels", set.name));
        write_qrels(&qrels, set.judgements(&self.plan.docids))?;
        let path = directory.join(format!("{}.run", set.name));
        let mut run = RunWriter::create(&path, TAG)?;
        let evaluated = evaluate(Some(&mut run))?;
        run.finish()?;
        metadata
            .clone()
            .with_parameter("steps", state.step)
            .with_resources(state.costs.total_seconds(), peak_memory())
            .write_beside(&path)?;
        let correct = directory.join(format!("correct_{}.json", set.name));
        write_correct_queries(&correct, &set.correct_pairs(&evaluated, &self.plan.docids))?;
        Ok(evaluated)
    }

    /// The denoising loss of held-out documents, if there are any; all processes compute it together.
    fn loss_of_held_out(&self, state: &TrainerState) -> Result<Option<f64>, TrainError> {
        let held_out = &self.plan.held_out;
        match state.world.filter(|_| !held_out.is_empty()) {
            None => Ok(held_out.loss(self.plan, state.model)),
            Some(world) => {
                world.order(Order::HeldOut)?;
                Ok(held_out.loss_of_all(world, self.plan, state.model)?)
            }
        }
    }
}

/// The last column of run files.
const TAG: &str = "genir";

/// The metadata of the run file of a split.
fn metadata(plan: &Plan, split: Split) -> IrMetadata {
    let (recipe, corpus) = (&plan.recipe, &plan.corpus);
    let environment = Environment::capture(&device::describe(&plan.device, plan.precision));
    IrMetadata::new(TAG, &environment, trained_method(recipe))
        .with_parameter("trained parameters", plan.table.total.trained)
        .with_indexing(json!({ "tokenizer": format!("that of {}", recipe.model.base) }))
        .with_collection(&recipe.corpus.path, corpus, split)
        .with_training(recipe, corpus)
        .with_measures(Metrics::NAMES)
}

impl Callback for Evaluate<'_> {
    fn cadence(&self) -> Cadence {
        self.cadence
    }

    fn text_sets(&self, steps: u64) -> Vec<TextSet<'_>> {
        self.ranked.text_sets(steps)
    }

    fn reads_no_other_texts(&self) -> bool {
        // Held-out texts are corrupted: nothing is stored for them.
        self.plan.held_out.is_empty()
    }

    fn phase(&self) -> Option<Phase> {
        Some(Phase::Evaluation)
    }

    fn call(&mut self, state: &mut TrainerState) -> Result<Verdict, TrainError> {
        let mut remarks = Vec::new();
        if let Some(length) = self.plan.recipe.evaluate.unmasked_padding {
            remarks.push(format!(
                "evaluations: queries are padded to {length} tokens without a mask, as in the paper's eval.py"
            ));
        }
        let _memory = allocator::MemoryScope::begin();
        // As a checkpoint has it: the same bits.
        let model = &state.model.merged();
        // All of them before anything is logged: an interrupted evaluation leaves nothing that would be repeated.
        let sets = &self.plan.query_sets;
        let evaluate = |at| self.evaluate(at, model, state);
        let evaluated: Vec<_> = (0..sets.len()).map(evaluate).collect::<Result<_, _>>()?;
        self.evaluated = Some(state.step);
        for ((set, _), found) in sets.iter().zip(evaluated) {
            let doubts = found.diagnostics.warnings().into_iter();
            remarks.extend(doubts.map(|remark| format!("{}: {remark}", set.name)));
            let rankings = set.rankings();
            for (name, part) in &rankings {
                let Some(metrics) = found.part(*part) else { continue };
                // Where all queries are of one kind, a part says nothing that the whole does not.
                if *part == QuerySubset::All || rankings.len() == 3 {
                    state.monitor.evaluation(state.step, state.epoch, name, metrics);
                }
                let named =
                    metrics.values().map(|(metric, value)| (format!("{name}/{metric}"), value));
                state.metrics.extend(named);
            }
        }
        if let Some(loss) = self.loss_of_held_out(state)? {
            state.monitor.loss(state.step, state.epoch, DENOISING_LOSS, loss);
            state.metrics.insert(DENOISING_LOSS.to_owned(), loss);
        }
        // Each remark is logged once.
        for remark in remarks {
            if self.logged.insert(remark.clone()) {
                state.monitor.message(&remark);
            }
        }
        Ok(Verdict::Continue)
    }

    fn end(&mut self, state: &mut TrainerState, ending: Ending) -> Result<(), TrainError> {
        if ending.is_final() && self.evaluated != Some(state.step) {
            self.call(state)?;
        }
        Ok(())
    }

    fn name(&self) -> String {
        "evaluate".to_owned()
    }

    fn state(&self) -> Option<Value> {
        Some(json!({ "evaluated": self.evaluated, "logged": self.logged }))
    }

    fn restore(&mut self, state: Value) -> serde_json::Result<()> {
        #[derive(Deserialize)]
        struct State {
            evaluated: Option<u64>,
            logged: HashSet<String>,
        }
        let State { evaluated, logged } = serde_json::from_value(state)?;
        (self.evaluated, self.logged) = (evaluated, logged);
        Ok(())
    }
}
