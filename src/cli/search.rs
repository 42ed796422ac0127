//! `genir search`

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::BufRead;

use anyhow::Result;
use clap::Args;

use super::output;
use super::target::Target;
use crate::checkpoint::Checkpoint;
use crate::monitor::Console;
use crate::retrieval::ranking::{Question, RankOptions, Ranking, Vocabulary, rank};

/// Answer typed queries with ranked documents.
#[derive(Debug, Args)]
pub struct Search {
    #[command(flatten)]
    target: Target,

    /// The query [default: one a line from standard input].
    query: Option<String>,

    /// How many documents to show.
    #[arg(long, short = 'k', default_value_t = 5)]
    top: usize,

    /// Print one JSON object a document.
    #[arg(long)]
    json: bool,
}

/// Characters of a document's text that are shown.
const EXCERPT: usize = 100;

impl Search {
    pub fn run(self, console: &Console) -> Result<()> {
        let (checkpoint, device) = self.target.open()?;
        // Texts are a help to the reader: docids are the answer, with or without them.
        let texts: HashMap<String, String> = match self.target.corpus() {
            // The first of a document's texts stands for it.
            Ok(loaded) => loaded
                .corpus
                .documents
                .into_iter()
                .filter_map(|document| Some((document.id, document.texts.into_iter().next()?)))
                .collect(),
            Err(error) => {
                let error = super::told(&error);
                console.message(&format!("documents are shown without their text: {error}"));
                HashMap::new()
            }
        };
        let answer = |query: &str| -> Result<()> {
            let ranking = self.rank(&checkpoint, &device.device, query)?;
            self.print(&checkpoint, &texts, query, &ranking)
        };
        match &self.query {
            Some(query) => answer(query),
            None => std::io::stdin().lock().lines().try_for_each(|line| {
                let line = line?;
                if line.trim().is_empty() { Ok(()) } else { answer(line.trim()) }
            }),
        }
    }

    fn rank(
        &self,
        checkpoint: &Checkpoint,
        device: &burn::tensor::Device,
        query: &str,
    ) -> Result<Ranking> {
        let encoding = checkpoint.encoding().queries();
        let tokens = checkpoint.tokenizer.encode_batch(&[query], &encoding)?;
        let questions: Vec<Question> =
            tokens.into_iter().map(|tokens| Question { tokens, relevant: Vec::new() }).collect();
        let options = RankOptions {
            vocabulary: Vocabulary::Docids,
            depth: self.top,
            batch_size: 1,
            pad_id: checkpoint.tokenizer.pad_id(),
            prefix: None,
        };
        let mut found = Ranking { ranks: Vec::new(), best: Vec::new() };
        let Ok(()) = rank(&checkpoint.model, device, &questions, options, |_, ranking| {
            found = ranking;
            Ok::<(), Infallible>(())
        });
        Ok(found)
    }

    fn print(
        &self,
        checkpoint: &Checkpoint,
        texts: &HashMap<String, String>,
        query: &str,
        ranking: &Ranking,
    ) -> Result<()> {
        for (place, &(row, score)) in ranking.best.iter().enumerate() {
            let rank = place + 1;
            let docid = checkpoint.docids.id(row);
            let text = texts.get(docid).map(String::as_str);
            if self.json {
                let line = serde_json::json!({
                    "query": query, "rank": rank, "docid": docid, "score": score, "text": text,
                });
                output::line(line)?;
            } else {
                output::line(format_args!("{rank:>3}  {score:>8.3}  {docid}"))?;
                if let Some(text) = text {
                    let excerpt: String = text.chars().take(EXCERPT).collect();
                    let more = if excerpt.len() < text.len() { " ..." } else { "" };
                    output::line(format_args!("     {excerpt}{more}"))?;
                }
            }
        }
        Ok(())
    }
}
