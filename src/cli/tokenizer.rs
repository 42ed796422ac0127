//! `genir tokenizer`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use super::output;
use crate::corpus::{self, CorpusOptions, Layout, LeaveOut, OnProblem, ReadLimits};
use crate::docid::{T5_SENTINELS, UnigramOptions, UnigramTokenizer};
use crate::files::{expand_home, read_regular_to_string};

/// Train a tokenizer.
#[derive(Debug, Args)]
pub struct Tokenizer {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Train(Train),
}

/// Train a unigram tokenizer in T5's form: the same characters are equal, the same special tokens and sentinels.
///
/// It is learned from the documents and the training queries of a corpus (never from validation or test queries), or from
/// text files. The directory loads in transformers (`AutoTokenizer`), and can be the `model.base` of a run from scratch:
/// its config.json has the sizes of t5-small, which `[model.config]` of a recipe overrides. The same texts give the same
/// bytes.
#[derive(Debug, Args)]
struct Train {
    /// Corpora as in `corpus.path` of a recipe (a directory, a file, `bundled:atlas`), and text files: names that end in
    /// `.txt`, each line a text.
    #[arg(required = true, value_name = "CORPUS|TEXT.txt")]
    inputs: Vec<String>,

    /// Number of tokens, the three special ones and the sentinels included. There may be fewer if the texts have no more.
    #[arg(long, value_name = "TOKENS")]
    vocab_size: usize,

    /// Number of sentinel tokens, `<extra_id_0>` and so on, which denoising needs; T5 has 100.
    #[arg(long, value_name = "COUNT", default_value_t = T5_SENTINELS)]
    extra_ids: usize,

    /// Lowercase all texts.
    #[arg(long)]
    lowercase: bool,

    /// Remove accents: `Bogotá` is `Bogota`.
    #[arg(long)]
    strip_accents: bool,

    /// The directory to write; files in it are not overwritten.
    #[arg(long, short, value_name = "DIRECTORY")]
    output: PathBuf,
}

impl Tokenizer {
    pub fn run(self) -> Result<()> {
        match self.action {
            Action::Train(train) => train.run(),
        }
    }
}

impl Train {
    fn run(self) -> Result<()> {
        let Self { vocab_size, extra_ids: sentinels, lowercase, strip_accents, .. } = self;
        let mut texts = Vec::new();
        for input in &self.inputs {
            texts.extend(texts_of(input).with_context(|| input.clone())?);
        }
        let options = UnigramOptions { vocab_size, sentinels, lowercase, strip_accents };
        let trained = UnigramTokenizer::train(texts.iter().map(String::as_str), &options)?;
        trained.write(&self.output)?;
        let directory = self.output.display();
        let count = trained.tokens();
        let fewer = match count < vocab_size {
            true => format!(" ({vocab_size} were asked for, and the texts have no more)"),
            false => String::new(),
        };
        Ok(output::line(format_args!(
            "{directory}: {count} tokens{fewer}, {sentinels} of them sentinels, from {} texts\n\
             use it: model.base = \"{directory}\", model.init = \"scratch\"",
            texts.len()
        ))?)
    }
}

/// The texts of an input: the lines of a text file, or the documents and training queries of a corpus.
fn texts_of(input: &str) -> Result<Vec<String>> {
    let path = expand_home(input, std::env::home_dir().as_deref());
    if Path::new(input).extension().is_some_and(|extension| extension == "txt") {
        let text = read_regular_to_string(&path).context("cannot be read")?;
        return Ok(text.lines().map(str::to_owned).collect());
    }
    let options = CorpusOptions {
        path: path.to_string_lossy().into_owned(),
        layout: Layout::Auto,
        generated_queries: None,
        on_problem: OnProblem::Skip,
        leave_out: LeaveOut::None,
        limits: ReadLimits::default(),
    };
    let corpus = corpus::load(&options)?.corpus;
    let documents = corpus.documents.into_iter().flat_map(|document| document.texts);
    Ok(documents.chain(corpus.train.into_iter().map(|query| query.text)).collect())
}
