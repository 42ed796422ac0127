//! `genir probe`

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;

use super::beside::Beside;
use super::target::Target;
use super::{output, outputs};
use crate::component::{Stage, Stages, parse_layers};
use crate::corpus::Split;
use crate::files::AtomicFile;
use crate::monitor::Console;
use crate::probe::files::Stored;
use crate::probe::{
    AverageFirst, EncoderNorm, Over, PROBE_PRECISION, Probe, ProbeError, ProbeOptions,
    ProbeQueries, Record, Suite, Variant,
};
use crate::recipe::Recipe;
use crate::report;
use crate::retrieval::Vocabulary;
use crate::retrieval::evaluation::QuerySet;
use crate::retrieval::run_files::{read_correct_queries, write_correct_queries};
use crate::retriever::Retriever;

/// See what a checkpoint does inside: the paper's probes, as tables, JSON or CSV.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ProbeVerb {
    #[command(flatten)]
    target: Target,

    /// A probe to measure; may be repeated, or a list with commas [default: all that can be].
    #[arg(long = "probe", value_name = "NAME", value_delimiter = ',',
          value_parser = super::picked::<Probe>)]
    probes: Vec<Probe>,

    /// The queries to look at: train, validation or test.
    #[arg(long, default_value = "validation")]
    split: Split,

    /// The queries that circuits are judged on [default: test, or those of --split without any].
    #[arg(long, value_name = "SPLIT")]
    test_split: Option<Split>,

    /// A sample of this many queries of each split, those of --correct excepted [default: all].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    queries: Option<u32>,

    /// Draws the sample.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Which of them to average over: correct (relevant docid at rank 1) or all.
    #[arg(long, default_value = "correct", value_parser = super::picked::<Over>)]
    over: Over,

    /// What a docid is ranked among: all (words and docids, as in the paper) or docids.
    #[arg(long, default_value = "all", value_parser = super::picked::<Vocabulary>)]
    vocabulary: Vocabulary,

    /// How neuron_reads and attention_reads compute contributions: paper or exact.
    #[arg(long, default_value = "paper", value_parser = super::picked::<Variant>)]
    variant: Variant,

    /// What neuron_reads and attention_reads average shares over first: readers, or queries as the paper's
    /// released code does.
    #[arg(long, default_value = "readers", value_parser = super::picked::<AverageFirst>)]
    average_first: AverageFirst,

    /// Whose final encoder RMSNorm encoder_swap puts behind the other encoder: other, or own (that of the model
    /// that is probed) as the paper's released code does.
    #[arg(long, default_value = "other", value_parser = super::picked::<EncoderNorm>)]
    encoder_norm: EncoderNorm,

    /// Decoder layers of the stages, ends exclusive: 0..7,7..18,18..24 [default: the run's, or the paper's
    /// scaled to the depth].
    #[arg(long, value_name = "LAYERS", value_parser = stages)]
    stages: Option<Stages>,

    #[command(flatten)]
    beside: Beside,

    /// What stage_patching replaces beside the paper's, such as decoder.layers[3] or
    /// decoder.cross_attention[4].heads[0]; may be repeated.
    #[arg(long = "patch", value_name = "SELECTOR", allow_hyphen_values = true)]
    patches: Vec<String>,

    /// A circuit to judge beside the paper's: what is replaced, by zero, mean or base. Of two that name the same
    /// output or head the later one holds.
    #[arg(
        long,
        value_name = "SELECTOR=HOW,...",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    circuit: String,

    /// Queries for which attention_writes lists the top words of each head.
    #[arg(long, default_value_t = 3)]
    samples: usize,

    /// Queries at once.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,

    /// Average over the queries in this file, the paper's correct_valid.json, whatever the model ranks.
    #[arg(long, value_name = "FILE")]
    correct: Option<PathBuf>,

    /// Write the queries whose document has rank 1, as the paper's correct_valid.json.
    #[arg(long, value_name = "FILE")]
    write_correct: Option<PathBuf>,

    /// Write the rank for every single query, as CSV: of every probe that ranks, whatever --format prints.
    #[arg(long, value_name = "FILE")]
    per_query: Option<PathBuf>,

    /// How to print the results.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    /// Where to print them [default: standard output].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// A directory for pictures of the results, as SVG.
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Probes:
  residual_contribution  how much each component adds to the residual stream, and in which direction
  logit_lens             at which rank the relevant docid stands when the decoder is read off early
  direct_effect          how far one type of component leads by itself
  stage_patching         which queries are lost when a component's output is replaced in a stage
  circuit                how well the circuit that the paper found retrieves by itself
  encoder_swap           how well the decoder retrieves from another model's encoder
  neuron_reads           from which earlier components MLP neurons are activated
  attention_reads        from which earlier components cross-attention heads take their queries
  attention_writes       whether cross-attention writes words or docids

