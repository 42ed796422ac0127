//! Trains a unigram tokenizer as T5 has one, for corpora that need a small vocabulary.
//!
//! The tokenizers library trains it. The same texts give the same bytes: the library is given the words in order and one
//! thread, and what it leaves to the order of a hash table is put in order afterwards.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
};

use super::TextTokenizer;
use super::tokenizer::TokenizerError;
use crate::files::{FileError, create_directory, write_atomically};
use crate::panics;

/// T5's special tokens, with the ids 0, 1 and 2.
const SPECIAL: [&str; 3] = ["<pad>", "</s>", "<unk>"];

/// The number of sentinels of T5's tokenizers.
pub const T5_SENTINELS: usize = 100;

/// Settings of a tokenizer to train.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnigramOptions {
    /// Number of all tokens, special ones and sentinels included.
    pub vocab_size: usize,
    /// Number of sentinels, `<extra_id_0>` and so on.
    pub sentinels: usize,
    /// True if texts are lowercased.
    pub lowercase: bool,
    /// True if accents are removed.
    pub strip_accents: bool,
}

/// Errors of training a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TrainTokenizerError {
    /// There is nothing to learn from.
    #[error("the texts have no words; a tokenizer is learned from documents and training queries")]
    NoWords,
    /// The vocabulary cannot hold every character.
    #[error(
        "a vocabulary of {vocab_size} tokens is too small: the texts have {characters} different characters, and {} \
         special tokens and {sentinels} sentinels come beside them; expected at least {}",
        SPECIAL.len(), characters + SPECIAL.len() + sentinels + 1
    )]
    TooSmall {
        /// The number of tokens.
        vocab_size: usize,
        /// Number of different characters.
        characters: usize,
        /// Number of sentinels.
        sentinels: usize,
    },
    /// The library failed.
    #[error("the tokenizers library cannot train on these texts: {0}")]
    Library(String),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The trained tokenizer is not one that can be read again.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// There is a tokenizer in the directory.
    #[error("{}: already exists; it is not overwritten", file.display())]
    Exists {
        /// The file.
        file: PathBuf,
    },
}

/// A trained tokenizer, as the files of a base model without weights.
#[derive(Debug, Clone, PartialEq)]
pub struct UnigramTokenizer {
    tokenizer: Value,
    tokens: usize,
    sentinels: usize,
}

