//! The T5 itself, and the GenIR model: a T5 with one output row for each docid.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::config::T5Config;
use super::layers::Embedding;
use super::pass::Pass;
use super::released::ReleasedWeights;
use super::stack::{Decoder, Encoder, EncoderStates, Tokens};
use crate::device::{ComputeDevice, Precision};
use crate::ops::{Head, Logits, TextHead};

/// An encoder-decoder T5, v1.0 or v1.1.
#[derive(Module, Debug)]
pub struct T5 {
    /// Token embedding of both stacks; also the output matrix if `lm_head` is none.
    pub shared: Embedding,
    /// The encoder.
    pub encoder: Encoder,
    /// The decoder.
    pub decoder: Decoder,
    /// The output matrix of untied models, `[tokens, d_model]`.
    pub lm_head: Option<Embedding>,
    #[module(skip)]
    config: T5Config,
    #[module(skip)]
    precision: Precision,
    #[module(skip)]
    pub(super) released: Option<ReleasedWeights>,
}

impl T5 {
    /// A model whose weights are zeros, to be filled by [`super::weights`].
    pub(super) fn zeros(config: &T5Config, tied: bool, device: impl Into<ComputeDevice>) -> Self {
        let ComputeDevice { device, precision } = device.into();
        let device = &device;
        let table = || Embedding::new(config.vocab_size, config.d_model, device);
        Self {
            shared: table(),
            encoder: Encoder::new(config, device),
            decoder: Decoder::new(config, device),
            lm_head: (!tied).then(table),
            config: config.clone(),
            precision,
            released: None,
        }
    }

    /// Sizes and switches.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// The precision in which a GPU computes products with the weights.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The same model with products in `precision` on a GPU.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Returns whether the word embedding is the output matrix too.
    pub fn is_tied(&self) -> bool {
        self.lm_head.is_none()
    }

    /// The encoder's states of `source`.
    pub fn encode(&self, source: &Tokens, pass: &mut Pass) -> EncoderStates {
        self.expect_encoder();
        pass.precision = self.precision;
        let embeddings = self.shared.forward(source.ids.clone()); // [batch * length, d_model]
        self.encoder.forward(embeddings, source.batch, source.mask.clone(), pass)
    }

    /// The decoder's output for given target tokens: `[batch * target, d_model]`.
    pub fn decode(&self, target: &Tokens, states: &EncoderStates, pass: &mut Pass) -> Tensor<2> {
        self.expect_layers(0);
        pass.precision = self.precision;
        let embeddings = self.shared.forward(target.ids.clone()); // [batch * target, d_model]
        self.decoder.forward(embeddings, target.mask.clone(), states, pass)
    }

    /// The decoder's output for the start token alone: `[batch, d_model]`.
    pub fn decode_start(&self, states: &EncoderStates, pass: &mut Pass) -> Tensor<2> {
        self.expect_layers(0);
        pass.precision = self.precision;
        let device = states.rows.device();
        let embedding = self.shared.forward(self.start_token(&device)); // [1, d_model]
        self.decoder.forward(self.for_each(embedding, states.batch), None, states, pass)
    }

    /// The residual stream before `layer` of the decoder for the start token alone, `[batch, d_model]`; `layer` may
    /// be the number of layers: the stream after the last. No dropout acts on the start token's embedding.
    pub fn residual_before(
        &self,
        layer: usize,
        states: &EncoderStates,
        pass: &mut Pass,
    ) -> Tensor<2> {
        if layer > 0 {
            self.expect_layers(0);
        }
        pass.precision = self.precision;
        let embedding = self.shared.forward(self.start_token(&states.rows.device())); // [1, d_model]
        let start = self.for_each(embedding, states.batch);
        self.decoder.through(0..layer, start, None, states, pass)
    }

    /// The decoder's output from the residual stream before `layer`, `[batch, d_model]`: the layers
    /// before it are not computed.
    pub fn decode_from(
        &self,
        layer: usize,
        residual: Tensor<2>,
        states: &EncoderStates,
        pass: &mut Pass,
    ) -> Tensor<2> {
        self.expect_layers(layer);
        pass.precision = self.precision;
        self.decoder.forward_from(layer, residual, None, states, pass)
    }

    /// The input tokens of both stacks: those of the source, then the start token, `[batch * length + 1]`.
    pub fn input_tokens(&self, source: &Tokens) -> Tensor<1, Int> {
        Tensor::cat(vec![source.ids.clone(), self.start_token(&source.ids.device())], 0)
    }

    /// [`Self::encode`] and [`Self::decode_start`] from the embeddings of [`Self::input_tokens`],
    /// `[batch * length + 1, d_model]`: `[batch, d_model]`.
    pub fn encode_and_decode_start(
        &self,
        embeddings: Tensor<2>,
        source: &Tokens,
        pass: &mut Pass,
    ) -> Tensor<2> {
        let (states, start) = self.encode_first(embeddings, source, pass);
        let start = self.for_each(start, source.batch); // [batch, d_model]
        self.decoder.forward(start, None, &states, pass) // [batch, d_model]
    }

