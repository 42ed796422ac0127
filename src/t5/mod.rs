//! The T5 encoder-decoder: configuration, layers, taps, weights in and out.
//!
//! Knows no trainer, no probe and no file format but Hugging Face's own.

mod absorbed;
mod activation;
mod attention;
mod config;
mod dropout;
mod gone;
mod layers;
mod model;
mod on_gpu;
mod pass;
mod product;
mod rms_norm;
mod self_attention;
mod stack;
mod tap;
pub mod weights;

pub use attention::{AttentionBlock, RelativeBias, bucket};
pub(crate) use config::most_of;
pub use config::{ConfigError, FeedForward, T5Config};
pub use dropout::Dropout;
pub use gone::{Gone, comes_before};
pub use layers::{Embedding, Linear, Mlp};
pub use model::{GenirModel, Head, Logits, T5};
pub use pass::Pass;
pub use rms_norm::RmsNorm;
pub use stack::{
    Decoder, DecoderLayer, Encoder, EncoderLayer, EncoderStates, Tokens, padded_length,
    padding_mask,
};
pub use tap::{Attention, Hook, NoTap, Site, Stack, Tap};
