//! `genir inspect`

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::slice;

use anyhow::{Result, bail};
use clap::Args;

use super::search::is_like_an_option;
use super::target::Target;
use super::{output, outputs, stages};
use crate::component::Stages;
use crate::corpus::{Corpus, Query, Split};
use crate::files::write_atomically;
use crate::monitor::Console;
use crate::nearest::nearest;
use crate::probe::{
    InspectOptions, Inspection, Over, PROBE_PRECISION, ProbeQueries, Question, inspect,
};
use crate::report::{inspection_heading, inspection_page, inspection_tables};
use crate::retrieval::CandidateSet;
use crate::retrieval::ranking::EncodedQuery;
use crate::retriever::Retriever;

/// Show what a model does with one query: ranked documents, cross-attention over the query's tokens, the rank of the
/// relevant docid after each layer, and what mean ablation of each component changes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Inspect {
    #[command(flatten)]
    target: Target,

    /// The query. If the corpus has a query of this text, its relevant documents are known.
    #[arg(allow_hyphen_values = true)]
    query: Option<String>,

    /// Id of a query of the corpus, in place of a text.
    #[arg(long, value_name = "ID", conflicts_with = "query", allow_hyphen_values = true)]
    query_id: Option<String>,

    /// Docid to follow through the layers [default: the best ranked relevant one, else the one ranked first].
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    docid: Option<String>,

    /// Number of documents to show.
    #[arg(long, short = 'k', default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,

    /// Candidate set of ranks and probabilities: all (text tokens and docids, as in the probes) or docids.
    #[arg(long, default_value = "all", value_parser = super::parse_choice::<CandidateSet>)]
    vocabulary: CandidateSet,

    /// Decoder layers of the three stages, ends exclusive: 0..7,7..18,18..24 [default: those of the run, else the
    /// paper's scaled to the depth].
    #[arg(long, value_name = "LAYERS", value_parser = stages::parse_given)]
    stages: Option<Stages>,

    /// Queries that the means of mean ablation are taken over: train, validation or test [default: validation; without
    /// any, test or train].
    #[arg(long)]
    split: Option<Split>,

    /// Sample size in queries of --split.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    queries: u32,

    /// Random seed of the sample.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Queries of the sample that the means are taken over: correct (those with the relevant docid at rank 1) or all
    /// [default: correct, or all if none is correct].
    #[arg(long, value_parser = super::parse_choice::<Over>)]
    over: Option<Over>,

    /// Number of queries per batch.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,

    /// Write everything as JSON, also for `genir report --inspect`.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write one HTML page with the tables and figures, which needs no network.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write the activations as safetensors: the residual stream and the output of each component, attention weights,
    /// encoder states.
    #[arg(long, value_name = "FILE")]
    activations: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  genir inspect runs/quickstart \"Which element has the symbol Fe?\"
  genir inspect runs/quickstart --query-id element-iron/symbol/given/0 --html query.html
  genir inspect runs/quickstart \"Which element has the symbol Fe?\" --docid Gold
  genir inspect runs/quickstart --query-id element-iron/symbol/given/0 --activations query.safetensors
  genir inspect runs/quickstart --query-id element-iron/symbol/given/0 --json query.json
  genir report runs/quickstart --inspect query.json

Tensors of --activations, in f32, in the order of the layers:
  encoder.last_hidden_state                                  [tokens, d_model]
  decoder.embedding, decoder.last_hidden_state               [1, d_model]
  decoder.residual_mid (after self-attention), decoder.residual_mid_cross (after cross-attention),
  decoder.residual_post (after the layer)                    [layers, d_model]
  decoder.self_attention_out, decoder.cross_attention_out,
  decoder.mlp_out                                            [layers, d_model]
  decoder.cross_attention_weights                            [layers, heads, tokens]";

/// The splits, in the order in which queries are looked for.
const SPLITS: [Split; 3] = [Split::Validation, Split::Test, Split::Train];

impl Inspect {
    pub fn run(self, console: &Console) -> Result<()> {
        self.check_query()?;
        let files =
            [("--json", &self.json), ("--html", &self.html), ("--activations", &self.activations)];
        let files = files.map(|(option, path)| (option, path.as_deref()));
        outputs::check(&files, &self.target.inputs()?)?;
        let recipe = self.target.run_recipe()?;
        let mut retriever = self.target.retriever()?;
        retriever.compute_in(PROBE_PRECISION);
        let question = self.question(&retriever)?;
        let mut reference = self.reference(&retriever)?;
        if reference.is_none() {
            console.message(
                "skipped: mean ablation needs queries to take means over, and the corpus has none",
            );
        }
        let depth = retriever.checkpoint.model.t5.config().num_decoder_layers;
        let options = InspectOptions {
            stages: stages::given_or_scaled(self.stages.as_ref(), recipe.as_ref(), depth)?,
            candidates: self.vocabulary,
            over: self.over,
            depth: self.top as usize,
            batch_size: self.batch_size as usize,
        };
        let subject = retriever.subject(&self.target.directory()?.display().to_string());
        let order = retriever.docid_order();
        let (mut found, activations) =
            inspect(&subject, order, &question, reference.as_mut(), &options)?;
        add_texts(&mut found, &retriever.corpus);
        if let Some(path) = &self.activations {
            activations.write(path, &found)?;
        }
        if let Some(path) = &self.json {
            let json = output::escaped_json(&serde_json::to_string(&found)?) + "\n";
            write_atomically(path, |file| file.write_all(json.as_bytes()))?;
        }
        if let Some(path) = &self.html {
            let page = inspection_page(&found);
            write_atomically(path, |file| file.write_all(page.as_bytes()))?;
        }
        // Printed last, so that a closed pipe leaves nothing unwritten.
        let text = shown(&found);
        let mut files = files.iter().filter_map(|(_, path)| *path);
        match files.any(outputs::is_standard_output) {
            true => output::error_line(text),
            false => output::line(text)?,
        }
        Ok(())
    }

