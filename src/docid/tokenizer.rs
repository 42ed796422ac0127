//! The tokenizer of texts, from and to Hugging Face's files.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::tokenizer_file::{AddedToken, TokenizerFile};
use super::{DocidError, DocidVocabulary, token};
use crate::files::{FileError, is_lfs_pointer, write_whole};

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
/// In [`CONFIG`]: a second copy of the added tokens. transformers 5 takes it for the whole list when it is
/// there, and else reads the list in [`TOKENIZER`].
const ADDED_IN_CONFIG: &str = "added_tokens_decoder";
/// In [`CONFIG`] and [`SPECIAL_TOKENS`]: special tokens without a part of their own.
const SPECIAL_LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// What can be wrong with a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file cannot be read.
    #[error("cannot use {}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// A repository was cloned without the content of its large files.
    #[error(
        "{}: a Git LFS pointer, not the file itself; `git lfs pull` in its repository fetches the file",
        file.display()
    )]
    LfsPointer {
        /// The file.
        file: PathBuf,
    },
    /// There is no `tokenizer.json`.
    #[error(
        "{} is not there; with transformers, AutoTokenizer.from_pretrained(..).save_pretrained(..) \
         writes it",
        file.display()
    )]
    Missing {
        /// The file that was looked for.
        file: PathBuf,
    },
    /// A file's content is not a tokenizer's.
    #[error("{}: {found}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What was found.
        found: String,
    },
    /// The token that ends texts, or that pads them, is not in the vocabulary.
    #[error("{}: the tokenizer has no token `{token}`, which is its {field}", file.display())]
    NoToken {
        /// The tokenizer's file.
        file: PathBuf,
        /// `eos_token` or `pad_token`.
        field: &'static str,
        /// The token.
        token: String,
    },
    /// The docids among the added tokens are wrong.
    #[error("{}: {source}", file.display())]
    Docids {
        /// The tokenizer's file.
        file: PathBuf,
        /// What is wrong with them.
        source: DocidError,
    },
    /// The library could not encode a text.
    #[error("cannot encode the text `{text}`: {reason}")]
    Encode {
        /// The beginning of the text.
        text: String,
        /// What the library said.
        reason: String,
    },
}

/// How texts become tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodeOptions {
    /// The most tokens of a text, `</s>` included; at least 1.
    pub max_tokens: usize,
    /// Put in front of every text, as it is.
    pub prefix: String,
    /// Lower-case the text (not the prefix).
    pub lowercase: bool,
}

/// Docids found among the added tokens of a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedDocids {
    /// The docids, by rising token id.
    pub vocabulary: DocidVocabulary,
    /// The token id of each: its row of the checkpoint's embedding matrix.
    pub rows: Vec<u32>,
}

/// A tokenizer and the docids that were among its added tokens.
#[derive(Debug)]
pub struct LoadedTokenizer {
    /// The tokenizer, without docids.
    pub tokenizer: TextTokenizer,
    /// The docids, if there were any.
    pub docids: Option<ImportedDocids>,
    /// Embedding rows, in the weights beside, of the tokenizer's last tokens: those that had ids behind the docids,
    /// or behind a gap, and follow the others now. The rows of all other tokens are their ids.
    pub moved_words: Vec<u32>,
}

/// The tokenizer of texts; it knows no docids.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    file: TokenizerFile,
    /// [`CONFIG`] and [`SPECIAL_TOKENS`] as found, where they were.
    config: Option<Value>,
    special_tokens: Option<String>,
    words: usize,
    end_id: u32,
    pad_id: u32,
}

impl TextTokenizer {
    /// Reads `tokenizer.json` and, where they are, `tokenizer_config.json` and `special_tokens_map.json`.
    ///
    /// Added tokens of the form `@DOC_ID_<id>@` are taken out before the tokenizer is built and returned
    /// beside it: 100,000 added tokens would take minutes to load otherwise.
    pub fn load(directory: &Path) -> Result<LoadedTokenizer, TokenizerError> {
        let read = |name: &str| read_if_there(&directory.join(name));
        let tokenizer = read(TOKENIZER)?
            .ok_or_else(|| TokenizerError::Missing { file: directory.join(TOKENIZER) })?;
        Self::from_texts(directory, &tokenizer, read(CONFIG)?.as_deref(), read(SPECIAL_TOKENS)?)
    }

