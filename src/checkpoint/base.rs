//! Base models: a directory, or a model of the Hugging Face hub, which is downloaded first.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::hub::{HubModel, HubProblem, HubSettings};
use super::read::checkpoint_at;
use super::transport::without_credentials;
use crate::files::expand_home;
use crate::run::CHECKPOINTS;

/// The files that are needed of a base model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseFiles {
    /// Configuration, tokenizer and weights.
    All,
    /// Configuration and tokenizer, for a model that is trained from scratch.
    ConfigAndTokenizer,
}

/// Errors of finding a base model.
#[derive(Debug, Error)]
pub enum BaseError {
    /// The path is not a directory.
    #[error("base model `{base}`: {} is not a directory{}", path.display(), not_an_id(base))]
    NoDirectory {
        /// The base in the recipe or on the command line.
        base: String,
        /// The missing directory.
        path: PathBuf,
    },
    /// The path is a run directory without a checkpoint.
    #[error(
        "base model `{base}`: {} is a run directory without a checkpoint (no checkpoints/best or \
             checkpoints/latest) and has no config.json",
        path.display()
    )]
    NoCheckpoint {
        /// The base in the recipe or on the command line.
        base: String,
        /// The run directory.
        path: PathBuf,
    },
    /// There is no bundled base model with this name.
    #[error(
        "base model `{base}`: there is no such bundled base model{}",
        match nearest {
            Some(name) => format!("; did you mean `{name}`?"),
            None => format!("; known: {}", known.join(", ")),
        }
    )]
    NotBundled {
        /// The base in the recipe or on the command line.
        base: String,
        /// The most similar name.
        nearest: Option<&'static str>,
        /// The names of all bundled base models.
        known: Vec<&'static str>,
    },
    /// A bundled base model has no weights.
    #[error(
        "base model `{base}` has a configuration and a tokenizer, but no weights: set model.init = \"scratch\""
    )]
    BundledWeights {
        /// The base in the recipe or on the command line.
        base: String,
    },
    /// A bundled base model has no revisions.
    #[error(
        "base model `{base}`: the revision `{revision}` applies only to models of the hub; remove it"
    )]
    RevisionOfBundled {
        /// The base in the recipe or on the command line.
        base: String,
        /// The revision in the recipe or on the command line.
        revision: String,
    },
    /// A directory has no revisions.
    #[error(
        "base model `{base}`: the revision `{revision}` applies only to models of the hub, and {} is on disk; \
             remove the revision, or rename the directory on disk",
        path.display()
    )]
    RevisionOfDirectory {
        /// The base in the recipe or on the command line.
        base: String,
        /// The revision in the recipe or on the command line.
        revision: String,
        /// The directory on disk.
        path: PathBuf,
    },
    /// The base has the form of a hub id, and the hub or the cache does not provide it.
    #[error(
        "base model `{base}`: there is no directory of that name, and as a model of {endpoint} \
         (revision {revision}): {problem}"
    )]
    Hub {
        /// The base in the recipe or on the command line.
        base: String,
        /// The branch, tag or commit.
        revision: String,
        /// The address of the hub.
        endpoint: String,
        /// The error of the hub or the cache.
        problem: Box<HubProblem>,
    },
}

/// Returns the directory of a base model, downloaded to the hub's cache if necessary.
///
/// `base` is a directory if the path exists or if it cannot be a hub id (`name` or `organisation/name`). For a run
/// directory, the best or else the latest checkpoint is returned (see [`checkpoint_at`]); other directories are
/// returned unchecked. For a model of the hub, the snapshot of `revision` (a branch, tag or commit; `main` by default)
/// is returned: the hub resolves the revision, and only files that are not in the cache are downloaded. If the hub
/// cannot be reached, a complete snapshot in the cache is used, with a warning.
///
/// # Errors
/// [`BaseError`] for a directory that does not exist, a run directory without a checkpoint, an unknown bundled base
/// model, and a `revision` of what is not on the hub. For a model of the hub, [`BaseError::Hub`] if it is unknown, not
/// accessible or lacks a file in `wanted`, if the hub cannot be reached and the cache has no complete snapshot, or if a
/// file cannot be downloaded or written.
pub fn locate(
    base: &str,
    revision: Option<&str>,
    wanted: BaseFiles,
    settings: &HubSettings,
) -> Result<PathBuf, BaseError> {
    let path = expand_home(base, std::env::home_dir().as_deref());
    if path.exists() || !is_hub_id(base) {
        return directory(base, revision, path);
    }
    let revision = revision.unwrap_or("main");
    HubModel { id: base, revision, wanted, settings }.locate().map_err(|problem| BaseError::Hub {
        base: base.to_owned(),
        revision: revision.to_owned(),
        endpoint: without_credentials(&settings.endpoint),
        problem: Box::new(problem),
    })
}

fn directory(base: &str, revision: Option<&str>, path: PathBuf) -> Result<PathBuf, BaseError> {
    let base = base.to_owned();
    match revision {
        _ if !path.is_dir() => Err(BaseError::NoDirectory { base, path: absolute(&path) }),
        Some(revision) => Err(BaseError::RevisionOfDirectory {
            base,
            revision: revision.to_owned(),
            path: absolute(&path),
        }),
        None => match checkpoint_at(&path) {
            Some(checkpoint) => Ok(checkpoint),
            None if path.join(CHECKPOINTS).is_dir() => {
                Err(BaseError::NoCheckpoint { base, path: absolute(&path) })
            }
            None => Ok(path),
        },
    }
}

/// Makes a path absolute for messages: a relative path is ambiguous without the current directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn not_an_id(base: &str) -> &'static str {
    if is_hub_id(base) {
        ""
    } else {
        " (and the name is not a hub id, which has the form `name` or `organisation/name`)"
    }
}

/// Returns whether a text has the form of a hub id. Paths that start with `.`, `/` or `~` do not.
fn is_hub_id(text: &str) -> bool {
    let part = |part: &str| {
        let ends = |end: char| part.starts_with(end) || part.ends_with(end);
        !part.is_empty()
            && !ends('.')
            && !ends('-')
            && part.chars().all(|char| char.is_ascii_alphanumeric() || "-_.".contains(char))
    };
    text.len() <= 96
        && text.split('/').count() <= 2
        && text.split('/').all(part)
        && !text.contains("--")
        && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::is_hub_id;

    #[test]
    fn hub_ids_are_distinguished_from_paths() {
        for id in ["t5-small", "google-t5/t5-small", "google/t5-v1_1-base", "a/b.c"] {
            assert!(is_hub_id(id), "{id}");
        }
        for path in
            ["", ".", "./t5", "../t5", "/t5", "~/t5", "a/b/c", "t5/", "a\\b", "C:/t5", "a--b", "é"]
        {
            assert!(!is_hub_id(path), "{path}");
        }
    }
}
