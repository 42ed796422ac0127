//! `genir probe`

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;

use super::reference_models::ReferenceModels;
use super::stages::{self, StagesOption};
use super::target::Target;
use super::together::{identity, of_all, program, together, wait_for_end};
use super::{output, outputs, plot};
use crate::component::Stages;
use crate::corpus::Split;
use crate::docid::DocidVocabulary;
use crate::files::AtomicFile;
use crate::monitor::Console;
use crate::probe::files::{self, Stored};
use crate::probe::{
    AverageFirst, ComparisonModels, EncoderNorm, Over, PROBE_PRECISION, Probe, ProbeError,
    ProbeOptions, ProbeQueries, Record, Subject, Suite, Variant,
};
use crate::processes::{Group, World};
use crate::recipe::Recipe;
use crate::report::{self, FigureFormat};
use crate::retrieval::CandidateSet;
use crate::retrieval::evaluation::QuerySet;
use crate::retrieval::run_files::{read_correct_queries, write_correct_queries};
use crate::retriever::Retriever;
use crate::run::RunDirectory;
use crate::terminal::escaped_lines;

/// Measure the paper's interpretability probes on a checkpoint: tables, JSON, CSV, figures.
///
/// `mpirun -np 4 genir probe ...` shares queries among four processes, in a build with `--features mpi`:
/// docs/processes.md.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ProbeCommand {
    #[command(flatten)]
    target: Target,

    /// Probes to measure: a comma-separated list; may be repeated [default: all that are available].
    #[arg(long = "probe", value_name = "NAME", value_delimiter = ',',
          value_parser = super::parse_choice::<Probe>)]
    probes: Vec<Probe>,

    /// Queries to measure: train, validation or test.
    #[arg(long, default_value = "validation")]
    split: Split,

    /// Queries on which circuits are evaluated [default: test, or --split if there are no test queries].
    #[arg(long, value_name = "SPLIT")]
    test_split: Option<Split>,

    /// Sample size in queries of each split; does not apply to --correct [default: all].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    queries: Option<u32>,

    /// Random seed of the sample.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Queries to average over: correct (those with the relevant docid at rank 1) or all.
    #[arg(long, default_value = "correct", value_parser = super::parse_choice::<Over>)]
    over: Over,

    /// Candidate set: all (text tokens and docids, as in the paper) or docids.
    #[arg(long, default_value = "all", value_parser = super::parse_choice::<CandidateSet>)]
    vocabulary: CandidateSet,

    /// Attribution of neuron_reads and attention_reads: paper (raw weights) or exact (RMSNorm folded in).
    #[arg(long, default_value = "paper", value_parser = super::parse_choice::<Variant>)]
    variant: Variant,

    /// Order of averaging in neuron_reads and attention_reads: over readers first, or over queries first as in the
    /// paper's released code.
    #[arg(long, default_value = "readers", value_parser = super::parse_choice::<AverageFirst>)]
    average_first: AverageFirst,

    /// Final RMSNorm that encoder_swap applies to the states of the other encoder: other (that encoder's), or own (the
    /// probed model's, as in the paper's released code).
    #[arg(long, default_value = "other", value_parser = super::parse_choice::<EncoderNorm>)]
    encoder_norm: EncoderNorm,

    /// Decoder layers of the three stages, ends exclusive: 0..7,7..18,18..24; or detect: those that the residual
    /// contributions show [default: those of the run, else the paper's scaled to the depth].
    #[arg(long, value_name = "LAYERS|detect", value_parser = stages::parse)]
    stages: Option<StagesOption>,

    #[command(flatten)]
    references: ReferenceModels,

    /// Additional patch for stage_patching, such as decoder.layers[3] or decoder.cross_attention[4].heads[0]; may be
    /// repeated.
    #[arg(long = "patch", value_name = "SELECTOR", allow_hyphen_values = true)]
    patches: Vec<String>,

    /// Additional circuit to evaluate: patches by zero, mean or base. If two name the same output or head, the later
    /// one applies.
    #[arg(
        long,
        value_name = "SELECTOR=HOW,...",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    circuit: String,

    /// Number of queries for which attention_writes lists the top tokens of each head.
    #[arg(long, default_value_t = 3)]
    samples: usize,

    /// Number of queries per batch.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,

    /// Average over the queries in this file (format of the paper's correct_valid.json), whatever their ranks are.
    #[arg(long, value_name = "FILE")]
    correct: Option<PathBuf>,

    /// Write the queries with a relevant document at rank 1, in the format of the paper's correct_valid.json.
    #[arg(long, value_name = "FILE")]
    write_correct: Option<PathBuf>,

    /// Write the rank for every query as CSV, for all probes that compute ranks.
    #[arg(long, value_name = "FILE")]
    per_query: Option<PathBuf>,

    /// Output format of the results.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    /// Output file of the results [default: standard output].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Add the results to those in the run, RUN/probes, where `genir compare` and `genir plot` read them. With the rank
    /// for every query, if --per-query is given.
    #[arg(long)]
    save: bool,

    /// Directory for figures of the results, as SVG.
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Probes:
  residual_contribution  norm and direction of each component's contribution to the residual stream
  logit_lens             logit lens: rank of the relevant docid after each layer
  direct_effect          direct logit attribution by component type
  stage_patching         zero ablation, mean ablation and base-model patching by component and stage
  circuit                effectiveness of the paper's circuit, and of a user-defined one
  encoder_swap           effectiveness of the decoder with another model's encoder
  neuron_reads           input attribution of MLP neurons by source component
  attention_reads        attribution of cross-attention scores by source component of the query
  attention_writes       share of docids among the top tokens of cross-attention outputs