    /// As [`TextTokenizer::load`], from the texts of these files; `directory` stands for where they are in errors.
    pub fn from_texts(
        directory: &Path,
        tokenizer: &str,
        config: Option<&str>,
        special_tokens: Option<String>,
    ) -> Result<LoadedTokenizer, TokenizerError> {
        let path = directory.join(TOKENIZER);
        let malformed = |found: String| TokenizerError::Malformed { file: path.clone(), found };
        let mut file = TokenizerFile::parse(tokenizer).map_err(malformed)?;
        let docids = take_docids(&mut file)
            .map_err(|source| TokenizerError::Docids { file: path.clone(), source })?;
        let mut without_docids = Vec::new();
        file.write(&mut without_docids, std::iter::empty())
            .map_err(|error| malformed(error.to_string()))?;
        let mut tokenizer =
            Tokenizer::from_bytes(&without_docids).map_err(|error| malformed(error.to_string()))?;
        // Cutting and padding are ours; a tokenizer saved after use may carry its own.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| malformed(error.to_string()))?;
        let highest = tokenizer.get_vocab(true).into_values().max();
        let words = highest.map_or(0, |id| id as usize + 1);
        let moved_words =
            renumber(&mut file.added, docids.as_ref(), &tokenizer, words).map_err(malformed)?;

        let json = |name: &str, text: &str| {
            serde_json::from_str::<Value>(text).map_err(|error| TokenizerError::Malformed {
                file: directory.join(name),
                found: error.to_string(),
            })
        };
        let mut config = config.map(|text| json(CONFIG, text)).transpose()?;
        if let Some(config) = &mut config {
            drop_special_docids(config);
        }
        let special_tokens = special_tokens.map(|text| {
            let mut fields = json(SPECIAL_TOKENS, &text)?;
            let text =
                if drop_special_docids(&mut fields) { format!("{fields:#}\n") } else { text };
            Ok::<_, TokenizerError>(text)
        });
        let special_tokens = special_tokens.transpose()?;
        let id_of = |field, usual| {
            let token = special_token(config.as_ref(), field).unwrap_or(usual);
            tokenizer.token_to_id(token).ok_or_else(|| TokenizerError::NoToken {
                file: path.clone(),
                field,
                token: token.to_owned(),
            })
        };
        let (end_id, pad_id) = (id_of("eos_token", "</s>")?, id_of("pad_token", "<pad>")?);
        let tokenizer = Self { words, tokenizer, file, config, special_tokens, end_id, pad_id };
        Ok(LoadedTokenizer { tokenizer, docids, moved_words })
    }

    /// Number of tokens without docids: the highest id + 1. A docid's token id in an export is this + its row.
    pub fn words(&self) -> usize {
        self.words
    }

    /// The word that a token id stands for, as the tokenizer writes it; docids are none.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The id of the padding token.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// The id of `</s>`.
    pub fn end_id(&self) -> u32 {
        self.end_id
    }

    /// Encodes texts, in parallel. Each ends with `</s>`, which stays when a text is cut: what is kept is
    /// its first `max_tokens - 1` tokens, as transformers truncates.
    pub fn encode_batch(
        &self,
        texts: &[&str],
        options: &EncodeOptions,
    ) -> Result<Vec<Vec<u32>>, TokenizerError> {
        texts.par_iter().map(|text| self.encode(text, options)).collect()
    }

