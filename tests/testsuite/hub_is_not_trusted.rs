//! Responses of a hub are validated, and credentials are sent to the hub only.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use genir::checkpoint::{BaseFiles, locate};
use tempfile::TempDir;

use crate::hub_models::local_hub::{Answer, Files, MODEL, Request, Server, hub};
use crate::hub_models::{COMMIT, assert_holds, assert_says, fetch, files, serve, settings};

/// Returns everything below `directory`; links with their targets.
fn everything(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let content = match fs::read_link(&path) {
            Ok(to) => to.to_str().unwrap().as_bytes().to_vec(),
            Err(_) if path.is_dir() => {
                found.extend(everything(&path));
                Vec::new()
            }
            Err(_) => fs::read(&path).unwrap(),
        };
        found.insert(path, content);
    }
    found
}

/// A hub with an invalid response, and the expected error.
type Liar = (&'static str, Box<dyn Fn(&Request, SocketAddr) -> Answer + Send>);

/// Starts a hub with `files`, whose responses for paths with this suffix have another value of a header.
fn with_header(
    told: &'static str,
    files: &Files,
    path: &'static str,
    header: &'static str,
    value: &str,
) -> Liar {
    let (files, value) = (files.clone(), value.to_owned());
    let answer = move |request: &Request, address: SocketAddr| {
        let mut answer = hub(request, address, COMMIT, &files);
        if request.path.ends_with(path) {
            answer.headers.retain(|(known, _)| *known != header);
            answer.headers.push((header, value.clone()));
        }
        answer
    };
    (told, Box::new(answer))
}

/// A directory next to the cache with a file, which must not change.
fn outside(home: &TempDir) -> PathBuf {
    let outside = home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("mine"), "precious").unwrap();
    outside
}

/// Asserts that only the model's directory in the cache was created in `home`.
#[track_caller]
fn assert_nothing_outside(home: &TempDir, outside: &Path, what: &str) {
    let cache = home.path().join("hub");
    assert_eq!(fs::read(outside.join("mine")).unwrap(), b"precious", "{what}");
    for (file, content) in everything(home.path()) {
        let is_known = file == outside
            || file == outside.join("mine")
            || file == cache
            || file.starts_with(cache.join("models--genir--tiny"));
        assert!(is_known, "{} after: {what}", file.display());
        if file.is_symlink() {
            let to = String::from_utf8(content).unwrap();
            let name = to.strip_prefix("../../blobs/").unwrap_or_else(|| panic!("{to}: {what}"));
            assert!(!name.contains(['/', '.']), "{to} after: {what}");
        }
    }
}

#[test]
fn a_hub_cannot_name_a_file_outside_the_cache() {
    let files = files("sharded");
    let home = TempDir::new().unwrap();
    let outside = outside(&home);
    let absolute = outside.join("mine").to_str().unwrap().to_owned();
    let shard = "model-00001-of-00002.safetensors";
    let config = "/config.json";
    let mut liars: Vec<Liar> = Vec::new();
    for etag in ["../../../outside/mine", &absolute, "..", "a/b", "", "x.lock", &"a".repeat(300)] {
        let (told, quoted) = ("the ETag is `", format!("\"{etag}\""));
        liars.push(with_header(told, &files, config, "ETag", &quoted));
        liars.push(with_header(told, &files, shard, "X-Linked-Etag", etag));
    }
    for commit in ["../../outside", &absolute, "main", ""] {
        let told = "the commit of the file is `";
        liars.push(with_header(told, &files, config, "X-Repo-Commit", commit));
        let (shown, commit) = (files.clone(), commit.to_owned());
        let answer =
            move |request: &Request, address: SocketAddr| hub(request, address, &commit, &shown);
        liars.push(("the commit is `", Box::new(answer)));
    }
    let other = "0".repeat(40);
    liars.push(with_header(
        "the commit of the file is `000",
        &files,
        config,
        "X-Repo-Commit",
        &other,
    ));
    for size in ["-1", "99999999999999999999", "9000000000000000", "*", "much"] {
        let (told, range) = ("the size of the file is `", format!("bytes 0-0/{size}"));
        liars.push(with_header(told, &files, config, "Content-Range", &range));
    }
    for location in ["", "file:///etc/passwd", "//elsewhere", "::"] {
        liars.push(with_header(
            "the target of the redirection is `",
            &files,
            shard,
            "Location",
            location,
        ));
    }
    let plain = ".hidden.safetensors";
    for name in ["../../../outside/mine", &absolute, "..", plain, "mine", "a b.safetensors"] {
        let mut shown = files.clone();
        let index = String::from_utf8(files["model.safetensors.index.json"].clone()).unwrap();
        shown.insert("model.safetensors.index.json".to_owned(), index.replace(shard, name).into());
        shown.insert(name.to_owned(), files[shard].clone());
        let answer =
            move |request: &Request, address: SocketAddr| hub(request, address, COMMIT, &shown);
        liars.push(("shard", Box::new(answer)));
    }

    for (told, answer) in liars {
        let server = Server::start(answer);
        let settings = settings(&home, &server);
        let error = fetch(&settings).expect_err(told);
        assert_says(&error, &[MODEL, told]);
        assert_nothing_outside(&home, &outside, &error);
        fs::remove_dir_all(&settings.cache).ok();
    }
}

