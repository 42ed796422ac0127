//! `genir eval`

mod results;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use self::results::{RunResult, SubsetMeans, subset_means};
use super::baseline::{BaselineArgs, recipe_of};
use super::run_output::RunOutput;
use super::target::{Target, TargetOptions, warn_of_skipped};
use super::together::{digest, identity, of_all, program, together, wait_for_end};
use super::{output, outputs};
use crate::corpus::{LoadedCorpus, Split};
use crate::docid::DocidVocabulary;
use crate::files::write_atomically;
use crate::monitor::Console;
use crate::processes::World;
use crate::provenance::{IrMetadata, documents_hash, queries_hash};
use crate::recipe::{MAX_PADDING, Recipe};
use crate::report::per_query;
use crate::retrieval::evaluation::{EvaluationResult, QuerySet, evaluate_by};
use crate::retrieval::measure::KNOWN;
use crate::retrieval::ranking::{CandidateSet, RankOptions};
use crate::retrieval::run_files::{check_docids, check_qrels, write_correct_queries, write_qrels};
use crate::retrieval::together::rank_with_all;
use crate::retrieval::{Bm25, Metrics, NamedMeasure};
use crate::retriever::{Retriever, RetrieverError};

/// Evaluate checkpoints on a split: metrics, TREC run files, values of each query.
///
/// `mpirun -np 4 genir eval ...` shares queries and documents among four processes, in a build with `--features mpi`:
/// docs/processes.md.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Eval {
    /// Checkpoint directories, or run directories (the best checkpoint, else the latest). With --baseline also a recipe,
    /// for the baseline alone.
    #[arg(required_unless_present = "baseline", value_name = "CHECKPOINT")]
    checkpoints: Vec<PathBuf>,

    #[command(flatten)]
    baseline: BaselineArgs,

    #[command(flatten)]
    options: TargetOptions,

    /// Queries to rank: train, validation or test.
    #[arg(long, default_value = "validation")]
    split: Split,

    /// Sample size in queries [default: all].
    #[arg(long)]
    queries: Option<usize>,

    /// Random seed of the sample.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Candidate set: docids, or all (text tokens and docids, as in the paper's code).
    #[arg(long, default_value = "docids", value_parser = super::parse_choice::<CandidateSet>)]
    vocabulary: CandidateSet,

    /// Truncate and pad queries to this many tokens without an attention mask, as the paper's eval.py does with 128
    /// [default: padding is masked].
    #[arg(long, value_name = "TOKENS",
        value_parser = clap::value_parser!(u32).range(1..=MAX_PADDING as i64))]
    unmasked_padding: Option<u32>,

    /// Number of queries per batch.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,

    /// Metrics to print, as one quoted list: names of ir_measures ("nDCG@10 RR@10 Success@1 R@100 P@1 AP Rprec"; a
    /// document is relevant from grade 1, or from grade 2 in P(rel=2)@5) or of genir (hits@1, recall@5, mrr@10,
    /// ndcg@10).
    #[arg(long, value_name = "NAMES", value_parser = measures)]
    metrics: Option<Measures>,

    /// Write the metrics of each query as CSV. Columns: run, query, part (seen or unseen), docid (the best-ranked
    /// relevant document), its rank, and each metric. Here and for the other files, - is standard output; on a
    /// terminal, control characters in ids are escaped.
    #[arg(long, value_name = "FILE")]
    per_query: Option<PathBuf>,

    /// Write the rankings as a TREC run file, and what is known about them as FILE.ir_metadata.yaml
    /// (ir-metadata.org): machine, git revision, trainable set, corpus with hashes.
    #[arg(long, value_name = "FILE")]
    run: Option<PathBuf>,

    /// Also write the metadata as comments at the beginning of the run file, where repro_eval reads them; trec_eval
    /// refuses such a file.
    #[arg(long, requires = "run")]
    run_header: bool,

    /// Number of documents per query in the run file.
    #[arg(long, default_value_t = 100)]
    depth: usize,

    /// Write the relevance judgements as a TREC qrels file.
    #[arg(long, value_name = "FILE")]
    qrels: Option<PathBuf>,

    /// Write the queries with a relevant document at rank 1, in the format of the paper's correct_valid.json.
    #[arg(long, value_name = "FILE")]
    correct: Option<PathBuf>,

    /// Output format of the metrics.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  genir eval runs/quickstart --split test --run test.run --qrels test.qrels
  genir eval runs/full runs/restricted --metrics 'nDCG@10 RR@10' --per-query queries.csv
  genir eval CHECKPOINT --corpus DIRECTORY --vocabulary all --unmasked-padding 128 --correct correct_valid.json
  genir eval runs/quickstart --run - | head
  genir eval runs/full runs/restricted --baseline bm25
  genir eval quickstart --baseline bm25 --split test --run bm25.run

