//! Small T5s whose sizes all differ, so that a mix-up of two of them shows.

use std::path::Path;

use burn::tensor::Device;
use genir::t5::{T5, T5Config, weights};
use serde_json::json;

pub const ENCODER_LAYERS: usize = 2;
pub const DECODER_LAYERS: usize = 3;

/// A T5 of 2 encoder and 3 decoder layers with T5's own initialisation; `gated` as in v1.1.
pub fn model(gated: bool, tied: bool, device: &Device) -> T5 {
    let config = json!({
        "d_model": 16,
        "d_kv": 6,
        "d_ff": 20,
        "num_heads": 4,
        "num_layers": ENCODER_LAYERS,
        "num_decoder_layers": DECODER_LAYERS,
        "vocab_size": 23,
        "feed_forward_proj": if gated { "gated-gelu" } else { "relu" },
        "tie_word_embeddings": tied,
    });
    let config = T5Config::from_json(Path::new("config.json"), &config.to_string());
    weights::initialise(&config.expect("a right configuration"), 3, device)
}
