//! Bundled base models, compiled into the library.

use std::path::Path;

use super::BaseError;
use crate::docid::{LoadedTokenizer, TextTokenizer, TokenizerError};
use crate::nearest::nearest;
use crate::t5::weights::{StoredTensors, WeightsError};
use crate::t5::{ConfigError, T5Config};

/// The prefix of the names of bundled base models.
const PREFIX: &str = "bundled:";

/// A bundled base model, compiled into the library.
#[derive(Debug)]
pub struct BundledBase {
    /// The name in a recipe, `bundled:tiny`.
    pub name: &'static str,
    config: &'static str,
    tokenizer: &'static str,
    tokenizer_config: &'static str,
    special_tokens: &'static str,
    /// `model.safetensors`; `None`: for models that are trained from scratch.
    weights: Option<&'static [u8]>,
}

/// All bundled base models.
static BUNDLED: [BundledBase; 2] = [
    BundledBase {
        name: "bundled:tiny",
        config: include_str!("../../checkpoints/tiny/config.json"),
        tokenizer: include_str!("../../checkpoints/tiny/tokenizer.json"),
        tokenizer_config: include_str!("../../checkpoints/tiny/tokenizer_config.json"),
        special_tokens: include_str!("../../checkpoints/tiny/special_tokens_map.json"),
        weights: Some(include_bytes!("../../checkpoints/tiny/model.safetensors")),
    },
    BundledBase {
        name: "bundled:atlas-base",
        config: include_str!("../../checkpoints/atlas-base/config.json"),
        tokenizer: include_str!("../../checkpoints/atlas-base/tokenizer.json"),
        tokenizer_config: include_str!("../../checkpoints/atlas-base/tokenizer_config.json"),
        special_tokens: include_str!("../../checkpoints/atlas-base/special_tokens_map.json"),
        weights: None,
    },
];

impl BundledBase {
    /// Returns the bundled base model with the name `base`, or `None` if the name does not start with `bundled:`.
    ///
    /// # Errors
    /// There is no bundled base model with this name.
    pub fn find(base: &str) -> Result<Option<&'static Self>, BaseError> {
        if !base.starts_with(PREFIX) {
            return Ok(None);
        }
        match BUNDLED.iter().find(|known| known.name == base) {
            Some(found) => Ok(Some(found)),
            None => {
                let names = || BUNDLED.iter().map(|known| known.name);
                Err(BaseError::NotBundled {
                    base: base.to_owned(),
                    nearest: nearest(base, names()),
                    known: names().collect(),
                })
            }
        }
    }

    /// True if it has weights.
    pub fn has_weights(&self) -> bool {
        self.weights.is_some()
    }

    /// Opens the weights, if it has any.
    pub(crate) fn tensors(&self) -> Result<Option<StoredTensors>, WeightsError> {
        self.weights.map(|bytes| StoredTensors::bundled(self.name, bytes)).transpose()
    }

    /// Parses the configuration.
    pub(crate) fn config(&self) -> Result<T5Config, ConfigError> {
        T5Config::from_json(&Path::new(self.name).join("config.json"), self.config)
    }

    /// Builds the tokenizer.
    pub(crate) fn tokenizer(&self) -> Result<LoadedTokenizer, TokenizerError> {
        let special_tokens = Some(self.special_tokens.to_owned());
        let config = Some(self.tokenizer_config);
        TextTokenizer::from_texts(Path::new(self.name), self.tokenizer, config, special_tokens)
    }
}
