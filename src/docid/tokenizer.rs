//! The text tokenizer, read from and written to Hugging Face's files.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::charsmap;
use super::tokenizer_file::{AddedToken, TokenizerFile};
use super::{DocidError, DocidVocabulary, token};
use crate::files::{FileError, is_lfs_pointer, read_regular_to_string, write_atomically};
use crate::panics;

const TOKENIZER: &str = "tokenizer.json";
/// The list of docids that genir writes beside [`TOKENIZER`].
const DOCIDS: &str = "docids.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
/// In [`CONFIG`]: a second copy of the added tokens. If it exists, transformers 5 reads it instead of the list in
/// [`TOKENIZER`].
const ADDED_IN_CONFIG: &str = "added_tokens_decoder";
/// In [`CONFIG`] and [`SPECIAL_TOKENS`]: special tokens without a dedicated field.
const SPECIAL_LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// The highest id of a token that is accepted: the largest vocabularies have some hundred thousand tokens.
const HIGHEST_ID: u32 = (1 << 24) - 1;

/// Errors of a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file cannot be read.
    #[error("cannot use {}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The error of the operating system.
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
        "{} does not exist; AutoTokenizer.from_pretrained(..).save_pretrained(..) of transformers \
             writes it",
        file.display()
    )]
    Missing {
        /// The missing file.
        file: PathBuf,
    },
    /// A file does not contain a valid tokenizer.
    #[error("{}: {found}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// The problem.
        found: String,
    },
    /// The end-of-sequence or padding token is not in the vocabulary.
    #[error("{}: the tokenizer has no token `{token}`, which is its {field}", file.display())]
    NoToken {
        /// The tokenizer's file.
        file: PathBuf,
        /// `eos_token` or `pad_token`.
        field: &'static str,
        /// The token.
        token: String,
    },
    /// The docids among the added tokens are invalid.
    #[error("{}: {source}", file.display())]
    Docids {
        /// The tokenizer's file.
        file: PathBuf,
        /// The problem.
        source: DocidError,
    },
    /// The tokenizers library could not encode a text.
    #[error("cannot encode the text `{text}`: {reason}")]
    Encode {
        /// The beginning of the text.
        text: String,
        /// The error of the library.
        reason: String,
    },
}

/// Options for encoding texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Maximum number of tokens of a text, `</s>` included; at least 1.
    pub max_tokens: usize,
    /// Prepended to every text unchanged.
    pub prefix: String,
    /// True if the text (not the prefix) is lowercased.
    pub lowercase: bool,
}

/// Docids found among the added tokens of a tokenizer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportedDocids {
    /// The docids, by ascending token id.
    pub vocabulary: DocidVocabulary,
    /// The token id of each docid, which is its row in the checkpoint's embedding matrix.
    pub rows: Vec<u32>,
}

impl ImportedDocids {
    /// Compares the docids with `docids.json` beside the tokenizer, if there is one: genir writes both, and files of two
    /// checkpoints in one directory would give documents the rows of others.
    ///
    /// # Errors
    /// The file cannot be read, or lists other docids or another order.
    pub fn check_list(&self, directory: &Path) -> Result<(), DocidError> {
        let file = directory.join(DOCIDS);
        if file.symlink_metadata().is_err() {
            return Ok(());
        }
        let listed = DocidVocabulary::read(&file)?;
        let known = &self.vocabulary;
        let mut rows = (0..).zip(listed.ids().zip(known.ids()));
        match rows.find(|(_, (found, expected))| found != expected) {
            _ if listed.len() != known.len() => {
                let (found, expected) = (listed.len(), known.len());
                Err(DocidError::OtherCount { file, found, expected })
            }
            Some((row, (found, expected))) => {
                let (found, expected) = (found.to_owned(), expected.to_owned());
                Err(DocidError::OtherRow { file, row, found, expected })
            }
            None => Ok(()),
        }
    }
}

