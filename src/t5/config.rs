//! A T5's sizes and switches, read from (and written back to) Hugging Face's `config.json`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

use super::weights::StoredType;
use crate::files::{is_lfs_pointer, read_small_to_string};

/// The sizes of a T5 that are bounded, by their keys in `config.json`, with the most that each may be: far beyond every
/// T5 that there is, and so that no count of parameters or bytes is too large for a `usize`.
const MOST: [(&str, usize, &str); 8] = [
    ("d_model", 1 << 17, "a whole number from 1 to 131072"),
    ("d_ff", 1 << 20, "a whole number from 1 to 1048576"),
    ("d_kv", 1 << 12, "a whole number from 1 to 4096"),
    ("num_heads", 1 << 12, "a whole number from 1 to 4096"),
    ("num_layers", 1000, "a whole number from 1 to 1000"),
    ("num_decoder_layers", 1000, "a whole number from 1 to 1000"),
    (BUCKETS, 1 << 16, "a whole number from 4 to 65536"),
    (DISTANCE, 1 << 30, "a whole number from 1 to 1073741824"),
];

const BUCKETS: &str = "relative_attention_num_buckets";
const DISTANCE: &str = "relative_attention_max_distance";

/// The most that a size may be, with the values that are right, in words; `None`: it is not bounded.
pub(crate) fn most_of(key: &str) -> Option<(usize, &'static str)> {
    let bound = MOST.iter().find(|(bounded, ..)| *bounded == key);
    bound.map(|&(_, most, expected)| (most, expected))
}

/// Errors of a `config.json`.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A repository was cloned without the content of its large files.
    #[error(
        "{file}: a Git LFS pointer, not the file itself; `git lfs pull` in its repository fetches the file"
    )]
    LfsPointer {
        /// The file.
        file: PathBuf,
    },
    /// The file cannot be read.
    #[error("{file}: cannot be read: {source}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a JSON object.
    #[error("{file}: not a JSON object: {reason}")]
    Json {
        /// The file.
        file: PathBuf,
        /// The parser's words, with line and column.
        reason: String,
    },
    /// A key is missing, or its value is not one that a T5 can have.
    #[error("{file}: key `{key}`: found {found}, expected {expected}")]
    Key {
        /// The file.
        file: PathBuf,
        /// The key in `config.json`.
        key: &'static str,
        /// The value found, or `nothing`.
        found: String,
        /// The values allowed.
        expected: &'static str,
    },
}

/// The MLP's activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForward {
    /// T5 v1.0: `relu(x W_in) W_out`.
    Relu,
    /// T5 v1.1, Flan-T5, mT5: `(gelu(x W_gate) * x W_in) W_out`, gelu in its tanh form.
    GatedGelu,
}

/// Sizes and switches of a T5 encoder-decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct T5Config {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of one attention head; `num_heads * d_kv` need not be `d_model`.
    pub d_kv: usize,
    /// Width of the MLP.
    pub d_ff: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Encoder layers.
    pub num_layers: usize,
    /// Decoder layers.
    pub num_decoder_layers: usize,
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Buckets of the relative position bias.
    pub relative_attention_num_buckets: usize,
    /// Distances from here on share the last bucket.
    pub relative_attention_max_distance: usize,
    /// Probability that a value is dropped while training.
    pub dropout_rate: f64,
    /// RMSNorm's epsilon.
    pub layer_norm_epsilon: f64,
    /// Factor on the standard deviation of every initial weight.
    pub initializer_factor: f64,
    /// The MLP's form.
    pub feed_forward: FeedForward,
    /// True if the output matrix is the word embedding. When a checkpoint is loaded, its tensors decide instead:
    /// transformers 5 writes `true` for every T5.
    pub tie_word_embeddings: bool,
    /// True if the decoder's output is multiplied by `d_model^-0.5` before the output matrix.
    pub scale_decoder_outputs: bool,
    /// Padding token; also the decoder's start token in every released T5.
    pub pad_token_id: u32,
    /// Token that the decoder starts with.
    pub decoder_start_token_id: u32,
    /// The file's own keys, written back on export so that nothing that transformers knows is lost.
    original: Map<String, Value>,
}

