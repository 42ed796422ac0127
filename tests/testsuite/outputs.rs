//! No output of a command destroys a file: devices, pipes and links are preserved, and outputs that would replace an
//! input, a file of a checkpoint or run, or another output are refused before anything is computed.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::command::{assert_says, is_refused, succeeds, text};
use crate::tiny_corpus;

/// A run of one step on the tiny corpus, with results of two probes.
fn tiny_run() -> (TempDir, String) {
    let home = TempDir::new().unwrap();
    let recipe = home.path().join("tiny.toml");
    fs::write(&recipe, tiny_corpus::recipe(home.path())).unwrap();
    let probes = "probes={run=[\"logit_lens\", \"neuron_reads\"], over=\"all\"}";
    succeeds(&["train", &text(recipe), "train.steps=1", probes]);
    let run = text(home.path().join("run"));
    (home, run)
}

/// Returns all files below a directory with their content and inode.
fn everything(directory: &Path) -> BTreeMap<PathBuf, (u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let about = path.symlink_metadata().unwrap();
        if about.is_dir() {
            found.extend(everything(&path));
        } else {
            let content = if about.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            found.insert(path, (about.ino(), content));
        }
    }
    found
}

#[test]
fn devices_pipes_and_links_are_preserved_and_get_the_content() {
    let (home, run) = tiny_run();
    let at = |name: &str| text(home.path().join(name));
    let eval = ["eval", &run, "--queries", "4"];
    let ranked = at("plain.run");
    succeeds(&[&eval[..], &["--run", &ranked]].concat());
    let ranked = fs::read_to_string(ranked).unwrap();
    assert_eq!(ranked.lines().count(), 4 * 8);

    let full = [&eval[..], &["--run", "/dev/full"]].concat();
    is_refused(&full, &["cannot write /dev/full", "No space left"]);
    succeeds(&[&eval[..], &["--run", "/dev/null", "--qrels", "/dev/null"]].concat());
    for device in ["/dev/full", "/dev/null"] {
        assert!(fs::metadata(device).unwrap().file_type().is_char_device(), "{device}");
    }

    let pipe = at("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // If the pipe were replaced by a file, no data would arrive at its reader.
    let mut reader = Command::new("timeout");
    let reader = reader.args(["60", "cat", &pipe]).stdout(std::process::Stdio::piped()).spawn();
    succeeds(&[&eval[..], &["--run", &pipe]].concat());
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    let read = reader.unwrap().wait_with_output().unwrap();
    assert_eq!(String::from_utf8(read.stdout).unwrap(), ranked);

    fs::create_dir(home.path().join("elsewhere")).unwrap();
    fs::write(at("elsewhere/there.run"), "old").unwrap();
    for (link, target) in [("a", "elsewhere/there.run"), ("b", "elsewhere/new.run")] {
        symlink(target, at(link)).unwrap();
        succeeds(&[&eval[..], &["--run", &at(link)]].concat());
        assert!(Path::new(&at(link)).is_symlink());
        assert_eq!(fs::read_to_string(at(target)).unwrap(), ranked);
    }

    for output in ["-", "/dev/stdout"] {
        let done = succeeds(&[&eval[..], &["--run", output]].concat());
        let printed = done.stdout;
        // Standard output has only the run file, under any name.
        assert_eq!(printed, ranked);
        assert_says(&done.stderr, &["| all "]);
        // Also if standard output is a file: neither replaces the other.
        let file = at("printed");
        let mut command = Command::new(env!("CARGO_BIN_EXE_genir"));
        command.args(eval).args(["--run", output]).stdout(fs::File::create(&file).unwrap());
        assert!(command.output().unwrap().status.success());
        assert_eq!(fs::read_to_string(&file).unwrap(), printed);
    }
    assert!(!Path::new("-").exists());

    // The tables of probes are not printed either if standard output has a file.
    let lens = ["probe", &run, "--probe", "logit_lens", "--over", "all", "--queries", "2"];
    for output in ["-", "/dev/stdout"] {
        let done = succeeds(&[&lens[..], &["--write-correct", output]].concat());
        assert!(serde_json::from_str::<serde_json::Value>(&done.stdout).is_ok(), "{}", done.stdout);
        assert_says(&done.stderr, &["stages "]);
    }
}

#[test]
fn outputs_that_would_destroy_an_input_or_a_file_of_a_run_are_refused_before_anything_is_computed()
{
    let (home, run) = tiny_run();
    let at = |name: &str| text(home.path().join(name));
    fs::write(at("corpus/generated.jsonl"), "{\"query\": \"what\", \"docid\": 7}\n").unwrap();
    symlink(at("run/checkpoints/latest"), at("link")).unwrap();
    symlink(at("corpus/documents.json"), at("documents")).unwrap();
    fs::create_dir(at("corpus/qrels")).unwrap();
    fs::write(at("corpus/qrels/old.tsv"), "judgements\n").unwrap();
    // A model in the hub's cache, whose files are links to files with other names.
    for directory in ["blobs", "snapshots", "snapshots/main"] {
        fs::create_dir(at(directory)).unwrap();
    }
    fs::copy(at("run/checkpoints/best/config.json"), at("blobs/0123abcd")).unwrap();
    symlink("../../blobs/0123abcd", at("snapshots/main/config.json")).unwrap();
    let before = everything(home.path());

    for (path, words) in [
        ("run/checkpoints/step-000001/model.safetensors", "a file of the checkpoint"),
        ("run/checkpoints/best/genir.json", "a file of the checkpoint"),
        ("run/checkpoints/best/model.safetensors.index.json", "a file of the checkpoint"),
        ("link/config.json", "a file of the checkpoint"),
        ("snapshots/main/config.json", "a file of the checkpoint"),
        ("run/recipe.toml", "a file of the run"),
        ("run/log.txt", "a file of the run"),
        ("run/tensorboard/events", "a file of the run"),
        ("run/retrieval/validation.run", "a file of the run"),
        ("run/retrieval/correct_validation.json", "a file of the run"),
        ("run/probes/logit_lens.jsonl", "a file of the run"),
        ("corpus/documents.json", "corpus.path"),
        ("corpus/test_queries.json", "corpus.path"),
        ("corpus/qrels/old.tsv", "corpus.path"),
        ("documents", "corpus.path"),
        ("run/retrieval", "is a directory"),
        ("no/such/directory/test.run", "No such file or directory"),
    ] {
        let path = at(path);
        for option in ["--run", "--qrels", "--correct"] {
            is_refused(&["eval", &run, option, &path], &[option, &path, words]);
        }
        for option in ["--output", "--write-correct"] {
            is_refused(&["probe", &run, option, &path], &[option, &path, words]);
        }
    }
    // Links are resolved, and all problems are reported at once.
    symlink("new.run", at("same.run")).unwrap();
    let before = {
        let mut now = everything(home.path());
        now.extend(before);
        now
    };
    let (new, same, config) = (at("new.run"), at("same.run"), at("link/config.json"));
    is_refused(
        &["eval", &run, "--run", &new, "--qrels", &same, "--correct", &config],
        &["--qrels", "--run is the same file", "--correct", "a file of the checkpoint"],
    );
    is_refused(&["eval", &run, "--run", "-", "--qrels", "/dev/stdout"], &["standard output"]);
    let correct = at("correct.json");
    fs::write(&correct, "[]").unwrap();
    is_refused(
        &["probe", &run, "--correct", &correct, "--write-correct", &correct],
        &["--write-correct", "this is, or may be, an input file of --correct"],
    );
    fs::remove_file(&correct).unwrap();
    is_refused(&["probe", &run, "--plots", &at("documents")], &["--plots", "found a file"]);
    is_refused(&["plot", &run, "--output", &at("documents")], &["--output", "found a file"]);
    assert!(everything(home.path()) == before);

    // Files that the run does not write may be created next to its files.
    for path in ["run/retrieval/test.run", "run/checkpoints/best/test.run", "run/notes.run"] {
        for _ in 0..2 {
            succeeds(&["eval", &run, "--split", "test", "--queries", "2", "--run", &at(path)]);
        }
    }
}

#[test]
fn pictures_and_copied_recipes_replace_no_file() {
    let (home, run) = tiny_run();
    let at = |name: &str| text(home.path().join(name));
    let drawn = succeeds(&["plot", &run, "--output", &at("pictures")]).stdout;
    let picture = drawn.lines().next().unwrap().to_owned();
    let target = at("kept.svg");
    fs::rename(&picture, &target).unwrap();
    symlink(&target, &picture).unwrap();
    fs::write(&target, "old").unwrap();
    succeeds(&["plot", &run, "--output", &at("pictures")]);
    assert!(Path::new(&picture).is_symlink());
    assert!(fs::read_to_string(&target).unwrap().contains("<svg"));

    // The last one cannot be written, so none is.
    let last = drawn.lines().last().unwrap().to_owned();
    assert_ne!(last, picture);
    fs::remove_file(&last).unwrap();
    fs::create_dir(&last).unwrap();
    let before = everything(&home.path().join("pictures"));
    is_refused(&["plot", &run, "--output", &at("pictures")], &[&last, "is a directory"]);
    assert!(everything(&home.path().join("pictures")) == before);

    symlink("nowhere.toml", at("dangling.toml")).unwrap();
    fs::write(at("mine.toml"), "mine").unwrap();
    for there in [at("dangling.toml"), at("mine.toml"), "/dev/null".to_owned()] {
        is_refused(&["recipes", "copy", "quickstart", &there], &[&there, "already exists"]);
    }
    assert!(!Path::new(&at("nowhere.toml")).exists());
    assert_eq!(fs::read_to_string(at("mine.toml")).unwrap(), "mine");
}

#[test]
fn a_pipe_that_its_reader_has_closed_ends_a_command_silently() {
    let (_home, run) = tiny_run();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_genir"));
    let output = command.args(["eval", &run, "--run", "-"]).stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// Permission bits of everything below a directory, except links.
fn modes(directory: &Path) -> BTreeMap<PathBuf, u32> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let about = path.symlink_metadata().unwrap();
        if about.is_dir() {
            found.extend(modes(&path));
        }
        if !about.is_symlink() {
            found.insert(path, about.mode() & 0o777);
        }
    }
    found
}

