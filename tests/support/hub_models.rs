//! A model on a hub of this machine, and what is fetched from it.

use std::fs;
use std::path::{Path, PathBuf};

use genir::checkpoint::{BaseFiles, HubSettings, locate};
use tempfile::TempDir;

#[path = "local_hub.rs"]
pub mod local_hub;

use local_hub::{Files, MODEL, Server, hub};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The files of a fixture, with a tokenizer beside them.
pub fn files(fixture: &str) -> Files {
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(fixture);
    let mut files: Files = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    for (name, content) in [
        ("tokenizer.json", "the tokenizer"),
        ("tokenizer_config.json", "its settings"),
        ("README.md", "not wanted"),
    ] {
        files.insert(name.to_owned(), content.into());
    }
    files
}

/// What of a fixture is not to be fetched.
const UNWANTED: [&str; 2] = ["expected.safetensors", "README.md"];

/// A hub that has `files` as [`MODEL`].
pub fn serve(files: &Files) -> Server {
    let files = files.clone();
    Server::start(move |request, address| hub(request, address, COMMIT, &files))
}

/// A cache in `home`, and the hub at `address`.
pub fn settings(home: &TempDir, server: &Server) -> HubSettings {
    HubSettings {
        cache: home.path().join("hub"),
        endpoint: format!("http://{}", server.address),
        token: None,
        offline: false,
    }
}

pub fn fetch(settings: &HubSettings) -> Result<PathBuf, String> {
    locate(MODEL, None, BaseFiles::All, settings).map_err(|error| error.to_string())
}

#[track_caller]
pub fn assert_holds(directory: &Path, files: &Files) {
    for (name, bytes) in files {
        let path = directory.join(name);
        if UNWANTED.contains(&name.as_str()) {
            assert!(!path.exists(), "{name}");
        } else {
            assert!(fs::read(&path).unwrap() == *bytes, "{name}");
        }
    }
}

#[track_caller]
pub fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}
