//! The model that probes measure.

use burn::tensor::Device;

use crate::docid::{DocidVocabulary, TextTokenizer};
use crate::t5::GenirModel;

/// The model that is probed.
pub struct Subject<'a> {
    /// Its weights, off the autodiff graph.
    pub model: &'a GenirModel,
    /// The device that its weights are on.
    pub device: &'a Device,
    /// Its tokenizer.
    pub tokenizer: &'a TextTokenizer,
    /// Its docids.
    pub docids: &'a DocidVocabulary,
    /// The name of the checkpoint in results.
    pub checkpoint: String,
    /// Updates done, where known.
    pub step: Option<u64>,
    /// True if the encoder has not changed since the run began. Its states are then stored with the queries from one
    /// measurement to the next, and are used for the base model too if that [has the same
    /// encoder](super::ComparisonModel::has_same_encoder) (rounded to the precision in which the run stores them).
    pub encoder_is_frozen: bool,
}

impl<'a> Subject<'a> {
    /// The names of the tokens of its output vocabulary.
    pub(super) fn token_names(&self) -> TokenNames<'a> {
        let text = self.model.t5.config().vocab_size;
        TokenNames { tokenizer: self.tokenizer, docids: self.docids, text }
    }
}

/// The names of the tokens of an output vocabulary: text tokens, then docids.
pub(super) struct TokenNames<'a> {
    tokenizer: &'a TextTokenizer,
    docids: &'a DocidVocabulary,
    text: usize,
}

impl TokenNames<'_> {
    /// Number of text tokens.
    pub fn text_tokens(&self) -> usize {
        self.text
    }

    /// The token with this id, as the tokenizer writes it; `<id>` if it has none.
    pub fn of(&self, id: u32) -> String {
        match id.checked_sub(self.text as u32) {
            Some(row) => self.docids.token(row),
            None => self.tokenizer.token(id).unwrap_or_else(|| format!("<{id}>")),
        }
    }
}
