//! Base models in directories and on a local hub.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use genir::checkpoint::{BaseFiles, HubSettings, checkpoint_at, locate};
use tempfile::TempDir;

use crate::hub_models::local_hub::{Answer, Files, MODEL, Server, hub};
use crate::hub_models::{COMMIT, assert_holds, assert_says, fetch, files, serve, settings};

#[test]
fn single_and_sharded_weights_are_downloaded_and_then_read_from_the_cache() {
    for fixture in ["v1_0_tied", "sharded"] {
        let files = files(fixture);
        let home = TempDir::new().unwrap();
        let server = serve(&files);
        let mut settings = settings(&home, &server);
        let fetched = fetch(&settings).unwrap();
        assert_holds(&fetched, &files);
        assert!(
            server.asked("special_tokens_map.json").is_empty(),
            "it is not there to be fetched"
        );

        server.requests.lock().unwrap().clear();
        assert_eq!(fetch(&settings).unwrap(), fetched);
        assert_eq!(server.requests.lock().unwrap().len(), 1, "only what the revision is now");

        drop(server);
        assert_eq!(fetch(&settings).unwrap(), fetched, "the hub cannot be reached");
        settings.offline = true;
        assert_eq!(fetch(&settings).unwrap(), fetched);
    }
}

#[test]
fn offline_no_request_is_sent_and_a_missing_file_is_named() {
    let home = TempDir::new().unwrap();
    let server = serve(&files("sharded"));
    let mut settings = settings(&home, &server);
    settings.offline = true;
    let error = fetch(&settings).unwrap_err();
    assert_says(&error, &["genir/tiny", "main", "HF_HUB_OFFLINE", "the model is not in the cache"]);
    assert!(server.requests.lock().unwrap().is_empty());

    settings.offline = false;
    let directory = fetch(&settings).unwrap();
    settings.offline = true;
    for file in ["model-00002-of-00002.safetensors", "tokenizer.json"] {
        fs::rename(directory.join(file), directory.join("away")).unwrap();
        assert_says(&fetch(&settings).unwrap_err(), &[file, "is not in the cache"]);
        fs::rename(directory.join("away"), directory.join(file)).unwrap();
    }
}

#[test]
fn weights_are_not_downloaded_for_training_from_scratch() {
    let mut files = files("v1_0_tied");
    let home = TempDir::new().unwrap();
    let weights = files.remove("model.safetensors").unwrap();
    files.insert("pytorch_model.bin".to_owned(), weights);
    let server = serve(&files);
    let mut settings = settings(&home, &server);
    let error = fetch(&settings).unwrap_err();
    assert_says(&error, &["no model.safetensors, only pytorch_model.bin", "save_pretrained"]);
    for offline in [false, true] {
        settings.offline = offline;
        let directory = locate(MODEL, None, BaseFiles::ConfigAndTokenizer, &settings).unwrap();
        files.remove("pytorch_model.bin");
        assert_holds(&directory, &files);
        assert!(!directory.join("pytorch_model.bin").exists());
    }
}

#[test]
fn a_model_without_a_fast_tokenizer_or_without_a_shard_is_refused() {
    for (file, fixture) in
        [("tokenizer.json", "v1_0_tied"), ("model-00002-of-00002.safetensors", "sharded")]
    {
        let mut files = files(fixture);
        files.remove(file);
        files.insert("spiece.model".to_owned(), b"sentencepiece".into());
        let home = TempDir::new().unwrap();
        let error = fetch(&settings(&home, &serve(&files))).unwrap_err();
        assert_says(&error, &[&format!("it has no {file}")]);
        assert_eq!(error.contains("only spiece.model"), file == "tokenizer.json", "{error}");
    }
}

#[test]
fn an_unknown_name_is_an_error_that_names_the_directory_and_the_hub() {
    let home = TempDir::new().unwrap();
    let server = serve(&Files::new());
    let settings = settings(&home, &server);
    let error = locate("genir/tinny", Some("v2"), BaseFiles::All, &settings).unwrap_err();
    assert_says(
        &error.to_string(),
        &["`genir/tinny`", "no directory", "revision v2", &settings.endpoint, "not found (404)"],
    );
}

