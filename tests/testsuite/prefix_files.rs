//! Files of stored prefixes: used again where they are right, noticed where they are not, and never in the way.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use burn::tensor::Device;
use genir::prefix::{
    CacheSettings, Element, FrozenModel, FrozenPrefix, Prefix, PrefixStorage, TextSet, clear,
    stored_files,
};
use genir::t5::weights::initialise;
use genir::t5::{T5, T5Config};
use tempfile::TempDir;
use tracing_subscriber::fmt::MakeWriter;

use crate::parameter_bits::{Bits, assert_same, bits};
use crate::tiny_run::{logged, plan, train};

const RESTRICTED: &str = "trainable.select=[\"restricted\", \"docids\"]";
const FEW: &str = "train.steps=6";

/// A finished run.
struct Run {
    home: TempDir,
    weights: Bits,
    /// Lines that were logged as warnings.
    warnings: Vec<String>,
}

/// A run with this cache directory.
fn run(cache: &Path, overrides: &[&str]) -> Run {
    let home = TempDir::new().unwrap();
    let directory = format!("cache.directory={}", cache.display());
    let plan = plan(home.path(), &[&[RESTRICTED, FEW, &directory], overrides].concat());
    let lines = Lines::default();
    let logger = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
    let trained = tracing::subscriber::with_default(logger, || train(&plan));
    assert!(trained.outcome.stopped.is_none() && trained.optimized.is_subset(&plan.trained));
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let warnings = text.lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect();
    Run { weights: bits(&trained.model), home, warnings }
}

/// Everything that was logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Run {
    fn reused(&self) -> f64 {
        logged(self.home.path(), "prefix/reused")[&0]
    }
}