    fn check_query(&self) -> Result<()> {
        match (&self.query, &self.query_id) {
            (None, None) => {
                bail!("no query: give its text, or the id of a query of the corpus with --query-id")
            }
            (Some(query), _) if query.trim().is_empty() => bail!("the query is empty"),
            (Some(query), _) if is_like_an_option(query) => bail!(
                "`{query}` is not an option of `genir inspect` (see --help); to use it as a query, put a space before \
                 it: ' {query}'"
            ),
            _ => Ok(()),
        }
    }

    /// Returns the query, tokenized, with its relevant documents if the corpus has it.
    fn question(&self, retriever: &Retriever) -> Result<Question> {
        let Retriever { checkpoint, corpus, .. } = retriever;
        let of_corpus = match &self.query_id {
            Some(id) => Some(by_id(corpus, id)?),
            None => self.query.as_deref().and_then(|text| by_text(corpus, text)),
        };
        let text = match (&self.query, of_corpus) {
            (None, Some((_, query))) => query.text.clone(),
            (given, _) => given.clone().unwrap_or_default(),
        };
        let encoding = checkpoint.encoding().queries();
        let texts = checkpoint.tokenizer.encode_batch(&[text.as_str(), ""], &encoding)?;
        let [tokens, of_nothing] = <[Vec<u32>; 2]>::try_from(texts).unwrap_or_default();
        if tokens == of_nothing {
            bail!(
                "the query {text:?} has no tokens: the tokenizer leaves nothing of it, or the recipe's length of queries \
                 has no room for more than the prefix"
            );
        }
        let encoded = EncodedQuery { tokens: tokens.clone(), relevant: Vec::new() };
        retriever.check_batches(slice::from_ref(&encoded), 1)?;
        let docids = &checkpoint.docids;
        let docid = self.docid.as_deref().map(|id| match docids.row(id) {
            Some(row) => Ok(row),
            None => {
                let near = did_you_mean(nearest(id, docids.ids()));
                bail!("--docid {id}: not one of the {} docids of the model{near}", docids.len())
            }
        });
        let relevant = of_corpus.into_iter().flat_map(|(_, query)| &query.relevant);
        let row = |document: u32| docids.row(&corpus.documents[document as usize].id);
        Ok(Question {
            relevant: relevant.filter_map(|judged| row(judged.document)).collect(),
            of_corpus: of_corpus.map(|(split, query)| (query.id.clone(), split)),
            text,
            tokens,
            docid: docid.transpose()?,
        })
    }

    /// Returns the queries that means are taken over, if the corpus has any.
    fn reference(&self, retriever: &Retriever) -> Result<Option<ProbeQueries>> {
        let has_some = |split: &Split| !retriever.corpus.split(*split).is_empty();
        let Some(split) = self.split.or_else(|| SPLITS.into_iter().find(has_some)) else {
            return Ok(None);
        };
        let set = retriever.queries(split, Some(self.queries as usize), self.seed)?;
        retriever.check_batches(&set.queries, self.batch_size as usize)?;
        Ok(Some(ProbeQueries::new(set)))
    }
}

/// Returns the query with an id, and its split.
fn by_id<'a>(corpus: &'a Corpus, id: &str) -> Result<(Split, &'a Query)> {
    let all = || {
        SPLITS
            .into_iter()
            .flat_map(|split| corpus.split(split).iter().map(move |query| (split, query)))
    };
    let found: Vec<(Split, &Query)> = all().filter(|(_, query)| query.id == id).collect();
    match found.as_slice() {
        [] => {
            let near = did_you_mean(nearest(id, all().map(|(_, query)| query.id.as_str())));
            bail!("--query-id {id}: the corpus has no such query{near}")
        }
        [first, others @ ..] => match others.iter().find(|other| other.1.text != first.1.text) {
            None => Ok(*first),
            Some(other) => bail!(
                "--query-id {id}: the {} query {:?} and the {} query {:?} have this id; give the text in place of the id",
                first.0,
                first.1.text,
                other.0,
                other.1.text
            ),
        },
    }
}

/// Returns the first query with a text, and its split.
fn by_text<'a>(corpus: &'a Corpus, text: &str) -> Option<(Split, &'a Query)> {
    SPLITS.into_iter().find_map(|split| {
        let mut queries = corpus.split(split).iter();
        Some((split, queries.find(|query| query.text.trim() == text.trim())?))
    })
}

fn did_you_mean(near: Option<&str>) -> String {
    near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}

fn add_texts(found: &mut Inspection, corpus: &Corpus) {
    let texts: HashMap<&str, &str> =
        corpus.documents.iter().map(|document| (document.id.as_str(), document.text())).collect();
    for document in &mut found.documents {
        document.text = texts.get(document.docid.as_str()).map(|&text| text.to_owned());
    }
}

/// Returns the printed text: the model, the query, and the tables with their titles.
fn shown(found: &Inspection) -> String {
    let heading = inspection_heading(found).join("\n");
    let tables = inspection_tables(found);
    let tables = tables.iter().map(|titled| format!("\n\n{}\n{}", titled.title, titled.table));
    heading + &tables.collect::<String>()
}
