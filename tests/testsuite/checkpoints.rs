//! Checkpoints are read as they were written, are written atomically, and are refused with file and tensor if they are
//! damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::Param;
use genir::checkpoint::{Manifest, link, prune};
use genir::task::Encoding;
use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::json;
use tempfile::TempDir;

use crate::parameter_bits::{assert_same, bits};
use crate::small_checkpoint::*;
use crate::tiny_model::{DOCIDS, docids, manifest};

const INDEX: &str = "model.safetensors.index.json";

/// Returns the files of a directory with their contents.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_checkpoint_is_read_bit_for_bit_as_it_was_written() {
    for tied in [true, false] {
        let model = model(tied);
        let parent = TempDir::new().unwrap();
        let checkpoint = write_model(parent.path(), "step-1", &model).unwrap();
        let opened = open(&checkpoint).unwrap();
        assert_eq!(opened.model.t5.is_tied(), tied);
        assert_same(&bits(&opened.model), &bits(&model), "opened");
        assert_eq!(opened.docids, docids());
        assert_eq!(opened.encoding(), manifest().encoding);
        let stored = opened.manifest.clone().unwrap();
        assert_eq!(Manifest { files: BTreeMap::new(), ..stored }, manifest());
        assert_eq!(opened.tokenizer.vocab_size(), WORDS);
        // The opened checkpoint is written as the same files.
        let again = write_model(parent.path(), "again", &opened.model).unwrap();
        assert!(files(&again) == files(&checkpoint));
    }
}

#[test]
fn an_existing_checkpoint_is_not_overwritten() {
    let (parent, checkpoint) = written();
    let before = files(&checkpoint);
    let error = write_model(parent.path(), "step-1", &model(false)).unwrap_err();
    assert!(error.contains("step-1: the checkpoint exists already"), "{error}");
    assert!(files(&checkpoint) == before);
    assert_eq!(names(parent.path()), ["step-1"]);

    link(parent.path(), "latest", "step-1").unwrap();
    let error = write_model(parent.path(), "latest", &model(false)).unwrap_err();
    assert!(error.contains("latest: the checkpoint exists already"), "{error}");
    assert!(files(&checkpoint) == before);
}

#[test]
fn unfinished_checkpoints_of_a_killed_process_are_removed() {
    let (parent, checkpoint) = written();
    let left = parent.path().join(".unfinished-step-2");
    fs::create_dir(&left).unwrap();
    for (name, content) in files(&checkpoint) {
        fs::write(left.join(name), &content[..content.len() / 2]).unwrap();
    }
    write_model(parent.path(), "step-2", &model(false)).unwrap();
    assert_eq!(names(parent.path()), ["step-1", "step-2"]);
    assert_same(
        &bits(&open(&parent.path().join("step-2")).unwrap().model),
        &bits(&model(false)),
        "opened",
    );

    fs::create_dir(&left).unwrap();
    write_model(parent.path(), "step-3", &model(true)).unwrap();
    assert_eq!(names(parent.path()), ["step-1", "step-2", "step-3"]);
    prune(parent.path(), "step-2").unwrap();
    assert_eq!(names(parent.path()), ["step-1", "step-3"]);
}

#[test]
fn a_link_always_refers_to_a_complete_checkpoint() {
    let (parent, _) = written();
    write_model(parent.path(), "step-2", &model(false)).unwrap();
    // A process was killed between the two steps of replacing the link.
    std::os::unix::fs::symlink("nowhere", parent.path().join(".unfinished-latest")).unwrap();
    link(parent.path(), "latest", "step-1").unwrap();
    let latest = parent.path().join("latest");
    assert_eq!(fs::read_link(&latest).unwrap(), Path::new("step-1"), "relative: runs are moved");

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                fs::read(latest.join("genir.json")).unwrap();
            }
        });
        for turn in 0..300 {
            link(parent.path(), "latest", ["step-2", "step-1"][turn % 2]).unwrap();
        }
        done.store(true, Ordering::SeqCst);
        reader.join().unwrap();
    });
    link(parent.path(), "latest", "step-2").unwrap();
    assert_same(&bits(&open(&latest).unwrap().model), &bits(&model(false)), "opened");
    assert_eq!(names(parent.path()), ["latest", "step-1", "step-2"]);
}