/// A tokenizer, and the docids removed from its added tokens.
#[derive(Debug)]
pub struct LoadedTokenizer {
    /// The tokenizer, without docids.
    pub tokenizer: TextTokenizer,
    /// The docids, if the tokenizer has any.
    pub docids: Option<ImportedDocids>,
    /// Embedding rows in the checkpoint's weights of the tokenizer's last tokens, whose ids came after the docids or
    /// after a gap and have been renumbered. The row of every other token is its id.
    pub moved_rows: Vec<u32>,
}

/// The text tokenizer, without docids.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    file: TokenizerFile,
    /// [`CONFIG`] and [`SPECIAL_TOKENS`] as read, if they exist.
    config: Option<Value>,
    special_tokens: Option<String>,
    vocab_size: usize,
    end_id: u32,
    pad_id: u32,
}

impl TextTokenizer {
    /// Reads `tokenizer.json` and, if they exist, `tokenizer_config.json` and `special_tokens_map.json`.
    ///
    /// Added tokens of the form `@DOC_ID_<id>@` are removed before the tokenizer is built and returned separately:
    /// loading 100,000 added tokens would take minutes.
    ///
    /// # Errors
    /// [`TokenizerError::Missing`] without `tokenizer.json`; [`TokenizerError::File`] for a file that cannot be read;
    /// [`TokenizerError::LfsPointer`]; [`TokenizerError::Malformed`] for content that the `tokenizers` crate does not
    /// accept; [`TokenizerError::NoToken`] if the end-of-sequence or padding token is not in the vocabulary;
    /// [`TokenizerError::Docids`] for docids that occur twice or share a token id.
    pub fn load(directory: &Path) -> Result<LoadedTokenizer, TokenizerError> {
        let read = |name: &str| read_if_present(&directory.join(name));
        let tokenizer = read(TOKENIZER)?
            .ok_or_else(|| TokenizerError::Missing { file: directory.join(TOKENIZER) })?;
        Self::from_texts(directory, &tokenizer, read(CONFIG)?.as_deref(), read(SPECIAL_TOKENS)?)
    }

