//! The baseline of `genir eval --baseline`: BM25 on the corpus of a recipe, of a run or of `--corpus`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::target::{Target, TargetOptions};
use super::{RecipeArgs, parse_choice};
use crate::choice::choice;
use crate::corpus::{LoadedCorpus, Split};
use crate::monitor::Console;
use crate::provenance::IrMetadata;
use crate::recipe::{Recipe, ShippedRecipe};
use crate::retrieval::bm25::{Bm25Language, Bm25Options};
use crate::run::Environment;

choice! {
    /// A ranking that needs no model.
    Baseline {
        /// BM25.
        Bm25 = "bm25",
    }
}

/// Options of the baseline.
#[derive(Debug, Clone, Args)]
pub struct BaselineArgs {
    /// Also rank the documents without a model: bm25, on their full texts. Alone on a corpus with a recipe in place of
    /// the checkpoints, or with --corpus; beside checkpoints it is a further run on the corpus of the first.
    #[arg(long, value_name = "NAME", value_parser = parse_choice::<Baseline>)]
    pub baseline: Option<Baseline>,

    /// BM25: saturation of term frequencies, from 0 to 1000.
    #[arg(long, value_name = "NUMBER", default_value_t = Bm25Options::default().k1, requires = "baseline",
        value_parser = k1)]
    bm25_k1: f64,

    /// BM25: normalisation by document length, from 0 to 1.
    #[arg(long, value_name = "NUMBER", default_value_t = Bm25Options::default().b, requires = "baseline",
        value_parser = b)]
    bm25_b: f64,

    /// BM25: language of the stemmer and the stop words.
    #[arg(long, value_name = "LANGUAGE", default_value = "english", requires = "baseline",
        value_parser = parse_choice::<Bm25Language>)]
    bm25_language: Bm25Language,

    /// BM25: do not reduce words to their stems (Snowball).
    #[arg(long, requires = "baseline")]
    bm25_no_stemming: bool,

    /// BM25: do not remove stop words (NLTK's lists).
    #[arg(long, requires = "baseline")]
    bm25_keep_stop_words: bool,
}

fn k1(text: &str) -> Result<f64, String> {
    within(text, 1000.0)
}

fn b(text: &str) -> Result<f64, String> {
    within(text, 1.0)
}

fn within(text: &str, most: f64) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=most).contains(number));
    number.ok_or_else(|| format!("expected a number from 0 to {most}"))
}

impl BaselineArgs {
    /// Returns the options of BM25.
    pub fn options(&self) -> Bm25Options {
        Bm25Options {
            k1: self.bm25_k1,
            b: self.bm25_b,
            language: self.bm25_language,
            stemming: !self.bm25_no_stemming,
            remove_stop_words: !self.bm25_keep_stop_words,
        }
    }

    /// Returns the name and all options of the baseline, for results.
    pub fn json(&self) -> Value {
        let mut of_options = json!(self.options());
        of_options["name"] = json!(Baseline::Bm25);
        of_options["library"] = json!(Bm25Options::LIBRARY);
        of_options
    }

    /// Returns the metadata of the run file of `split`.
    pub fn metadata(
        &self,
        tag: &str,
        loaded: &LoadedCorpus,
        path: &str,
        split: Split,
    ) -> IrMetadata {
        let Bm25Options { language, stemming, remove_stop_words, .. } = self.options();
        let none = || "none".to_owned();
        let indexing = json!({
            "tokenizer": Bm25Options::LIBRARY,
            "stemmer": if stemming { format!("Snowball, {language}") } else { none() },
            "stopwords": if remove_stop_words { format!("NLTK, {language}") } else { none() },
        });
        let mut method = self.json();
        method["method"] = json!("BM25");
        IrMetadata::new(tag, &Environment::capture("cpu"), method)
            .with_indexing(indexing)
            .with_collection(path, &loaded.corpus, split)
    }

    /// Describes the baseline in a sentence.
    pub fn describe(&self) -> String {
        let Bm25Options { k1, b, language, stemming, remove_stop_words } = self.options();
        let words = match (stemming, remove_stop_words) {
            (true, true) => format!("{language} stems, without stop words"),
            (true, false) => format!("{language} stems, with stop words"),
            (false, true) => format!("no stemming, without {language} stop words"),
            (false, false) => "no stemming, with stop words".to_owned(),
        };
        format!(
            "bm25: k1 {k1}, b {b}, {words}, full texts of documents ({}); documents without a word of the query are \
             not ranked.",
            Bm25Options::LIBRARY
        )
    }

    /// Returns the recipe among `paths`, which are checkpoints otherwise: its path, and what it says.
    ///
    /// # Errors
    /// The recipe is wrong, it is not the only path, or there is no baseline to evaluate on it.
    pub fn recipe(
        &self,
        paths: &[PathBuf],
        console: &Console,
    ) -> Result<Option<(PathBuf, Recipe)>> {
        let Some(path) = paths.iter().find(|path| is_recipe(path)) else { return Ok(None) };
        let shown = path.display();
        if self.baseline.is_none() {
            bail!(
                "{shown} is a recipe, not a checkpoint or a run; with --baseline bm25, the baseline is evaluated on its \
                 corpus"
            );
        }
        if paths.len() > 1 {
            bail!(
                "{shown} is a recipe: give it alone, or the runs to compare with; --baseline uses the corpus of the \
                 first of them"
            );
        }
        let arguments = RecipeArgs { recipe: path.clone(), overrides: Vec::new(), device: None };
        Ok(Some((path.clone(), arguments.read(console)?)))
    }
}

/// Returns whether a path is a recipe: a TOML file, or the name of a recipe that comes with genir.
fn is_recipe(path: &Path) -> bool {
    let is_shipped = ShippedRecipe::find(&path.to_string_lossy()).is_some();
    let is_toml = path.extension().is_some_and(|extension| extension == "toml");
    (is_toml && !path.is_dir()) || (is_shipped && !path.exists())
}

/// Returns the recipe of the corpus that the baseline ranks: `alone`, or that of the first of `targets`; `None` if only
/// `--corpus` says it.
pub fn recipe_of(
    alone: Option<Recipe>,
    targets: &[(String, Target)],
    options: &TargetOptions,
) -> Result<Option<Recipe>> {
    match (alone, targets.first()) {
        (Some(recipe), _) => Ok(Some(recipe)),
        (None, Some((_, target))) => target.run_recipe(),
        (None, None) if options.has_corpus() => Ok(None),
        (None, None) => bail!(
            "--baseline needs a corpus: give a recipe (`genir eval quickstart --baseline bm25`), a run, or --corpus"
        ),
    }
}