Examples:
  genir probe runs/quickstart
  genir probe runs/quickstart --probe logit_lens,residual_contribution --plots figures
  genir probe runs/quickstart --probe stage_patching --save
  genir probe runs/quickstart --probe stage_patching --patch 'decoder.cross_attention[1].heads[0]'
  genir probe runs/quickstart --probe circuit --circuit 'decoder.mlp[I,II]=mean,decoder.self_attention=zero'
  genir probe CHECKPOINT --corpus DIRECTORY --base google-t5/t5-large --format json --output probes.json";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Readable tables.
    Table,
    /// JSON array of results, each as in RUN/probes/PROBE.jsonl.
    Json,
    /// Long format: one number per row.
    Csv,
}

/// A checkpoint with the queries to measure.
struct Opened {
    recipe: Option<Recipe>,
    outputs: Outputs,
    retriever: Retriever,
    queries: ProbeQueries,
}

/// Where results are written; nowhere in a process that is not the first of several.
#[derive(Default)]
struct Outputs {
    run: Option<RunDirectory>,
    results: Option<AtomicFile>,
    per_query: Option<AtomicFile>,
}

impl ProbeCommand {
    pub fn run(self, console: &Console) -> Result<ExitCode> {
        together(console, |world| self.with(console, world))
    }

    /// Measures, together with the other processes of `world`. The first one writes and prints.
    fn with(&self, console: &Console, world: Option<&World>) -> Result<()> {
        let is_first = world.is_none_or(World::is_first);
        let mut opened = of_all(world, self.open(is_first))?;
        if let Some(world) = world {
            let (target, Retriever { checkpoint, device, .. }) = (&self.target, &opened.retriever);
            world.agree(&[program()?])?;
            world.agree(&identity(&target.directory()?, checkpoint, device, String::new())?)?;
        }
        // All have the stages that the first process finds: detection may depend on the last bits of a GPU.
        let stages = is_first.then(|| self.find_stages(&mut opened, console)).transpose();
        let stages = Group::of(world).gather(of_all(world, stages)?)?.pop().flatten();
        let (suite, mut test, others) = of_all(world, self.prepare(&opened, stages, console))?;
        if let Some(world) = world {
            others.agree(world)?;
        }
        let Opened { outputs, retriever, mut queries, .. } = opened;
        let subject = self.subject(&retriever)?;
        let suite = suite.shared_by(world);
        let bar = console.bar(0).map(|bar| bar.with_message("queries probed"));
        let mut progress = |done, of| {
            show(bar.as_ref(), done, of);
            ControlFlow::Continue(())
        };
        let found = suite.measure(&subject, &mut queries, test.as_mut(), &others, &mut progress);
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let records = match found {
            // The others may not know of it, and wait.
            Err(ProbeError::Processes(error)) => return Err(error.into()),
            found => of_all(world, found.map_err(anyhow::Error::from))?,
        };
        match world.filter(|_| !is_first) {
            Some(world) => wait_for_end(world),
            None => self.write_all(records, &queries, &retriever.checkpoint.docids, outputs),
        }
    }

    /// Opens the checkpoint, and the files that are written if this process `writes`.
    fn open(&self, writes: bool) -> Result<Opened> {
        let recipe = self.target.run_recipe()?;
        let outputs = if writes { self.outputs()? } else { Outputs::default() };
        let mut retriever = self.target.retriever()?;
        retriever.compute_in(PROBE_PRECISION);
        let queries = self.query_set(&retriever)?;
        Ok(Opened { recipe, outputs, retriever, queries })
    }