#[test]
fn a_response_that_becomes_invalid_on_a_later_request_is_refused_too() {
    let files = files("v1_0_tied");
    let home = TempDir::new().unwrap();
    let outside = outside(&home);
    let shown = files.clone();
    let server = Server::start(move |request, address| {
        let mut answer = hub(request, address, COMMIT, &shown);
        if request.range != "bytes=0-0" {
            for name in ["ETag", "X-Linked-Etag", "X-Repo-Commit"] {
                answer.headers.retain(|(known, _)| *known != name);
                answer.headers.push((name, "../../../outside/mine".to_owned()));
            }
        }
        answer
    });
    assert_holds(&fetch(&settings(&home, &server)).unwrap(), &files);
    assert_nothing_outside(&home, &outside, "it was fetched");
}

#[test]
fn a_revision_that_is_a_path_outside_the_cache_is_refused() {
    let home = TempDir::new().unwrap();
    let server = serve(&files("v1_0_tied"));
    let settings = settings(&home, &server);
    for revision in ["../../../outside", "/etc", "a//b", "", ".", "a b", "x?y"] {
        let error = locate(MODEL, Some(revision), BaseFiles::All, &settings).unwrap_err();
        assert_says(&error.to_string(), &["the revision is invalid"]);
    }
    assert!(server.requests.lock().unwrap().is_empty());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_file_with_more_bytes_than_announced_is_removed() {
    let files = files("v1_0_tied");
    let home = TempDir::new().unwrap();
    let server = Server::start(move |request, address| {
        let mut answer = hub(request, address, COMMIT, &files);
        if request.path.starts_with("/elsewhere") && request.range == "bytes=0-0" {
            answer.headers = vec![("Content-Range", "bytes 0-0/1000".to_owned())];
        }
        answer
    });
    let settings = settings(&home, &server);
    assert_says(&fetch(&settings).unwrap_err(), &["model.safetensors", "the hub announced 1000"]);
    let large = |(path, _): &(PathBuf, Vec<u8>)| {
        path.to_string_lossy().contains("model-safetensors") && path.is_file()
    };
    assert_eq!(everything(home.path()).into_iter().find(large), None);
}

#[test]
fn a_password_in_the_address_of_the_hub_is_sent_and_never_shown() {
    let files = files("v1_0_tied");
    let home = TempDir::new().unwrap();
    let shown = files.clone();
    let server = Server::start(move |request, address| {
        match request.authorization.as_deref() {
            // me:s3cret
            Some("Basic bWU6czNjcmV0") => hub(request, address, COMMIT, &shown),
            _ if request.path.starts_with("/elsewhere") => hub(request, address, COMMIT, &shown),
            _ => Answer::status(401),
        }
    });
    let mut settings = settings(&home, &server);
    let address = server.address;
    settings.endpoint = format!("http://me:wrong-s3cret@{address}");
    let error = fetch(&settings).unwrap_err();
    assert_says(&error, &[&format!("a model of http://{address} ("), "401"]);
    assert!(!error.contains("s3cret"), "{error}");
    settings.endpoint = format!("http://me:s3cret@{address}");
    assert_holds(&fetch(&settings).unwrap(), &files);
    // No server listens at the first address any more, and the second host does not exist.
    drop(server);
    for host in [address.to_string(), "no such host".to_owned()] {
        settings.endpoint = format!("http://me:s3cret@{host}");
        let error = locate("genir/other", None, BaseFiles::All, &settings).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }
}

#[test]
fn a_token_is_sent_to_the_hub_only() {
    let files = files("v1_0_tied");
    let home = TempDir::new().unwrap();
    let content = serve(&files);
    let other = content.address;
    let shown = files.clone();
    let server = Server::start(move |request, _| hub(request, other, COMMIT, &shown));
    let mut settings = settings(&home, &server);
    settings.token = Some("hf_good".to_owned());
    assert_holds(&fetch(&settings).unwrap(), &files);
    let sent = |server: &Server| {
        let requests = server.asked("").into_iter();
        requests.map(|request| request.authorization.is_some()).collect::<Vec<_>>()
    };
    assert!(sent(&server).iter().all(|sent| *sent));
    assert!(!sent(&content).is_empty() && sent(&content).iter().all(|sent| !sent));
}