    fn encode(&self, text: &str, options: &EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        let text =
            if options.lowercase { Cow::Owned(text.to_lowercase()) } else { Cow::Borrowed(text) };
        let text = match options.prefix.as_str() {
            "" => text,
            prefix => Cow::Owned(format!("{prefix}{text}")),
        };
        let kept = options.max_tokens.max(1) - 1;
        // Documents may be thousands of times longer than what is kept. T5's tokenizers split at white space
        // before all else, so the tokens of a text's first words are the first tokens of the text.
        let mut length = options.max_tokens.saturating_mul(8);
        loop {
            let words = first_words(&text, length);
            let encoding = self.tokenizer.encode_fast(words, false).map_err(|error| {
                TokenizerError::Encode {
                    text: text.chars().take(60).collect(),
                    reason: error.to_string(),
                }
            })?;
            let ids = encoding.get_ids();
            if words.len() == text.len() || ids.len() > kept {
                let mut ids = ids[..ids.len().min(kept)].to_vec();
                ids.push(self.end_id);
                return Ok(ids);
            }
            length = length.saturating_mul(2);
        }
    }

    /// Writes the tokenizer for Hugging Face's `AutoTokenizer`, with docids as added tokens: row `i` gets
    /// the token id `words() + i`. The other files are written as they were found, but for the list of
    /// added tokens in `tokenizer_config.json`, which would hide the docids in `tokenizer.json`, and for docids in lists of
    /// special tokens.
    pub fn export(
        &self,
        directory: &Path,
        docids: Option<&DocidVocabulary>,
    ) -> Result<(), TokenizerError> {
        let path = directory.join(TOKENIZER);
        let first = self.words as u32;
        let docids =
            docids.into_iter().flat_map(DocidVocabulary::ids).zip(first..).map(|(id, token_id)| {
                AddedToken {
                    id: token_id,
                    content: token(id),
                    single_word: false,
                    lstrip: false,
                    rstrip: false,
                    normalized: false,
                    special: false,
                }
            });
        write_whole(&path, |file| self.file.write(file, docids))?;
        let config = self.config.clone().map(|mut config| {
            if let Some(fields) = config.as_object_mut() {
                fields.remove(ADDED_IN_CONFIG);
            }
            format!("{config:#}\n")
        });
        for (name, text) in [(CONFIG, &config), (SPECIAL_TOKENS, &self.special_tokens)] {
            if let Some(text) = text {
                write_whole(&directory.join(name), |file| file.write_all(text.as_bytes()))?;
            }
        }
        Ok(())
    }
}

/// Takes the docids out of the lists of special tokens that `fields` has: a tokenizer of transformers adds what they name,
/// so that docids of an earlier corpus would get ids behind the rows of the embedding. Returns whether there were any.
fn drop_special_docids(fields: &mut Value) -> bool {
    let is_docid = |token: &Value| {
        let text = token.as_str().or_else(|| token.get("content")?.as_str());
        text.is_some_and(|text| DocidVocabulary::parse_token(text).is_some())
    };
    let mut found = false;
    for list in SPECIAL_LISTS {
        match fields.get_mut(list) {
            Some(Value::Array(tokens)) => tokens.retain(|token| {
                found |= is_docid(token);
                !is_docid(token)
            }),
            Some(Value::Object(tokens)) => tokens.retain(|_, token| {
                found |= is_docid(token);
                !is_docid(token)
            }),
            _ => {}
        }
    }
    found
}

/// Takes the docids out of the added tokens.
fn take_docids(file: &mut TokenizerFile) -> Result<Option<ImportedDocids>, DocidError> {
    let is_docid = |token: &AddedToken| DocidVocabulary::parse_token(&token.content).is_some();
    let (mut docids, others): (Vec<AddedToken>, Vec<AddedToken>) =
        std::mem::take(&mut file.added).into_iter().partition(is_docid);
    file.added = others;
    if docids.is_empty() {
        return Ok(None);
    }
    docids.sort_by_key(|token| token.id);
    if let Some([one, other]) = docids.array_windows().find(|[one, other]| one.id == other.id) {
        let (one, other, id) = (one.content.clone(), other.content.clone(), one.id);
        return Err(DocidError::SameTokenId { one, other, id });
    }
    let names = docids.iter().filter_map(|token| DocidVocabulary::parse_token(&token.content));
    Ok(Some(ImportedDocids {
        vocabulary: DocidVocabulary::new(names)?,
        rows: docids.iter().map(|token| token.id).collect(),
    }))
}

