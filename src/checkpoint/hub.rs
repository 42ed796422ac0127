//! Models of the Hugging Face hub, in the cache that its Python library uses too.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use serde::Deserialize;
use thiserror::Error;

use super::Wanted;
use super::download::{Destination, download};
use super::transport::{Hub, HubError};
use crate::files::{create_directory, expand_home, write_whole};
use crate::t5::weights::{INDEX, SINGLE, WeightsError, shards};

/// Fetched where the model has them.
const OPTIONAL: [&str; 3] =
    ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];
const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Weights in formats that are not read.
const OTHER_WEIGHTS: [&str; 4] =
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"];

/// Which hub is asked, as whom, and where its files are kept.
// No Debug: the token must not get into logs.
#[derive(Clone)]
pub struct HubSettings {
    /// The cache directory (the one with `models--..` directories in it).
    pub cache: PathBuf,
    /// The hub's address, without a slash at its end; perhaps with a user name and a password before the host.
    pub endpoint: String,
    /// Sent to the hub as bearer token.
    pub token: Option<String>,
    /// Use only what is in the cache.
    pub offline: bool,
}

impl HubSettings {
    /// From the environment, as Hugging Face's Python libraries read it (see
    /// [`HubSettings::from_variables`]).
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// From environment variables: `HF_HUB_CACHE` (else `hub` in `HF_HOME`, else in `huggingface` in
    /// `XDG_CACHE_HOME` or `~/.cache`), `HF_ENDPOINT`, `HF_TOKEN` (else the file `HF_TOKEN_PATH` or `token` in
    /// `HF_HOME`), `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` (1, true, yes, on). Empty ones count as not set.
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
            let text = fs::read_to_string(token_file).ok()?;
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

/// Why a model cannot be had from the hub.
#[derive(Debug, Error)]
pub enum HubProblem {
    /// The hub knows no such model or revision.
    #[error("not found (404); check the name and the revision")]
    NotFound,
    /// The hub wants to know who asks, or does not let them.
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
    /// The network, the hub or the disk fails.
    #[error("cannot fetch {what}: {reason}")]
    Fetch {
        /// A file, or the list of files.
        what: String,
        /// Why.
        reason: String,
    },
    /// `HF_HUB_OFFLINE` is set, and the cache does not have all that is wanted.
    #[error(
        "offline (HF_HUB_OFFLINE is set), and {missing} is not in the cache {}; fetch it once without \
         HF_HUB_OFFLINE",
        cache.display()
    )]
    NotCached {
        /// What is not there.
        missing: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The model has no file that is needed.
    #[error(
        "it has no {missing}{}. With Python's transformers, from_pretrained(..).save_pretrained(DIR) of both \
         AutoModelForSeq2SeqLM and AutoTokenizer writes a directory that can be the base",
        if instead.is_empty() { String::new() } else { format!(", only {}", instead.join(", ")) }
    )]
    Lacks {
        /// The file that is needed.
        missing: String,
        /// What is there in its place and is not read.
        instead: Vec<&'static str>,
    },
    /// The hub sent an invalid value for a file or for the model.
    #[error(
        "the hub's answer about {file} is refused: {what} is `{found}`, expected {expected}; nothing was written"
    )]
    Implausible {
        /// The file, or the list of files.
        file: String,
        /// The part of the answer.
        what: &'static str,
        /// The name of the value.
        found: String,
        /// A description of valid values.
        expected: String,
    },
    /// A revision that cannot be a branch, tag or commit.
    #[error(
        "the revision cannot be one: expected a branch, a tag or a commit, of letters, digits and any of . _ / -"
    )]
    Revision,
    /// What came is not what the hub announced.
    #[error("{file} came with {found} bytes, announced were {expected}; it was removed, try again")]
    Size {
        /// The file.
        file: String,
        /// Bytes that came.
        found: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// The index of the weights' shards cannot be used.
    #[error(transparent)]
    Index(#[from] WeightsError),
}

/// One model of the hub at one revision.
pub(super) struct HubModel<'a> {
    pub id: &'a str,
    pub revision: &'a str,
    pub wanted: Wanted,
    pub settings: &'a HubSettings,
}

