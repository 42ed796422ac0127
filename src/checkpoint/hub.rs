//! Models of the Hugging Face hub, in the cache that `huggingface_hub` also uses.

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;

use serde::Deserialize;
use thiserror::Error;

use super::BaseFiles;
use super::download::{CacheLocation, download};
use super::transport::{Hub, HubError};
use crate::files::{create_directory, expand_home, read_small_to_string, write_atomically};
use crate::t5::weights::{INDEX, SINGLE, WeightsError, shards};

/// Files that are downloaded if the model has them.
const OPTIONAL: [&str; 3] =
    ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];
const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Files with weights in unsupported formats.
const OTHER_WEIGHTS: [&str; 4] =
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"];

/// The address of the hub, the token and the cache directory.
// No Debug: the token must not get into logs.
#[derive(Clone)]
pub struct HubSettings {
    /// The cache directory (the one with `models--..` directories in it).
    pub cache: PathBuf,
    /// The address of the hub, without a trailing slash; it may contain a user name and a password.
    pub endpoint: String,
    /// The bearer token for the hub.
    pub token: Option<String>,
    /// True if only the cache is used.
    pub offline: bool,
}

impl HubSettings {
    /// Reads the settings from the environment, as Hugging Face's Python libraries do (see
    /// [`HubSettings::from_variables`]).
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// Reads the settings from environment variables: `HF_HUB_CACHE` (else `hub` in `HF_HOME`, else in `huggingface`
    /// in `XDG_CACHE_HOME` or `~/.cache`), `HF_ENDPOINT`, `HF_TOKEN` (else the file `HF_TOKEN_PATH` or `token` in
    /// `HF_HOME`), `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` (1, true, yes, on). Empty variables are treated as unset.
    pub fn from_variables(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let lookup = |name: &str| {
            lookup(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let user = lookup("HOME").map(PathBuf::from).or_else(std::env::home_dir);
        let path = |name: &str| lookup(name).map(|value| expand_home(&value, user.as_deref()));
        let home = path("HF_HOME").unwrap_or_else(|| {
            path("XDG_CACHE_HOME")
                .unwrap_or_else(|| expand_home("~/.cache", user.as_deref()))
                .join("huggingface")
        });
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let stored_token = || {
            let text = read_small_to_string(&token_file).ok()?;
            Some(text.trim().to_owned()).filter(|token| !token.is_empty())
        };
        let endpoint = lookup("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let offline = lookup("HF_HUB_OFFLINE").or_else(|| lookup("TRANSFORMERS_OFFLINE"));
        Self {
            cache: path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: lookup("HF_TOKEN").or_else(stored_token),
            offline: offline.is_some_and(|value| {
                matches!(value.to_lowercase().as_str(), "1" | "true" | "yes" | "on")
            }),
        }
    }
}

/// Errors of a model of the hub.
#[derive(Debug, Error)]
pub enum HubProblem {
    /// The hub has no such model or revision.
    #[error("not found (404); check the name and the revision")]
    NotFound,
    /// The hub requires authentication, or denies access.
    #[error(
        "the hub refuses it ({status}): there is no such model, or it is private or gated. {}",
        if *token_sent {
            "The token of HF_TOKEN or of the token file was sent: is it valid, and has its account been given \
             access on the model's page?"
        } else {
            "For a private or gated model set HF_TOKEN to the token of an account that has access"
        }
    )]
    Refused {
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        token_sent: bool,
    },
    /// The network, the hub or the disk failed.
    #[error("cannot download {what}: {reason}")]
    Fetch {
        /// The file, or the list of files.
        what: String,
        /// The reason.
        reason: String,
    },
    /// `HF_HUB_OFFLINE` is set, and the cache lacks a file.
    #[error(
        "offline (HF_HUB_OFFLINE is set), and {missing} is not in the cache {}; download it once without \
             HF_HUB_OFFLINE",
        cache.display()
    )]
    NotCached {
        /// The missing file or model.
        missing: String,
        /// The cache directory.
        cache: PathBuf,
    },
    /// The model lacks a required file.
    #[error(
        "it has no {missing}{}. With Python's transformers, from_pretrained(..).save_pretrained(DIR) of both \
         AutoModelForSeq2SeqLM and AutoTokenizer writes a directory that can be the base",
        if instead.is_empty() { String::new() } else { format!(", only {}", instead.join(", ")) }
    )]
    MissingFile {
        /// The required file.
        missing: String,
        /// Files of the model in formats that are not supported.
        instead: Vec<&'static str>,
    },
    /// The hub sent an invalid value for a file or for the model.
    #[error(
        "the hub's response for {file} is invalid: {what} is `{found}`, expected {expected}; nothing was written"
    )]
    InvalidResponse {
        /// The file, or the list of files.
        file: String,
        /// The part of the response.
        what: &'static str,
        /// The value found.
        found: String,
        /// A description of valid values.
        expected: String,
    },
    /// The revision is not a valid branch, tag or commit.
    #[error(
        "the revision is invalid: expected a branch, a tag or a commit, of letters, digits and any of . _ / -"
    )]
    Revision,
    /// The downloaded file has another size than the hub announced.
    #[error(
        "{file} has {found} bytes, but the hub announced {expected}; it was removed, try again"
    )]
    Size {
        /// The file.
        file: String,
        /// Number of bytes received.
        found: u64,
        /// Number of bytes announced.
        expected: u64,
    },
    /// The index of the shards is invalid.
    #[error(transparent)]
    Index(#[from] WeightsError),
}