fn files(cache: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[track_caller]
fn only_file(cache: &Path) -> PathBuf {
    let files = files(cache);
    let [file] = files.as_slice() else { panic!("{files:?}") };
    file.clone()
}

#[test]
fn a_second_run_uses_what_the_first_has_stored() {
    let cache = TempDir::new().unwrap();
    let first = run(cache.path(), &[]);
    assert_eq!((first.reused(), first.warnings.len()), (0.0, 0), "{:?}", first.warnings);
    let file = only_file(cache.path());
    let written = fs::metadata(&file).unwrap().modified().unwrap();
    let second = run(cache.path(), &[]);
    assert_eq!((second.reused(), second.warnings.len()), (1.0, 0), "{:?}", second.warnings);
    assert_eq!(fs::metadata(only_file(cache.path())).unwrap().modified().unwrap(), written);
    assert_same(&second.weights, &first.weights, "the second run");
    // How the rest is trained, evaluated and probed changes nothing of it.
    let third = run(
        cache.path(),
        &[
            "optimizer.learning_rate=1e-4",
            "evaluate.queries=3",
            "train.batch_size=5",
            "probes.over=all",
        ],
    );
    assert_eq!((third.reused(), only_file(cache.path())), (1.0, file));
}

#[test]
fn other_weights_texts_layers_or_types_are_other_files() {
    let cache = TempDir::new().unwrap();
    let others = [
        "run.seed=4",
        "task.document_tokens=9",
        "task.indexing_prefix=find ",
        "task.tasks=[\"indexing\"]",
        "trainable.select=[\"decoder\", \"docids\"]",
        "cache.type=bf16",
        "model.config.d_kv=4",
    ];
    run(cache.path(), &[]);
    for (count, other) in others.into_iter().enumerate() {
        let first = run(cache.path(), &[other]);
        assert_eq!((first.reused(), files(cache.path()).len()), (0.0, count + 2), "{other}");
        let again = run(cache.path(), &[other]);
        assert_eq!((again.reused(), files(cache.path()).len()), (1.0, count + 2), "{other}");
        assert_same(&again.weights, &first.weights, other);
    }
}

/// The name of the file that the encoder and decoder layer 0 of `t5` have for `texts`.
fn name(t5: &T5, texts: &[&[u32]]) -> String {
    let cache = TempDir::new().unwrap();
    let prefix = FrozenPrefix::of(["t5.decoder.layers.1.mlp.input.weight"], 3).unwrap();
    let settings = CacheSettings {
        enabled: true,
        directory: cache.path().to_owned(),
        memory: 0,
        disk: 1 << 20,
        element: Element::F32,
    };
    let frozen = FrozenModel { t5, prefix, device: &Device::flex(), pad_id: 0 };
    let set = TextSet { name: "training".to_owned(), texts: texts.to_vec(), reads: 100 };
    let prefix = Prefix::prepare(&frozen, &settings, set, Vec::new(), &mut |_, _, _| {});
    assert!(matches!(prefix.stored()[0].storage, PrefixStorage::Written(_)));
    only_file(cache.path()).file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_key_follows_from_every_frozen_weight_and_every_token_and_nothing_else() {
    let config = r#"{"d_model": 16, "d_kv": 6, "d_ff": 20, "num_heads": 4, "num_layers": 2,
        "num_decoder_layers": 3, "vocab_size": 23}"#;
    let config = T5Config::from_json(Path::new("config.json"), config).unwrap();
    let [t5, other] = [3, 4].map(|seed| initialise(&config, seed, &Device::flex()));
    let texts: [&[u32]; 3] = [&[5, 9, 1], &[7, 1], &[6, 9, 1]];
    let key = name(&t5, &texts);

    let changed = |change: fn(&mut T5, &T5)| {
        let mut changed = t5.clone();
        change(&mut changed, &other);
        name(&changed, &texts)
    };
    let frozen: [fn(&mut T5, &T5); 7] = [
        |t5, other| t5.shared = other.shared.clone(),
        |t5, other| t5.encoder.relative_bias = other.encoder.relative_bias.clone(),
        |t5, other| t5.encoder.layers[0].mlp = other.encoder.layers[0].mlp.clone(),
        |t5, other| t5.encoder.layers[1] = other.encoder.layers[1].clone(),
        |t5, other| {
            t5.decoder.layers[0].self_attention = other.decoder.layers[0].self_attention.clone()
        },
        |t5, other| {
            t5.decoder.layers[0].cross_attention = other.decoder.layers[0].cross_attention.clone()
        },
        |t5, other| t5.decoder.layers[0].mlp = other.decoder.layers[0].mlp.clone(),
    ];
    for (which, change) in frozen.into_iter().enumerate() {
        assert_ne!(changed(change), key, "change {which}");
    }
    let trained: [fn(&mut T5, &T5); 2] = [
        |t5, other| t5.decoder.layers[1] = other.decoder.layers[1].clone(),
        |t5, other| t5.decoder.layers[2] = other.decoder.layers[2].clone(),
    ];
    for change in trained {
        assert_eq!(changed(change), key);
    }
    assert_ne!(name(&t5, &[&[5, 9, 1], &[7, 1], &[6, 8, 1]]), key, "another token");
    assert_ne!(name(&t5, &[&[5, 9, 1], &[7, 1]]), key, "a text fewer");
    assert_eq!(name(&t5, &[texts[2], texts[0], texts[1], texts[0]]), key, "another order");
}

#[test]
fn damage_is_noticed_and_told_and_mended() {
    let cache = TempDir::new().unwrap();
    let first = run(cache.path(), &[]);
    let file = only_file(cache.path());
    let whole = fs::read(&file).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let garbage: Vec<u8> = (0..5000).map(|at| (at * 7) as u8).collect();
    let longer = [&whole[..], b"more"].concat();
    let damages = [
        ("the magic", flipped(0), "it begins with"),
        ("the version", flipped(8), "its version is 0, expected 1"),
        ("the type", flipped(12), "its type is 0, expected 1"),
        ("the key", flipped(20), "its key is"),
        ("the sizes", flipped(50), "the checksum of its index is wrong"),
        ("the index", flipped(90), "the checksum of its index is wrong"),
        ("a value", flipped(whole.len() / 2), "the checksum of bytes"),
        ("a checksum", flipped(whole.len() - 50), "the checksum of"),
        ("the last byte", flipped(whole.len() - 1), "the checksum of its index is wrong"),
        ("its end", whole[..whole.len() - 7].to_vec(), "bytes long, expected"),
        ("what follows", longer, "bytes long, expected"),
        ("its beginning", whole[..60].to_vec(), "60 bytes long, expected"),
        ("everything", Vec::new(), "it begins with \"\""),
        ("every byte", garbage, "it begins with"),
    ];
    for (what, bytes, told) in damages {
        fs::write(&file, bytes).unwrap();
        let run = run(cache.path(), &[]);
        let [warning] = run.warnings.as_slice() else { panic!("{what}: {:?}", run.warnings) };
        assert!(warning.contains(told), "{what}: {warning}");
        assert!(warning.contains(file.to_str().unwrap()), "{what}: {warning}");
        assert_eq!(run.reused(), 0.0, "{what}");
        assert_same(&run.weights, &first.weights, what);
        assert!(fs::read(only_file(cache.path())).unwrap() == whole, "{what}");
    }
}

#[test]
fn what_a_killed_build_left_is_not_trusted() {
    let cache = TempDir::new().unwrap();
    let first = run(cache.path(), &[]);
    let file = only_file(cache.path());
    let whole = fs::read(&file).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    let other = format!(".{}{}.tmp", "0".repeat(32), &name[32..]);
    for left in [&whole[..], &whole[..whole.len() / 2], b""] {
        fs::remove_file(&file).unwrap();
        fs::write(cache.path().join(format!(".{name}.tmp")), left).unwrap();
        fs::write(cache.path().join(&other), left).unwrap();
        let run = run(cache.path(), &[]);
        assert_eq!((run.reused(), run.warnings.len()), (0.0, 0), "{:?}", run.warnings);
        assert_eq!(only_file(cache.path()), file, "nothing is left beside it");
        assert!(fs::read(&file).unwrap() == whole);
        assert_same(&run.weights, &first.weights, "after a killed build");
    }
}

#[test]
fn a_directory_that_cannot_be_written_costs_a_warning_and_nothing_else() {
    let home = TempDir::new().unwrap();
    let cache = home.path().join("cache");
    let stored = run(&cache, &[]);
    let no_directory = home.path().join("file");
    fs::write(&no_directory, "in the way").unwrap();
    let no_directory = no_directory.join("cache");

    let in_memory = run(&no_directory, &[]);
    let [warning] = in_memory.warnings.as_slice() else { panic!("{:?}", in_memory.warnings) };
    assert!(warning.contains("training texts is stored in memory only: "), "{warning}");
    assert!(warning.contains(no_directory.to_str().unwrap()), "{warning}");
    assert_same(&in_memory.weights, &stored.weights, "in memory");

    let nowhere = run(&no_directory, &["cache.memory=0"]);
    let [warning] = nowhere.warnings.as_slice() else { panic!("{:?}", nowhere.warnings) };
    assert!(warning.contains("is not stored but computed for each batch"), "{warning}");
    let losses = |run: &Run| logged(run.home.path(), "loss/train");
    for (step, loss) in losses(&nowhere) {
        assert!((loss - losses(&stored)[&step]).abs() < 2e-5 * loss, "step {step}: {loss}");
    }
}

/// A disk of 16 KiB, until it is dropped; none where the system lets nobody mount one.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=16k", "none"]).arg(directory.path());
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then(|| Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_costs_a_warning_and_nothing_is_left_on_it() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: a small disk cannot be mounted here (Linux, as root)");
        return;
    };
    let home = TempDir::new().unwrap();
    // More than the disk holds.
    let wide = "model.config.d_model=64";
    let stored = run(&home.path().join("cache"), &[wide]);
    let file = only_file(&home.path().join("cache"));
    assert!(fs::metadata(file).unwrap().len() > 16 << 10);

    let full = run(disk.0.path(), &[wide]);
    let [warning] = full.warnings.as_slice() else { panic!("{:?}", full.warnings) };
    assert!(warning.contains("is stored in memory only: cannot write"), "{warning}");
    assert!(warning.contains("No space left on device"), "{warning}");
    assert!(files(disk.0.path()).is_empty());
    assert_same(&full.weights, &stored.weights, "on a full disk");
}

