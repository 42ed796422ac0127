//! The floating-point operations of a training step, counted from the sizes of a model, for comparing trainable sets.
//!
//! The forward pass, the gradients of activations from the lowest trained layer on, and the gradients of trained weights
//! are counted, two operations a multiply-add. Norms, softmax, the optimizer and all reads of memory are not, so that a
//! ratio of two counts estimates the ratio of step times, and a cheap step is slower than its count says.

use super::memory::GradientReach;
use crate::component::{Component, ParameterPlace, Stack, Weight};
use crate::prefix::FrozenPrefix;
use crate::t5::{FeedForward, T5Config};

/// A training step of one model.
pub(super) struct Step<'a> {
    pub config: &'a T5Config,
    pub documents: usize,
    /// Tokens of a source, on average.
    pub tokens: f64,
    /// Dotted names and sizes of the trained parameters.
    pub trained: &'a [(&'a str, usize)],
    /// What is not computed in the step, because its output is stored.
    pub stored: Option<FrozenPrefix>,
}

impl Step<'_> {
    /// Floating-point operations for one example.
    pub fn operations(&self) -> f64 {
        let names = self.trained.iter().map(|(name, _)| *name);
        let reach = GradientReach::of(names, self.config);
        let (encoders, decoders) = (self.config.num_layers, self.config.num_decoder_layers);
        let (first, encoder_runs) = match self.stored {
            Some(prefix) => (prefix.layer(), false),
            None => (0, true),
        };
        let encoder = if encoder_runs { encoders as f64 } else { 0.0 };
        let forward = encoder * self.encoder_layer(1.0)
            + (decoders - first) as f64 * self.decoder_layer(1.0)
            + self.head();
        // The gradient of attention's weights and of what they weigh: two products for each of the forward pass.
        let backward = (encoders - reach.encoder) as f64 * self.encoder_layer(2.0)
            + (decoders - reach.decoder) as f64 * self.decoder_layer(2.0)
            + if self.reaches_head() { self.head() } else { 0.0 };
        2.0 * (forward + backward + self.weight_gradients())
    }

    /// Multiply-adds of an encoder layer's forward pass, those between positions counted `times`.
    fn encoder_layer(&self, times: f64) -> f64 {
        let (width, inner) = (self.config.d_model as f64, self.config.inner() as f64);
        let between = 2.0 * self.tokens * inner;
        self.tokens * (4.0 * width * inner + times * between + self.mlp())
    }

    /// The same of a decoder layer for the one target token, with absorbed cross-attention.
    fn decoder_layer(&self, times: f64) -> f64 {
        let (width, inner) = (self.config.d_model as f64, self.config.inner() as f64);
        let self_attention = 2.0 * width * inner;
        let between = 2.0 * self.config.num_heads as f64 * self.tokens * width;
        self_attention + 4.0 * width * inner + times * between + self.mlp()
    }

    /// Multiply-adds of an MLP for one position.
    fn mlp(&self) -> f64 {
        let matrices = match self.config.feed_forward {
            FeedForward::Relu => 2.0,
            FeedForward::GatedGelu => 3.0,
        };
        matrices * (self.config.d_model * self.config.d_ff) as f64
    }

    /// Multiply-adds of all logits.
    fn head(&self) -> f64 {
        ((self.config.vocab_size + self.documents) * self.config.d_model) as f64
    }

    /// Returns whether a gradient goes through the logits to anything before them.
    fn reaches_head(&self) -> bool {
        let is_before = |name: &str| {
            !matches!(
                ParameterPlace::of(name),
                Some(ParameterPlace::Docids | ParameterPlace::Head) | None
            )
        };
        self.trained.iter().any(|(name, _)| is_before(name))
    }

    /// Multiply-adds of the gradients of trained weights.
    fn weight_gradients(&self) -> f64 {
        let of = |&(name, size): &(&str, usize)| {
            let positions = match ParameterPlace::of(name) {
                Some(ParameterPlace::Layer { stack: Stack::Encoder, .. }) => self.tokens,
                // One key is no choice: queries and keys have no gradient.
                Some(place) if is_without_gradient(place) => 0.0,
                _ => 1.0,
            };
            positions * size as f64
        };
        self.trained.iter().map(of).sum()
    }
}

/// Returns whether a parameter gets no gradient from a single target token.
fn is_without_gradient(place: ParameterPlace) -> bool {
    matches!(
        place,
        ParameterPlace::RelativeBias(Stack::Decoder)
            | ParameterPlace::Layer {
                stack: Stack::Decoder,
                component: Component::SelfAttention,
                weight: Weight::Query | Weight::Key,
                ..
            }
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::component::{Stages, trainable_set};
    use crate::t5::GenirModel;

    #[test]
    fn t5_large_takes_what_was_counted_by_hand() {
        let config = serde_json::json!({
            "d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_heads": 16, "num_layers": 24,
            "num_decoder_layers": 24, "vocab_size": 32100, "feed_forward_proj": "relu",
        });
        let config = T5Config::from_json(Path::new("config.json"), &config.to_string()).unwrap();
        let sizes = GenirModel::parameter_sizes(&config, true, 10_000);
        let stages = Stages::scaled(24).unwrap();
        let count = |select: &[&str], stored: bool| {
            let parameters = sizes.iter().map(|(name, size)| (name.as_str(), *size));
            let select: Vec<String> = select.iter().map(|text| (*text).to_owned()).collect();
            let names = trainable_set(&select, Some(&stages), parameters.clone()).unwrap();
            let trained: Vec<_> = parameters.filter(|(name, _)| names.contains(*name)).collect();
            let prefix = FrozenPrefix::of(names.iter().map(String::as_str), 24);
            let stored = prefix.filter(|_| stored);
            let step = Step {
                config: &config,
                documents: 10_000,
                tokens: 32.0,
                trained: &trained,
                stored,
            };
            step.operations() / 1e9
        };
        // 24 layers of 12.6 million weights for 32 tokens, 24 decoder layers of 16.8 million (14.7 with a gradient) and
        // 42,100 rows of 1,024, three times, two operations each: 58.0 + 2.4 + 0.26; attention's products are the rest.
        let full = count(&["full"], true);
        assert!((60.5..63.0).contains(&full), "{full}");
        // Stages II and III forward and backward: 17 layers of 14.7 million weights twice, 118 million gradients.
        let restricted = count(&["restricted", "docids"], true);
        assert!((1.35..1.75).contains(&restricted), "{restricted}");
        // The encoder's forward pass is a third of the full step.
        let not_stored = count(&["restricted", "docids"], false);
        assert!((0.3..0.4).contains(&((not_stored - restricted) / full)), "{not_stored}");
        // Only logits and the gradient of docid rows are left.
        let docids = count(&["docids"], true);
        let logits_and_rows = 2e-9 * 1024.0 * (42_100.0 + 10_000.0);
        assert!((docids - logits_and_rows).abs() < 1e-6, "{docids} {logits_and_rows}");
        assert!(count(&["norms"], true) < full && count(&["decoder"], true) < full / 10.0);
    }
}
