//! Checkpoints of a small model, to be changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use genir::checkpoint::{Checkpoint, CheckpointContents, write};
use genir::docid::TextTokenizer;
use genir::t5::weights::StoredType;
use genir::t5::{GenirModel, T5Config};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::small_tokenizer;
use crate::tiny_model::{self, docids, manifest};

/// Tokens of the small tokenizer.
pub const WORDS: usize = 9;
pub const WIDTH: usize = 6;
pub const WEIGHTS: &str = "model.safetensors";

pub fn tokenizer() -> TextTokenizer {
    let directory = TempDir::new().unwrap();
    small_tokenizer::write(directory.path(), &[]);
    TextTokenizer::load(directory.path()).unwrap().tokenizer
}

pub fn model(tied: bool) -> GenirModel {
    let sizes = json!({
        "model_type": "t5", "d_model": WIDTH, "d_kv": 2, "d_ff": 8, "num_heads": 2, "num_layers": 1,
        "num_decoder_layers": 3, "vocab_size": WORDS, "tie_word_embeddings": tied,
        "feed_forward_proj": if tied { "relu" } else { "gated-gelu" },
    });
    tiny_model::model(&T5Config::from_json(Path::new("config.json"), &sizes.to_string()).unwrap())
}

/// Writes `parent/name` from `model`.
pub fn write_model(parent: &Path, name: &str, model: &GenirModel) -> Result<PathBuf, String> {
    let (tokenizer, docids, manifest) = (tokenizer(), docids(), manifest());
    let contents = CheckpointContents {
        model,
        tokenizer: &tokenizer,
        docids: Some(&docids),
        stored: StoredType::Float32,
        manifest: &manifest,
        other_rows: None,
        training: None,
    };
    write(parent, name, &contents).map_err(|error| error.to_string())
}

/// A checkpoint of a tied model, and the directory that holds it.
pub fn written() -> (TempDir, PathBuf) {
    let parent = TempDir::new().unwrap();
    let checkpoint = write_model(parent.path(), "step-1", &model(true)).unwrap();
    (parent, checkpoint)
}

pub fn open(directory: &Path) -> Result<Checkpoint, String> {
    Checkpoint::open(directory, &Device::flex()).map_err(|error| error.to_string())
}

/// What `directory` is refused with; all of `parts` must be in it.
#[track_caller]
pub fn assert_refused(directory: &Path, parts: &[&str]) {
    match open(directory) {
        Ok(_) => panic!("it was opened"),
        Err(error) => {
            for part in parts {
                assert!(error.contains(part), "{part:?} is not in: {error}");
            }
        }
    }
}

pub struct StoredTensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

pub type StoredTensors = BTreeMap<String, StoredTensor>;

fn read_tensors(file: &Path) -> StoredTensors {
    let bytes = fs::read(file).unwrap();
    let stored = |view: TensorView| StoredTensor {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect()
}

fn write_tensors(file: &Path, tensors: &StoredTensors) {
    let views = tensors.iter().map(|(name, tensor)| {
        (name, TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, file).unwrap();
}

/// Changes the tensors of a checkpoint.
pub fn change_tensors(checkpoint: &Path, change: impl FnOnce(&mut StoredTensors)) {
    let file = checkpoint.join(WEIGHTS);
    let mut tensors = read_tensors(&file);
    change(&mut tensors);
    write_tensors(&file, &tensors);
    forget_description(checkpoint);
}

/// Changes a JSON file of a checkpoint.
pub fn change_json(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    change(&mut value);
    fs::write(file, value.to_string()).unwrap();
    if file.file_name().is_some_and(|name| name != "genir.json") {
        forget_description(file.parent().unwrap());
    }
}

/// Removes what describes the files as genir wrote them: another tool has changed them.
pub fn forget_description(checkpoint: &Path) {
    let _ = fs::remove_file(checkpoint.join("docids.json"));
    let manifest = checkpoint.join("genir.json");
    if manifest.exists() {
        change_json(&manifest, |manifest| {
            manifest.as_object_mut().unwrap().remove("files");
        });
    }
}