    /// The decoder's output for target tokens, from the embeddings of both stacks: those of the source's tokens, then
    /// those of the decoder's input, `[batch * (source + target), d_model]`: `[batch * target, d_model]`.
    ///
    /// Padding at the end of a target needs no mask: a position attends to those before it.
    pub fn encode_and_decode(
        &self,
        embeddings: Tensor<2>,
        source: &Tokens,
        pass: &mut Pass,
    ) -> Tensor<2> {
        let (states, target) = self.encode_first(embeddings, source, pass);
        self.decoder.forward(target, None, &states, pass) // [batch * target, d_model]
    }

    /// The encoder's states for the source's tokens, whose embeddings come first, and the embeddings after them.
    fn encode_first(
        &self,
        embeddings: Tensor<2>,
        source: &Tokens,
        pass: &mut Pass,
    ) -> (EncoderStates, Tensor<2>) {
        self.expect_encoder();
        pass.precision = self.precision;
        let ([rows, _], tokens) = (embeddings.dims(), source.batch * source.length);
        let first = embeddings.clone().slice(0..tokens); // [batch * length, d_model]
        let states = self.encoder.forward(first, source.batch, source.mask.clone(), pass);
        (states, embeddings.slice(tokens..rows))
    }

    /// The output layer of text tokens for the decoder's output `[rows, d_model]`.
    pub fn text_head(&self, output: Tensor<2>) -> TextHead {
        TextHead {
            rows: self.scaled(output),
            text: self.lm_head.as_ref().unwrap_or(&self.shared).weight.val(),
            precision: self.precision,
        }
    }

    /// Logits of all text tokens, `[rows, d_model] -> [rows, vocab_size]`.
    pub fn text_logits(&self, output: Tensor<2>) -> Tensor<2> {
        self.lm_head.as_ref().unwrap_or(&self.shared).logits(self.scaled(output), self.precision)
    }

    /// Logits of all text tokens in blocks of at most `at_once` tokens, in order: each `[rows, block]`.
    pub fn text_logits_in_blocks(
        &self,
        output: Tensor<2>,
        at_once: usize,
    ) -> impl Iterator<Item = Tensor<2>> {
        let words = self.config.vocab_size;
        let matrix = self.lm_head.as_ref().unwrap_or(&self.shared);
        let (output, precision) = (self.scaled(output), self.precision);
        (0..words).step_by(at_once.max(1)).map(move |first| {
            let tokens = first..words.min(first + at_once);
            matrix.logits_of(output.clone(), tokens, precision)
        })
    }

    /// The decoder's output as the output matrix reads it.
    fn scaled(&self, output: Tensor<2>) -> Tensor<2> {
        if self.config.scale_decoder_outputs {
            output * (self.config.d_model as f64).powf(-0.5)
        } else {
            output
        }
    }

    fn start_token(&self, device: &Device) -> Tensor<1, Int> {
        let id = self.config.decoder_start_token_id as i32;
        Tensor::from_data(TensorData::new(vec![id], [1]), device)
    }

    /// `[1, d_model] -> [batch, d_model]`
    fn for_each(&self, row: Tensor<2>, batch: usize) -> Tensor<2> {
        row.expand([batch, self.config.d_model])
    }
}

/// A T5 whose output vocabulary is its text tokens and one atomic docid for each document.
#[derive(Module, Debug)]
pub struct GenirModel {
    /// The T5.
    pub t5: T5,
    /// Docid rows, `[documents, d_model]`, in document order. Docids are never an input.
    pub docids: Embedding,
}

impl GenirModel {
    /// The output layer for the decoder's output `[batch, d_model]`.
    pub fn head(&self, output: Tensor<2>) -> Head {
        let words = self.t5.lm_head.as_ref().unwrap_or(&self.t5.shared);
        Head {
            rows: self.t5.scaled(output),
            text: words.weight.val(),
            docids: self.docids.weight.val(),
            precision: self.t5.precision,
        }
    }

    /// Logits of text tokens and docids from the decoder's output `[batch, d_model]`.
    pub fn logits(&self, output: Tensor<2>) -> Logits {
        self.head(output).logits()
    }

    /// Logits of the docids alone: `[batch, d_model] -> [batch, documents]`.
    pub fn docid_logits(&self, output: Tensor<2>) -> Tensor<2> {
        self.docids.logits(self.t5.scaled(output), self.t5.precision)
    }

    /// The same from products with at most `at_once` docid rows each.
    pub fn docid_logits_in_blocks(&self, output: Tensor<2>, at_once: usize) -> Tensor<2> {
        let (output, precision) = (self.t5.scaled(output), self.t5.precision);
        let documents = self.docids.weight.dims()[0];
        let blocks = (0..documents).step_by(at_once.max(1)).map(|first| {
            let rows = first..documents.min(first + at_once);
            self.docids.logits_of(output.clone(), rows, precision) // [batch, block]
        });
        Tensor::cat(blocks.collect(), 1)
    }

    /// Logits of one docid: `[batch, d_model] -> [batch, 1]`.
    pub fn docid_logit(&self, output: Tensor<2>, row: u32) -> Tensor<2> {
        let row = row as usize;
        self.docids.logits_of(self.t5.scaled(output), row..row + 1, self.t5.precision)
    }

    /// The same model with products in `precision` on a GPU.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { t5: self.t5.with_precision(precision), ..self }
    }

    /// Documents in the docid vocabulary.
    pub fn documents(&self) -> usize {
        self.docids.weight.dims()[0]
    }
}
