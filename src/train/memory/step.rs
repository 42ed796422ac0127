//! Memory of a training step: activations that are saved for the backward pass, and temporaries. The sums follow the
//! forward pass in `src/t5`, operation by operation.

use crate::component::{ParameterPlace, Stack};
use crate::prefix::BATCH_POSITIONS;
use crate::t5::{FeedForward, T5Config};

/// The first layers that gradients reach; nothing before them is saved for backward.
pub(in crate::train) struct GradientReach {
    /// First encoder layer that gradients reach; the number of layers if none is reached.
    pub encoder: usize,
    /// The same of the decoder.
    pub decoder: usize,
    words: bool,
    docids: bool,
}

impl GradientReach {
    /// Of a model in which the parameters of these dotted names are trained.
    pub fn of<'a>(trained: impl IntoIterator<Item = &'a str>, config: &T5Config) -> Self {
        let (mut encoder, mut decoder) = (config.num_layers, config.num_decoder_layers);
        let (mut words, mut docids) = (false, false);
        for place in trained.into_iter().filter_map(ParameterPlace::of) {
            let (stack, layer) = match place {
                ParameterPlace::Layer { stack, layer, .. } => (stack, layer),
                ParameterPlace::RelativeBias(stack) => (stack, 0),
                ParameterPlace::FinalNorm(stack) => (stack, usize::MAX),
                ParameterPlace::SharedEmbedding => {
                    words = true;
                    (Stack::Encoder, 0)
                }
                ParameterPlace::Docids => {
                    docids = true;
                    continue;
                }
                ParameterPlace::Head => continue,
            };
            match stack {
                Stack::Encoder => (encoder, decoder) = (encoder.min(layer), 0),
                Stack::Decoder => decoder = decoder.min(layer),
            }
        }
        Self { encoder, decoder, words, docids }
    }
}

/// One batch that goes through the model. All sums below are numbers of floats.
#[derive(Clone, Copy)]
pub(super) struct StepSizes<'a> {
    pub config: &'a T5Config,
    pub examples: usize,
    /// Tokens of each source.
    pub length: usize,
    /// Positions of the decoder for each source: 1 where the target is a docid.
    pub target: usize,
    pub dropout: bool,
    /// True if the encoder's states are stored.
    pub stored: bool,
    /// True if logits of frozen rows are consumed block by block (`ops/cross_entropy/fused.rs`).
    pub fused_loss: bool,
}