#[test]
fn a_t5_without_docids_is_refused_as_a_base_model() {
    let (_parent, checkpoint) = written();
    tokenizer().export(&checkpoint, None).unwrap();
    assert_refused(&checkpoint, &["step-1", "no docids", "@DOC_ID_<id>@", "genir train"]);
}

#[test]
fn damaged_weights_are_refused_with_file_and_tensor() {
    const QUERY: &str = "decoder.block.2.layer.1.EncDecAttention.q.weight";
    let refused = |change: &dyn Fn(&mut StoredTensors), parts: &[&str]| {
        let (_parent, checkpoint) = written();
        change_tensors(&checkpoint, change);
        assert_refused(&checkpoint, parts);
    };
    for missing in [QUERY, "shared.weight", "encoder.final_layer_norm.weight"] {
        let remove = |tensors: &mut StoredTensors| drop(tensors.remove(missing));
        refused(&remove, &["step-1", &format!("`{missing}` is missing")]);
    }
    let transpose = |tensors: &mut StoredTensors| tensors.get_mut(QUERY).unwrap().shape.reverse();
    refused(&transpose, &[WEIGHTS, QUERY, "[6, 4]", "expected [4, 6]", "config.json"]);
    let narrow = |tensors: &mut StoredTensors| {
        tensors.get_mut("shared.weight").unwrap().shape = vec![WIDTH, WORDS + DOCIDS.len()];
    };
    refused(&narrow, &[WEIGHTS, "shared.weight", "[6, 29]"]);
    let shorten = |tensors: &mut StoredTensors| {
        let shared = tensors.get_mut("shared.weight").unwrap();
        shared.shape[0] -= 1;
        shared.bytes.truncate(shared.shape[0] * WIDTH * 4);
    };
    refused(&shorten, &[WEIGHTS, "shared.weight", "[28, 6]", "expected [29, 6]"]);
    for (dtype, name) in [(Dtype::I32, "I32"), (Dtype::U32, "U32")] {
        let change = |tensors: &mut StoredTensors| tensors.get_mut(QUERY).unwrap().dtype = dtype;
        refused(&change, &[WEIGHTS, QUERY, name, "F32, F16 or BF16"]);
    }
}

#[test]
fn a_truncated_file_is_refused() {
    let (_parent, checkpoint) = written();
    let file = checkpoint.join(WEIGHTS);
    let whole = fs::read(&file).unwrap();
    for length in [whole.len() - 1, whole.len() / 2, 100, 8, 4, 0] {
        fs::write(&file, &whole[..length]).unwrap();
        assert_refused(&checkpoint, &[WEIGHTS, "damaged"]);
    }
    fs::write(&file, [&[0xff; 8], &whole[8..]].concat()).unwrap();
    assert_refused(&checkpoint, &[WEIGHTS, "damaged"]);
    fs::remove_file(&file).unwrap();
    assert_refused(&checkpoint, &["step-1", "no weights", WEIGHTS, INDEX]);
}

#[test]
fn an_index_may_only_name_files_in_its_directory() {
    let (parent, checkpoint) = written();
    let index = |shard: &str| {
        let map = json!({ "weight_map": { "shared.weight": shard } });
        fs::write(checkpoint.join(INDEX), map.to_string()).unwrap();
    };
    fs::copy(checkpoint.join(WEIGHTS), parent.path().join("x")).unwrap();
    fs::rename(checkpoint.join(WEIGHTS), checkpoint.join("shard")).unwrap();
    let absolute = parent.path().join("x");
    for outside in ["../x", "./../x", absolute.to_str().unwrap(), "..", "/", "a/b", ""] {
        index(outside);
        assert_refused(&checkpoint, &[INDEX, &format!("the shard `{outside}` is not a file name")]);
    }
    let away = json!({ "weight_map": { "a": "shard", "b": "away", "c": "gone" } });
    fs::write(checkpoint.join(INDEX), away.to_string()).unwrap();
    assert_refused(&checkpoint, &[INDEX, "files that are not beside it: away, gone"]);
    fs::write(checkpoint.join(INDEX), "{").unwrap();
    assert_refused(&checkpoint, &[INDEX, "damaged"]);
    index("shard");
    assert_refused(
        &checkpoint,
        &["model.safetensors cannot be read", "remove `files` from its genir.json"],
    );
    forget_description(&checkpoint);
    assert_same(&bits(&open(&checkpoint).unwrap().model), &bits(&model(true)), "opened");
}

