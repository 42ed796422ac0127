//! The base model that a recipe names: what a run starts from, and what probes compare it with.

use std::path::PathBuf;

use burn::tensor::Device;

use super::plan::PlanError;
use crate::checkpoint::{HubSettings, Wanted, locate};
use crate::docid::{ImportedDocids, TextTokenizer};
use crate::recipe::{Init, Recipe};
use crate::t5::weights::{self, StoredTensors};
use crate::t5::{T5, T5Config};

/// A base model, without its weights.
pub struct Base {
    /// Where it is.
    pub directory: PathBuf,
    /// Its configuration, with the sizes that the recipe gives and the words of its tokenizer.
    pub config: T5Config,
    /// Whether the word embedding is the output matrix too.
    pub tied: bool,
    /// Docids that it has already.
    pub imported: Option<ImportedDocids>,
}

impl Base {
    /// Finds the base of `recipe`, fetched where needed, and reads its configuration and tokenizer.
    pub fn read(recipe: &Recipe) -> Result<(TextTokenizer, Self), PlanError> {
        let model = &recipe.model;
        let pretrained = model.init == Init::Pretrained;
        let wanted = if pretrained { Wanted::Everything } else { Wanted::ConfigAndTokenizer };
        let directory =
            locate(&model.base, model.revision.as_deref(), wanted, &HubSettings::from_env())?;
        let config = T5Config::read(&directory)?.resized(&model.config.sizes());
        let loaded = TextTokenizer::load(&directory)?;
        let tied = match pretrained {
            true => weights::is_tied(&StoredTensors::open(&directory)?)?,
            false => config.tie_word_embeddings,
        };
        // As the paper's code resizes the embedding to the tokenizer: rows that no token has are dropped.
        let config = config.with_words(loaded.tokenizer.words());
        Ok((loaded.tokenizer, Self { directory, config, tied, imported: loaded.docids }))
    }

    /// The T5 before the first step: the base's weights, or those that the recipe's seed draws.
    pub fn t5(&self, recipe: &Recipe, device: &Device) -> Result<T5, PlanError> {
        match recipe.model.init {
            Init::Scratch => Ok(weights::initialise(&self.config, recipe.run.seed, device)),
            Init::Pretrained => {
                let tensors = StoredTensors::open(&self.directory)?;
                Ok(weights::load(&tensors, &self.config, self.config.vocab_size, device)?)
            }
        }
    }
}

/// What the weights before the first step are called: the base's name, or that nothing was learnt yet.
pub fn name_of_base(recipe: &Recipe) -> String {
    match recipe.model.init {
        Init::Pretrained => recipe.model.base.clone(),
        Init::Scratch => format!("initialisation by seed {}", recipe.run.seed),
    }
}
