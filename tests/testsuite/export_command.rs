//! `genir export` writes a checkpoint without its training state, in float32 or bfloat16, with or without docids.

use std::path::Path;
use std::process::{Command, Output};

use half::bf16;
use serde_json::Value;
use tempfile::TempDir;

use crate::parameter_bits::{assert_same, bits};
use crate::small_checkpoint;
use crate::small_checkpoint::{WORDS, model, open, write_model};
use crate::tiny_model;

fn export(checkpoint: &Path, to: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_genir"));
    command.arg("export").arg(checkpoint).arg(to).args(options).output().unwrap()
}

fn config(directory: &Path) -> Value {
    let text = std::fs::read_to_string(directory.join("config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn an_exported_model_has_the_same_weights_or_their_nearest_bfloat16() {
    for tied in [true, false] {
        let home = TempDir::new().unwrap();
        let original = model(tied);
        let checkpoint = write_model(home.path(), "step-1", &original).unwrap();
        let mut expected = bits(&original);
        for (dtype, size) in [("float32", 4), ("bfloat16", 2)] {
            let to = home.path().join("exported").join(dtype);
            let output = export(&checkpoint, &to, &["--dtype", dtype]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(config(&to)["dtype"], dtype);
            if dtype == "bfloat16" {
                for (_, values) in expected.values_mut() {
                    for value in values {
                        *value = bf16::from_f32(f32::from_bits(*value)).to_f32().to_bits();
                    }
                }
            }
            assert_same(&bits(&open(&to).unwrap().model), &expected, dtype);
            let values: usize = expected.values().map(|(_, values)| values.len()).sum();
            let bytes = std::fs::metadata(to.join("model.safetensors")).unwrap().len() as usize;
            // Docids have rows in both matrices of an untied model.
            let most = size * (values + tiny_model::DOCIDS.len() * small_checkpoint::WIDTH) + 8192;
            assert!((size * values..most).contains(&bytes), "{dtype}: {bytes} bytes");
        }
    }
}

#[test]
fn an_export_without_docids_is_a_base_model() {
    let home = TempDir::new().unwrap();
    let checkpoint = write_model(home.path(), "step-1", &model(true)).unwrap();
    let base = home.path().join("base");
    let output = export(&checkpoint, &base, &["--without-docids"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(config(&base)["vocab_size"], WORDS);
    assert!(!base.join("docids.json").exists());
    let tokenizer = std::fs::read_to_string(base.join("tokenizer.json")).unwrap();
    assert!(!tokenizer.contains("@DOC_ID_"), "{tokenizer}");
    assert!(open(&base).err().unwrap().contains("docid"), "a base model has no docids");
    // Its weights are those of the checkpoint without the docid rows.
    let tensors = genir::t5::weights::StoredTensors::open(&base).unwrap();
    let config = genir::t5::T5Config::read(&base).unwrap();
    let device = genir::device::ComputeDevice::from(&burn::tensor::Device::flex());
    let t5 = genir::t5::weights::load(&tensors, &config, WORDS, &device).unwrap();
    let mut expected = bits(&model(true));
    expected.retain(|name, _| !name.starts_with("docids"));
    let mut found = bits(&genir::t5::GenirModel { t5, docids: model(true).docids });
    found.retain(|name, _| !name.starts_with("docids"));
    assert_same(&found, &expected, "base");
}

#[test]
fn an_existing_directory_is_not_overwritten() {
    let home = TempDir::new().unwrap();
    let checkpoint = write_model(home.path(), "step-1", &model(true)).unwrap();
    let to = home.path().join("there");
    std::fs::create_dir(&to).unwrap();
    let output = export(&checkpoint, &to, &[]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("there") && text.contains("exists"), "{text}");
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0);
    let output = export(&checkpoint, &home.path().join("x"), &["--dtype", "int8"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("\"float32\", \"bfloat16\""), "{text}");
}