impl UnigramTokenizer {
    /// Trains on `texts`.
    ///
    /// # Errors
    /// There is no word, more characters than tokens, or the library fails.
    pub fn train<'a>(
        texts: impl IntoIterator<Item = &'a str>,
        options: &UnigramOptions,
    ) -> Result<Self, TrainTokenizerError> {
        let library = |error: &dyn ToString| TrainTokenizerError::Library(error.to_string());
        let (normalizer, pre_tokenizer) = (normalizer(options), pre_tokenizer());
        let words =
            count_words(texts, &normalizer, &pre_tokenizer).map_err(|error| library(&error))?;
        if words.is_empty() {
            return Err(TrainTokenizerError::NoWords);
        }
        let mut characters: Vec<char> = words.iter().flat_map(|(word, _)| word.chars()).collect();
        characters.sort_unstable();
        characters.dedup();
        let (characters, sentinels) = (characters.len(), options.sentinels);
        let vocab_size = options.vocab_size;
        let learned = vocab_size.saturating_sub(sentinels);
        if learned <= characters + SPECIAL.len() {
            return Err(TrainTokenizerError::TooSmall { vocab_size, characters, sentinels });
        }
        let pieces = learn(words, learned).map_err(|error| library(&error))?;
        let mut vocabulary: Vec<(String, f64)> =
            SPECIAL.iter().map(|token| ((*token).to_owned(), 0.0)).collect();
        vocabulary.extend(pieces);
        // T5's order: the first sentinel has the last id.
        let first = vocabulary.len();
        let names = (0..sentinels).rev().map(|number| format!("<extra_id_{number}>"));
        vocabulary.extend(names.map(|name| (name, 0.0)));
        let special = (0..SPECIAL.len()).chain(first..vocabulary.len());
        let added: Vec<Value> = special.map(|id| added_token(id, &vocabulary[id].0)).collect();
        let tokens = vocabulary.len();
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor(),
            "decoder": metaspace(),
            "model": { "type": "Unigram", "unk_id": 2, "vocab": vocabulary, "byte_fallback": false },
        });
        Ok(Self { tokenizer, tokens, sentinels })
    }

    /// Number of tokens: fewer than asked for where the texts have no more pieces.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` into `directory`, which is created,
    /// and a `config.json` with the sizes of t5-small: Hugging Face's `AutoTokenizer` loads it, and it can be the
    /// `model.base` of a run from scratch.
    ///
    /// # Errors
    /// There is a tokenizer or a configuration already, or a file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), TrainTokenizerError> {
        let sentinels: Vec<String> =
            (0..self.sentinels).map(|number| format!("<extra_id_{number}>")).collect();
        let special = json!({
            "pad_token": SPECIAL[0], "eos_token": SPECIAL[1], "unk_token": SPECIAL[2],
            "additional_special_tokens": sentinels,
        });
        let mut config = special.clone();
        config["clean_up_tokenization_spaces"] = json!(false);
        config["model_max_length"] = json!(512);
        config["tokenizer_class"] = json!(TOKENIZER_CLASS);
        let files = [
            ("tokenizer.json", self.tokenizer.clone()),
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", special),
            ("config.json", model_config(self.tokens)),
        ];
        let texts = files.map(|(name, value)| (directory.join(name), format!("{value:#}\n")));
        // As a run will read it.
        TextTokenizer::from_texts(
            directory,
            &texts[0].1,
            Some(&texts[1].1),
            Some(texts[2].1.clone()),
        )?;
        if let Some((file, _)) = texts.iter().find(|(file, _)| file.symlink_metadata().is_ok()) {
            return Err(TrainTokenizerError::Exists { file: file.clone() });
        }
        create_directory(directory)?;
        for (file, text) in &texts {
            write_atomically(file, |file| file.write_all(text.as_bytes()))?;
        }
        Ok(())
    }
}

/// The class that transformers loads the tokenizer with. Its own T5 class, version 5, builds the tokenizer from the vocabulary
/// alone: it would leave out the normaliser, and lowercase letters and accents with it.
const TOKENIZER_CLASS: &str = "PreTrainedTokenizerFast";

/// The rules of T5's table of characters, `nmt_nfkc` of SentencePiece: white space and control characters, then NFKC. Between
/// two letters and split at white space, all characters up to U+2FA1F but three (U+0344, U+FF5E, U+1F23B) are the same.
fn normalizer(options: &UnigramOptions) -> Value {
    let mut steps = vec![json!({ "type": "Nmt" }), json!({ "type": "NFKC" })];
    if options.strip_accents {
        steps.extend([json!({ "type": "NFKD" }), json!({ "type": "StripAccents" })]);
    }
    if options.lowercase {
        steps.push(json!({ "type": "Lowercase" }));
    }
    json!({ "type": "Sequence", "normalizers": steps })
}

fn metaspace() -> Value {
    json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true })
}

fn pre_tokenizer() -> Value {
    json!({ "type": "Sequence", "pretokenizers": [{ "type": "WhitespaceSplit" }, metaspace()] })
}

/// Appends `</s>` to each text.
fn post_processor() -> Value {
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let end = || json!({ "SpecialToken": { "id": SPECIAL[1], "type_id": 0 } });
    json!({
        "type": "TemplateProcessing",
        "single": [text("A"), end()],
        "pair": [text("A"), end(), text("B"), end()],
        "special_tokens": { SPECIAL[1]: { "id": SPECIAL[1], "ids": [1], "tokens": [SPECIAL[1]] } },
    })
}

fn added_token(id: usize, content: &str) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true,
    })
}

/// The configuration of a T5 with these tokens and the sizes of t5-small.
fn model_config(tokens: usize) -> Value {
    json!({
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_heads": 8,
        "num_layers": 6,
        "num_decoder_layers": 6,
        "feed_forward_proj": "relu",
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "dropout_rate": 0.1,
        "layer_norm_epsilon": 1e-6,
        "initializer_factor": 1.0,
        "tie_word_embeddings": true,
        "is_encoder_decoder": true,
        "use_cache": true,
        "vocab_size": tokens,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    })
}