    /// Like [`TextTokenizer::load`], from the contents of these files; `directory` is their location in errors.
    ///
    /// # Errors
    /// Those of [`TextTokenizer::load`], except for files that cannot be read.
    pub fn from_texts(
        directory: &Path,
        tokenizer: &str,
        config: Option<&str>,
        special_tokens: Option<String>,
    ) -> Result<LoadedTokenizer, TokenizerError> {
        let path = directory.join(TOKENIZER);
        let malformed = |found: String| TokenizerError::Malformed { file: path.clone(), found };
        let mut file = TokenizerFile::parse(tokenizer).map_err(malformed)?;
        let docids = extract_docids(&mut file)
            .map_err(|source| TokenizerError::Docids { file: path.clone(), source })?;
        let mut without_docids = Vec::new();
        file.write(&mut without_docids, std::iter::empty())
            .map_err(|error| malformed(error.to_string()))?;
        let without_docids =
            String::from_utf8(without_docids).map_err(|error| malformed(error.to_string()))?;
        charsmap::check(&without_docids).map_err(malformed)?;
        let mut tokenizer = unless_it_panics(|| without_docids.parse::<Tokenizer>())
            .map_err(|error| malformed(error.to_string()))?;
        // Batches are truncated and padded elsewhere; a tokenizer saved after use may have its own settings.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| malformed(error.to_string()))?;
        let highest = tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        if let Some((token, id)) = highest.as_ref().filter(|(_, id)| *id > HIGHEST_ID) {
            let found = format!("the token `{token}` has id {id}, expected at most {HIGHEST_ID}");
            return Err(malformed(found));
        }
        let vocab_size = highest.map_or(0, |(_, id)| id as usize + 1);
        let moved_rows = renumber(&mut file.added, docids.as_ref(), &tokenizer, vocab_size)
            .map_err(malformed)?;

        let json = |name: &str, text: &str| {
            serde_json::from_str::<Value>(text).map_err(|error| TokenizerError::Malformed {
                file: directory.join(name),
                found: error.to_string(),
            })
        };
        let mut config = config.map(|text| json(CONFIG, text)).transpose()?;
        if let Some(config) = &mut config {
            remove_special_docids(config);
        }
        let special_tokens = special_tokens.map(|text| {
            let mut fields = json(SPECIAL_TOKENS, &text)?;
            let text =
                if remove_special_docids(&mut fields) { format!("{fields:#}\n") } else { text };
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
        let tokenizer =
            Self { vocab_size, tokenizer, file, config, special_tokens, end_id, pad_id };
        Ok(LoadedTokenizer { tokenizer, docids, moved_rows })
    }

    /// Returns the number of tokens without docids: the highest id + 1. In an export, the token id of a docid is the
    /// sum of this number and its row.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Returns the text token with this id; `None` for docids.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// Returns the id of a text token; `None` if there is no such token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Returns the id of the padding token.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Returns the id of the end-of-sequence token `</s>`.
    pub fn end_id(&self) -> u32 {
        self.end_id
    }

    /// Encodes texts in parallel. Each ends with `</s>`. As in transformers, a longer text is truncated to its first
    /// `max_tokens - 1` tokens and `</s>`.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] for the first text that the tokenizer cannot encode, with its beginning.
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
        let limit = options.max_tokens.max(1) - 1;
        // A document may be thousands of times longer than the limit. T5's tokenizers first split at white space, so
        // the tokens of a text's first words are the first tokens of the text.
        let mut length = options.max_tokens.saturating_mul(8);
        loop {
            let words = first_words(&text, length);
            let encoded = unless_it_panics(|| self.tokenizer.encode_fast(words, false));
            let encoding = encoded.map_err(|error| TokenizerError::Encode {
                text: text.chars().take(60).collect(),
                reason: error.to_string(),
            })?;
            let ids = encoding.get_ids();
            if words.len() == text.len() || ids.len() > limit {
                let mut ids = ids[..ids.len().min(limit)].to_vec();
                ids.push(self.end_id);
                return Ok(ids);
            }
            length = length.saturating_mul(2);
        }
    }

    /// Writes the tokenizer for Hugging Face's `AutoTokenizer`, with docids as added tokens: row `i` gets the token id
    /// `vocab_size() + i`. The other files are written as they were read, except that the list of added tokens in
    /// `tokenizer_config.json`, which would hide the docids in `tokenizer.json`, and docids in lists of special tokens
    /// are removed.
    ///
    /// # Errors
    /// [`TokenizerError::Write`] if a file cannot be written; [`TokenizerError::Malformed`] if a file that was read
    /// with the tokenizer is not a JSON object.
    pub fn export(
        &self,
        directory: &Path,
        docids: Option<&DocidVocabulary>,
    ) -> Result<(), TokenizerError> {
        let path = directory.join(TOKENIZER);
        let first = self.vocab_size as u32;
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
        write_atomically(&path, |file| self.file.write(file, docids))?;
        let config = self.config.clone().map(|mut config| {
            if let Some(fields) = config.as_object_mut() {
                fields.remove(ADDED_IN_CONFIG);
            }
            format!("{config:#}\n")
        });
        for (name, text) in [(CONFIG, &config), (SPECIAL_TOKENS, &self.special_tokens)] {
            if let Some(text) = text {
                write_atomically(&directory.join(name), |file| file.write_all(text.as_bytes()))?;
            }
        }
        Ok(())
    }
}

/// Removes docids from the lists of special tokens in `fields`, and returns whether there were any. transformers adds
/// the tokens in these lists to the tokenizer, so docids of an earlier corpus would get ids beyond the embedding.
fn remove_special_docids(fields: &mut Value) -> bool {
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

/// Removes the docids from the added tokens and returns them.
fn extract_docids(file: &mut TokenizerFile) -> Result<Option<ImportedDocids>, DocidError> {
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

/// Gives added tokens the ids that `tokenizer`, which has no docids, assigns consecutively. Returns the former ids of
/// tokens whose ids have changed, by ascending new id.
///
/// # Errors
/// A message that names the token that cannot be renumbered.
fn renumber(
    added: &mut [AddedToken],
    docids: Option<&ImportedDocids>,
    tokenizer: &Tokenizer,
    vocab_size: usize,
) -> Result<Vec<u32>, String> {
    // In ascending order.
    let rows = docids.map_or(&[][..], |docids| &docids.rows);
    let taken = |token: &str, id: u32| {
        format!(
            "added token `{token}` has id {id}, which another token has too; expected different ids"
        )
    };
    // New id, stored id and text of each added token.
    let mut places = Vec::new();
    for token in added {
        if rows.binary_search(&token.id).is_ok() {
            return Err(taken(&token.content, token.id));
        }
        let Some(id) = tokenizer.token_to_id(&token.content) else {
            return Err(format!(
                "added token `{}` is not in the tokenizer that the library has built",
                token.content
            ));
        };
        places.push((id, token.id, token.content.clone()));
        token.id = id;
    }
    places.sort_unstable();
    // All tokens from the first with a changed id on: a later one may have its former id by chance.
    let first = places.iter().find(|(id, stored, _)| id != stored);
    let first = first.map_or(vocab_size, |(id, ..)| *id as usize);
    let moved = places.split_off(places.partition_point(|(id, ..)| (*id as usize) < first));
    // A docid keeps its own row, at any position after the text tokens.
    if let (Some(docids), Some(&row)) = (docids, rows.first())
        && (row as usize) < first
    {
        let holder = match tokenizer.id_to_token(row) {
            Some(word) => format!("which is the id of `{word}`"),
            None => format!("which is below {first}, the number of text tokens"),
        };
        return Err(format!(
            "docid `{}` has id {row}, {holder}; expected a separate row after the text tokens, with an id of at least \
             {first} (in transformers, `tokenizer.add_tokens` and `resize_token_embeddings` add the id and the row)",
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
    // The post-processor adds tokens such as `</s>` by id.
    let template = unless_it_panics(|| tokenizer.encode_fast("", true));
    let template = template.map_err(|error| error.to_string())?;
    let mut ends = template.get_ids().iter().zip(template.get_tokens());
    if let Some((id, token)) = ends.find(|&(&id, token)| tokenizer.token_to_id(token) != Some(id)) {
        return Err(format!(
            "the post-processor adds `{token}` with id {id}, which is not its id without the docids; \
             expected a token with an id below those of the docids"
        ));
    }
    Ok(moved.into_iter().map(|(_, stored, _)| stored).collect())
}

/// Returns the result of a call of the tokenizers library. It panics at some files that it should refuse, which is an
/// error here.
fn unless_it_panics<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    let done = panics::caught(call);
    done.unwrap_or_else(|| Err("the tokenizers library failed at this tokenizer".into()))
}

/// Returns the text of a special token, which is a string or an object in the configuration.
fn special_token<'a>(config: Option<&'a Value>, field: &str) -> Option<&'a str> {
    let token = config?.get(field)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// Returns the first words of a text, about `length` bytes, ending before white space.
fn first_words(text: &str, length: usize) -> &str {
    if length >= text.len() {
        return text;
    }
    text[..text.floor_char_boundary(length)]
        .rfind(char::is_whitespace)
        .map_or(text, |end| &text[..end])
}

fn read_if_present(file: &Path) -> Result<Option<String>, TokenizerError> {
    match read_regular_to_string(file) {
        Ok(text) if is_lfs_pointer(text.as_bytes()) => {
            Err(TokenizerError::LfsPointer { file: file.to_path_buf() })
        }
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::File { file: file.to_path_buf(), source }),
    }
}