impl T5Config {
    /// Reads `config.json` in `directory`.
    ///
    /// # Errors
    /// [`ConfigError::Read`] if the file is missing or cannot be read; [`ConfigError::LfsPointer`]; otherwise as for
    /// [`T5Config::from_json`].
    pub fn read(directory: &Path) -> Result<Self, ConfigError> {
        let file = directory.join("config.json");
        let text = read_small_to_string(&file)
            .map_err(|source| ConfigError::Read { file: file.clone(), source })?;
        if is_lfs_pointer(text.as_bytes()) {
            return Err(ConfigError::LfsPointer { file });
        }
        Self::from_json(&file, &text)
    }

    /// Reads the text of a `config.json`; `file` stands for it in errors.
    ///
    /// # Errors
    /// [`ConfigError::Json`] for text that is not a JSON object; otherwise an error that names the key, the value found
    /// and what was expected: a model that is not a T5, a missing or impossible size, an unknown activation.
    pub fn from_json(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let original: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
            ConfigError::Json { file: file.to_owned(), reason: error.to_string() }
        })?;
        Self::parse(file, original)
    }

    fn parse(file: &Path, original: Map<String, Value>) -> Result<Self, ConfigError> {
        let keys = Keys { file, map: &original };
        let feed_forward = match original.get("feed_forward_proj").and_then(Value::as_str) {
            // transformers' own default is "relu".
            None if !original.contains_key("feed_forward_proj") => FeedForward::Relu,
            Some("relu") => FeedForward::Relu,
            Some("gated-gelu") => FeedForward::GatedGelu,
            _ => return Err(keys.wrong("feed_forward_proj", "\"relu\" or \"gated-gelu\"")),
        };
        let tie_word_embeddings = keys.boolean("tie_word_embeddings", true)?;
        // transformers 5 always says tie_word_embeddings = true and keeps the key's old second
        // meaning, whether the decoder's output is scaled, in a key of its own.
        // mT5's code never scales, whatever its file says.
        let scale_decoder_outputs =
            !is_mt5(&original) && keys.boolean("scale_decoder_outputs", tie_word_embeddings)?;
        let num_layers = keys.size("num_layers", None)?;
        let pad_token_id = keys.size_or_zero("pad_token_id", 0)? as u32;
        let config = Self {
            d_model: keys.size("d_model", None)?,
            d_kv: keys.size("d_kv", None)?,
            d_ff: keys.size("d_ff", None)?,
            num_heads: keys.size("num_heads", None)?,
            num_layers,
            num_decoder_layers: keys.size("num_decoder_layers", Some(num_layers))?,
            vocab_size: keys.size("vocab_size", None)?,
            relative_attention_num_buckets: keys.size(BUCKETS, Some(32))?,
            relative_attention_max_distance: keys.size(DISTANCE, Some(128))?,
            dropout_rate: keys.number(
                "dropout_rate",
                0.1,
                0.0..1.0,
                "a number from 0 to below 1",
            )?,
            layer_norm_epsilon: keys.number(
                "layer_norm_epsilon",
                1e-6,
                0.0..1.0,
                "a number from 0 to below 1",
            )?,
            initializer_factor: keys.number(
                "initializer_factor",
                1.0,
                0.0..1e6,
                "a number from 0",
            )?,
            feed_forward,
            tie_word_embeddings,
            scale_decoder_outputs,
            pad_token_id,
            decoder_start_token_id: keys
                .size_or_zero("decoder_start_token_id", pad_token_id as usize)?
                as u32,
            original: Map::new(),
        };
        if config.relative_attention_num_buckets < 4 {
            return Err(keys.wrong(BUCKETS, "a whole number from 4 to 65536"));
        }
        // The first half of the buckets is exact, one for each distance; the others share the distances from there on.
        if config.relative_attention_max_distance <= config.relative_attention_num_buckets / 2 {
            return Err(keys.wrong(DISTANCE, "more than half of relative_attention_num_buckets"));
        }
        Ok(Self { original, ..config })
    }

    /// The configuration of `self` with other sizes, for a model from scratch.
    pub fn resized(mut self, sizes: &[(&'static str, usize)]) -> Self {
        for &(key, value) in sizes {
            match key {
                "d_model" => self.d_model = value,
                "d_kv" => self.d_kv = value,
                "d_ff" => self.d_ff = value,
                "num_heads" => self.num_heads = value,
                "num_layers" => self.num_layers = value,
                "num_decoder_layers" => self.num_decoder_layers = value,
                other => unreachable!("no size is called {other}"),
            }
            self.original.insert(key.to_owned(), value.into());
        }
        self
    }

    /// The configuration of `self` with another number of words.
    pub fn with_words(&self, words: usize) -> Self {
        Self { vocab_size: words, ..self.clone() }
    }

    /// Checks that the special tokens exist, where `vocab_size` is the number of the tokenizer's tokens; `directory` is
    /// where the configuration comes from.
    ///
    /// # Errors
    /// [`ConfigError::Key`] for `decoder_start_token_id` or `pad_token_id` beyond the vocabulary.
    pub fn check_tokens(&self, directory: &Path) -> Result<(), ConfigError> {
        let end = self.original.get("eos_token_id").and_then(Value::as_u64);
        let tokens = [
            ("decoder_start_token_id", u64::from(self.decoder_start_token_id)),
            ("pad_token_id", u64::from(self.pad_token_id)),
            // Not read here, but by transformers in an export.
            ("eos_token_id", end.unwrap_or(0)),
        ];
        match tokens.into_iter().find(|(_, id)| *id >= self.vocab_size as u64) {
            None => Ok(()),
            Some((key, id)) => Err(ConfigError::Key {
                file: directory.join("config.json"),
                key,
                found: id.to_string(),
                expected: "the id of one of the tokenizer's tokens",
            }),
        }
    }

    /// Width of all heads together.
    pub fn inner(&self) -> usize {
        self.num_heads * self.d_kv
    }

    /// `config.json` for an export with `rows` embedding rows.
    ///
    /// The weights decide whether the head is tied. `tie_word_embeddings` is what transformers takes
    /// the scaling of the decoder's output from, in its versions 4 and 5 (mT5 is never scaled).
    pub fn export(&self, rows: usize, tied: bool, stored: StoredType) -> Value {
        let mut map = self.original.clone();
        let mt5 = is_mt5(&map);
        let (kind, class) = match mt5 {
            true => ("mt5", "MT5ForConditionalGeneration"),
            false => ("t5", "T5ForConditionalGeneration"),
        };
        map.insert("model_type".into(), kind.into());
        map.insert("architectures".into(), vec![class].into());
        map.insert("vocab_size".into(), rows.into());
        let tie = if mt5 { tied } else { self.scale_decoder_outputs };
        map.insert("tie_word_embeddings".into(), tie.into());
        map.insert("scale_decoder_outputs".into(), self.scale_decoder_outputs.into());
        map.insert("num_decoder_layers".into(), self.num_decoder_layers.into());
        map.insert("decoder_start_token_id".into(), self.decoder_start_token_id.into());
        map.insert("dtype".into(), stored.name().into());
        map.remove("torch_dtype");
        Value::Object(map)
    }
}

fn is_mt5(map: &Map<String, Value>) -> bool {
    map.get("model_type").and_then(Value::as_str) == Some("mt5")
}

/// Reads typed keys out of a JSON object, with errors that name file, key and value.
struct Keys<'a> {
    file: &'a Path,
    map: &'a Map<String, Value>,
}