#[test]
fn the_files_of_a_directory_are_listed_and_removed_and_nothing_else_is() {
    let home = TempDir::new().unwrap();
    assert!(stored_files(&home.path().join("none")).unwrap().is_empty());
    let cache = home.path().join("cache");
    run(&cache, &[]);
    run(&cache, &["run.seed=4"]);
    let kept = cache.join("notes.prefix");
    fs::write(&kept, "not ours").unwrap();
    let listed = stored_files(&cache).unwrap();
    assert_eq!((listed.len(), files(&cache).len()), (2, 3));
    assert!(listed.iter().all(|file| file.bytes == fs::metadata(&file.path).unwrap().len()));
    fs::write(cache.join(format!(".{}.prefix.tmp", "0".repeat(32))), "half").unwrap();
    assert_eq!(clear(&cache).unwrap(), listed);
    assert_eq!(only_file(&cache), kept);
}

#[test]
fn too_small_budgets_are_told() {
    let cache = TempDir::new().unwrap();
    let both = run(cache.path(), &["cache.disk=0", "cache.memory=0"]);
    let [warning] = both.warnings.as_slice() else { panic!("{:?}", both.warnings) };
    assert!(warning.contains("computed for each batch"), "{warning}");
    assert!(warning.contains("more than cache.disk has left (0.0 MiB)"), "{warning}");
    assert!(files(cache.path()).is_empty());
}

#[test]
fn runs_that_start_together_store_one_file() {
    let cache = TempDir::new().unwrap();
    let runs: Vec<Run> = std::thread::scope(|scope| {
        let start = || scope.spawn(|| run(cache.path(), &[]));
        let runs: Vec<_> = (0..3).map(|_| start()).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    only_file(cache.path());
    for run in &runs[1..] {
        assert_same(&run.weights, &runs[0].weights, "of two runs");
    }
    assert_eq!(runs.iter().filter(|run| run.reused() == 0.0).count(), 1, "one has written it");
}