If a file is written to standard output, the metrics are printed on standard error.";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// The metrics of `--metrics`, in the order of the columns.
#[derive(Debug, Clone)]
pub(super) struct Measures(pub(super) Vec<NamedMeasure>);

pub(super) fn measures(names: &str) -> Result<Measures, String> {
    let mut found: Vec<NamedMeasure> = Vec::new();
    let names = names.split(|letter: char| letter.is_whitespace() || letter == ',');
    for name in names.filter(|name| !name.is_empty()) {
        let measure: NamedMeasure = name.parse().map_err(|error| format!("{error}"))?;
        if !found.contains(&measure) {
            found.push(measure);
        }
    }
    if found.is_empty() {
        Err(format!("no metric is given; known metrics: {KNOWN}"))
    } else {
        Ok(Measures(found))
    }
}

/// The metrics without `--metrics`.
pub(super) fn default_measures() -> Measures {
    let named = |(name, measure): (&str, _)| NamedMeasure { name: name.to_owned(), measure };
    Measures(Metrics::NAMES.into_iter().zip(Metrics::MEASURES).map(named).collect())
}

/// A checkpoint with its name in results.
type NamedTarget = (String, Target);

/// The name of the baseline among the runs, and in run files.
const BM25: &str = "bm25";

impl Eval {
    pub fn run(self, console: &Console) -> Result<ExitCode> {
        together(console, |world| self.with(console, world))
    }

    /// Evaluates, together with the other processes of `world`. The first one writes and prints.
    fn with(mut self, console: &Console, world: Option<&World>) -> Result<()> {
        let is_first = world.is_none_or(World::is_first);
        let (targets, recipe) = of_all(world, self.prepare(console, is_first))?;
        if let Some(world) = world {
            let count = targets.len().to_string();
            let baseline = self.baseline.baseline.map_or("none".to_owned(), |it| it.to_string());
            world.agree(&[
                program()?,
                ("their number of checkpoints", count),
                ("their baseline", baseline),
            ])?;
        }
        let measures = self.metrics.clone().unwrap_or_else(default_measures).0;
        let mut per_query = Vec::new();
        per_query::write_header(&measures, &mut per_query)?;
        let mut runs = Vec::new();
        for (name, target) in &targets {
            let parts = self.evaluate(name, target, &measures, &mut per_query, world)?;
            runs.push(RunResult { name, parts, is_baseline: false });
        }
        if self.baseline.baseline.is_some() {
            let loaded = of_all(world, self.options.load_corpus(recipe.as_ref()))?;
            let path = self.options.corpus_path(recipe.as_ref());
            let corpus = (path.as_str(), &loaded);
            let parts = self.evaluate_baseline(corpus, &measures, &mut per_query, world)?;
            runs.push(RunResult { name: BM25, parts, is_baseline: true });
        }
        if let Some(world) = world.filter(|_| !is_first) {
            return wait_for_end(world);
        }
        if let Some(path) = &self.per_query {
            write_atomically(path, |file| {
                file.write_all(&outputs::escaped_for_terminal(path, per_query))
            })?;
        }
        self.print(&measures, &runs)
    }

    /// Checks all options and paths before the first evaluation, which may take long. Returns the checkpoints with their names,
    /// and the recipe with the corpus of the baseline.
    fn prepare(
        &mut self,
        console: &Console,
        writes: bool,
    ) -> Result<(Vec<NamedTarget>, Option<Recipe>)> {
        let alone = self.baseline.recipe(&self.checkpoints, console)?;
        if alone.is_some() {
            self.checkpoints.clear();
        }
        self.check()?;
        let targets: Vec<NamedTarget> = self
            .checkpoints
            .iter()
            .map(|path| {
                (path.display().to_string(), Target::new(path.clone(), self.options.clone()))
            })
            .collect();
        let errors: Vec<String> = targets
            .iter()
            .filter_map(|(_, target)| target.directory().err().map(|error| format!("{error:#}")))
            .collect();
        if !errors.is_empty() {
            bail!("{}", errors.join("\n"));
        }
        let mut inputs =
            targets.iter().map(|(_, target)| target.inputs()).collect::<Result<Vec<_>>>()?.concat();
        let (file, alone) = alone.unzip();
        inputs.extend(file.map(|file| ("the recipe", file)));
        let recipe = match self.baseline.baseline {
            Some(_) => recipe_of(alone, &targets, &self.options)?,
            None => None,
        };
        inputs.extend(self.options.corpus_inputs(recipe.clone()));
        if writes {
            // A file of that name, which would be replaced.
            let beside =
                self.run.as_deref().and_then(RunOutput::beside).filter(|path| path.exists());
            let outputs = self.output_files().map(|(option, path)| (option, path.as_deref()));
            let outputs = [&outputs[..], &[("the metadata of --run", beside.as_deref())]].concat();
            outputs::check(&outputs, &inputs)?;
        }
        Ok((targets, recipe))
    }