#[test]
fn a_gated_model_needs_the_token_which_is_sent_as_bearer() {
    let files = files("v1_0_tied");
    let home = TempDir::new().unwrap();
    let shown = files.clone();
    let server = Server::start(move |request, address| {
        // As on the hub: the list of files is public, but the files are not.
        match request.authorization.as_deref() {
            _ if request.path.starts_with("/api/") => hub(request, address, COMMIT, &shown),
            Some("Bearer hf_good") => hub(request, address, COMMIT, &shown),
            Some(_) => Answer::status(403),
            None => Answer::status(401),
        }
    });
    let mut settings = settings(&home, &server);
    assert_says(&fetch(&settings).unwrap_err(), &["401", "gated", "set HF_TOKEN"]);
    settings.token = Some("hf_bad".to_owned());
    let error = fetch(&settings).unwrap_err();
    assert_says(&error, &["403", "gated", "HF_TOKEN", "was sent"]);
    assert!(!error.contains("hf_bad"), "a token is not for logs: {error}");
    settings.token = Some("hf_good".to_owned());
    assert_holds(&fetch(&settings).unwrap(), &files);
}

#[test]
fn a_failure_of_the_hub_is_an_error() {
    let home = TempDir::new().unwrap();
    let server = Server::start(|_, _| Answer::status(503));
    let settings = settings(&home, &server);
    assert_says(&fetch(&settings).unwrap_err(), &["list of its files", "the hub answered 503"]);
    drop(server);
    assert_says(&fetch(&settings).unwrap_err(), &["list of its files", "refused"]);
}

#[test]
fn a_moved_revision_gives_the_complete_new_commit_and_keeps_the_old_one() {
    const LATER: &str = "fedcba9876543210fedcba9876543210fedcba98";
    let home = TempDir::new().unwrap();
    let old = files("v1_0_tied");
    let first = fetch(&settings(&home, &serve(&old))).unwrap();

    let mut new = old.clone();
    new.insert("tokenizer.json".to_owned(), b"a later tokenizer".into());
    let shown = new.clone();
    let server = Server::start(move |request, address| hub(request, address, LATER, &shown));
    let mut settings = settings(&home, &server);
    // A cached commit needs no hub.
    let pinned = locate(MODEL, Some(COMMIT), BaseFiles::All, &settings).unwrap();
    assert_eq!(pinned, first);
    assert!(server.requests.lock().unwrap().is_empty());

    let second = fetch(&settings).unwrap();
    assert_ne!(second, first);
    assert_holds(&second, &new);
    assert_holds(&first, &old);

    let branch = locate(MODEL, Some("refs/pr/1"), BaseFiles::All, &settings).unwrap();
    assert_eq!(branch, second);
    assert_eq!(server.asked("/revision/refs%2Fpr%2F1").len(), 1);
    settings.offline = true;
    let branch = locate(MODEL, Some("refs/pr/1"), BaseFiles::All, &settings).unwrap();
    assert_eq!(branch, second);
}

#[test]
fn an_interrupted_transfer_is_resumed() {
    let files = files("v1_0_tied");
    let home = TempDir::new().unwrap();
    let shown = files.clone();
    let server = Server::start(move |request, address| {
        let mut answer = hub(request, address, COMMIT, &shown);
        if request.path.starts_with("/elsewhere") && request.range == "bytes=0-" {
            answer.cut = Some(100_000);
        }
        answer
    });
    assert_holds(&fetch(&settings(&home, &server)).unwrap(), &files);
    let ranges: Vec<String> =
        server.asked("model.safetensors").into_iter().map(|request| request.range).collect();
    assert!(ranges.contains(&"bytes=100000-".to_owned()), "{ranges:?}");
}

#[test]
fn a_partial_file_that_already_has_the_full_size_is_discarded() {
    let files = files("v1_0_tied");
    let home = TempDir::new().unwrap();
    let server = serve(&files);
    let settings = settings(&home, &server);
    let size = files["model.safetensors"].len();
    let blobs = settings.cache.join("models--genir--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    for excess in [0, 1] {
        let part = blobs.join(format!("etag-of-model-safetensors-{size}.part"));
        fs::write(&part, vec![7; size + excess]).unwrap();
        let directory = fetch(&settings).unwrap();
        assert_holds(&directory, &files);
        fs::remove_file(directory.join("model.safetensors")).unwrap();
    }
}

#[test]
fn a_file_of_another_size_than_announced_is_removed() {
    let mut files = files("v1_0_tied");
    let home = TempDir::new().unwrap();
    let shown = files.clone();
    let server = Server::start(move |request, address| {
        let mut answer = hub(request, address, COMMIT, &shown);
        if request.path.starts_with("/elsewhere") && request.range == "bytes=0-0" {
            answer.headers = vec![("Content-Range", "bytes 0-0/300000".to_owned())];
        }
        answer
    });
    let mut settings = settings(&home, &server);
    let found = files["model.safetensors"].len().to_string();
    assert_says(&fetch(&settings).unwrap_err(), &["model.safetensors", &found, "300000"]);
    settings.offline = true;
    assert_says(&fetch(&settings).unwrap_err(), &["the model is not in the cache"]);
    // Files that were downloaded before it are not downloaded again.
    let server = serve(&files);
    settings.endpoint = format!("http://{}", server.address);
    settings.offline = false;
    let directory = fetch(&settings).unwrap();
    assert!(server.asked("/tokenizer.json").is_empty());
    assert!(!server.asked("/model.safetensors").is_empty());
    files.remove("README.md");
    assert_holds(&directory, &files);
}