/// One model of the hub at one revision.
pub(super) struct HubModel<'a> {
    pub id: &'a str,
    pub revision: &'a str,
    pub wanted: BaseFiles,
    pub settings: &'a HubSettings,
}

/// The commit and the files of a revision on the hub.
#[derive(Deserialize)]
struct Info {
    /// The commit.
    sha: String,
    #[serde(rename = "siblings")]
    files: Vec<InfoFile>,
}

#[derive(Deserialize)]
struct InfoFile {
    #[serde(rename = "rfilename")]
    name: String,
}

/// The name of [`Info`] in error messages.
const LIST: &str = "the list of its files";

impl HubModel<'_> {
    /// Returns the snapshot directory with all files in `wanted`.
    pub fn locate(&self) -> Result<PathBuf, HubProblem> {
        // The revision becomes a part of paths.
        if !is_revision(self.revision) {
            return Err(HubProblem::Revision);
        }
        let cached = self.cached();
        // A commit never changes, so a cached one needs no network.
        if self.settings.offline || (is_commit(self.revision) && cached.is_ok()) {
            return cached;
        }
        let hub = Hub::new(self.settings);
        match (self.info(&hub), cached) {
            (Err(problem @ HubProblem::Fetch { .. }), Ok(snapshot)) => {
                tracing::warn!(
                    "{problem}; using the base model {} from the cache: {}",
                    self.id,
                    snapshot.display()
                );
                Ok(snapshot)
            }
            (info, _) => self.fetch(&hub, info?),
        }
    }

    /// Returns the model's directory in the cache, named as by `huggingface_hub`.
    fn folder(&self) -> PathBuf {
        self.settings.cache.join(format!("models--{}", self.id.replace('/', "--")))
    }

    /// Returns the directory of the files of `commit`.
    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// Returns the file with the commit of the revision at the time of the download.
    fn reference(&self) -> PathBuf {
        self.folder().join("refs").join(self.revision)
    }

    /// Returns the snapshot of the revision in the cache, if it has all files in `wanted`.
    fn cached(&self) -> Result<PathBuf, HubProblem> {
        let not_cached = |missing: &str| HubProblem::NotCached {
            missing: missing.to_owned(),
            cache: self.settings.cache.clone(),
        };
        let commit = if is_commit(self.revision) {
            self.revision.to_owned()
        } else {
            let text = read_small_to_string(&self.reference()).unwrap_or_default();
            let commit = Some(text.trim()).filter(|commit| is_commit(commit));
            commit.ok_or_else(|| not_cached("the model"))?.to_owned()
        };
        let snapshot = self.snapshot(&commit);
        let mut needed: Vec<String> = REQUIRED.map(str::to_owned).into();
        if self.wanted == BaseFiles::All {
            let index = snapshot.join(INDEX);
            if !snapshot.join(SINGLE).is_file() && index.is_file() {
                needed.extend(shards(&index)?);
            } else {
                needed.push(SINGLE.to_owned());
            }
        }
        match needed.iter().find(|file| !snapshot.join(file).is_file()) {
            Some(missing) => Err(not_cached(missing)),
            None => Ok(snapshot),
        }
    }

    /// Requests the commit and the files of the revision from the hub.
    fn info(&self, hub: &Hub) -> Result<Info, HubProblem> {
        let revision = self.revision.replace('/', "%2F");
        let list = hub.list(&format!("api/models/{}/revision/{revision}", self.id));
        let list = list.map_err(|error| self.problem(LIST, error))?;
        let info: Info = serde_json::from_slice(&list).map_err(|error| HubProblem::Fetch {
            what: LIST.to_owned(),
            reason: format!("the response is not a list of files: {error}"),
        })?;
        if is_commit(&info.sha) {
            Ok(info)
        } else {
            Err(HubProblem::InvalidResponse {
                file: LIST.to_owned(),
                what: "the commit",
                found: info.sha.chars().take(100).flat_map(char::escape_debug).collect(),
                expected: "40 hex digits".to_owned(),
            })
        }
    }

    /// Downloads the files in `wanted` that are not in the cache.
    fn fetch(&self, hub: &Hub, info: Info) -> Result<PathBuf, HubProblem> {
        let present: HashSet<&str> = info.files.iter().map(|file| file.name.as_str()).collect();
        let weights = self.weights(&present)?;

        // Files are requested by commit, so that they belong together if the branch moves in the meantime.
        let commit = info.sha.as_str();
        let (folder, snapshot) = (self.folder(), self.snapshot(commit));
        let to = CacheLocation { folder: &folder, commit };
        let get = |file: &str| {
            if snapshot.join(file).is_file() {
                return Ok(());
            }
            let path = format!("{}/resolve/{commit}/{file}", self.id);
            download(hub, &path, file, &to).map_err(|error| self.problem(file, error))
        };
        // Required files come last, so that a snapshot with all of them has the optional files too.
        for file in OPTIONAL.into_iter().filter(|file| present.contains(file)) {
            get(file)?;
        }
        for file in REQUIRED.into_iter().chain(weights) {
            get(file)?;
        }
        if weights == Some(INDEX) {
            for shard in shards(&snapshot.join(INDEX))? {
                if !is_shard(&shard) {
                    return Err(HubProblem::InvalidResponse {
                        file: INDEX.to_owned(),
                        what: "the name of a shard",
                        found: shard.chars().take(100).flat_map(char::escape_debug).collect(),
                        expected: "letters, digits and any of . _ - that end with .safetensors"
                            .to_owned(),
                    });
                }
                if !present.contains(shard.as_str()) {
                    return Err(missing_file(&shard, &[], &present));
                }
                get(&shard)?;
            }
        }
        // Written last: until the snapshot is complete, the revision refers to the older one.
        if !is_commit(self.revision) {
            let reference = self.reference();
            let parent = reference.parent().unwrap_or(&folder);
            let made = create_directory(parent).map_err(|error| error.to_string());
            let moved = made.and_then(|()| {
                let write = write_atomically(&reference, |file| file.write_all(commit.as_bytes()));
                write.map_err(|error| error.to_string())
            });
            moved
                .map_err(|reason| HubProblem::Fetch { what: "the revision".to_owned(), reason })?;
        }
        Ok(snapshot)
    }

    /// Returns the first file of the weights; an error if a required file is not in `present`.
    fn weights(&self, present: &HashSet<&str>) -> Result<Option<&'static str>, HubProblem> {
        if !present.contains("config.json") {
            return Err(missing_file("config.json", &[], present));
        }
        if !present.contains("tokenizer.json") {
            return Err(missing_file("tokenizer.json", &["spiece.model"], present));
        }
        match [SINGLE, INDEX].into_iter().find(|file| present.contains(file)) {
            _ if self.wanted == BaseFiles::ConfigAndTokenizer => Ok(None),
            None => Err(missing_file(SINGLE, &OTHER_WEIGHTS, present)),
            weights => Ok(weights),
        }
    }

    /// Converts a failed request to an error that names the file and the hub.
    fn problem(&self, what: &str, error: HubError) -> HubProblem {
        let reason = match error {
            HubError::Status(404) => return HubProblem::NotFound,
            HubError::Status(status @ (401 | 403)) => {
                return HubProblem::Refused { status, token_sent: self.settings.token.is_some() };
            }
            HubError::InvalidResponse { what: part, found, expected } => {
                let file = what.to_owned();
                return HubProblem::InvalidResponse { file, what: part, found, expected };
            }
            HubError::Size { found, expected } => {
                return HubProblem::Size { file: what.to_owned(), found, expected };
            }
            HubError::Status(status) => format!("the hub answered {status}"),
            HubError::Request(error) => error.to_string(),
            HubError::Io(error) => error.to_string(),
        };
        HubProblem::Fetch { what: what.to_owned(), reason }
    }
}

fn missing_file(missing: &str, instead: &[&'static str], present: &HashSet<&str>) -> HubProblem {
    let instead = instead.iter().copied().filter(|file| present.contains(file)).collect();
    HubProblem::MissingFile { missing: missing.to_owned(), instead }
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns whether a text is a valid branch, tag or commit, and safe as a relative path.
fn is_revision(text: &str) -> bool {
    let part = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain)
    };
    text.len() <= 250 && text.split('/').all(part)
}

/// Returns whether a text is a valid file name of a shard.
fn is_shard(name: &str) -> bool {
    name.ends_with(".safetensors") && is_revision(name) && !name.contains('/')
}
