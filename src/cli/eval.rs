//! `genir eval`

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use serde_json::{Map, Value, json};

use super::target::{Target, With};
use super::{output, outputs};
use crate::corpus::Split;
use crate::files::write_atomically;
use crate::probe::describe_candidates;
use crate::recipe::MAX_PADDING;
use crate::report::per_query;
use crate::retrieval::evaluation::{Evaluated, QuerySet, evaluate};
use crate::retrieval::measure::KNOWN;
use crate::retrieval::ranking::{RankOptions, Vocabulary};
use crate::retrieval::run_files::{
    RunWriter, check_docids, check_qrels, write_correct_queries, write_qrels,
};
use crate::retrieval::{DocidOrder, Metrics, NamedMeasure};

/// Rank the queries of a split with checkpoints, and print their metrics.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Eval {
    /// Checkpoint or run directories (of a run its best checkpoint, else its latest).
    #[arg(required = true, value_name = "CHECKPOINT")]
    checkpoints: Vec<PathBuf>,

    #[command(flatten)]
    with: With,

    /// train, validation or test.
    #[arg(long, default_value = "validation")]
    split: Split,

    /// A sample of this many queries [default: all].
    #[arg(long)]
    queries: Option<usize>,

    /// Draws the sample.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// What a docid is ranked among: docids, or all (words and docids, as the paper's code does).
    #[arg(long, default_value = "docids", value_parser = super::picked::<Vocabulary>)]
    vocabulary: Vocabulary,

    /// Cut and pad queries to this many tokens and let the model attend to the padding, as the paper's eval.py does
    /// with 128 [default: padding is masked].
    #[arg(long, value_name = "TOKENS",
        value_parser = clap::value_parser!(u32).range(1..=MAX_PADDING as i64))]
    unmasked_padding: Option<u32>,

    /// Queries at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,

    /// The metrics to print, in quotes: "nDCG@10 RR@10 Success@1 R@100 P@1 AP Rprec", by the names of ir_measures
    /// (relevant is what has a grade of 1 or more, or as in P(rel=2)@5), or genir's (hits@1, recall@5, mrr@10,
    /// ndcg@10).
    #[arg(long, value_name = "NAMES", value_parser = measures)]
    metrics: Option<Measures>,

    /// Write the metrics of each query as CSV: run, query, part (seen or unseen), docid (the best ranked relevant
    /// document), rank, and each metric. - is standard output, here and for the other files; on a terminal, control
    /// characters of ids are escaped.
    #[arg(long, value_name = "FILE")]
    per_query: Option<PathBuf>,

    /// Write the rankings as a TREC run file.
    #[arg(long, value_name = "FILE")]
    run: Option<PathBuf>,

    /// Documents for each query in the run file.
    #[arg(long, default_value_t = 100)]
    depth: usize,

    /// Write the judgements as a TREC qrels file.
    #[arg(long, value_name = "FILE")]
    qrels: Option<PathBuf>,

    /// Write the queries that have a relevant document at rank 1, as the paper's correct_valid.json.
    #[arg(long, value_name = "FILE")]
    correct: Option<PathBuf>,

    /// How to print the metrics.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  genir eval runs/quickstart --split test --run test.run --qrels test.qrels
  genir eval runs/full runs/restricted --metrics 'nDCG@10 RR@10' --per-query queries.csv
  genir eval CHECKPOINT --corpus DIRECTORY --vocabulary all --unmasked-padding 128 --correct correct_valid.json
  genir eval runs/quickstart --run - | head

Where a file is standard output, the metrics are printed on standard error.";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Metrics in the order of the columns.
#[derive(Debug, Clone)]
struct Measures(Vec<NamedMeasure>);

fn measures(names: &str) -> Result<Measures, String> {
    let mut found: Vec<NamedMeasure> = Vec::new();
    let names = names.split(|letter: char| letter.is_whitespace() || letter == ',');
    for name in names.filter(|name| !name.is_empty()) {
        let measure: NamedMeasure = name.parse().map_err(|error| format!("{error}"))?;
        if !found.contains(&measure) {
            found.push(measure);
        }
    }
    if found.is_empty() {
        Err(format!("no metric is named; there are {KNOWN}"))
    } else {
        Ok(Measures(found))
    }
}

/// What is measured where `--metrics` does not say.
fn usual_measures() -> Measures {
    let named = |(name, measure): (&str, _)| NamedMeasure { name: name.to_owned(), measure };
    Measures(Metrics::NAMES.into_iter().zip(Metrics::MEASURES).map(named).collect())
}