#[test]
fn a_run_directory_is_resolved_to_its_best_or_else_its_latest_checkpoint() {
    let home = TempDir::new().unwrap();
    let server = serve(&Files::new());
    let settings = settings(&home, &server);
    let run = home.path().join("run");
    let find = || {
        locate(run.to_str().unwrap(), None, BaseFiles::All, &settings)
            .map_err(|error| error.to_string())
    };
    fs::create_dir_all(run.join("checkpoints")).unwrap();
    assert_says(&find().unwrap_err(), &["no config.json", "without a checkpoint"]);
    for name in ["latest", "best"] {
        let checkpoint = run.join("checkpoints").join(name);
        fs::create_dir(&checkpoint).unwrap();
        fs::write(checkpoint.join("config.json"), "{}").unwrap();
        assert_eq!(find().unwrap(), checkpoint);
        assert_eq!(checkpoint_at(&run), Some(checkpoint.clone()), "as `search` finds it");
        assert_eq!(checkpoint_at(&checkpoint), Some(checkpoint));
    }
}

#[test]
fn a_directory_is_returned_unchanged() {
    let home = TempDir::new().unwrap();
    let server = serve(&Files::new());
    let settings = settings(&home, &server);
    let find = |base: &str, revision| {
        locate(base, revision, BaseFiles::All, &settings).map_err(|error| error.to_string())
    };
    // Relative to the package, where tests run; both have the form of hub ids.
    for name in ["tests", "tests/fixtures", "./tests"] {
        assert_eq!(find(name, None).unwrap(), Path::new(name));
    }
    assert_eq!(find("~", None).unwrap(), std::env::home_dir().unwrap());
    assert_says(
        &find("tests", Some("main")).unwrap_err(),
        &["`main`", "applies only to models of the hub"],
    );
    assert_says(&find("./nothing", None).unwrap_err(), &["`./nothing`", "is not a directory"]);
    assert_says(&find("a/b/c", None).unwrap_err(), &["is not a directory", "`organisation/name`"]);
    assert_says(&find("Cargo.toml", None).unwrap_err(), &["Cargo.toml is not a directory"]);
    assert!(server.requests.lock().unwrap().is_empty());
}

#[test]
fn settings_are_read_from_the_environment_variables_of_hugging_face() {
    let read = |variables: &[(&str, &str)]| {
        let variables: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        HubSettings::from_variables(|name| variables.get(name).cloned())
    };
    let home = TempDir::new().unwrap();
    let stored = home.path().join("huggingface/token");
    fs::create_dir(stored.parent().unwrap()).unwrap();
    fs::write(&stored, "hf_stored\n").unwrap();
    let cache = home.path().to_str().unwrap();
    let hugging_face = format!("{cache}/huggingface");

    let plain = read(&[("HOME", "/home/me"), ("HF_TOKEN", "  "), ("HF_HUB_OFFLINE", "0")]);
    assert_eq!(plain.cache, Path::new("/home/me/.cache/huggingface/hub"));
    assert_eq!(plain.endpoint, "https://huggingface.co");
    assert_eq!((plain.token, plain.offline), (None, false));

    let other = read(&[("XDG_CACHE_HOME", cache), ("HF_ENDPOINT", "https://hub.example/")]);
    assert_eq!(other.cache, home.path().join("huggingface/hub"));
    assert_eq!(other.endpoint, "https://hub.example");
    assert_eq!(other.token.as_deref(), Some("hf_stored"));

    let other = read(&[("HF_HOME", &hugging_face), ("HF_TOKEN", "hf_given\n")]);
    assert_eq!(other.cache, home.path().join("huggingface/hub"));
    assert_eq!(other.token.as_deref(), Some("hf_given"));

    let token_path = stored.to_str().unwrap();
    let other =
        read(&[("HOME", "/home/me"), ("HF_HUB_CACHE", "~/hub"), ("HF_TOKEN_PATH", token_path)]);
    assert_eq!(other.cache, Path::new("/home/me/hub"));
    assert_eq!(other.token.as_deref(), Some("hf_stored"));

    for value in ["1", "true", "YES", "On"] {
        assert!(read(&[("HF_HUB_OFFLINE", value)]).offline, "{value}");
        assert!(read(&[("TRANSFORMERS_OFFLINE", value)]).offline, "{value}");
    }
}
