//! Ranks the queries of the recipe's splits, and samples of the training texts, and measures the denoising loss of
//! held-out documents, at the evaluation cadence.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::allocator;
use crate::corpus::Split;
use crate::device;
use crate::prefix::TextSet;
use crate::provenance::{IrMetadata, trained_method};
use crate::retrieval::evaluation::{EvaluationResult, QuerySet, evaluate_while};
use crate::retrieval::names::{DENOISING_LOSS, QuerySubset};
use crate::retrieval::ranking::RankOptions;
use crate::retrieval::run_files::{
    RunFileError, RunWriter, check_docids, check_qrels, write_correct_queries, write_qrels,
};
use crate::retrieval::{DocidOrder, Metrics};
use crate::run::{Environment, RunDirectory, peak_memory};
use crate::t5::GenirModel;
use crate::train::TrainError;
use crate::train::callback::{Cadence, Callback, Ending, TrainerState, Verdict};
use crate::train::costs::Phase;
use crate::train::plan::Plan;

/// Evaluates the query sets of a plan.
pub struct Evaluate<'a> {
    plan: &'a Plan,
    run: &'a RunDirectory,
    cadence: Cadence,
    order: DocidOrder,
    /// Each with the metadata of its run file; `None` if its rankings are not written.
    sets: Vec<(&'a QuerySet, Option<IrMetadata>)>,
    /// Remarks that were logged already.
    logged: HashSet<String>,
    /// The step of the latest evaluation.
    evaluated: Option<u64>,
}

impl<'a> Evaluate<'a> {
    /// Nothing is written yet: the run has not begun.
    ///
    /// # Errors
    /// The paths of TREC files cannot be checked. Ids that such files cannot represent are no error: the files are then
    /// not written.
    pub fn new(plan: &'a Plan, run: &'a RunDirectory) -> Result<Self, TrainError> {
        let mut sets = Vec::new();
        for (set, split) in &plan.query_sets {
            let &Some(split) = split else {
                sets.push((set, None));
                continue;
            };
            let qrels = run.retrieval().join(format!("{}.qrels", set.name));
            // Any document may be in a ranking, judged or not.
            let ids = check_docids(&qrels, plan.docids.ids());
            let checked = ids.and_then(|()| check_qrels(&qrels, set.judgements(&plan.docids)));
            let writable = match checked {
                Ok(()) => Some(metadata(plan, split)),
                // Not a reason to lose a run: metrics need no files. The plan warns of it.
                Err(RunFileError::Id { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            sets.push((set, writable));
        }
        Ok(Self {
            plan,
            run,
            cadence: plan.evaluations(),
            order: DocidOrder::new(&plan.docids),
            sets,
            logged: HashSet::new(),
            evaluated: None,
        })
    }

    fn evaluate(
        &self,
        set: &QuerySet,
        metadata: Option<&IrMetadata>,
        model: &GenirModel,
        state: &TrainerState,
    ) -> Result<EvaluationResult, TrainError> {
        let section = &self.plan.recipe.evaluate;
        let options = RankOptions {
            order: &self.order,
            candidates: section.vocabulary,
            depth: if metadata.is_some() { section.run_depth } else { 0 },
            batch_size: section.batch_size,
            pad_id: self.plan.tokenizer.pad_id(),
            prefix: state.prefix.as_deref(),
        };
        let evaluate = |run: Option<&mut RunWriter>| {
            let docids = &self.plan.docids;
            let run = run.map(|run| (run, docids));
            let each = || state.check_interrupt();
            evaluate_while(model, &self.plan.device, set, options, run, each)
        };
        let Some(metadata) = metadata else { return evaluate(None) };
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
        let times = self.cadence.times(steps);
        self.sets.iter().map(|(set, _)| set.text_set(times)).collect()
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
        let evaluate = |(set, metadata): &(&QuerySet, Option<IrMetadata>)| {
            self.evaluate(set, metadata.as_ref(), model, state)
        };
        let evaluated: Vec<_> = self.sets.iter().map(evaluate).collect::<Result<_, _>>()?;
        self.evaluated = Some(state.step);
        for ((set, _), found) in self.sets.iter().zip(evaluated) {
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
        if let Some(loss) = self.plan.held_out.loss(self.plan, state.model) {
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
