//! Sizes of the model that is timed.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, bail};
use genir::t5::T5Config;

/// Sizes of a T5 v1.0.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub d_model: usize,
    pub d_ff: usize,
    pub heads: usize,
    /// Of the encoder, and of the decoder.
    pub layers: usize,
}

/// Width of a head, in every released T5 of these shapes.
pub const D_KV: usize = 64;

impl FromStr for Shape {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let sizes = match text {
            "t5-small" => [512, 2048, 8, 6],
            "t5-base" => [768, 3072, 12, 12],
            "t5-large" => [1024, 4096, 16, 24],
            numbers => {
                let numbers = numbers.split(',').map(str::parse);
                let numbers: Vec<usize> = numbers
                    .collect::<Result<_, _>>()
                    .context("expected t5-small, t5-base, t5-large or four numbers")?;
                match numbers.try_into() {
                    Ok(sizes) => sizes,
                    Err(_) => bail!("expected four numbers: d_model,d_ff,heads,layers"),
                }
            }
        };
        let [d_model, d_ff, heads, layers] = sizes;
        Ok(Self { d_model, d_ff, heads, layers })
    }
}

impl Shape {
    /// As a model of this shape with `words` word rows has it.
    pub fn config(&self, words: usize) -> anyhow::Result<T5Config> {
        let Self { d_model, d_ff, heads, layers } = self;
        let json = format!(
            r#"{{"d_model": {d_model}, "d_ff": {d_ff}, "d_kv": {D_KV}, "num_heads": {heads},
                "num_layers": {layers}, "vocab_size": {words}}}"#
        );
        Ok(T5Config::from_json(Path::new("config.json"), &json)?)
    }
}