impl Keys<'_> {
    fn wrong(&self, key: &'static str, expected: &'static str) -> ConfigError {
        let found = self.map.get(key).map_or("nothing".to_owned(), Value::to_string);
        ConfigError::Key { file: self.file.to_owned(), key, found, expected }
    }

    /// A positive size; `default` when the key is absent or null.
    fn size(&self, key: &'static str, default: Option<usize>) -> Result<usize, ConfigError> {
        match self.size_or_zero(key, default.unwrap_or(0))? {
            0 => Err(self.wrong(key, "a whole number of at least 1")),
            size => match most_of(key) {
                Some((most, expected)) if size > most => Err(self.wrong(key, expected)),
                _ => Ok(size),
            },
        }
    }

    fn size_or_zero(&self, key: &'static str, default: usize) -> Result<usize, ConfigError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_u64()
                .filter(|&size| size <= u64::from(u32::MAX))
                .map(|size| size as usize)
                .ok_or_else(|| self.wrong(key, "a whole number")),
        }
    }

    fn boolean(&self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    fn number(
        &self,
        key: &'static str,
        default: f64,
        allowed: std::ops::Range<f64>,
        expected: &'static str,
    ) -> Result<f64, ConfigError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| allowed.contains(number))
                .ok_or_else(|| self.wrong(key, expected)),
        }
    }
}
