//! Files of stored prefixes: used again where they are right, noticed where they are not, and never in the way.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use genir::prefix::{clear, stored_files};
use tempfile::TempDir;
use tracing_subscriber::fmt::MakeWriter;

#[path = "support/parameter_bits.rs"]
mod parameter_bits;
#[path = "support/tiny_run.rs"]
mod tiny_run;

use parameter_bits::{Bits, assert_same, bits};
use tiny_run::{logged, plan, train};

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
    assert!(warning.contains("training texts is kept in memory alone: "), "{warning}");
    assert!(warning.contains(no_directory.to_str().unwrap()), "{warning}");
    assert_same(&in_memory.weights, &stored.weights, "in memory");

    let nowhere = run(&no_directory, &["cache.memory=0"]);
    let [warning] = nowhere.warnings.as_slice() else { panic!("{:?}", nowhere.warnings) };
    assert!(warning.contains("is not stored but computed for each batch"), "{warning}");
    let losses = |run: &Run| logged(run.home.path(), "train/loss");
    for (step, loss) in losses(&nowhere) {
        assert!((loss - losses(&stored)[&step]).abs() < 2e-5 * loss, "step {step}: {loss}");
    }
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