/// Gives added tokens the ids that `tokenizer`, which has no docids, gives them: it numbers them itself, one after
/// another. The ids that they had, in the order of their new ones, where these differ.
///
/// `Err` is the token that cannot get another id, in words.
fn renumber(
    added: &mut [AddedToken],
    docids: Option<&ImportedDocids>,
    tokenizer: &Tokenizer,
    words: usize,
) -> Result<Vec<u32>, String> {
    // In ascending order.
    let rows = docids.map_or(&[][..], |docids| &docids.rows);
    let taken = |token: &str, id: u32| {
        format!(
            "added token `{token}` has id {id}, which is another token's; right would be ids that all differ"
        )
    };
    // New id, stored id and text of each.
    let mut places = Vec::new();
    for token in added {
        if rows.binary_search(&token.id).is_ok() {
            return Err(taken(&token.content, token.id));
        }
        let Some(id) = tokenizer.token_to_id(&token.content) else {
            return Err(format!("added token `{}` is lost", token.content));
        };
        places.push((id, token.id, token.content.clone()));
        token.id = id;
    }
    places.sort_unstable();
    // From the first that gets another id on: what follows may have its old one by chance.
    let first = places.iter().find(|(id, stored, _)| id != stored);
    let first = first.map_or(words, |(id, ..)| *id as usize);
    let moved = places.split_off(places.partition_point(|(id, ..)| (*id as usize) < first));
    // A docid has a row of its own, which it keeps wherever it stands behind the words.
    if let (Some(docids), Some(&row)) = (docids, rows.first())
        && (row as usize) < first
    {
        let holder = match tokenizer.id_to_token(row) {
            Some(word) => format!("which is the id of `{word}`"),
            None => format!("which is among those of the {first} words"),
        };
        return Err(format!(
            "docid `{}` has id {row}, {holder}; right would be a row of its own behind the words, from id {first} on \
             (`tokenizer.add_tokens` of transformers gives it one, `resize_token_embeddings` the row)",
            docids.vocabulary.token(0)
        ));
    }
    if moved.is_empty() {
        return Ok(Vec::new());
    }
    for (index, (id, stored, content)) in moved.iter().enumerate() {
        let is_taken = (*stored as usize) < first
            || moved[..index].iter().any(|(_, other, _)| other == stored);
        if *id as usize != first + index || is_taken {
            return Err(taken(content, *stored));
        }
    }
    // What ends texts is put there by number.
    let template = tokenizer.encode_fast("", true).map_err(|error| error.to_string())?;
    let mut ends = template.get_ids().iter().zip(template.get_tokens());
    if let Some((id, token)) = ends.find(|&(&id, token)| tokenizer.token_to_id(token) != Some(id)) {
        return Err(format!(
            "the post-processor adds `{token}` with id {id}, which is not its id without the docids; right would \
             be a token before the docids"
        ));
    }
    Ok(moved.into_iter().map(|(_, stored, _)| stored).collect())
}

/// The text of a special token, which a configuration writes as a string or as an object.
fn special_token<'a>(config: Option<&'a Value>, field: &str) -> Option<&'a str> {
    let token = config?.get(field)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// The first words of a text, about `length` bytes, ending before white space.
fn first_words(text: &str, length: usize) -> &str {
    if length >= text.len() {
        return text;
    }
    text[..text.floor_char_boundary(length)]
        .rfind(char::is_whitespace)
        .map_or(text, |end| &text[..end])
}

fn read_if_there(file: &Path) -> Result<Option<String>, TokenizerError> {
    match std::fs::read_to_string(file) {
        Ok(text) if is_lfs_pointer(text.as_bytes()) => {
            Err(TokenizerError::LfsPointer { file: file.to_path_buf() })
        }
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::File { file: file.to_path_buf(), source }),
    }
}
