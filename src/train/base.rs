//! The base model that a recipe names: what a run starts from, and what probes compare it with.

use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::{BaseError, HubSettings, Wanted, locate};
use crate::device::ComputeDevice;
use crate::docid::{ImportedDocids, TextTokenizer, TokenizerError};
use crate::recipe::{Init, ModelSection, Recipe};
use crate::t5::weights::{self, Origin, StoredTensors, WeightsError};
use crate::t5::{ConfigError, T5, T5Config};

/// Why a base model cannot be used.
#[derive(Debug, Error)]
pub enum OpenBaseError {
    /// It cannot be found or fetched.
    #[error(transparent)]
    Find(#[from] BaseError),
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its tokenizer is wrong.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its weights are wrong.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// A base model, without its weights.
pub struct Base {
    /// Where it is.
    pub directory: PathBuf,
    /// Its configuration, with the sizes that were asked for and the words of its tokenizer.
    pub config: T5Config,
    /// Whether the word embedding is the output matrix too.
    pub tied: bool,
    /// Docids that it has already.
    pub imported: Option<ImportedDocids>,
    init: Init,
}

impl Base {
    /// Finds the base of a recipe, fetched where needed, and reads its configuration and tokenizer.
    pub fn of(model: &ModelSection) -> Result<(TextTokenizer, Self), OpenBaseError> {
        Self::find(&model.base, model.revision.as_deref(), model.init, &model.config.sizes())
    }

    /// Finds a model with its weights: a directory, or a model of the hub.
    pub fn pretrained(base: &str) -> Result<Self, OpenBaseError> {
        Ok(Self::find(base, None, Init::Pretrained, &[])?.1)
    }

    fn find(
        base: &str,
        revision: Option<&str>,
        init: Init,
        sizes: &[(&'static str, usize)],
    ) -> Result<(TextTokenizer, Self), OpenBaseError> {
        let pretrained = init == Init::Pretrained;
        let wanted = if pretrained { Wanted::Everything } else { Wanted::ConfigAndTokenizer };
        let directory = locate(base, revision, wanted, &HubSettings::from_env())?;
        let config = T5Config::read(&directory)?.resized(sizes);
        let loaded = TextTokenizer::load(&directory)?;
        let tied = match pretrained {
            true => weights::is_tied(&StoredTensors::open(&directory)?)?,
            false => config.tie_word_embeddings,
        };
        // As the paper's code resizes the embedding to the tokenizer: rows that no token has are dropped.
        let config = config.with_words(loaded.tokenizer.words());
        let imported = loaded.docids;
        Ok((loaded.tokenizer, Self { directory, config, tied, imported, init }))
    }

    /// The T5 before the first step: the base's weights, or those that `seed` draws for a run from scratch.
    pub fn t5(&self, seed: u64, device: impl Into<ComputeDevice>) -> Result<T5, WeightsError> {
        self.origin(seed)?.t5(self.tied, device)
    }

    /// Where its weights come from.
    pub fn origin(&self, seed: u64) -> Result<Origin, WeightsError> {
        let config = self.config.clone();
        Ok(match self.init {
            Init::Scratch => Origin::seed(config, seed),
            Init::Pretrained => Origin::files(config, StoredTensors::open(&self.directory)?),
        })
    }
}

/// What the weights before the first step are called: the base's name, or that nothing was learnt yet.
pub fn name_of_base(recipe: &Recipe) -> String {
    match recipe.model.init {
        Init::Pretrained => recipe.model.base.clone(),
        Init::Scratch => format!("initialisation by seed {}", recipe.run.seed),
    }
}
