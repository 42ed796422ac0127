//! `genir search`

use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::output;
use super::target::Target;
use super::together::{identity, of_all, program, together};
use crate::monitor::Console;
use crate::processes::World;
use crate::retrieval::{Hit, Searcher};
use crate::terminal::Escaped;

/// Rank documents for queries from the command line or standard input.
///
/// `mpirun -np 4 genir search ...` shares the documents among four processes, in a build with `--features mpi`:
/// docs/processes.md.
#[derive(Debug, Args)]
pub struct Search {
    #[command(flatten)]
    target: Target,

    /// The query [default: queries from standard input, one per line; each is printed above its results].
    #[arg(allow_hyphen_values = true)]
    query: Option<String>,

    /// Number of documents to print.
    #[arg(long, short = 'k', default_value_t = 5)]
    top: usize,

    /// Print one JSON object per document.
    #[arg(long)]
    json: bool,
}

/// Number of characters of a document's text that are printed.
const EXCERPT: usize = 100;

/// Bytes of the longest line of standard input.
const LONGEST: u64 = 1 << 20;

/// Returns whether the text is one word like `--jsno` or `-x`, which is more likely a mistyped option than a query.
/// `-17 degrees` and `-17` are queries.
pub(super) fn is_like_an_option(text: &str) -> bool {
    let name = text.trim_start_matches('-');
    let begins = text.len() > name.len() && !text.contains(char::is_whitespace);
    begins && name.starts_with(|letter: char| letter.is_ascii_alphabetic())
}

impl Search {
    pub fn run(self, console: &Console) -> Result<ExitCode> {
        together(console, |world| self.search(console, world))
    }

    /// Checks the query of the command line.
    fn check(&self) -> Result<()> {
        if self.query.as_ref().is_some_and(|query| query.trim().is_empty()) {
            bail!("the query is empty; omit it to read queries from standard input, one per line");
        }
        if let Some(word) = self.query.as_deref().filter(|query| is_like_an_option(query)) {
            bail!(
                "`{word}` is not an option of `genir search` (see --help); to use it as a query, put a \
                 space before it: ' {word}'"
            );
        }
        Ok(())
    }

    fn search(&self, console: &Console, world: Option<&World>) -> Result<()> {
        let opened = self.check().and_then(|()| self.target.open(world));
        let (checkpoint, device) = of_all(world, opened)?;
        if let Some(world) = world {
            let options = format!("-k {}", self.top);
            let directory = self.target.directory()?;
            world.agree(&[program()?])?;
            world.agree(&identity(&directory, &checkpoint, &device, options)?)?;
        }
        let searcher = Searcher::new(&checkpoint).with(world);
        if let Some(world) = world.filter(|world| !world.is_first()) {
            return Ok(searcher.follow(world, self.top)?);
        }
        // The results are docids; texts are printed only if the corpus can be read.
        let texts: HashMap<String, String> = match self.target.corpus() {
            // Of a document with several texts the first is printed.
            Ok(loaded) => loaded
                .corpus
                .documents
                .into_iter()
                .filter_map(|document| Some((document.id, document.texts.into_iter().next()?)))
                .collect(),
            Err(error) => {
                let error = super::with_causes(&error);
                console.message(&format!("documents are printed without their text: {error}"));
                HashMap::new()
            }
        };
        let answer = |query: &str| -> Result<()> {
            self.print(&texts, query, &searcher.search(query, self.top)?)
        };
        if let Some(query) = &self.query {
            return answer(query);
        }
        let mut answered = 0_u64;
        let mut input = std::io::stdin().lock();
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            let read = (&mut input).take(LONGEST + 1).read_until(b'\n', &mut line);
            if read.with_context(|| format!("cannot read standard input, line {number}"))? == 0 {
                break;
            }
            if line.len() as u64 > LONGEST {
                bail!(
                    "standard input, line {number}: longer than {} MiB; expected one query per line",
                    LONGEST >> 20
                );
            }
            let Ok(line) = str::from_utf8(&line) else {
                let text = String::from_utf8_lossy(&line);
                bail!(
                    "standard input, line {number}: {:?} is not valid UTF-8; convert the queries to UTF-8, \
                     for example with iconv",
                    text.trim()
                );
            };
            let query = line.trim();
            if query.is_empty() {
                console.message(&format!("standard input, line {number} is empty: skipped"));
                continue;
            }
            if !self.json {
                let before = if answered > 0 { "\n" } else { "" };
                output::line(format_args!("{before}query: {}", Escaped(query)))?;
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
                output::line(format_args!("{rank:>3}  {score:>8.3}  {}", Escaped(docid)))?;
                if let Some(text) = text {
                    let excerpt: String = text.chars().take(EXCERPT).collect();
                    let more = if excerpt.len() < text.len() { " ..." } else { "" };
                    output::line(format_args!("     {}{more}", Escaped(&excerpt)))?;
                }
            }
        }
        Ok(())
    }
}
