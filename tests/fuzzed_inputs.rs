//! Every input that fuzzing started from and every one that it found, through its target: no panic, the promises of
//! `fuzz/targets.rs`, and bounded memory.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

#[path = "../fuzz/targets.rs"]
mod targets;

/// Runs the inputs in a directory of `fuzz/`, and returns their number.
fn run_all(directory: &str) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(directory);
    let mut count = 0;
    for (name, target) in targets::TARGETS {
        let Ok(inputs) = fs::read_dir(root.join(name)) else { continue };
        for input in inputs {
            let path = input.expect("an entry").path();
            println!("{}", path.display()); // shown if it panics
            target(&fs::read(path).expect("a file"));
            count += 1;
        }
    }
    count
}

#[test]
fn no_input_that_fuzzing_started_from_breaks_a_promise() {
    assert!(run_all("seeds") > 50);
}

#[test]
fn no_input_that_fuzzing_found_breaks_a_promise() {
    run_all("found");
}

#[test]
fn every_target_has_seeds() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, _) in targets::TARGETS {
        assert!(seeds.join(name).is_dir(), "fuzz/seeds/{name}");
    }
}

/// Inputs of a few bytes that say that they are large.
fn lying() -> Vec<(&'static str, Vec<u8>)> {
    let files = |parts: &[&[u8]]| parts.join(targets::SEPARATOR);
    let safetensors =
        |header: String, length: u64| [&length.to_le_bytes(), header.as_bytes(), &[0; 64]].concat();
    let config = |key: &str, value: u64| {
        let mut config = json!({"d_model": 6, "d_kv": 2, "d_ff": 8, "num_heads": 2, "num_layers": 1, "vocab_size": 9});
        config[key] = value.into();
        config.to_string().into_bytes()
    };
    let tensor = |shape: [u64; 2], end: u64| {
        let header =
            json!({"shared.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}});
        let header = header.to_string();
        let length = header.len() as u64;
        safetensors(header, length)
    };
    let mut inputs = vec![
        ("safetensors", files(&[b"", &safetensors("{}".to_owned(), 1 << 40)])),
        ("safetensors", files(&[b"", &safetensors("{}".to_owned(), u64::MAX)])),
        ("safetensors", files(&[b"", &tensor([1 << 40, 6], 24 << 40)])),
        ("safetensors", files(&[b"", &tensor([u64::MAX, 6], 64)])),
        ("safetensors", files(&[b"", &tensor([1 << 62, 4], 0)])),
        ("corpus_paper", vec![b'['; 1 << 20]),
        ("corpus_paper", format!("[{{\"id\": {}}}]", "9".repeat(1 << 20)).into_bytes()),
        ("recipe", vec![b'['; 1 << 20]),
        ("recipe", format!("a{}=1", ".a".repeat(1 << 16)).into_bytes()),
        ("run_files", vec![b' '; 1 << 22]),
        ("run_files", vec![b'['; 1 << 20]),
        ("probe_records", vec![b'['; 1 << 20]),
        ("inspection", vec![b'{'; 1 << 20]),
        ("shard_index", vec![b'{'; 1 << 20]),
    ];
    for key in ["d_model", "d_kv", "d_ff", "num_heads", "num_layers", "vocab_size"] {
        for value in [u64::from(u32::MAX), i64::MAX as u64, u64::MAX, 1 << 20, 1000] {
            inputs.push(("t5_config", config(key, value)));
            inputs.push(("safetensors", files(&[&config(key, value), &tensor([11, 6], 264)])));
        }
    }
    inputs
}

/// The most memory that this process has held, in MiB.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
    peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

const CHILD: &str = "GENIR_MEMORY_OF_INPUTS";
const MOST: u64 = 256;

#[test]
fn memory_on_inputs_that_lie_about_their_size_is_bounded() {
    if std::env::var_os(CHILD).is_some() {
        for (name, input) in lying() {
            let (_, target) = targets::TARGETS.iter().find(|(known, _)| *known == name).unwrap();
            println!("{name}: {}", String::from_utf8_lossy(&input[..input.len().min(200)]));
            target(&input);
            assert!(peak_memory() < MOST, "{} MiB", peak_memory());
        }
        run_all("seeds");
        run_all("found");
        assert!(peak_memory() < MOST, "{} MiB", peak_memory());
        return;
    }
    // Alone in a process: the other tests of this one would count too.
    let done = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "memory_on_inputs_that_lie_about_their_size_is_bounded"])
        .env(CHILD, "1")
        .output()
        .expect("it starts");
    let text = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(done.status.success(), "{:?}: {}", done.status, text.concat());
    assert!(text[0].contains("1 passed"), "{}", text[0]);
}