#[test]
fn other_damaged_files_are_refused_by_name() {
    for (name, parts) in [
        ("config.json", &["not a JSON object"][..]),
        ("tokenizer.json", &["added_tokens"]),
        ("genir.json", &["format 1"]),
    ] {
        let (_parent, checkpoint) = written();
        let file = checkpoint.join(name);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..20]).unwrap();
        assert_refused(&checkpoint, &[&[name], parts].concat());
    }
    let (_parent, checkpoint) = written();
    change_json(&checkpoint.join("genir.json"), |manifest| manifest["format"] = 7.into());
    assert_refused(&checkpoint, &["genir.json: format 7", "format 1"]);
    change_json(&checkpoint.join("config.json"), |config| config["d_model"] = "six".into());
    assert_refused(&checkpoint, &["config.json", "`d_model`", "\"six\"", "a whole number"]);
}

#[test]
fn a_changed_bit_of_any_file_is_found_by_its_checksum() {
    let (_parent, checkpoint) = written();
    for (name, content) in files(&checkpoint) {
        if name == "genir.json" {
            continue;
        }
        // The last letter or digit: JSON stays valid, and weights finite.
        let mut changed = content.clone();
        let at = changed.iter().rposition(u8::is_ascii_alphanumeric).unwrap();
        changed[at] ^= 1;
        fs::write(checkpoint.join(&name), changed).unwrap();
        let error = open(&checkpoint).err().unwrap();
        assert!(error.contains(&name), "{name}: {error}");
        fs::write(checkpoint.join(&name), content).unwrap();
    }
    assert!(open(&checkpoint).is_ok());
}

#[test]
fn weights_that_are_not_finite_are_not_written() {
    let parent = TempDir::new().unwrap();
    let mut model = model(true);
    let rows = model.docids.weight.val();
    let broken = rows.clone().slice([1..2, 2..3]) / 0.0;
    model.docids.weight = Param::from_tensor(rows.slice_assign([1..2, 2..3], broken));
    let error = write_model(parent.path(), "step-1", &model).unwrap_err();
    assert!(error.contains("`docids.weight` has 1 values that are NaN or infinite"), "{error}");
    assert!(names(parent.path()).is_empty());
}

#[test]
fn the_released_format_of_the_paper_opens_with_its_encoding() {
    let (_parent, checkpoint) = written();
    for ours in ["genir.json", "docids.json"] {
        fs::remove_file(checkpoint.join(ours)).unwrap();
    }
    let opened = open(&checkpoint).unwrap();
    assert_eq!(opened.manifest, None);
    assert_eq!(opened.encoding(), Encoding::default());
    assert_eq!((opened.encoding().document_tokens, opened.encoding().query_tokens), (32, 32));
    assert_eq!(opened.docids, docids());
    assert_same(&bits(&opened.model), &bits(&model(true)), "opened");
}

#[test]
fn half_precision_weights_are_read_as_their_values() {
    type Round = fn(f32) -> ([u8; 2], f32);
    let as_f16: Round = |value| (f16::from_f32(value).to_le_bytes(), f16::from_f32(value).to_f32());
    let as_bf16: Round =
        |value| (bf16::from_f32(value).to_le_bytes(), bf16::from_f32(value).to_f32());
    for (dtype, round) in [(Dtype::F16, as_f16), (Dtype::BF16, as_bf16)] {
        let (_parent, checkpoint) = written();
        change_tensors(&checkpoint, |tensors| {
            for tensor in tensors.values_mut() {
                let value = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
                tensor.bytes =
                    tensor.bytes.chunks(4).flat_map(|bytes| round(value(bytes)).0).collect();
                tensor.dtype = dtype;
            }
        });
        let mut expected = bits(&model(true));
        for value in expected.values_mut().flat_map(|(_, values)| values) {
            *value = round(f32::from_bits(*value)).1.to_bits();
        }
        assert_same(&bits(&open(&checkpoint).unwrap().model), &expected, &format!("{dtype:?}"));
    }
}
