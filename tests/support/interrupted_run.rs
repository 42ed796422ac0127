//! Runs of `genir train` that are interrupted, and what is compared of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Map, Value};

use crate::tiny_corpus;

/// A recipe of the tiny corpus in a directory of its own.
pub struct Home {
    pub path: PathBuf,
    overrides: Vec<String>,
}

impl Home {
    /// Writes the corpus and the recipe into `path`.
    pub fn new(path: &Path, overrides: &[&str]) -> Self {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("recipe.toml"), tiny_corpus::recipe(path)).unwrap();
        let overrides = overrides.iter().map(|&text| text.to_owned()).collect();
        Self { path: path.to_path_buf(), overrides }
    }

    pub fn run(&self) -> PathBuf {
        self.path.join("run")
    }

    /// The command that trains, always the same.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_genir"));
        command
            .arg("train")
            .arg(self.path.join("recipe.toml"))
            .args(&self.overrides)
            .env_remove("RUST_LOG")
            .env("RAYON_NUM_THREADS", "2")
            .stdin(Stdio::null());
        command
    }

    /// Trains to the end.
    #[track_caller]
    pub fn train(&self) -> Output {
        let output = self.command().output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{:?}: {text}", self.overrides);
        output
    }

    /// What the run has given.
    pub fn results(&self) -> Results {
        Results::of(&self.run())
    }
}

/// What an interrupted run must have in common with one that was not: all but times and memory.
#[derive(Debug, PartialEq)]
pub struct Results {
    /// Weights and moments in the checkpoints, by path.
    tensors: BTreeMap<String, Vec<u8>>,
    /// Scalars in the order in which they were written: step, tag, value.
    scalars: Vec<(u64, String, String)>,
    /// TensorBoard's scalars: step and tag.
    events: Vec<(i64, String)>,
    /// Results of probes without their times.
    probes: BTreeMap<String, Vec<String>>,
    links: BTreeMap<String, PathBuf>,
    /// The files of the last evaluation, without the metadata beside run files, which has times and memory.
    rankings: BTreeMap<String, Vec<u8>>,
}

impl Results {
    pub fn of(run: &Path) -> Self {
        let checkpoints = run.join("checkpoints");
        let (mut tensors, mut links) = (BTreeMap::new(), BTreeMap::new());
        for entry in fs::read_dir(&checkpoints).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            // What was being written or removed.
            if name.starts_with('.') {
                continue;
            }
            if path.is_symlink() {
                links.insert(name, fs::read_link(&path).unwrap());
                continue;
            }
            for file in ["model.safetensors", "optimizer.safetensors"] {
                tensors.insert(format!("{name}/{file}"), fs::read(path.join(file)).unwrap());
            }
            // Of a LoRA run.
            let adapter = "adapter/adapter_model.safetensors";
            if let Ok(bytes) = fs::read(path.join(adapter)) {
                tensors.insert(format!("{name}/{adapter}"), bytes);
            }
        }
        Self {
            tensors,
            scalars: scalars(&run.join("metrics.jsonl")),
            events: events(&run.join("tensorboard")),
            probes: probes(&run.join("probes")),
            links,
            rankings: rankings(&run.join("retrieval")),
        }
    }

    /// Fails with what differs first, and not with megabytes of weights.
    #[track_caller]
    pub fn assert_same(&self, expected: &Self, when: &str) {
        assert_eq!(self.links, expected.links, "{when}: links");
        let names = |results: &Self| results.tensors.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(expected), "{when}: checkpoints");
        for (name, bytes) in &self.tensors {
            assert!(*bytes == expected.tensors[name], "{when}: {name} differs");
        }
        let names = |results: &Self| results.rankings.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(expected), "{when}: files of the evaluation");
        for (name, bytes) in &self.rankings {
            assert!(*bytes == expected.rankings[name], "{when}: {name} differs");
        }
        self.assert_same_history(expected, when);
    }

    /// The same without the checkpoints on the disk, which may be others.
    #[track_caller]
    pub fn assert_same_history(&self, expected: &Self, when: &str) {
        assert_same_items(&self.scalars, &expected.scalars, &format!("{when}: metrics.jsonl"));
        assert_same_items(&self.events, &expected.events, &format!("{when}: TensorBoard"));
        let names = |results: &Self| results.probes.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(expected), "{when}: probes");
        for (name, lines) in &self.probes {
            assert_same_items(lines, &expected.probes[name], &format!("{when}: {name}"));
        }
    }
}

#[track_caller]
fn assert_same_items<T: PartialEq + std::fmt::Debug>(found: &[T], expected: &[T], what: &str) {
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(found == expected, "{what}, {at}: {found:.300?}, not {expected:.300?}");
    }
    assert_eq!(found.len(), expected.len(), "{what}: length");
}

/// Returns whether a scalar is not part of what is repeated. That the prefix was reused depends on a start that was
/// interrupted before its first checkpoint: it may have stored the prefix.
fn is_measured_anew(tag: &str) -> bool {
    ["time/", "memory/", "prefix/reused"].iter().any(|prefix| tag.starts_with(prefix))
}

fn scalars(metrics: &Path) -> Vec<(u64, String, String)> {
    let text = fs::read_to_string(metrics).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Map<String, Value>>(line).unwrap());
    lines
        .flat_map(|line| {
            let step = line["step"].as_u64().unwrap();
            line.into_iter()
                .filter(|(tag, _)| !["step", "wall_time"].contains(&tag.as_str()))
                .filter(|(tag, _)| !is_measured_anew(tag))
                .map(move |(tag, value)| (step, tag, value.to_string()))
        })
        .collect()
}

/// Scalars in the order of the files and of the records in them. The reader checks the lengths only.
fn events(directory: &Path) -> Vec<(i64, String)> {
    use protobuf::Message;
    use tensorboard_proto::event::Event;
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The name begins with the second, and two processes may start within one: by age, then.
    paths.sort_by_key(|path| fs::metadata(path).unwrap().created().unwrap());
    let mut found = Vec::new();
    for path in paths {
        let bytes = fs::read(&path).unwrap();
        let mut at = 0;
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let event = Event::parse_from_bytes(&bytes[at + 12..][..length]).unwrap();
            at += 12 + length + 4;
            for value in event.get_summary().get_value() {
                if value.has_simple_value() && !is_measured_anew(value.get_tag()) {
                    found.push((event.get_step(), value.get_tag().to_owned()));
                }
            }
        }
    }
    found
}

fn rankings(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let is_result = |name: &str| {
        !name.starts_with('.') && [".run", ".qrels", ".json"].iter().any(|end| name.ends_with(end))
    };
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path))
        .filter(|(name, _)| is_result(name))
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .collect()
}

fn probes(directory: &Path) -> BTreeMap<String, Vec<String>> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let lines = fs::read_to_string(&path).unwrap();
            let lines = lines.lines().map(|line| {
                let mut value: Map<String, Value> = serde_json::from_str(line).unwrap();
                value.remove("seconds");
                if let Some(on) = value.get_mut("measured_on").and_then(Value::as_object_mut) {
                    on.remove("checkpoint");
                }
                Value::from(value).to_string()
            });
            (path.file_name().unwrap().to_str().unwrap().to_owned(), lines.collect())
        })
        .collect()
}