#[test]
fn every_file_and_directory_follows_the_umask() {
    for (umask, file, directory) in [("0002", 0o664, 0o775), ("0027", 0o640, 0o750)] {
        let home = TempDir::new().unwrap();
        let recipe = home.path().join("tiny.toml");
        fs::write(&recipe, tiny_corpus::recipe(home.path())).unwrap();
        let genir = |arguments: &[&str]| {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
            let output = shell.arg(env!("CARGO_BIN_EXE_genir")).args(arguments);
            let output = output.current_dir(&home).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
        };
        let given = modes(home.path());
        let probes = "probes={run=[\"logit_lens\"], over=\"all\"}";
        // With a stored prefix, and in directories that do not exist yet.
        let restricted = "trainable.select=[\"restricted\", \"docids\"]";
        let directories = ["run.directory=runs/of/tiny", "cache.directory=caches/of/prefixes"];
        genir(&[
            "train",
            "tiny.toml",
            "train.steps=9",
            restricted,
            probes,
            directories[0],
            directories[1],
        ]);
        let run = "runs/of/tiny";
        genir(&["eval", run, "--run", "a.run", "--qrels", "a.qrels", "--correct", "a.json"]);
        let probe = ["probe", run, "--over", "all", "--probe", "logit_lens", "--format", "json"];
        let outputs = ["--output", "p.json", "--write-correct", "c.json", "--plots", "plots"];
        genir(&[&probe[..], &outputs].concat());
        genir(&["plot", run, "--output", "pictures/of/tiny"]);
        genir(&["recipes", "copy", "quickstart", "copy.toml"]);

        let made = modes(home.path());
        let weights = home.path().join("runs/of/tiny/checkpoints/step-000009/model.safetensors");
        assert_eq!(made.get(&weights), Some(&file));
        let stored = made.keys().filter(|path| path.extension().is_some_and(|end| end == "prefix"));
        assert!(stored.count() > 0 && made.len() > given.len() + 30);
        for (path, mode) in made.iter().filter(|(path, _)| !given.contains_key(*path)) {
            let expected = if path.is_dir() { directory } else { file };
            assert_eq!(*mode, expected, "umask {umask}: {} is {mode:o}", path.display());
        }
    }
}
