//! The T5 encoder-decoder: configuration, layers, taps, weights in and out.
//!
//! Knows no trainer, no probe and no file format but Hugging Face's own.

mod attention;
mod config;
mod layers;
mod lora;
mod memory;
mod model;
mod pass;
mod release;
mod released;
mod stack;
mod tap;
pub mod weights;

pub use crate::ops::{Dropout, Head, Logits};
pub use attention::{AttentionBlock, RelativeBias, bucket};
pub(crate) use config::most_of;
pub use config::{ConfigError, FeedForward, T5Config};
pub use layers::{Embedding, Linear, Mlp, RmsNorm};
pub use lora::{LoraFactors, initial_factor};
pub use model::{GenirModel, T5};
pub use pass::Pass;
pub use released::ReleasedWeights;
pub use stack::{
    Decoder, DecoderLayer, Encoder, EncoderLayer, EncoderStates, Tokens, padded_length,
    padding_mask,
};
pub use tap::{Attention, Hook, NoTap, Site, Tap};

pub use crate::component::Stack;
