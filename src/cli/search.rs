//! `genir search`

use std::collections::HashMap;
use std::io::BufRead;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::output::{self, Plain};
use super::target::Target;
use crate::monitor::Console;
use crate::retrieval::{Hit, Searcher};

/// Answer typed queries with ranked documents.
#[derive(Debug, Args)]
pub struct Search {
    #[command(flatten)]
    target: Target,

    /// The query [default: one a line from standard input, each answer under its query].
    #[arg(allow_hyphen_values = true)]
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

/// Whether a text is one word like `--jsno` or `-x`: rather a mistyped option than a query. `-17 degrees` and `-17` are
/// queries.
fn is_like_an_option(text: &str) -> bool {
    let name = text.trim_start_matches('-');
    let begins = text.len() > name.len() && !text.contains(char::is_whitespace);
    begins && name.starts_with(|letter: char| letter.is_ascii_alphabetic())
}

impl Search {
    pub fn run(self, console: &Console) -> Result<()> {
        if self.query.as_ref().is_some_and(|query| query.trim().is_empty()) {
            bail!(
                "the query is empty: give some words, or no query at all to read one a line from standard input"
            );
        }
        if let Some(word) = self.query.as_deref().filter(|query| is_like_an_option(query)) {
            bail!(
                "`{word}` is no option of search (see --help); to search for it, put a space before it: ' {word}'"
            );
        }
        let (checkpoint, _) = self.target.open()?;
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
        let searcher = Searcher::new(&checkpoint);
        let answer = |query: &str| -> Result<()> {
            self.print(&texts, query, &searcher.search(query, self.top)?)
        };
        if let Some(query) = &self.query {
            return answer(query);
        }
        let mut answered = 0_u64;
        for (number, line) in (1_u64..).zip(std::io::stdin().lock().split(b'\n')) {
            let line =
                line.with_context(|| format!("cannot read standard input, line {number}"))?;
            let Ok(line) = str::from_utf8(&line) else {
                let text = String::from_utf8_lossy(&line);
                bail!(
                    "standard input, line {number}: {:?} is no UTF-8; write the queries in UTF-8 \
                     (iconv converts them)",
                    text.trim()
                );
            };
            let query = line.trim();
            if query.is_empty() {
                console.message(&format!("standard input, line {number} is empty: no answer"));
                continue;
            }
            if !self.json {
                let before = if answered > 0 { "\n" } else { "" };
                output::line(format_args!("{before}query: {}", Plain(query)))?;
            }
            answer(query)?;
            answered += 1;
        }
        Ok(())
    }

    fn print(&self, texts: &HashMap<String, String>, query: &str, hits: &[Hit]) -> Result<()> {
        for (at, &Hit { docid, score }) in hits.iter().enumerate() {
            let rank = at + 1;
            let text = texts.get(docid).map(String::as_str);
            if self.json {
                let found = serde_json::json!({
                    "query": query, "rank": rank, "docid": docid, "score": score, "text": text,
                });
                output::line(output::json(&found))?;
            } else {
                output::line(format_args!("{rank:>3}  {score:>8.3}  {}", Plain(docid)))?;
                if let Some(text) = text {
                    let excerpt: String = text.chars().take(EXCERPT).collect();
                    let more = if excerpt.len() < text.len() { " ..." } else { "" };
                    output::line(format_args!("     {}{more}", Plain(&excerpt)))?;
                }
            }
        }
        Ok(())
    }
}
