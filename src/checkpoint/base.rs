//! Where a base model is: a directory, or a model of the Hugging Face hub that is fetched first.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::hub::{HubModel, HubProblem, HubSettings};
use super::read::checkpoint_at;
use super::transport::shown;
use crate::files::expand_home;
use crate::run::CHECKPOINTS;

/// What is needed of a base model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Configuration, tokenizer and weights.
    Everything,
    /// No weights: a model that starts from scratch.
    ConfigAndTokenizer,
}

/// Why a base model cannot be had.
#[derive(Debug, Error)]
pub enum BaseError {
    /// A path that is no directory.
    #[error("base model `{base}`: {} is not a directory{}", path.display(), not_an_id(base))]
    NoDirectory {
        /// The base as it was given.
        base: String,
        /// The directory that was looked for.
        path: PathBuf,
    },
    /// A run directory without a checkpoint.
    #[error(
        "base model `{base}`: {} has no config.json and, as a run, no checkpoint yet (no checkpoints/best or \
         checkpoints/latest)",
        path.display()
    )]
    NoCheckpoint {
        /// The base as it was given.
        base: String,
        /// The run directory.
        path: PathBuf,
    },
    /// No base model of that name is inside the library.
    #[error(
        "base model `{base}`: genir has no such base model inside{}",
        match nearest {
            Some(name) => format!("; did you mean `{name}`?"),
            None => format!("; there is {}", known.join(", ")),
        }
    )]
    NotBundled {
        /// The base as it was given.
        base: String,
        /// The one most like it.
        nearest: Option<&'static str>,
        /// All that there are.
        known: Vec<&'static str>,
    },
    /// The base models inside the library have no weights.
    #[error(
        "base model `{base}` is a configuration and a tokenizer without weights: set model.init = \"scratch\""
    )]
    BundledWeights {
        /// The base as it was given.
        base: String,
    },
    /// The base models inside the library have no revisions.
    #[error(
        "base model `{base}`: the revision `{revision}` is only for models of the hub; leave it out"
    )]
    RevisionOfBundled {
        /// The base as it was given.
        base: String,
        /// The revision as it was given.
        revision: String,
    },
    /// A directory has no revisions.
    #[error(
        "base model `{base}`: the revision `{revision}` is only for models of the hub, and {} is on disk; \
         leave the revision out, or rename what is on disk",
        path.display()
    )]
    RevisionOfDirectory {
        /// The base as it was given.
        base: String,
        /// The revision as it was given.
        revision: String,
        /// What is on disk.
        path: PathBuf,
    },
    /// The base has the form of a hub id and cannot be had from the hub.
    #[error(
        "base model `{base}`: no directory of that name is on disk, and as a model of {endpoint} \
         (revision {revision}): {problem}"
    )]
    Hub {
        /// The base as it was given.
        base: String,
        /// Branch, tag or commit.
        revision: String,
        /// The hub that was asked.
        endpoint: String,
        /// What went wrong.
        problem: Box<HubProblem>,
    },
}

/// The directory that holds the base model, fetched into the cache of the hub where needed.
///
/// `base` is a directory when something of that name is on disk or when it cannot be a hub id (`name` or
/// `organisation/name`); of a run directory its best checkpoint is returned, else its latest (see
/// [`checkpoint_at`]), any other directory as it is, unread. Of a model of the hub the snapshot of
/// `revision` (branch, tag or commit; `main` when none is given) is returned: the hub is asked what the
/// revision is now, and only files that are not in the cache are fetched. When the hub cannot be reached, a
/// complete snapshot in the cache does, with a warning.
pub fn locate(
    base: &str,
    revision: Option<&str>,
    wanted: Wanted,
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
        endpoint: shown(&settings.endpoint),
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

/// For messages: a relative path says little without the directory it was looked for in.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn not_an_id(base: &str) -> &'static str {
    if is_hub_id(base) {
        ""
    } else {
        " (and the name cannot be a model of the hub: those are called `name` or `organisation/name`)"
    }
}

/// Whether a text has the form that the hub gives its ids. Paths that start with `.`, `/` or `~` have not.
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
    fn ids_of_the_hub_are_told_from_paths() {
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
