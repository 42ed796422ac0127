//! `genir check` says what a run will need: held against what the processes of such runs have really held.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

/// d_model, d_ff, heads (of 64), layers of each stack, examples of a batch.
const SHAPES: [[usize; 5]; 3] =
    [[256, 1024, 4, 4, 32], [384, 1024, 6, 3, 96], [512, 2048, 8, 4, 16]];

/// How far the prediction may be from what was measured, as a share of it.
const ALLOWED: f64 = 0.25;

fn overrides(home: &TempDir, shape: [usize; 5], more: &[&str]) -> Vec<String> {
    let [d_model, d_ff, heads, layers, batch] = shape;
    let given = [
        format!("run.directory={}", home.path().join("run").display()),
        format!("model.config.d_model={d_model}"),
        format!("model.config.d_ff={d_ff}"),
        format!("model.config.num_heads={heads}"),
        format!("model.config.num_layers={layers}"),
        format!("model.config.num_decoder_layers={layers}"),
        format!("train.batch_size={batch}"),
        format!("cache.directory={}", home.path().join("cache").display()),
    ];
    let rest = [
        "run.device=cpu",
        "model.config.d_kv=64",
        "~train.epochs",
        "train.steps=4",
        "schedule.warmup_steps=1",
        "~evaluate.every_epochs",
        "evaluate.queries=64",
        "evaluate.memorisation=0",
        "~probes",
        // Texts of one length: in a few steps every batch is as long as the longest will be.
        "task.tasks=[\"indexing\"]",
        "~task.ratio",
        "task.max_tokens=32",
    ];
    let rest = rest.iter().chain(more).map(|&text| text.to_owned());
    given.into_iter().chain(rest).collect()
}

fn genir(verb: &str, overrides: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_genir"));
    command.args([verb, "recipes/quickstart.toml"]).args(overrides);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// What `genir check` says, in MiB.
fn predicted(overrides: &[String]) -> f64 {
    let output = genir("check", overrides).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find(|line| line.starts_with("memory"));
    let number = line.and_then(|line| line.split_whitespace().nth(2)?.parse().ok());
    number.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}

/// The most that `genir train` has held, in MiB.
fn measured(overrides: &[String]) -> f64 {
    let mut child =
        genir("train", overrides).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut highest = 0.0;
    let done = loop {
        // It only ever rises; when the process has ended it cannot be read any more.
        let peak = fs::read_to_string(&status).ok().and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        });
        highest = peak.unwrap_or(highest);
        if let Some(done) = child.try_wait().unwrap() {
            break done;
        }
        sleep(Duration::from_millis(2));
    };
    assert!(done.success(), "{overrides:?}: {done}");
    highest / 1024.0
}

#[test]
#[cfg(target_os = "linux")]
fn the_predicted_peak_is_near_the_measured_one() {
    const TRAINED: [&[&str]; 5] = [
        &["trainable.select=[\"full\"]"],
        &["trainable.select=[\"full\"]", "model.dropout=0.1"],
        &["trainable.select=[\"restricted\"]", "cache.enabled=false"],
        // So many steps that texts are read more than once: their prefix is stored.
        &["trainable.select=[\"restricted\"]", "train.steps=60"],
        // Those of all evaluations too: the encoder is let go of.
        &["trainable.select=[\"restricted\"]", "train.steps=60", "evaluate.every_steps=30"],
    ];
    let mut wrong = Vec::new();
    for shape in SHAPES {
        for more in TRAINED {
            let home = TempDir::new().unwrap();
            let overrides = overrides(&home, shape, more);
            let (predicted, measured) = (predicted(&overrides), measured(&overrides));
            let ratio = predicted / measured;
            let line = format!(
                "{shape:?} {more:?}: {predicted} MiB predicted, {measured:.0} measured: {ratio:.2}"
            );
            println!("{line}");
            if (ratio - 1.0).abs() > ALLOWED {
                wrong.push(line);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