/// A part of a run's queries, with the means over them.
struct SubsetMeans {
    name: &'static str,
    queries: usize,
    means: Vec<f64>,
}

impl Eval {
    pub fn run(self) -> Result<()> {
        self.check()?;
        let targets: Vec<(String, Target)> = self
            .checkpoints
            .iter()
            .map(|path| (path.display().to_string(), Target::new(path.clone(), self.with.clone())))
            .collect();
        // What is no checkpoint is found before the first is evaluated, which may take long.
        let wrong: Vec<String> = targets
            .iter()
            .filter_map(|(_, target)| target.directory().err().map(|error| format!("{error:#}")))
            .collect();
        if !wrong.is_empty() {
            bail!("{}", wrong.join("\n"));
        }
        let inputs: Vec<_> =
            targets.iter().map(|(_, target)| target.inputs()).collect::<Result<_>>()?;
        let outputs = self.files().map(|(option, path)| (option, path.as_deref()));
        outputs::check(&outputs, &inputs.concat())?;
        let measures = self.metrics.clone().unwrap_or_else(usual_measures).0;
        let mut per_query = Vec::new();
        per_query::write_header(&measures, &mut per_query)?;
        let mut runs = Vec::new();
        for (name, target) in &targets {
            let parts = self.evaluate(name, target, &measures, &mut per_query)?;
            runs.push((name.as_str(), parts));
        }
        if let Some(path) = &self.per_query {
            write_atomically(path, |file| file.write_all(&outputs::for_reader(path, per_query)))?;
        }
        self.print(&measures, &runs)
    }

