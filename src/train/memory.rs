//! What a run needs at its peak, estimated from its sizes before it starts.
//!
//! The sums follow the forward pass in `src/t5`: what each operation keeps for its gradient is written beside it
//! here. `tests/memory.rs` holds the total against what processes have really held.

use std::collections::BTreeSet;
use std::fmt;

use crate::component::{ParameterPlace, Part, Stack, TrainableTable};
use crate::recipe::{Optimizer, ProbesSection, Recipe};
use crate::retrieval::Vocabulary;
use crate::t5::{FeedForward, T5Config};

/// Bytes that a run holds at its peak, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// What the process holds already, as it was measured: itself, the corpus and its tokens (where the system tells);
    /// and what it will come to hold beside the model.
    pub process: usize,
    /// All parameters.
    pub parameters: usize,
    /// Optimizer state of the trained ones.
    pub optimizer: usize,
    /// The copy of the base model that probes compare with; 0 where none does.
    pub base: usize,
    /// What is stored of the frozen prefix and held in memory; set when the texts are known.
    pub prefix: usize,
    /// Gradients of the trained parameters.
    pub gradients: usize,
    /// Activations kept for the backward pass.
    pub activations: usize,
    /// What a step makes and frees again, as far as it stands at once: logits, and the largest gradient's parts.
    pub temporaries: usize,
    /// What ranking or saving needs at once; while they do, no step holds its gradients and activations.
    pub between_steps: usize,
}

const F32: usize = size_of::<f32>();

/// What a process comes to hold beside what is counted: threads, queries that it is evaluated on, open logs, and pieces
/// of memory that the allocator cannot use again.
const BESIDE: usize = 32 << 20;

impl MemoryEstimate {
    /// `longest` is the number of tokens of the longest example.
    pub(super) fn new(
        recipe: &Recipe,
        config: &T5Config,
        table: &TrainableTable,
        trained: &BTreeSet<String>,
        documents: usize,
        longest: usize,
    ) -> Self {
        let trained_count = table.total.trained;
        let states = match recipe.optimizer.optimizer {
            Optimizer::AdamW { .. } => 2 * trained_count,
            // A row and a column of second moments for each matrix: the square roots of its size, about.
            Optimizer::Adafactor { .. } => trained_count / config.d_model.max(1) * 2,
        };
        let compares = |section: &ProbesSection| section.run.iter().any(|probe| probe.uses_base());
        let base = match recipe.probes.as_ref().is_some_and(compares) {
            true => table.total.parameters - documents * config.d_model,
            false => 0,
        };
        // Accumulated gradients stand beside those of the newest batch.
        let copies = if recipe.train.accumulate > 1 { 2 } else { 1 };
        let step = Batch {
            config,
            examples: recipe.train.batch_size,
            length: longest,
            dropout: recipe.model.dropout.unwrap_or(config.dropout_rate) > 0.0,
        };
        let learnt = Learnt::of(trained, config);
        Self {
            process: resident_bytes().unwrap_or(0) + BESIDE,
            parameters: F32 * table.total.parameters,
            optimizer: F32 * states,
            base: F32 * base,
            prefix: 0,
            gradients: F32 * trained_count * copies,
            activations: F32 * step.kept(&learnt),
            temporaries: F32 * step.made(&learnt, documents),
            between_steps: F32
                * ranked(recipe, config, longest, documents).max(saved(config, documents)),
        }
    }

    /// All of it at the peak, in bytes.
    pub fn total(&self) -> usize {
        let step = self.gradients + self.activations + self.temporaries;
        let held = self.process + self.parameters + self.optimizer + self.base + self.prefix;
        held + step.max(self.between_steps)
    }
}

/// The lowest place at which a gradient is made: nothing before it is kept.
struct Learnt {
    /// First encoder layer that gradients reach; the number of layers if none is reached.
    encoder: usize,
    /// The same of the decoder.
    decoder: usize,
    words: bool,
    docids: bool,
}

impl Learnt {
    fn of(trained: &BTreeSet<String>, config: &T5Config) -> Self {
        let (mut encoder, mut decoder) = (config.num_layers, config.num_decoder_layers);
        let (mut words, mut docids) = (false, false);
        for place in trained.iter().filter_map(|name| ParameterPlace::of(name)) {
            let layer = match place.part {
                Part::SelfAttention(layer) | Part::CrossAttention(layer) | Part::Mlp(layer) => {
                    layer
                }
                Part::RelativeBias => 0,
                Part::FinalNorm => usize::MAX,
                Part::Words => {
                    words = true;
                    0
                }
                Part::Docids => {
                    docids = true;
                    continue;
                }
                Part::Head => continue,
            };
            match place.stack {
                Stack::Encoder => {
                    encoder = encoder.min(layer);
                    decoder = 0;
                }
                Stack::Decoder => decoder = decoder.min(layer),
                Stack::Shared => (encoder, decoder) = (0, 0),
            }
        }
        Self { encoder, decoder, words, docids }
    }
}