/// The words of all texts with the number of times that they occur, in order.
fn count_words<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    normalizer: &Value,
    pre_tokenizer: &Value,
) -> tokenizers::Result<Vec<(String, u32)>> {
    let normalizer: NormalizerWrapper = serde_json::from_value(normalizer.clone())?;
    let pre_tokenizer: PreTokenizerWrapper = serde_json::from_value(pre_tokenizer.clone())?;
    let mut words: BTreeMap<String, u32> = BTreeMap::new();
    for text in texts {
        let mut normalized = NormalizedString::from(text);
        normalizer.normalize(&mut normalized)?;
        let mut split = PreTokenizedString::from(normalized);
        pre_tokenizer.pre_tokenize(&mut split)?;
        for (word, ..) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            // The library separates words by this character.
            if word.contains('\0') || word.is_empty() {
                continue;
            }
            let count = words.entry(word.to_owned()).or_default();
            *count = count.saturating_add(1);
        }
    }
    Ok(words.into_iter().collect())
}

/// The pieces of `words` with their scores, for a vocabulary of `size` tokens with the special ones.
fn learn(words: Vec<(String, u32)>, size: usize) -> tokenizers::Result<Vec<(String, f64)>> {
    let special = SPECIAL.map(|token| AddedToken::from(token, true));
    let trainer = UnigramTrainer::builder()
        .show_progress(false)
        .vocab_size(u32::try_from(size)?)
        .special_tokens(special.to_vec())
        .unk_token(Some(SPECIAL[2].to_owned()))
        .build()?;
    // With several threads, sums would depend on which finished first.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let trained = panics::caught(|| {
        alone.install(|| {
            let mut model = Unigram::default();
            trainer.do_train(words, &mut model).map(|_| model)
        })
    });
    let model = trained.unwrap_or_else(|| Err("it has panicked".into()))?;
    Ok(in_order(model.iter().skip(SPECIAL.len()).cloned().collect()))
}

