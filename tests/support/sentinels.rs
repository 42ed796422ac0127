//! The bundled base's tokenizer with sentinels, as a base for denoising.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Writes the tokenizer of `checkpoints/atlas-base` with `<extra_id_0>` to `<extra_id_{count - 1}>` behind its tokens, in
/// T5's order, and the configuration.
pub fn write_base(directory: &Path, count: usize) {
    fs::create_dir_all(directory).unwrap();
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/atlas-base");
    for name in ["config.json", "tokenizer_config.json", "special_tokens_map.json"] {
        fs::copy(base.join(name), directory.join(name)).unwrap();
    }
    let text = fs::read_to_string(base.join("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_str(&text).unwrap();
    let words = tokenizer["model"]["vocab"].as_array().unwrap().len();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    for number in (0..count).rev() {
        added.push(json!({
            "id": words + count - 1 - number, "content": format!("<extra_id_{number}>"),
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true,
        }));
    }
    fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}
