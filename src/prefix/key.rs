//! The key of a stored prefix: a hash of everything that its values depend on.

use burn::tensor::Device;
use rayon::prelude::*;

use super::texts::Texts;
use super::{Element, FrozenPrefix};
use crate::device::is_host;
use crate::t5::T5;
use crate::t5::weights::parameters;

/// Changes whenever files or the computation of what is in them change.
pub(super) const VERSION: u32 = 1;

/// Bytes that one thread hashes at once, and that one checksum of a file is over.
pub(super) const BLOCK: usize = 1 << 20;

/// The key of a stored prefix.
pub(super) type Key = [u8; 32];

/// A hash over the frozen part of a model.
pub(super) struct Weights(Key);

impl Weights {
    /// Over everything that `frozen` computes with in `t5`: names, shapes and values of its parameters, sizes and
    /// switches, the kind of device and the precision of its products: the rounding of each is its own.
    pub fn of(t5: &T5, frozen: &FrozenPrefix, device: &Device) -> Self {
        let config = t5.config();
        let mut hasher = blake3::Hasher::new();
        let sizes = [
            config.d_model,
            config.d_kv,
            config.d_ff,
            config.num_heads,
            config.num_layers,
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
            config.decoder_start_token_id as usize,
            frozen.layer(),
        ];
        for size in sizes {
            hasher.update(&(size as u64).to_le_bytes());
        }
        hasher.update(&config.layer_norm_epsilon.to_le_bytes());
        text(&mut hasher, &format!("{:?}", config.feed_forward));
        text(&mut hasher, if is_host(device) { "cpu" } else { "gpu" });
        text(&mut hasher, t5.precision().name());
        for parameter in parameters(t5) {
            let name = format!("t5.{}", parameter.name);
            if !frozen.computes_with(&name) {
                continue;
            }
            text(&mut hasher, &name);
            text(&mut hasher, &format!("{:?}", parameter.shape));
            let values = parameter.values.into_data();
            for digest in digests(values.as_bytes()) {
                hasher.update(&digest);
            }
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The key of what these weights make of `texts`. Their tokens are in it, and with them tokenizer, prefix and
    /// truncation.
    pub fn key(&self, element: Element, texts: &Texts) -> Key {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&VERSION.to_le_bytes());
        hasher.update(&element.number().to_le_bytes());
        hasher.update(&self.0);
        texts.hash(&mut hasher);
        *hasher.finalize().as_bytes()
    }
}

/// BLAKE3 of each block of `bytes`, on all threads.
pub(super) fn digests(bytes: &[u8]) -> Vec<Key> {
    bytes.par_chunks(BLOCK).map(|block| *blake3::hash(block).as_bytes()).collect()
}

/// Adds a text with its length, so that two of them are not taken for two others.
fn text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::device::{ComputeDevice, Precision};
    use crate::t5::T5Config;
    use crate::t5::weights::initialise;

    #[test]
    fn states_computed_in_another_precision_are_not_reused() {
        let config = r#"{"d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2, "num_layers": 1, "vocab_size": 9}"#;
        let config = T5Config::from_json(Path::new("config.json"), config).unwrap();
        let device = Device::flex();
        let weights = |precision| {
            let on = ComputeDevice { device: device.clone(), precision };
            let t5 = initialise(&config, 1, &on);
            assert_eq!(t5.precision(), precision);
            Weights::of(&t5, &FrozenPrefix::encoder(1), &device).0
        };
        assert_eq!(weights(Precision::F32), weights(Precision::F32));
        assert_ne!(weights(Precision::F32), weights(Precision::Bf16));
    }
}