/// Puts pieces in an order that is a function of the texts. The library orders pieces of equal score as a hash table
/// does, and gives rare characters, which it must keep, scores in that order: the lowest, one ten-thousandth apart.
fn in_order(mut pieces: Vec<(String, f64)>) -> Vec<(String, f64)> {
    let lowest = pieces.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    let is_character = |(piece, _): &&mut (String, f64)| piece.chars().count() == 1;
    let characters = pieces.iter_mut().filter(is_character).count();
    let highest = lowest + 1e-4 * characters as f64;
    let mut rare: Vec<&mut (String, f64)> =
        pieces.iter_mut().filter(is_character).filter(|(_, score)| *score <= highest).collect();
    let mut names: Vec<String> = rare.iter().map(|(piece, _)| piece.clone()).collect();
    let mut scores: Vec<f64> = rare.iter().map(|(_, score)| *score).collect();
    names.sort_unstable();
    scores.sort_unstable_by(|one, other| other.total_cmp(one));
    for ((piece, name), score) in rare.iter_mut().zip(names).zip(scores) {
        **piece = (name, score);
    }
    pieces.sort_by(|one, other| other.1.total_cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: UnigramOptions =
        UnigramOptions { vocab_size: 60, sentinels: 5, lowercase: false, strip_accents: false };

    fn texts() -> Vec<String> {
        let words = ["iron", "irony", "gold", "golden", "silver", "Zürich", "ﬁre", "lake", "lakes"];
        (0..200)
            .map(|at| format!("{} {}  {}", words[at % 9], words[at * 5 % 7], words[at * at % 9]))
            .collect()
    }

    fn train(options: &UnigramOptions) -> Result<UnigramTokenizer, TrainTokenizerError> {
        let texts = texts();
        UnigramTokenizer::train(texts.iter().map(String::as_str), options)
    }

    fn encode(directory: &Path, text: &str) -> Vec<String> {
        let tokenizer = TextTokenizer::load(directory).unwrap().tokenizer;
        let options =
            super::super::EncodeOptions { max_tokens: 50, prefix: String::new(), lowercase: false };
        let ids = tokenizer.encode_batch(&[text], &options).unwrap().remove(0);
        ids.into_iter().map(|id| tokenizer.token(id).unwrap()).collect()
    }

    #[test]
    fn the_tokens_are_in_t5_s_order_and_the_files_are_a_base() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("new/base");
        let trained = train(&OPTIONS).unwrap();
        trained.write(&directory).unwrap();
        let loaded = TextTokenizer::load(&directory).unwrap();
        let tokenizer = loaded.tokenizer;
        assert!(tokenizer.vocab_size() <= 60 && tokenizer.vocab_size() == trained.tokens());
        assert_eq!((tokenizer.pad_id(), tokenizer.end_id()), (0, 1));
        assert_eq!(tokenizer.id("<unk>"), Some(2));
        let last = tokenizer.vocab_size() as u32 - 1;
        assert_eq!(tokenizer.id("<extra_id_0>"), Some(last));
        assert_eq!(tokenizer.id("<extra_id_4>"), Some(last - 4));
        assert_eq!(tokenizer.id("<extra_id_5>"), None);
        crate::t5::T5Config::read(&directory).unwrap();
        // NFKC and white space, as T5: the ligature is two letters.
        assert_eq!(encode(&directory, "ﬁre \t lake"), encode(&directory, "fire lake"));
        assert_eq!(encode(&directory, "gold<extra_id_1>gold")[1], "<extra_id_1>");
        // A frequent word is one token, and the first word of a text has its space.
        assert_eq!(encode(&directory, "gold"), ["▁gold", "</s>"]);
        let error = trained.write(&directory).unwrap_err().to_string();
        assert!(
            error.ends_with("tokenizer.json: already exists; it is not overwritten"),
            "{error}"
        );
    }

    #[test]
    fn the_same_texts_give_the_same_bytes_in_any_order() {
        let (one, other) = (train(&OPTIONS).unwrap(), train(&OPTIONS).unwrap());
        assert_eq!(one, other);
        let texts: Vec<String> = texts().into_iter().rev().collect();
        let turned = UnigramTokenizer::train(texts.iter().map(String::as_str), &OPTIONS).unwrap();
        assert_eq!(one.tokenizer.to_string(), turned.tokenizer.to_string());
    }

    #[test]
    fn rare_characters_get_their_scores_in_the_order_of_their_codes() {
        let pieces = |order: [usize; 3]| {
            let rare = ["x", "y", "z"];
            let scores = [-9.0, -9.0 + 1e-4, -9.0 + 2e-4];
            let mut all = vec![("lake".to_owned(), -2.0), ("a".to_owned(), -3.0)];
            all.extend((0..3).map(|at| (rare[order[at]].to_owned(), scores[at])));
            in_order(all)
        };
        assert_eq!(pieces([0, 1, 2]), pieces([2, 0, 1]));
        assert_eq!(pieces([0, 1, 2])[2].0, "x");
    }

    #[test]
    fn options_lowercase_and_remove_accents_and_too_few_tokens_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let options = UnigramOptions { lowercase: true, strip_accents: true, ..OPTIONS };
        train(&options).unwrap().write(home.path()).unwrap();
        assert_eq!(encode(home.path(), "Zürich GOLD"), encode(home.path(), "zurich gold"));
        // Special tokens are looked for in the text as it is written, as in T5's file.
        let text = std::fs::read_to_string(home.path().join("tokenizer.json")).unwrap();
        let file: Value = serde_json::from_str(&text).unwrap();
        let added = file["added_tokens"].as_array().unwrap();
        assert!(added.len() == 8 && added.iter().all(|token| token["normalized"] == false));

        let error = train(&UnigramOptions { vocab_size: 20, ..OPTIONS }).unwrap_err().to_string();
        for part in ["20 tokens is too small", "different characters", "5 sentinels"] {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        let none = UnigramTokenizer::train([" ", ""], &OPTIONS).unwrap_err();
        assert!(matches!(none, TrainTokenizerError::NoWords));
    }
}
