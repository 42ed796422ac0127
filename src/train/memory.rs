//! What a run needs at its peak, estimated from its sizes before it starts.
//!
//! The sums follow the forward pass in `src/t5`: what each operation keeps for its gradient is written beside it
//! here. `tests/memory.rs` holds the total against what processes have really held.

use std::collections::BTreeSet;
use std::fmt;

use super::plan::Plan;
use crate::component::{ParameterPlace, Part, Stack};
use crate::device::is_host;
use crate::prefix::{BATCH_POSITIONS, bytes_held};
use crate::recipe::{Optimizer, ProbesSection, Recipe};
use crate::retrieval::Vocabulary;
use crate::run::resident_memory;
use crate::t5::{FeedForward, GenirModel, T5Config, comes_before};

/// Bytes that a run holds at its peak, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// What the process holds already, as it was measured: itself, the corpus and its tokens (where the system tells);
    /// and what it will come to hold beside the model.
    pub process: usize,
    /// All parameters.
    pub parameters: usize,
    /// Those among them that are let go of before the first step, because all that they make is stored.
    pub let_go: usize,
    /// Optimizer state of the trained ones.
    pub optimizer: usize,
    /// The copy of the base model that probes compare with; 0 where none does.
    pub base: usize,
    /// Gradients of the trained parameters.
    pub gradients: usize,
    /// Activations kept for the backward pass.
    pub activations: usize,
    /// What a step makes and frees again, as far as it stands at once: logits, and the largest gradient's parts.
    pub temporaries: usize,
    /// What ranking or saving needs at once; while they do, no step holds its gradients and activations.
    pub between_steps: usize,
    /// The frozen prefix of all texts, where it is stored.
    pub stored: usize,
    /// What storing it needs at once before the first step: a batch in the encoder, or all of it read from its file.
    pub storing: usize,
}

const F32: usize = size_of::<f32>();

/// What a process comes to hold beside what is counted: threads, queries that it is evaluated on, open logs, and pieces
/// of memory that the allocator cannot use again.
const BESIDE: usize = 24 << 20;

impl MemoryEstimate {
    /// For the run of `plan`.
    pub(super) fn of(plan: &Plan) -> Self {
        let (recipe, config, table) = (&plan.recipe, plan.config(), &plan.table);
        let documents = plan.docids.len();
        let lengths = (0..plan.examples.len()).map(|index| plan.examples.tokens(index).len());
        let longest = lengths.max().unwrap_or(0);
        let trained_count = table.total.trained;
        let states = match recipe.optimizer.optimizer {
            Optimizer::AdamW { .. } => 2 * trained_count,
            // A row and a column of second moments for each matrix: the square roots of its size, about.
            Optimizer::Adafactor { .. } => trained_count / config.d_model.max(1) * 2,
        };
        let base = match recipe.probes.as_ref().is_some_and(ProbesSection::compares) {
            true => table.total.parameters - documents * config.d_model,
            false => 0,
        };
        // Accumulated gradients stand beside those of the newest batch.
        let copies = if plan.epochs.most_batches() > 1 { 2 } else { 1 };
        let stored = stored(plan);
        let step = Batch {
            config,
            examples: plan.epochs.largest_batch() as usize,
            length: longest,
            dropout: plan.dropout() > 0.0,
            stored: stored > 0,
            fused_loss: is_host(&plan.device),
        };
        let learnt = Learnt::of(&plan.trained, config);
        // Unmasked padding makes queries longer than any text of training.
        let asked = longest.max(recipe.evaluate.unmasked_padding.unwrap_or(0));
        let ranked = layer_made(config, recipe.evaluate.batch_size, asked)
            + ranked_logits(recipe, config, documents);
        Self {
            process: resident_memory().unwrap_or(0) as usize + BESIDE,
            parameters: F32 * table.total.parameters,
            let_go: if stored > 0 { F32 * let_go(plan) } else { 0 },
            optimizer: F32 * states,
            base: F32 * base,
            stored,
            gradients: F32 * trained_count * copies,
            activations: F32 * step.kept(&learnt),
            temporaries: F32 * step.made(&learnt, documents),
            between_steps: F32 * ranked.max(saved(config, documents)),
            storing: if stored > 0 { stored.max(F32 * prefix_made(config, longest)) } else { 0 },
        }
    }

    /// All of it at the peak, in bytes.
    pub fn total(&self) -> usize {
        let step = self.gradients + self.activations + self.temporaries;
        let training = self.stored + self.optimizer + step.max(self.between_steps);
        let weights = self.parameters + self.base;
        self.process + (weights - self.let_go + training).max(weights + self.storing)
    }
}