    /// Returns the stages of the decoder, which may have to be detected; `None` if it has too few layers.
    fn find_stages(&self, opened: &mut Opened, console: &Console) -> Result<Option<Stages>> {
        let Opened { recipe, retriever, queries, .. } = opened;
        let subject = self.subject(retriever)?;
        let (option, recipe) = (self.stages.as_ref(), recipe.as_ref());
        let chosen = stages::choose(option, recipe, &subject, queries, &self.options())?;
        if let Some(found) = &chosen.detection {
            console.message(&stages::describe(found));
        }
        Ok(chosen.stages)
    }

    /// Opens what the probes need beside the checkpoint and its queries.
    fn prepare(
        &self,
        Opened { recipe, retriever, .. }: &Opened,
        stages: Option<Stages>,
        console: &Console,
    ) -> Result<(Suite<'static>, Option<ProbeQueries>, ComparisonModels)> {
        let (recipe, config) = (recipe.as_ref(), retriever.checkpoint.model.t5.config());
        let options = ProbeOptions { stages, ..self.options() };
        let probes = self.chosen(recipe, &options, config.num_decoder_layers, console)?;
        let suite = Suite::new(&probes, options, config)?;
        let test = match probes.contains(&Probe::Circuit) {
            true => Some(ProbeQueries::new(self.test_set(retriever)?)),
            false => None,
        };
        Ok((suite, test, self.references.open(&probes, recipe, retriever, console)?))
    }