/// The commit and the files of a revision, as the hub reports them now.
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
    /// The snapshot directory with all that is wanted.
    pub fn locate(&self) -> Result<PathBuf, HubProblem> {
        // It becomes part of paths.
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
                    "{problem}; the base model {} is taken from the cache: {}",
                    self.id,
                    snapshot.display()
                );
                Ok(snapshot)
            }
            (info, _) => self.fetch(&hub, info?),
        }
    }

    /// The model's directory in the cache, as Python's library calls it.
    fn folder(&self) -> PathBuf {
        self.settings.cache.join(format!("models--{}", self.id.replace('/', "--")))
    }

    /// Where the files of `commit` are kept.
    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// The file that says what commit the revision was when it was fetched.
    fn reference(&self) -> PathBuf {
        self.folder().join("refs").join(self.revision)
    }

    /// The revision's snapshot in the cache, when all that is wanted is in it.
    fn cached(&self) -> Result<PathBuf, HubProblem> {
        let not_cached = |missing: &str| HubProblem::NotCached {
            missing: missing.to_owned(),
            cache: self.settings.cache.clone(),
        };
        let commit = if is_commit(self.revision) {
            self.revision.to_owned()
        } else {
            let text = fs::read_to_string(self.reference()).unwrap_or_default();
            let commit = Some(text.trim()).filter(|commit| is_commit(commit));
            commit.ok_or_else(|| not_cached("the model"))?.to_owned()
        };
        let snapshot = self.snapshot(&commit);
        let mut needed: Vec<String> = REQUIRED.map(str::to_owned).into();
        if self.wanted == Wanted::Everything {
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

    /// What the revision is now on the hub: its commit and its files.
    fn info(&self, hub: &Hub) -> Result<Info, HubProblem> {
        let revision = self.revision.replace('/', "%2F");
        let list = hub.list(&format!("api/models/{}/revision/{revision}", self.id));
        let list = list.map_err(|error| self.problem(LIST, error))?;
        let info: Info = serde_json::from_slice(&list).map_err(|error| HubProblem::Fetch {
            what: LIST.to_owned(),
            reason: format!("what came is no such list: {error}"),
        })?;
        if is_commit(&info.sha) {
            Ok(info)
        } else {
            Err(HubProblem::Implausible {
                file: LIST.to_owned(),
                what: "the commit",
                found: info.sha.chars().take(100).flat_map(char::escape_debug).collect(),
                expected: "40 hex digits".to_owned(),
            })
        }
    }

    /// Fetches what is wanted and not in the cache.
    fn fetch(&self, hub: &Hub, info: Info) -> Result<PathBuf, HubProblem> {
        let there: HashSet<&str> = info.files.iter().map(|file| file.name.as_str()).collect();
        let weights = self.weights(&there)?;

        // By commit, so that the files belong together whatever is pushed meanwhile.
        let commit = info.sha.as_str();
        let (folder, snapshot) = (self.folder(), self.snapshot(commit));
        let to = Destination { folder: &folder, commit };
        let get = |file: &str| {
            if snapshot.join(file).is_file() {
                return Ok(());
            }
            let path = format!("{}/resolve/{commit}/{file}", self.id);
            download(hub, &path, file, &to).map_err(|error| self.problem(file, error))
        };
        // What is needed comes last, so that a snapshot that has it has what is optional too.
        for file in OPTIONAL.into_iter().filter(|file| there.contains(file)) {
            get(file)?;
        }
        for file in REQUIRED.into_iter().chain(weights) {
            get(file)?;
        }
        if weights == Some(INDEX) {
            for shard in shards(&snapshot.join(INDEX))? {
                if !is_shard(&shard) {
                    return Err(HubProblem::Implausible {
                        file: INDEX.to_owned(),
                        what: "the name of a shard",
                        found: shard.chars().take(100).flat_map(char::escape_debug).collect(),
                        expected: "letters, digits and any of . _ - that end with .safetensors"
                            .to_owned(),
                    });
                }
                if !there.contains(shard.as_str()) {
                    return Err(lacks(&shard, &[], &there));
                }
                get(&shard)?;
            }
        }
        // Only now: until all is there, the revision stays at the older snapshot.
        if !is_commit(self.revision) {
            let reference = self.reference();
            let parent = reference.parent().unwrap_or(&folder);
            let made = create_directory(parent).map_err(|error| error.to_string());
            let moved = made.and_then(|()| {
                let write = write_whole(&reference, |file| file.write_all(commit.as_bytes()));
                write.map_err(|error| error.to_string())
            });
            moved
                .map_err(|reason| HubProblem::Fetch { what: "the revision".to_owned(), reason })?;
        }
        Ok(snapshot)
    }

    /// The file that the weights begin with; an error when a file that is needed is not `there`.
    fn weights(&self, there: &HashSet<&str>) -> Result<Option<&'static str>, HubProblem> {
        if !there.contains("config.json") {
            return Err(lacks("config.json", &[], there));
        }
        if !there.contains("tokenizer.json") {
            return Err(lacks("tokenizer.json", &["spiece.model"], there));
        }
        match [SINGLE, INDEX].into_iter().find(|file| there.contains(file)) {
            _ if self.wanted == Wanted::ConfigAndTokenizer => Ok(None),
            None => Err(lacks(SINGLE, &OTHER_WEIGHTS, there)),
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
            HubError::Implausible { what: part, found, expected } => {
                let file = what.to_owned();
                return HubProblem::Implausible { file, what: part, found, expected };
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

fn lacks(missing: &str, instead: &[&'static str], there: &HashSet<&str>) -> HubProblem {
    let instead = instead.iter().copied().filter(|file| there.contains(file)).collect();
    HubProblem::Lacks { missing: missing.to_owned(), instead }
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
