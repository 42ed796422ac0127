//! A directory with valid input, for a case to spoil.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness;
use crate::tiny_corpus;

pub struct Home(TempDir);

/// A run of the tiny recipe, trained once: its files are copied for each case.
fn trained() -> &'static Path {
    static RUN: OnceLock<TempDir> = OnceLock::new();
    let home = RUN.get_or_init(|| {
        let home = TempDir::new().unwrap();
        let recipe = home.path().join("tiny.toml");
        fs::write(&recipe, tiny_corpus::recipe(home.path())).unwrap();
        let overrides = [
            "train.steps=8",
            "model.config.num_layers=2",
            "trainable.select=decoder",
            "probes.run=[\"logit_lens\", \"residual_contribution\"]",
            "probes.over=all",
        ];
        let arguments = ["train".to_owned(), path(&recipe)];
        let arguments = arguments.into_iter().chain(overrides.map(str::to_owned));
        let done = harness::run(&arguments.collect::<Vec<_>>());
        assert_eq!(done.code, Some(0), "{}", done.printed);
        home
    });
    home.path()
}

/// A path as an argument.
pub fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success());
}

impl Home {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, and the directories that it is in.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.at(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&file);
        fs::write(&file, content).unwrap();
        file
    }

    /// Makes a file of this size that takes no space: zeros.
    pub fn sparse(&self, name: &str, bytes: u64) -> PathBuf {
        let file = self.write(name, "");
        File::options().write(true).open(&file).unwrap().set_len(bytes).unwrap();
        file
    }

    /// Puts a named pipe, which nobody writes to, in the place of a file.
    pub fn fifo(&self, name: &str) -> PathBuf {
        let file = self.write(name, "");
        fs::remove_file(&file).unwrap();
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        file
    }

    /// Puts a symbolic link in the place of a file.
    pub fn link(&self, name: &str, to: &str) -> PathBuf {
        let file = self.write(name, "");
        fs::remove_file(&file).unwrap();
        symlink(to, &file).unwrap();
        file
    }

    /// Puts a directory in the place of a file.
    pub fn directory(&self, name: &str) -> PathBuf {
        let file = self.at(name);
        let _ = fs::remove_file(&file);
        fs::create_dir_all(&file).unwrap();
        file
    }

    /// Changes a JSON file.
    pub fn json(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.at(name)).unwrap()).unwrap();
        change(&mut value);
        self.write(name, value.to_string());
    }

    /// `genir check` with the tiny recipe.
    pub fn check(&self, overrides: &[&str]) -> Vec<String> {
        self.with_recipe("check", overrides)
    }

    /// `genir train` with the tiny recipe.
    pub fn train(&self, overrides: &[&str]) -> Vec<String> {
        self.with_recipe("train", overrides)
    }

    fn with_recipe(&self, verb: &str, overrides: &[&str]) -> Vec<String> {
        let recipe = self.at("tiny.toml");
        if recipe.symlink_metadata().is_err() {
            fs::write(&recipe, tiny_corpus::recipe(self.0.path())).unwrap();
        }
        let overrides = overrides.iter().map(|&text| text.to_owned());
        [verb.to_owned(), path(&recipe)].into_iter().chain(overrides).collect()
    }

    /// `genir check` with this text as the recipe.
    pub fn check_recipe(&self, text: impl AsRef<[u8]>) -> Vec<String> {
        self.write("tiny.toml", text);
        self.check(&[])
    }

    /// The text of the tiny recipe; its corpus is written.
    pub fn recipe(&self) -> String {
        tiny_corpus::recipe(self.0.path())
    }

    /// Writes the corpus of the tiny recipe, to be spoiled.
    pub fn corpus(&self) -> PathBuf {
        let corpus = self.at("corpus");
        tiny_corpus::write(&corpus);
        corpus
    }

    /// `genir check` with these files as its corpus.
    pub fn check_corpus(&self, files: &[(&str, &[u8])]) -> Vec<String> {
        for (name, content) in files {
            self.write(&format!("corpus/{name}"), content);
        }
        self.check(&["evaluate.splits=[]"])
    }

    /// `genir check` with one file as its corpus.
    pub fn check_file(&self, file: &Path) -> Vec<String> {
        self.check(&["evaluate.splits=[]", &format!("corpus.path={}", file.display())])
    }

    /// Copies a trained run to `run`, with its corpus; the checkpoint is `run/checkpoints/step-000008`.
    pub fn run(&self) -> String {
        copy(&trained().join("run"), &self.at("run"));
        self.corpus();
        let recipe = self.at("run/recipe.toml");
        let text = fs::read_to_string(&recipe).unwrap();
        let moved = text.replace(&path(trained()), &path(self.0.path()));
        fs::write(&recipe, moved).unwrap();
        path(&self.at("run"))
    }

    /// Copies the run's checkpoint to `base`.
    pub fn base(&self) -> PathBuf {
        let base = self.at("base");
        copy(&trained().join("run/checkpoints/step-000008"), &base);
        base
    }

    /// `genir check` that starts from the weights of `base`.
    pub fn check_base(&self) -> Vec<String> {
        let base = format!("model.base={}", self.at("base").display());
        self.check(&[&base, "model.init=pretrained", "~model.config"])
    }

    /// `genir search` in `base`.
    pub fn search_base(&self) -> Vec<String> {
        ["search", &path(&self.at("base")), "iron"].map(str::to_owned).to_vec()
    }

    /// Copies the directory of stored prefixes of the trained run to `cache`; the path of one file in it.
    pub fn cache(&self) -> String {
        copy(&trained().join("cache"), &self.at("cache"));
        let mut names =
            fs::read_dir(self.at("cache")).unwrap().map(|entry| entry.unwrap().file_name());
        format!("cache/{}", names.next().expect("a stored prefix").to_str().unwrap())
    }
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    gzip_many(content, 1)
}

/// The content repeated so many times, compressed.
pub fn gzip_many(content: &[u8], times: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..times {
        std::io::Write::write_all(&mut encoder, content).unwrap();
    }
    encoder.finish().unwrap()
}