    fn subject<'a>(&self, retriever: &'a Retriever) -> Result<Subject<'a>> {
        Ok(retriever.subject(&self.target.directory()?.display().to_string()))
    }

    /// Opens what is written. It is done first, so that no measurement is lost to a path that cannot be written.
    fn outputs(&self) -> Result<Outputs> {
        let outputs = [
            ("--output", &self.output),
            ("--write-correct", &self.write_correct),
            ("--per-query", &self.per_query),
        ];
        let outputs = outputs.map(|(option, path)| (option, path.as_deref()));
        let mut inputs = self.target.inputs()?;
        inputs.extend(self.correct.clone().map(|path| ("--correct", path)));
        outputs::check(&outputs, &inputs)?;
        if let Some(directory) = &self.plots {
            outputs::check_directory("--plots", directory)?;
        }
        Ok(Outputs {
            run: self.save.then(|| self.target.run().context("--save")).transpose()?,
            results: self.output.as_deref().map(AtomicFile::create).transpose()?,
            per_query: self.per_query.as_deref().map(AtomicFile::create).transpose()?,
        })
    }

    /// Writes all results. They are written before figures, so that they are not lost if a figure cannot be written. An
    /// error of theirs (a closed pipe) is returned last, so that the files are still written.
    fn write_all(
        &self,
        records: Vec<Record>,
        queries: &ProbeQueries,
        docids: &DocidVocabulary,
        outputs: Outputs,
    ) -> Result<()> {
        if let Some(run) = &outputs.run {
            run.while_nothing_trains(|| anyhow::Ok(files::add(&run.probes(), &records)?))?;
        }
        let written = self.write(&records, outputs.results);
        if let Some(mut file) = outputs.per_query {
            let path = file.path().display().to_string();
            report::write_query_ranks(&records, &mut file).context(path)?;
            file.commit()?;
        }
        if let Some(path) = &self.write_correct {
            write_correct_queries(path, &queries.correct_pairs(docids))?;
        }
        if let Some(directory) = &self.plots {
            let stored = Stored { records, ..Stored::default() };
            let figures = report::plot_stored(&stored)?;
            plot::write(&plot::files(&figures, directory, &[FigureFormat::Svg], &[], &[])?)?;
        }
        written
    }

    /// Returns the selected probes, or else all that are available. Messages say which are skipped, and why.
    fn chosen(
        &self,
        recipe: Option<&Recipe>,
        options: &ProbeOptions,
        depth: usize,
        console: &Console,
    ) -> Result<Vec<Probe>> {
        let has_base = self.references.has_base(recipe);
        let mut probes = self.probes.clone();
        if probes.is_empty() {
            probes = Probe::ALL.to_vec();
            if !has_base && self.references.encoder_from.is_none() {
                probes.retain(|&probe| probe != Probe::EncoderSwap);
                console.message(
                    "skipped: encoder_swap needs another encoder (--base or --encoder-from)",
                );
            }
            for probe in probes.extract_if(.., |probe| probe.needs_stages(options)) {
                let why = ProbeError::NeedsStages { probe, depth };
                console.message(&format!("skipped: {why}"));
            }
        }
        let patches = probes
            .iter()
            .find(|probe| matches!(probe, Probe::StagePatching | Probe::Circuit) && !has_base);
        if let Some(probe) = patches {
            console.message(&format!(
                "{probe}: no base-model patching, which needs a base model (--base)"
            ));
        }
        for (option, given, probe) in [
            ("--patch", !self.patches.is_empty(), Probe::StagePatching),
            ("--circuit", !self.circuit.is_empty(), Probe::Circuit),
            ("--test-split", self.test_split.is_some(), Probe::Circuit),
            ("--encoder-from", self.references.encoder_from.is_some(), Probe::EncoderSwap),
        ] {
            if given && !probes.contains(&probe) {
                bail!("{option} applies to {probe}, which is not among the selected probes");
            }
        }
        Ok(probes)
    }

    /// The options without stages.
    fn options(&self) -> ProbeOptions {
        ProbeOptions {
            stages: None,
            candidates: self.vocabulary,
            over: self.over,
            variant: self.variant,
            average_first: self.average_first,
            encoder_norm: self.encoder_norm,
            patches: self.patches.clone(),
            circuit: split_outside_brackets(&self.circuit),
            samples: self.samples,
            per_query: self.per_query.is_some(),
            batch_size: self.batch_size as usize,
        }
    }

    /// Returns the queries to measure; those of `--correct` are always included.
    fn query_set(&self, retriever: &Retriever) -> Result<ProbeQueries> {
        // A sample might not contain the queries in the file.
        let most = self.sample().filter(|_| self.correct.is_none());
        let mut queries = ProbeQueries::new(self.queries_of(retriever, self.split, most)?);
        if let Some(file) = &self.correct {
            let pairs = read_correct_queries(file)?;
            let known = queries.measure_only(&pairs, &retriever.checkpoint.docids);
            known.with_context(|| file.display().to_string())?;
        }
        Ok(queries)
    }

    fn test_set(&self, retriever: &Retriever) -> Result<QuerySet> {
        let split = match self.test_split {
            Some(split) => split,
            None if retriever.corpus.test.is_empty() => self.split,
            None => Split::Test,
        };
        self.queries_of(retriever, split, self.sample())
    }

    /// Returns the queries of a split, or a sample of `most` of them, if their batches fit into memory.
    fn queries_of(
        &self,
        retriever: &Retriever,
        split: Split,
        most: Option<usize>,
    ) -> Result<QuerySet> {
        let set = retriever.queries(split, most, self.seed)?;
        retriever.check_batches(&set.queries, self.batch_size as usize)?;
        Ok(set)
    }

    fn sample(&self) -> Option<usize> {
        self.queries.map(|queries| queries as usize)
    }

    fn write(&self, records: &[Record], to: Option<AtomicFile>) -> Result<()> {
        let mut text = Vec::new();
        match self.format {
            Format::Table => write_tables(records, &mut text)?,
            Format::Csv => report::write_csv(records, &mut text)?,
            Format::Json => {
                let json = serde_json::to_string_pretty(records)?;
                writeln!(text, "{}", output::escaped_json(&json))?;
            }
        }
        let files: Vec<&PathBuf> =
            [&self.write_correct, &self.per_query].into_iter().flatten().collect();
        match to {
            Some(mut file) => {
                file.write_all(&text).with_context(|| file.path().display().to_string())?;
                file.commit()?;
            }
            // Standard output is used by a file, as in `eval`.
            None if files.iter().any(|path| outputs::is_standard_output(path)) => {
                output::error_line(String::from_utf8_lossy(&text));
            }
            None if self.format == Format::Table => {
                output::print(escaped_lines(&String::from_utf8_lossy(&text)))?;
            }
            None => output::data(&String::from_utf8_lossy(&text))?,
        }
        Ok(())
    }
}

/// Writes the checkpoint and queries that were measured, then every table with its title.
fn write_tables(records: &[Record], out: &mut dyn Write) -> io::Result<()> {
    if let Some(record) = records.first() {
        let on = &record.measured_on;
        writeln!(out, "{}: {}", on.checkpoint, report::measured_on(record))?;
        // Not every probe uses the base model.
        let base = records.iter().find_map(|record| record.measured_on.base.as_ref());
        let base = base.map(|base| format!("; base model {base}")).unwrap_or_default();
        let stages = on.stages.as_ref().map_or("none".to_owned(), Stages::to_string);
        writeln!(out, "stages {stages}{base}")?;
    }
    for titled in records.iter().flat_map(report::tables) {
        writeln!(out, "\n{}\n{}", titled.title, titled.table)?;
    }
    Ok(())
}

fn show(bar: Option<&ProgressBar>, done: usize, of: usize) {
    if let Some(bar) = bar {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    }
}

/// Splits a list at the commas outside of brackets.
fn split_outside_brackets(list: &str) -> Vec<String> {
    let mut inside = false;
    let parts = list.split(|char| {
        match char {
            '[' => inside = true,
            ']' => inside = false,
            _ => {}
        }
        char == ',' && !inside
    });
    parts.map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}