impl StepSizes<'_> {
    /// Tokens of all sources.
    pub fn tokens(&self) -> usize {
        self.examples * self.length
    }

    /// Saved from the forward pass until the backward pass has used it.
    pub fn saved_for_backward(&self, reach: &GradientReach) -> usize {
        let encoder = self.config.num_layers - reach.encoder;
        let decoder = self.config.num_decoder_layers - reach.decoder;
        let tokens = self.tokens();
        let states = tokens * self.config.d_model;
        let attention = match self.target {
            1 => self.one_token_attention() + self.cross_attention(),
            target => self.self_attention(target) + self.long_cross_attention(),
        };
        encoder * (self.self_attention(self.length) + self.mlp(tokens))
            + decoder * (attention + self.mlp(self.examples * self.target))
            + states
    }

    /// Self-attention of a layer, over `length` positions of each example.
    fn self_attention(&self, length: usize) -> usize {
        let tokens = self.examples * length;
        let scores = tokens * self.config.num_heads * length;
        let (width, inner) = (self.config.d_model, self.config.inner());
        let norm = 2 * tokens * width; // its input and its output, which the products need
        let projections = 3 * tokens * inner; // queries, keys, values
        let mixed = tokens * inner;
        // Exponentials and pattern; with dropout the mask and what it leaves.
        let pattern = if self.dropout { 4 } else { 2 } * scores;
        norm + projections + mixed + pattern + self.masks(tokens * width)
    }

    /// Self-attention of the decoder's one token: values only.
    fn one_token_attention(&self) -> usize {
        self.examples * (2 * self.config.d_model + 3 * self.config.inner())
    }

    /// Cross-attention of the decoder's one token, absorbed.
    fn cross_attention(&self) -> usize {
        let (width, inner) = (self.config.d_model, self.config.inner());
        let by_head = self.examples * self.config.num_heads;
        let asked_and_weighted = 2 * by_head * width;
        let pattern = 2 * by_head * self.length;
        self.examples * (2 * width + 2 * inner) + asked_and_weighted + pattern
    }

    /// Cross-attention of a decoder with several positions.
    fn long_cross_attention(&self) -> usize {
        let (width, inner) = (self.config.d_model, self.config.inner());
        let (targets, tokens) = (self.examples * self.target, self.tokens());
        let norm = 2 * targets * width;
        let projections = (targets + 2 * tokens) * inner; // queries, keys, values
        let scores = targets * self.config.num_heads * self.length;
        let pattern = if self.dropout { 2 } else { 1 } * scores;
        norm + projections + targets * inner + pattern + self.masks(targets * width)
    }

    fn mlp(&self, rows: usize) -> usize {
        let (width, wide) = (self.config.d_model, self.config.d_ff);
        let norm = 2 * rows * width;
        let hidden = match self.config.feed_forward {
            // After relu.
            FeedForward::Relu => 1,
            // The gate, the linear half, their product.
            FeedForward::GatedGelu => 3,
        };
        // Dropped hidden activations are kept beside their mask and what they were made of.
        norm + hidden * rows * wide + self.masks(rows * (2 * wide + width))
    }

    /// Masks of dropped activations.
    fn masks(&self, floats: usize) -> usize {
        if self.dropout { floats } else { 0 }
    }

    /// Allocated and freed within a step.
    pub fn temporaries(&self, reach: &GradientReach, documents: usize) -> usize {
        let (words, width) = (self.config.vocab_size, self.config.d_model);
        let labels = self.examples * self.target;
        let logits = if self.target > 1 {
            self.text_logits(reach, labels)
        } else if self.fused_loss {
            // Those of trained rows, which become their gradients.
            let rows = |trained: bool, rows: usize| if trained { rows } else { 0 };
            self.examples * (rows(reach.words, words) + rows(reach.docids, documents))
        } else {
            // Logits, exponentials, their gradients before and after the factor, and the product with the logits.
            5 * self.examples * (words + documents)
        };
        let docids = if reach.docids && self.target == 1 { documents * width } else { 0 };
        let tokens = self.tokens();
        let tracked = reach.encoder < self.config.num_layers;
        let layer = match (self.stored, tracked) {
            (true, _) => 0,
            (false, false) => self.config.layer_temporaries(self.examples, self.length),
            // Its gradients, and those of its widest activation beside.
            (false, true) => {
                self.config.layer_temporaries(self.examples, self.length)
                    + tokens * self.config.d_ff
            }
        };
        logits + layer + docids
    }
}

impl StepSizes<'_> {
    /// The logits of text tokens at each label, and what is made of them.
    fn text_logits(&self, reach: &GradientReach, labels: usize) -> usize {
        /// Tasks that the output matrix is divided into: `ops/cross_entropy/output_rows.rs`.
        const TASKS: usize = 16;
        let (words, width) = (self.config.vocab_size, self.config.d_model);
        match self.fused_loss {
            // Each task has a gradient of the decoder's output.
            true => TASKS * width * labels + if reach.words { words * labels } else { 0 },
            false => 5 * labels * words,
        }
    }
}

/// The temporary values of computing the prefix of a batch of texts: a layer, then its rows gathered without padding.
/// Where there are fewer texts than a batch holds, it is all of them.
pub(super) fn prefix_temporaries(config: &T5Config, longest: usize, texts: usize) -> usize {
    let positions = BATCH_POSITIONS.min(texts * longest);
    let examples = positions / longest.max(1);
    // Hidden activations before and after their function stand at once.
    let layer = config.layer_temporaries(examples.max(1), longest) + positions * config.d_ff;
    layer.max(3 * positions * config.d_model)
}