Examples:
  genir probe runs/quickstart
  genir probe runs/quickstart --probe logit_lens,residual_contribution --plots pictures
  genir probe runs/quickstart --probe stage_patching --patch 'decoder.cross_attention[1].heads[0]'
  genir probe runs/quickstart --probe circuit --circuit 'decoder.mlp[I,II]=mean,decoder.self_attention=zero'
  genir probe CHECKPOINT --corpus DIRECTORY --base google-t5/t5-large --format json --output probes.json";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// An array of results, as a run keeps them.
    Json,
    /// One number a line.
    Csv,
}

impl ProbeVerb {
    pub fn run(self, console: &Console) -> Result<()> {
        let recipe = self.target.run_recipe()?;
        // Now, so that a path that cannot be written costs no measurement.
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
        let output = self.output.as_deref().map(AtomicFile::create).transpose()?;
        let per_query = self.per_query.as_deref().map(AtomicFile::create).transpose()?;
        let mut retriever = self.target.retriever()?;
        retriever.compute_in(PROBE_PRECISION);
        let checkpoint = &retriever.checkpoint;
        let mut queries = self.query_set(&retriever)?;
        let config = checkpoint.model.t5.config();
        let options = self.options(recipe.as_ref(), config.num_decoder_layers)?;
        let probes = self.chosen(recipe.as_ref(), &options, config.num_decoder_layers, console)?;
        let suite = Suite::new(&probes, options, config)?;
        let mut test = match probes.contains(&Probe::Circuit) {
            true => Some(ProbeQueries::new(self.test_set(&retriever)?)),
            false => None,
        };
        let others = self.beside.open(&probes, recipe.as_ref(), &retriever, console)?;
        let subject = retriever.subject(&self.target.directory()?.display().to_string());
        let bar = console.bar(0).map(|bar| bar.with_message("queries probed"));
        let mut progress = |done, of| show(bar.as_ref(), done, of);
        let found = suite.measure(&subject, &mut queries, test.as_mut(), &others, &mut progress);
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let records = found?;
        // Numbers first: they are not lost where a picture cannot be written, nor files where nobody reads the numbers.
        let written = self.write(&records, output);
        if let Some(mut file) = per_query {
            let path = file.path().display().to_string();
            report::write_query_ranks(&records, &mut file).context(path)?;
            file.commit()?;
        }
        if let Some(path) = &self.write_correct {
            write_correct_queries(path, &queries.correct_pairs(&checkpoint.docids))?;
        }
        if let Some(directory) = &self.plots {
            let stored = Stored { records, ..Stored::default() };
            super::plot::write(&super::plot::draw(&stored, directory)?)?;
        }
        written
    }