    /// Returns the output files with their options.
    fn output_files(&self) -> [(&'static str, &Option<PathBuf>); 4] {
        [
            ("--run", &self.run),
            ("--qrels", &self.qrels),
            ("--correct", &self.correct),
            ("--per-query", &self.per_query),
        ]
    }

    /// Checks that the options can be combined.
    ///
    /// # Errors
    /// A file is of one checkpoint and several are given, two are standard output, a checkpoint is given twice, or an
    /// option is of models and there is none.
    fn check(&self) -> Result<()> {
        let files = self.output_files();
        let given: Vec<&str> =
            files[..3].iter().filter(|(_, path)| path.is_some()).map(|(name, _)| *name).collect();
        if self.checkpoints.len() > 1 && !given.is_empty() {
            bail!(
                "{}: one checkpoint per file, but {} are given; evaluate them separately (--per-query accepts several)",
                given.join(" and "),
                self.checkpoints.len()
            );
        }
        if self.baseline.baseline.is_some() {
            if !self.checkpoints.is_empty() && !given.is_empty() {
                bail!(
                    "{}: one run per file, but a checkpoint and the baseline are given; evaluate the baseline alone, on a \
                     recipe or with --corpus (--per-query accepts several)",
                    given.join(" and ")
                );
            }
            let of_models =
                self.vocabulary != CandidateSet::Docids || self.unmasked_padding.is_some();
            if self.checkpoints.is_empty() && of_models {
                bail!(
                    "--vocabulary all and --unmasked-padding are for models: BM25 ranks documents by their texts"
                );
            }
        }
        let printed = files
            .iter()
            .filter(|(_, path)| path.as_deref().is_some_and(outputs::is_standard_output));
        let printed: Vec<&str> = printed.map(|(name, _)| *name).collect();
        if printed.len() > 1 {
            bail!("{} cannot both be standard output: give a file name", printed.join(" and "));
        }
        let twice = (1..self.checkpoints.len())
            .find(|&index| self.checkpoints[..index].contains(&self.checkpoints[index]));
        if let Some(index) = twice {
            bail!("{} is given twice", self.checkpoints[index].display());
        }
        Ok(())
    }

    /// Evaluates one checkpoint and writes its output files. Returns the means by subset.
    fn evaluate(
        &self,
        name: &str,
        target: &Target,
        measures: &[NamedMeasure],
        per_query: &mut Vec<u8>,
        world: Option<&World>,
    ) -> Result<Vec<SubsetMeans>> {
        let (retriever, set) = of_all(world, self.queries_of(target, world))?;
        let checkpoint = &retriever.checkpoint;
        let (docids, device) = (&checkpoint.docids, &retriever.device.device);
        let options = RankOptions {
            candidates: self.vocabulary,
            depth: if self.run.is_some() { self.depth } else { 0 },
            batch_size: self.batch_size as usize,
            ..retriever.rank_options()
        };
        if let Some(world) = world {
            let queries = set.queries.iter().map(|query| (&query.tokens, &query.relevant));
            let queries = digest(&serde_json::to_vec(&queries.collect::<Vec<_>>())?);
            let options = format!(
                "--batch-size {}, --vocabulary {}, {} documents a query, queries {queries} by BLAKE3",
                options.batch_size, options.candidates, options.depth
            );
            let directory = target.directory()?;
            world.agree(&identity(&directory, checkpoint, &retriever.device, options)?)?;
        }
        let model = &checkpoint.model;
        if world.is_some_and(|world| !world.is_first()) {
            let nothing = |_, _| anyhow::Ok(());
            rank_with_all(world, model, device, &set.queries, options, nothing)?;
            return Ok(Vec::new());
        }
        let metadata = || target.metadata(&retriever, self.split);
        let mut run = self.run_output("genir", metadata)?;
        let writer = run.as_mut().map(|run| (&mut run.writer, docids));
        let found = evaluate_by(
            &set,
            writer,
            || anyhow::Ok(()),
            |each| rank_with_all(world, model, device, &set.queries, options, each),
        )?;
        if let Some(run) = run {
            run.finish()?;
        }
        self.write_results(name, (&set, &found), docids, measures, per_query)?;
        Ok(subset_means(&set, &found, measures))
    }

    /// Opens a checkpoint and its corpus, and checks what can be checked before the evaluation.
    fn queries_of(&self, target: &Target, world: Option<&World>) -> Result<(Retriever, QuerySet)> {
        let retriever = target.retriever_of(world)?;
        let (split, most, seed) = (self.split, self.queries, self.seed);
        let set = match self.unmasked_padding {
            None => retriever.queries(split, most, seed)?,
            Some(length) => retriever.unmasked_queries(split, most, seed, length as usize)?,
        };
        retriever.check_batches(&set.queries, self.batch_size as usize)?;
        self.check_ids(&set, &retriever.checkpoint.docids)?;
        Ok((retriever, set))
    }

    /// Evaluates BM25 on the corpus at `path`, as [`Self::evaluate`] does a checkpoint.
    fn evaluate_baseline(
        &self,
        (path, loaded): (&str, &LoadedCorpus),
        measures: &[NamedMeasure],
        per_query: &mut Vec<u8>,
        world: Option<&World>,
    ) -> Result<Vec<SubsetMeans>> {
        warn_of_skipped(loaded);
        let (corpus, split) = (&loaded.corpus, self.split);
        let queries = corpus.split(split);
        let (name, left_out) = (split.to_string(), &loaded.left_out);
        let (most, seed) = (self.queries, self.seed);
        let (set, texts) = QuerySet::without_tokens(&name, corpus, queries, left_out, most, seed);
        let docids = DocidVocabulary::from_corpus(corpus).map_err(anyhow::Error::from);
        let checked = docids.and_then(|docids| match queries.is_empty() {
            true => Err(RetrieverError::NoQueries { split }.into()),
            false => self.check_ids(&set, &docids).map(|()| docids),
        });
        let docids = of_all(world, checked)?;
        let depth = if self.run.is_some() { self.depth } else { 0 };
        if let Some(world) = world {
            let corpus = format!("{} {}", documents_hash(corpus), queries_hash(queries));
            let options = json!([self.baseline.options(), split.name(), most, seed, depth]);
            world.agree(&[
                ("their corpus, by BLAKE3", digest(corpus.as_bytes())),
                ("their options", options.to_string()),
            ])?;
        }
        let is_first = world.is_none_or(World::is_first);
        let metadata = || Ok(self.baseline.metadata(BM25, loaded, path, split));
        let mut run = if is_first { self.run_output(BM25, metadata)? } else { None };
        let index = Bm25::new(corpus, &self.baseline.options());
        let writer = run.as_mut().map(|run| &mut run.writer);
        let found: Result<_> = index.evaluate((&set, &texts), (&docids, depth), writer, world);
        let found = found?;
        if !is_first {
            return Ok(Vec::new());
        }
        if let Some(run) = run {
            run.finish()?;
        }
        self.write_results(BM25, (&set, &found), &docids, measures, per_query)?;
        Ok(subset_means(&set, &found, measures))
    }

    /// Checks ids before the evaluation, which may take long.
    fn check_ids(&self, set: &QuerySet, docids: &DocidVocabulary) -> Result<()> {
        for path in [&self.run, &self.qrels].into_iter().flatten() {
            check_qrels(path, set.judgements(docids))?;
        }
        if let Some(path) = &self.run {
            check_docids(path, docids.ids())?;
        }
        Ok(())
    }

    /// Starts the file of `--run`, if it is given; `metadata` describes it.
    fn run_output(
        &self,
        tag: &str,
        metadata: impl FnOnce() -> Result<IrMetadata>,
    ) -> Result<Option<RunOutput>> {
        let Some(path) = &self.run else { return Ok(None) };
        let measures = self.metrics.clone().unwrap_or_else(default_measures).0;
        let names = measures.iter().map(|measure| measure.name.as_str());
        let metadata = metadata()?.with_parameter("depth", self.depth).with_measures(names);
        RunOutput::create(path, tag, metadata, self.run_header).map(Some)
    }

    /// Warns of unreliable ranks, writes the files of judgements and correct queries, and adds the values of each query.
    fn write_results(
        &self,
        name: &str,
        (set, found): (&QuerySet, &EvaluationResult),
        docids: &DocidVocabulary,
        measures: &[NamedMeasure],
        per_query: &mut Vec<u8>,
    ) -> Result<()> {
        for warning in found.diagnostics.warnings() {
            tracing::warn!("{name}: {warning}");
        }
        if let Some(path) = &self.qrels {
            write_qrels(path, set.judgements(docids))?;
        }
        if let Some(path) = &self.correct {
            write_correct_queries(path, &set.correct_pairs(found, docids))?;
        }
        Ok(per_query::write_queries(name, (set, found), docids, measures, per_query)?)
    }

    fn print(&self, measures: &[NamedMeasure], runs: &[RunResult]) -> Result<()> {
        let text = match self.format {
            Format::Json => {
                output::escaped_json(&serde_json::to_string_pretty(&self.json(measures, runs))?)
            }
            Format::Table => self.table(measures, runs),
        };
        let files = [&self.run, &self.qrels, &self.correct, &self.per_query];
        if files.iter().any(|path| path.as_deref().is_some_and(outputs::is_standard_output)) {
            output::error_line(text);
            return Ok(());
        }
        Ok(output::line(text)?)
    }
}