    /// The files that may be retriever for, with their options.
    fn files(&self) -> [(&'static str, &Option<PathBuf>); 4] {
        [
            ("--run", &self.run),
            ("--qrels", &self.qrels),
            ("--correct", &self.correct),
            ("--per-query", &self.per_query),
        ]
    }

    /// That the files that are retriever for can all be written.
    fn check(&self) -> Result<()> {
        let files = self.files();
        let given: Vec<&str> =
            files[..3].iter().filter(|(_, path)| path.is_some()).map(|(name, _)| *name).collect();
        if self.checkpoints.len() > 1 && !given.is_empty() {
            bail!(
                "{} holds one run, and {} are evaluated: evaluate one at a time (--per-query takes several)",
                given.join(" and "),
                self.checkpoints.len()
            );
        }
        let printed = files
            .iter()
            .filter(|(_, path)| path.as_deref().is_some_and(outputs::is_standard_output));
        let printed: Vec<&str> = printed.map(|(name, _)| *name).collect();
        if printed.len() > 1 {
            bail!(
                "{} cannot all be written to standard output: give a file",
                printed.join(" and ")
            );
        }
        let twice = (1..self.checkpoints.len())
            .find(|&index| self.checkpoints[..index].contains(&self.checkpoints[index]));
        if let Some(index) = twice {
            bail!("{} is named twice", self.checkpoints[index].display());
        }
        Ok(())
    }

    /// Evaluates one checkpoint, and writes what is retriever for of it.
    fn evaluate(
        &self,
        name: &str,
        target: &Target,
        measures: &[NamedMeasure],
        per_query: &mut Vec<u8>,
    ) -> Result<Vec<SubsetMeans>> {
        let retriever = target.retriever()?;
        let checkpoint = &retriever.checkpoint;
        let docids = &checkpoint.docids;
        let (split, most, seed) = (self.split, self.queries, self.seed);
        let set = match self.unmasked_padding {
            None => retriever.queries(split, most, seed)?,
            Some(length) => retriever.unmasked_queries(split, most, seed, length as usize)?,
        };
        // Before what takes long.
        for path in [&self.run, &self.qrels].into_iter().flatten() {
            check_qrels(path, set.judgements(docids))?;
        }
        if let Some(path) = &self.run {
            check_docids(path, docids.ids())?;
        }
        let order = DocidOrder::of(docids);
        let options = RankOptions {
            order: &order,
            vocabulary: self.vocabulary,
            depth: if self.run.is_some() { self.depth } else { 0 },
            batch_size: self.batch_size as usize,
            pad_id: checkpoint.tokenizer.pad_id(),
            prefix: None,
        };
        let mut run = match &self.run {
            Some(path) => Some(RunWriter::create(path, "genir")?),
            None => None,
        };
        let writer = run.as_mut().map(|run| (run, docids));
        let found = evaluate(&checkpoint.model, &retriever.device.device, &set, options, writer)?;
        for remark in found.doubts.remarks() {
            tracing::warn!("{name}: {remark}");
        }
        if let Some(run) = run {
            run.finish()?;
        }
        if let Some(path) = &self.qrels {
            write_qrels(path, set.judgements(docids))?;
        }
        if let Some(path) = &self.correct {
            write_correct_queries(path, &set.correct_pairs(&found, docids))?;
        }
        per_query::write_queries(name, (&set, &found), docids, measures, per_query)?;
        Ok(parts(&set, &found, measures))
    }

    fn print(&self, measures: &[NamedMeasure], runs: &[(&str, Vec<SubsetMeans>)]) -> Result<()> {
        let text = match self.format {
            Format::Json => serde_json::to_string_pretty(&self.json(measures, runs))?,
            Format::Table => self.table(measures, runs),
        };
        let files = [&self.run, &self.qrels, &self.correct, &self.per_query];
        if files.iter().any(|path| path.as_deref().is_some_and(outputs::is_standard_output)) {
            output::error_line(text);
            return Ok(());
        }
        Ok(output::line(text)?)
    }

    /// One run's parts by their names, or a list of runs with theirs.
    fn json(&self, measures: &[NamedMeasure], runs: &[(&str, Vec<SubsetMeans>)]) -> Value {
        let of_part = |part: &SubsetMeans| {
            let values = measures.iter().zip(&part.means);
            let values = values.map(|(measure, mean)| (measure.name.clone(), json!(mean)));
            let queries = ("queries".to_owned(), json!(part.queries));
            Value::Object([queries].into_iter().chain(values).collect())
        };
        let of_run = |parts: &[SubsetMeans]| -> Map<String, Value> {
            let padding = self.unmasked_padding.map(|length| ("unmasked_padding", json!(length)));
            let parts = parts.iter().map(|part| (part.name, of_part(part)));
            padding.into_iter().chain(parts).map(|(name, value)| (name.to_owned(), value)).collect()
        };
        match runs {
            [(_, parts)] => Value::Object(of_run(parts)),
            _ => runs
                .iter()
                .map(|(name, parts)| {
                    let mut run = Map::from_iter([("run".to_owned(), json!(name))]);
                    run.extend(of_run(parts));
                    Value::Object(run)
                })
                .collect(),
        }
    }

    fn table(&self, measures: &[NamedMeasure], runs: &[(&str, Vec<SubsetMeans>)]) -> String {
        let several = runs.len() > 1;
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        let mut header = if several { vec!["run", "part"] } else { vec!["part"] };
        header.extend(measures.iter().map(|measure| measure.name.as_str()));
        header.push("queries");
        table.set_header(header);
        for (name, parts) in runs {
            for part in parts {
                let mut row = Vec::new();
                row.extend(several.then(|| (*name).to_owned()));
                row.push(part.name.to_owned());
                row.extend(part.means.iter().map(|mean| format!("{mean:.4}")));
                row.push(part.queries.to_string());
                table.add_row(row);
            }
        }
        let mut text =
            format!("{table}\nseen: a relevant document had a training query; unseen: none had.");
        text += &format!("\nRanked among {}.", describe_candidates(self.vocabulary));
        if self.metrics.is_some() {
            text += "\nrelevant: a grade of 1 or more, where no rel= says otherwise; nDCG takes the grade as gain.";
        }
        if let Some(length) = self.unmasked_padding {
            text += &format!(
                "\nQueries were cut and padded to {length} tokens without a mask, as in the paper's eval.py."
            );
        }
        text
    }
}

/// Means over all queries, and over those seen and unseen; a part without queries is left out.
fn parts(set: &QuerySet, found: &Evaluated, measures: &[NamedMeasure]) -> Vec<SubsetMeans> {
    let part = |name, counts: &dyn Fn(usize) -> bool| {
        let mut part = SubsetMeans { name, queries: 0, means: vec![0.0; measures.len()] };
        for (index, judged) in found.judged.iter().enumerate() {
            if judged.relevant.is_empty() || !counts(index) {
                continue;
            }
            part.queries += 1;
            let values = judged.values(measures.iter().map(|measure| measure.measure));
            part.means.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        part.means.iter_mut().for_each(|mean| *mean /= part.queries as f64);
        (part.queries > 0).then_some(part)
    };
    [
        part("all", &|_| true),
        part("seen", &|index| set.is_seen(index) == Some(true)),
        part("unseen", &|index| set.is_seen(index) == Some(false)),
    ]
    .into_iter()
    .flatten()
    .collect()
}