/// One batch that goes through the model. All sums below are numbers of floats.
struct Batch<'a> {
    config: &'a T5Config,
    examples: usize,
    /// Tokens of each source.
    length: usize,
    dropout: bool,
}

impl Batch<'_> {
    /// Kept from the forward pass until the backward pass has used it.
    fn kept(&self, learnt: &Learnt) -> usize {
        let encoder = self.config.num_layers - learnt.encoder;
        let decoder = self.config.num_decoder_layers - learnt.decoder;
        let tokens = self.examples * self.length;
        let states = tokens * self.config.d_model;
        encoder * (self.self_attention() + self.mlp(tokens))
            + decoder
                * (self.one_token_attention() + self.cross_attention() + self.mlp(self.examples))
            + states
    }

    /// Self-attention of an encoder layer.
    fn self_attention(&self) -> usize {
        let tokens = self.examples * self.length;
        let scores = self.examples * self.config.num_heads * self.length * self.length;
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

    fn mlp(&self, rows: usize) -> usize {
        let (width, wide) = (self.config.d_model, self.config.d_ff);
        let norm = 2 * rows * width;
        let hidden = match self.config.feed_forward {
            // Before and after relu.
            FeedForward::Relu => 2,
            // The gate, its cube's input, tanh and what it is multiplied with, gelu; the linear half; their product.
            FeedForward::GatedGelu => 7,
        };
        norm + hidden * rows * wide + self.masks(rows * (wide + width)) + self.dropped(rows * wide)
    }

    /// Masks of dropped activations.
    fn masks(&self, floats: usize) -> usize {
        if self.dropout { floats } else { 0 }
    }

    /// What dropout leaves, where the next operation keeps it.
    fn dropped(&self, floats: usize) -> usize {
        if self.dropout { floats } else { 0 }
    }

    /// Made and freed within a step.
    fn made(&self, learnt: &Learnt, documents: usize) -> usize {
        let (width, wide) = (self.config.d_model, self.config.d_ff);
        // Logits, exponentials, their gradients before and after the factor, and the product with the logits.
        let logits = 5 * self.examples * (self.config.vocab_size + documents);
        // The lookup's gradient is as large as the embedding, and is added to that of the output matrix.
        let lookup = if learnt.words { 2 * self.config.vocab_size * width } else { 0 };
        let docids = if learnt.docids { documents * width } else { 0 };
        let tokens = self.examples * self.length;
        // One layer at a time where nothing is kept; where it is, its gradients.
        let layer = tokens * (2 * width + 2 * wide.max(3 * self.config.inner()));
        logits + layer + lookup.max(docids)
    }
}

/// What ranks a batch of queries: a layer of the encoder, and logits with their comparison.
fn ranked(recipe: &Recipe, config: &T5Config, longest: usize, documents: usize) -> usize {
    let examples = recipe.evaluate.batch_size;
    let tokens = examples * longest;
    let scores = examples * config.num_heads * longest * longest;
    let attention = tokens * (2 * config.d_model + 4 * config.inner()) + 3 * scores;
    let mlp = tokens * (2 * config.d_model + 2 * config.d_ff);
    let words = match recipe.evaluate.vocabulary {
        Vocabulary::All => 2 * config.vocab_size.min(2 << 20),
        Vocabulary::Docids => 0,
    };
    attention.max(mlp) + 3 * examples * documents + words
}

/// What writes the largest tensor: a copy of its words or docids, and its bytes.
fn saved(config: &T5Config, documents: usize) -> usize {
    let words = config.vocab_size;
    (words + documents + words.max(documents)) * config.d_model
}

/// Memory that this process holds now, in bytes; none where the system does not tell.
fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        write!(
            f,
            "about {} MiB at the peak: process and corpus {}, parameters {}, optimizer {}, gradients {}, \
             activations {}, temporaries {}",
            mib(self.total()),
            mib(self.process),
            mib(self.parameters),
            mib(self.optimizer),
            mib(self.gradients),
            mib(self.activations),
            mib(self.temporaries)
        )?;
        if self.base > 0 {
            write!(f, ", the base model for probes {}", mib(self.base))?;
        }
        if self.prefix > 0 {
            write!(f, ", the stored prefix {}", mib(self.prefix))?;
        }
        Ok(())
    }
}
