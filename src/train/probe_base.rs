//! The base model of a run's probes: the model before training for retrieval.

use std::fs;
use std::path::{Path, PathBuf};

use super::base::{Base, name_of_base};
use super::plan_error::OpenBaseError;
use crate::checkpoint::MANIFEST;
use crate::device::ComputeDevice;
use crate::probe::{ComparisonModel, NO_BASE};
use crate::recipe::{Init, Recipe};
use crate::run::RunDirectory;
use crate::t5::T5Config;
use crate::t5::weights::WeightsError;

/// A base model for probes, without its weights.
pub struct ProbeBase {
    /// The model's name in results.
    pub name: String,
    /// A sentence for the log that says how the model was found, if it is not the model of `model.base`.
    pub note: Option<String>,
    /// The model.
    pub base: Base,
    /// Draws the weights of a run from scratch.
    seed: u64,
    /// True if it is the model from which the run itself started.
    is_start: bool,
}

impl ProbeBase {
    /// The base model that `named` names, or else the one that the run with this recipe goes back to; none where it is
    /// [`NO_BASE`].
    ///
    /// A run that starts from a checkpoint of another run goes back to what that one started from, and so on, as far as
    /// the recipes beside the checkpoints lead. Where they end at a model that has been trained to retrieve, that one
    /// is taken, and the note says so.
    ///
    /// # Errors
    /// The model that is named, or what the run itself started from, cannot be opened.
    pub fn find(recipe: &Recipe, named: Option<&str>) -> Result<Option<Self>, OpenBaseError> {
        match named {
            Some(NO_BASE) => Ok(None),
            Some(name) => Self::named(name).map(Some),
            None => Self::original(recipe).map(Some),
        }
    }

    /// A directory, or a model of the hub.
    pub(crate) fn named(name: &str) -> Result<Self, OpenBaseError> {
        let base = Base::pretrained(name)?;
        Ok(Self { name: name.to_owned(), note: None, base, seed: 0, is_start: false })
    }

    fn original(recipe: &Recipe) -> Result<Self, OpenBaseError> {
        let (_, base) = Base::of(&recipe.model)?;
        let (name, seed) = (name_of_base(recipe), recipe.run.seed);
        let mut found = Self { name, note: None, base, seed, is_start: true };
        let mut init = recipe.model.init;
        let mut passed: Vec<PathBuf> = Vec::new();
        while init == Init::Pretrained && found.is_retriever() {
            let earlier = match earlier_run(&found.base.directory, &passed) {
                Ok((run, recipe)) => {
                    passed.push(run.clone());
                    match Base::of(&recipe.model) {
                        Ok((_, base)) => Ok((run, recipe, base)),
                        Err(error) => Err(format!(
                            "the base model of {} cannot be opened: {error}",
                            run.display()
                        )),
                    }
                }
                Err(reason) => Err(reason),
            };
            let (run, recipe, base) = match earlier {
                Ok(earlier) => earlier,
                Err(reason) => {
                    let name = &found.name;
                    found.note = Some(format!(
                        "the base model of the probes is {name}, which was itself trained to retrieve: {reason}; \
                         name another with probes.base or --base"
                    ));
                    return Ok(found);
                }
            };
            init = recipe.model.init;
            let name = match init {
                Init::Pretrained => name_of_base(&recipe),
                Init::Scratch => format!("{} of {}", name_of_base(&recipe), run.display()),
            };
            let note = format!(
                "the base model of the probes is {name}: {} started from it, and this run continues that one",
                run.display()
            );
            let (note, seed) = (Some(note), recipe.run.seed);
            found = Self { name, note, base, seed, is_start: false };
        }
        Ok(found)
    }

    /// Returns whether it has been trained to retrieve: it has docids, or is a checkpoint of genir's.
    fn is_retriever(&self) -> bool {
        self.base.imported.is_some() || self.base.directory.join(MANIFEST).exists()
    }

    /// The first size in which it differs from a model of the shape `own`, with its value and that one's; its word
    /// embedding may have more rows.
    pub fn differs_from(&self, own: &T5Config) -> Option<(&'static str, usize, usize)> {
        let sizes = |config: &T5Config| {
            [
                ("d_model", config.d_model),
                ("d_kv", config.d_kv),
                ("d_ff", config.d_ff),
                ("num_heads", config.num_heads),
                ("num_layers", config.num_layers),
                ("num_decoder_layers", config.num_decoder_layers),
                ("relative_attention_num_buckets", config.relative_attention_num_buckets),
            ]
        };
        let found = &self.base.config;
        let mut sizes = sizes(found).into_iter().zip(sizes(own));
        let differs = sizes.find(|(found, own)| found != own);
        let fewer = (found.vocab_size < own.vocab_size).then_some((
            "vocab_size",
            found.vocab_size,
            own.vocab_size,
        ));
        differs.map(|((key, found), (_, own))| (key, found, own)).or(fewer)
    }

    /// True if it is the model from which the run itself started.
    pub fn is_start(&self) -> bool {
        self.is_start
    }

    /// The model with its weights.
    pub(crate) fn open(
        &self,
        device: impl Into<ComputeDevice>,
    ) -> Result<ComparisonModel, WeightsError> {
        Ok(ComparisonModel {
            name: self.name.clone(),
            t5: self.base.t5(self.seed, device)?,
            has_same_encoder: self.is_start,
            left_out: Default::default(),
        })
    }
}

/// The run that a checkpoint's directory is in, with its recipe; or why there is none.
fn earlier_run(checkpoint: &Path, passed: &[PathBuf]) -> Result<(PathBuf, Recipe), String> {
    // `best` and `latest` lead to a checkpoint of the run as well.
    let directory = fs::canonicalize(checkpoint).unwrap_or_else(|_| checkpoint.to_owned());
    // A run itself, or <run>/checkpoints/<checkpoint>.
    let around = directory.parent().and_then(Path::parent);
    let runs = [Some(directory.as_path()), around].into_iter().flatten();
    let mut opened = runs.filter_map(|run| Some((run, RunDirectory::open(run).ok()?)));
    let Some((run, opened)) = opened.next() else {
        return Err(format!(
            "{} is in no run that says what it started from",
            checkpoint.display()
        ));
    };
    if passed.iter().any(|known| known == run) {
        return Err(format!("{} started from itself, as its recipe says", run.display()));
    }
    match Recipe::from_file(&opened.recipe(), &[]) {
        Ok(recipe) => Ok((run.to_owned(), recipe)),
        Err(error) => Err(format!("the recipe of its run cannot be read: {error}")),
    }
}
