//! `genir eval`

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};

use super::output;
use super::target::Target;
use crate::corpus::Split;
use crate::probe::ranked_among;
use crate::retrieval::Metrics;
use crate::retrieval::evaluation::evaluate;
use crate::retrieval::ranking::{RankOptions, Vocabulary};
use crate::retrieval::run_files::{RunWriter, write_correct_queries, write_qrels};

/// Rank the queries of a split with a checkpoint, and print its metrics.
#[derive(Debug, Args)]
pub struct Eval {
    #[command(flatten)]
    target: Target,

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

    /// Queries at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,

    /// Write the rankings as a TREC run file.
    #[arg(long, value_name = "FILE")]
    run: Option<PathBuf>,

    /// Documents for each query in the run file.
    #[arg(long, default_value_t = 100)]
    depth: usize,

    /// Write the judgements as a TREC qrels file.
    #[arg(long, value_name = "FILE")]
    qrels: Option<PathBuf>,

    /// Write the queries whose document has rank 1, as the paper's correct_valid.json.
    #[arg(long, value_name = "FILE")]
    correct: Option<PathBuf>,

    /// How to print the metrics.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl Eval {
    pub fn run(self) -> Result<()> {
        let asked = self.target.asked()?;
        let checkpoint = &asked.checkpoint;
        let set = asked.queries(self.split, self.queries, self.seed)?;
        let options = RankOptions {
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
        let writer = run.as_mut().map(|run| (run, &checkpoint.docids));
        let found = evaluate(&checkpoint.model, &asked.device, &set, options, writer)?;
        if let Some(run) = run {
            run.finish()?;
        }
        if let Some(path) = &self.qrels {
            write_qrels(path, set.judgements(&checkpoint.docids))?;
        }
        if let Some(path) = &self.correct {
            write_correct_queries(path, &set.correct_pairs(&found, &checkpoint.docids))?;
        }
        let parts = [("all", found.all), ("seen", found.seen), ("unseen", found.unseen)];
        let parts: Vec<(&str, Metrics)> =
            parts.into_iter().filter_map(|(name, metrics)| Some((name, metrics?))).collect();
        self.print(&parts)
    }

    fn print(&self, parts: &[(&str, Metrics)]) -> Result<()> {
        match self.format {
            Format::Json => {
                let object: serde_json::Map<_, _> = parts
                    .iter()
                    .map(|(name, metrics)| Ok(((*name).to_owned(), serde_json::to_value(metrics)?)))
                    .collect::<serde_json::Result<_>>()?;
                output::line(serde_json::to_string_pretty(&object)?)?;
            }
            Format::Table => {
                let mut table = Table::new();
                table.load_style(presets::ASCII_MARKDOWN);
                let mut header = vec!["part".to_owned()];
                let metrics = parts.first().map(|(_, metrics)| metrics);
                header.extend(
                    metrics.into_iter().flat_map(|m| m.values()).map(|(name, _)| name.into()),
                );
                table.set_header(header);
                for (name, metrics) in parts {
                    let mut row = vec![(*name).to_owned()];
                    row.extend(metrics.values().map(|(name, value)| match name {
                        "queries" => value.to_string(),
                        _ => format!("{value:.4}"),
                    }));
                    table.add_row(row);
                }
                output::line(table)?;
                output::line("seen: a relevant document had a training query; unseen: none had.")?;
                output::line(format!("Ranked among {}.", ranked_among(self.vocabulary)))?;
            }
        }
        Ok(())
    }
}