/// Bytes of the frozen prefix that are held while training, files that are mapped among them.
fn stored(plan: &Plan) -> usize {
    let Some(prefix) = plan.frozen_prefix() else { return 0 };
    let reading = plan.reading();
    let width = plan.config().d_model;
    let training = bytes_held(prefix, &plan.recipe.cache.settings(), &reading, width) as usize;
    // Queries that are ranked again and again are as long as training's texts, about.
    let evaluate = &plan.recipe.evaluate;
    let asked: usize = match evaluate.every {
        None => 0,
        Some(_) => {
            let most = evaluate.queries.unwrap_or(usize::MAX);
            evaluate.splits.iter().map(|&split| plan.corpus.split(split).len().min(most)).sum()
        }
    };
    training + training / reading.texts.len().max(1) * asked
}

/// Parameters that nothing computes with once the prefix of the training texts is stored; 0 where a probe may, or where
/// queries are ranked only once, so that theirs is not stored.
fn let_go(plan: &Plan) -> usize {
    let recipe = &plan.recipe;
    let probed = recipe.probes.as_ref().is_some_and(|section| !section.run.is_empty());
    let times = plan.evaluations().times(plan.total_steps());
    let read_once = !recipe.evaluate.splits.is_empty() && times < 2;
    match plan.frozen_prefix() {
        Some(prefix) if !probed && !read_once => {
            let sizes = GenirModel::parameter_sizes(plan.config(), plan.is_tied(), 1);
            let goes = |name: &str| {
                name.strip_prefix("t5.").is_some_and(|name| comes_before(prefix.layer(), name))
            };
            sizes.iter().filter(|(name, _)| goes(name)).map(|(_, size)| size).sum()
        }
        _ => 0,
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
    /// Whether the encoder's states are at hand.
    stored: bool,
    /// Whether logits of frozen rows are used up as they are made (`fused_loss.rs`).
    fused_loss: bool,
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

    /// Made and freed within a step.
    fn made(&self, learnt: &Learnt, documents: usize) -> usize {
        let (words, width) = (self.config.vocab_size, self.config.d_model);
        let logits = if self.fused_loss {
            // Those of trained rows, which become their gradients.
            let rows = |trained: bool, rows: usize| if trained { rows } else { 0 };
            self.examples * (rows(learnt.words, words) + rows(learnt.docids, documents))
        } else {
            // Logits, exponentials, their gradients before and after the factor, and the product with the logits.
            5 * self.examples * (words + documents)
        };
        let docids = if learnt.docids { documents * width } else { 0 };
        let tokens = self.examples * self.length;
        let tracked = learnt.encoder < self.config.num_layers;
        let layer = match (self.stored, tracked) {
            (true, _) => 0,
            (false, false) => layer_made(self.config, self.examples, self.length),
            // Its gradients, and those of its widest activation beside.
            (false, true) => {
                layer_made(self.config, self.examples, self.length) + tokens * self.config.d_ff
            }
        };
        logits + layer + docids
    }
}

/// What one encoder layer makes of a batch, where nothing is kept.
fn layer_made(config: &T5Config, examples: usize, length: usize) -> usize {
    let tokens = examples * length;
    let scores = 2 * examples * config.num_heads * length * length;
    let attention = 4 * tokens * config.inner() + scores;
    2 * tokens * config.d_model + attention.max(tokens * config.d_ff)
}

/// What the prefix of a batch of texts needs to be computed: a layer, then its rows gathered without padding.
fn prefix_made(config: &T5Config, longest: usize) -> usize {
    let examples = BATCH_POSITIONS / longest.max(1);
    // Hidden activations before and after their function stand at once.
    let layer = layer_made(config, examples.max(1), longest) + BATCH_POSITIONS * config.d_ff;
    layer.max(3 * BATCH_POSITIONS * config.d_model)
}

/// Logits of ranked queries, with their comparison.
fn ranked_logits(recipe: &Recipe, config: &T5Config, documents: usize) -> usize {
    let words = match recipe.evaluate.vocabulary {
        Vocabulary::All => 2 * config.vocab_size.min(2 << 20),
        Vocabulary::Docids => 0,
    };
    3 * recipe.evaluate.batch_size * documents + words
}

/// What writes the largest tensor: a copy of its words or docids, and its bytes.
fn saved(config: &T5Config, documents: usize) -> usize {
    let words = config.vocab_size;
    (words + documents + words.max(documents)) * config.d_model
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
        if self.stored > 0 {
            write!(f, ", frozen prefix {}", mib(self.stored))?;
        }
        if self.let_go > 0 {
            write!(f, ", let go before the first step {}", mib(self.let_go))?;
        }
        if self.base > 0 {
            write!(f, ", the base model for probes {}", mib(self.base))?;
        }
        Ok(())
    }
}
