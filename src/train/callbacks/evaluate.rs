//! Ranks the queries of the recipe's splits, and what was trained on, at the evaluation cadence.

use std::sync::Arc;

use burn::module::Module;

use super::split_set;
use crate::allocator::Phase;
use crate::checkpoint::Encoding;
use crate::corpus::Query;
use crate::prefix::{Prefix, Reading};
use crate::retrieval::evaluation::{Evaluated, QuerySet, evaluate};
use crate::retrieval::names;
use crate::retrieval::ranking::RankOptions;
use crate::retrieval::run_files::{
    RunFileError, RunWriter, check_docids, write_correct_queries, write_qrels,
};
use crate::run::RunDirectory;
use crate::t5::GenirModel;
use crate::task::Task;
use crate::train::TrainError;
use crate::train::callback::{Cadence, Callback, Moment, Verdict};
use crate::train::plan::Plan;

/// The query sets of a run, encoded once.
pub struct Evaluate<'a> {
    plan: &'a Plan,
    run: &'a RunDirectory,
    cadence: Cadence,
    /// Each with whether its rankings are written to run files.
    sets: Vec<(QuerySet, bool)>,
}

impl<'a> Evaluate<'a> {
    /// Encodes the queries, and writes the judgements of the splits as qrels files.
    pub fn new(plan: &'a Plan, run: &'a RunDirectory) -> Result<Self, TrainError> {
        let section = &plan.recipe.evaluate;
        let cadence = plan.evaluations();
        let mut sets: Vec<(QuerySet, bool)> = Vec::new();
        if section.memorisation > 0 {
            sets.extend(memorised(plan)?.into_iter().map(|set| (set, false)));
        }
        for &split in &section.splits {
            if plan.corpus.split(split).is_empty() {
                return Err(TrainError::NoQueries { split });
            }
            let set = split_set(plan, split, section.queries)?;
            let qrels = run.retrieval().join(format!("{}.qrels", set.name));
            // Any document may be in a ranking, judged or not.
            let ids = check_docids(&qrels, plan.docids.ids());
            let written = ids.and_then(|()| write_qrels(&qrels, set.judgements(&plan.docids)));
            let writable = match written {
                Ok(()) => true,
                // Not a reason to lose a run: metrics need no files.
                Err(error @ RunFileError::Id { .. }) => {
                    tracing::warn!("no TREC files of {}: {error}", set.name);
                    false
                }
                Err(error) => return Err(error.into()),
            };
            sets.push((set, writable));
        }
        Ok(Self { plan, run, cadence, sets })
    }

    fn evaluate(
        &self,
        set: &QuerySet,
        to_files: bool,
        model: &GenirModel,
        prefix: Option<&Prefix>,
    ) -> Result<Evaluated, TrainError> {
        let section = &self.plan.recipe.evaluate;
        let options = RankOptions {
            vocabulary: section.vocabulary,
            depth: if to_files { section.run_depth } else { 0 },
            batch_size: section.batch_size,
            pad_id: self.plan.tokenizer.pad_id(),
            prefix,
        };
        let device = &self.plan.device;
        if !to_files {
            return Ok(evaluate(model, device, set, options, None)?);
        }
        let directory = self.run.retrieval();
        let mut run = RunWriter::create(&directory.join(format!("{}.run", set.name)), "genir")?;
        let evaluated = evaluate(model, device, set, options, Some((&mut run, &self.plan.docids)))?;
        run.finish()?;
        let correct = directory.join(format!("correct_{}.json", set.name));
        write_correct_queries(&correct, &set.correct_pairs(&evaluated, &self.plan.docids))?;
        Ok(evaluated)
    }
}

impl Callback for Evaluate<'_> {
    fn cadence(&self) -> Cadence {
        self.cadence
    }

    fn readings(&self, steps: u64) -> Vec<Reading<'_>> {
        let times = self.cadence.times(steps);
        self.sets.iter().map(|(set, _)| set.reading(times)).collect()
    }

    fn reads_only_its_texts(&self) -> bool {
        true
    }

    fn call(&mut self, moment: &mut Moment) -> Result<Verdict, TrainError> {
        let _phase = Phase::begin();
        let model = moment.model.valid();
        for (set, to_files) in &self.sets {
            let prefix = moment.prefix.map(Arc::as_ref);
            let found = self.evaluate(set, *to_files, &model, prefix)?;
            // The whole last: the progress shows the newest.
            let parts = [("/seen", &found.seen), ("/unseen", &found.unseen), ("", &found.all)];
            for (part, metrics) in parts {
                let Some(metrics) = metrics else { continue };
                let name = format!("{}{part}", set.name);
                // Where all queries are of one kind, a part says nothing that the whole does not.
                if part.is_empty() || (found.seen.is_some() && found.unseen.is_some()) {
                    moment.monitor.evaluation(moment.step, moment.epoch, &name, metrics)?;
                }
                let named =
                    metrics.values().map(|(metric, value)| (format!("{name}/{metric}"), value));
                moment.metrics.extend(named);
            }
        }
        Ok(Verdict::Continue)
    }
}

/// Samples of what was trained on, of each task.
fn memorised(plan: &Plan) -> Result<Vec<QuerySet>, TrainError> {
    let options = plan.recipe.task.options();
    let (seed, most) = (plan.recipe.run.seed, plan.recipe.evaluate.memorisation);
    let encoding = Encoding::from(&options);
    let mut sets = Vec::new();
    for &task in &options.tasks {
        let name = names::of_memorisation(task);
        sets.push(match task {
            Task::Indexing => {
                let rows: Vec<u32> = (0..plan.docids.len() as u32)
                    .filter(|row| !plan.left_out.contains(row))
                    .collect();
                let how = (&plan.tokenizer, &encoding.documents());
                QuerySet::of_documents(&name, &plan.corpus, &rows, most, seed, how)?
            }
            Task::Retrieval => {
                let how = (&plan.tokenizer, &encoding.queries());
                let trained = |query: &&Query| {
                    query.relevant.iter().all(|judged| !plan.left_out.contains(&judged.document))
                };
                let queries: Vec<Query> =
                    plan.corpus.train.iter().filter(trained).cloned().collect();
                let left_out = &plan.left_out;
                let (corpus, most) = (&plan.corpus, Some(most));
                QuerySet::of_queries(&name, corpus, &queries, left_out, most, seed, how)?
                    .undivided()
            }
        });
    }
    Ok(sets)
}