    /// The probes that were asked for, or else all that can be measured; says which cannot, and why.
    fn chosen(
        &self,
        recipe: Option<&Recipe>,
        options: &ProbeOptions,
        depth: usize,
        console: &Console,
    ) -> Result<Vec<Probe>> {
        let has_base = self.beside.has_base(recipe);
        let mut probes = self.probes.clone();
        if probes.is_empty() {
            probes = Probe::ALL.to_vec();
            if !has_base && self.beside.encoder_from.is_none() {
                probes.retain(|&probe| probe != Probe::EncoderSwap);
                console.message(
                    "left out: encoder_swap, which needs another encoder (--base or --encoder-from)",
                );
            }
            for probe in probes.extract_if(.., |probe| probe.needs_stages(options)) {
                let why = ProbeError::NeedsStages { probe, depth };
                console.message(&format!("left out: {why}"));
            }
        }
        let patches = probes
            .iter()
            .find(|probe| matches!(probe, Probe::StagePatching | Probe::Circuit) && !has_base);
        if let Some(probe) = patches {
            console.message(&format!(
                "{probe}: without the base model's outputs, which need a base model (--base)"
            ));
        }
        for (option, given, probe) in [
            ("--patch", !self.patches.is_empty(), Probe::StagePatching),
            ("--circuit", !self.circuit.is_empty(), Probe::Circuit),
            ("--test-split", self.test_split.is_some(), Probe::Circuit),
            ("--encoder-from", self.beside.encoder_from.is_some(), Probe::EncoderSwap),
        ] {
            if given && !probes.contains(&probe) {
                bail!("{option} is for {probe}, which is not among the probes that are measured");
            }
        }
        Ok(probes)
    }

    fn options(&self, recipe: Option<&Recipe>, depth: usize) -> Result<ProbeOptions> {
        let given = self.stages.clone();
        let stages = given.or_else(|| recipe.and_then(|recipe| recipe.stages.clone()));
        Ok(ProbeOptions {
            stages: match stages {
                None if depth < Stages::LEAST_DEPTH => None,
                None => Some(Stages::scaled(depth)?),
                given => given,
            },
            candidates: self.vocabulary,
            over: self.over,
            variant: self.variant,
            average_first: self.average_first,
            encoder_norm: self.encoder_norm,
            patches: self.patches.clone(),
            circuit: outside_brackets(&self.circuit),
            samples: self.samples,
            per_query: self.per_query.is_some(),
            batch_size: self.batch_size as usize,
        })
    }

    /// The queries to look at; those of `--correct` are measured in any case.
    fn query_set(&self, retriever: &Retriever) -> Result<ProbeQueries> {
        // A sample might lack what the file names.
        let most = self.sample().filter(|_| self.correct.is_none());
        let mut queries = ProbeQueries::new(retriever.queries(self.split, most, self.seed)?);
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
        Ok(retriever.queries(split, self.sample(), self.seed)?)
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
                serde_json::to_writer_pretty(&mut text, records)?;
                text.push(b'\n');
            }
        }
        let files: Vec<&PathBuf> =
            [&self.write_correct, &self.per_query].into_iter().flatten().collect();
        match to {
            Some(mut file) => {
                file.write_all(&text).with_context(|| file.path().display().to_string())?;
                file.commit()?;
            }
            // Standard output is left to the file, as in `eval`.
            None if files.iter().any(|path| outputs::is_standard_output(path)) => {
                output::error_line(String::from_utf8_lossy(&text));
            }
            None => output::print(String::from_utf8_lossy(&text))?,
        }
        Ok(())
    }
}

/// What was measured on, then every table under its title.
fn write_tables(records: &[Record], out: &mut dyn Write) -> io::Result<()> {
    if let Some(record) = records.first() {
        let on = &record.measured_on;
        writeln!(out, "{}: {}", on.checkpoint, report::measured_on(record))?;
        // Not every probe looks at it.
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

/// Stages from `0..2,2..4,4..6`, each perhaps with its name: `I=0..2,II=2..4,III=4..6`.
fn stages(text: &str) -> Result<Stages, String> {
    let wrong = || {
        format!(
            "expected the layers of three stages, ends exclusive, such as 0..7,7..18,18..24 or \
             I=0..7,II=7..18,III=18..24; found `{text}`"
        )
    };
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let [first, second, third] = parts.as_slice() else { return Err(wrong()) };
    let layers = |stage: Stage, part: &str| {
        let layers = match part.split_once('=') {
            Some((name, layers)) if name.trim() == stage.name() => layers,
            Some(_) => return Err(wrong()),
            None => part,
        };
        parse_layers(layers.trim()).map_err(|error| error.to_string())
    };
    let (first, second) = (layers(Stage::First, first)?, layers(Stage::Second, second)?);
    Stages::consecutive(first, second, layers(Stage::Third, third)?)
        .map_err(|error| error.to_string())
}

/// Parts of a list with commas; commas inside brackets part nothing.
fn outside_brackets(list: &str) -> Vec<String> {
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
