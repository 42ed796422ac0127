//! Forward and backward of a batch of texts with labels: denoising, teacher-forced, with a decoder of any length.

use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::step::{Lookup, StepOptions, gradients};
use crate::ops::{Loss, text_cross_entropy};
use crate::t5::{GenirModel, NoTap, Pass, T5, T5Config, Tokens};
use crate::task::{DenoisingBatch, IGNORED};

/// A batch of texts and their labels on a device, as `T5ForConditionalGeneration(input_ids, attention_mask, labels)` of
/// transformers takes it.
#[derive(Debug, Clone)]
pub struct TextBatch {
    /// The input of the encoder.
    pub source: Tokens,
    /// The input of the decoder: the labels, shifted right by the start token. `[batch * target]`
    pub decoder_input: Tensor<1, Int>,
    /// Positions that have a label, among `[batch * target]`; `None` if all have one.
    labelled: Option<Tensor<1, Int>>,
    /// Labels of these positions.
    labels: Tensor<1, Int>,
}

impl TextBatch {
    /// From the tokens of the sources and the labels `[batch, target]` in row-major order, [`IGNORED`] where a position
    /// counts for nothing. Padding of the labels comes last in each row: the decoder, which sees what is before a
    /// position, needs no mask for it.
    pub fn new(source: Tokens, labels: &[i32], config: &T5Config, device: &Device) -> Self {
        let target = labels.len() / source.batch.max(1);
        let start = config.decoder_start_token_id as i32;
        let mut shifted = Vec::with_capacity(labels.len());
        for row in labels.chunks(target.max(1)) {
            shifted.push(start);
            let before = row.iter().take(target - 1);
            // As in transformers, what is ignored becomes padding, which is T5's start token.
            shifted.extend(before.map(|&id| if id == IGNORED { start } else { id }));
        }
        let ids = |ids: Vec<i32>| {
            let count = ids.len();
            Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), device)
        };
        let labelled: Vec<i32> =
            (0..).zip(labels).filter(|(_, id)| **id != IGNORED).map(|(at, _)| at).collect();
        let whole = labelled.len() == labels.len();
        Self {
            source,
            decoder_input: ids(shifted),
            labels: ids(labels.iter().copied().filter(|&id| id != IGNORED).collect()),
            labelled: (!whole).then(|| ids(labelled)),
        }
    }

    /// A collated batch on `device`.
    pub fn of(batch: &DenoisingBatch, config: &T5Config, device: &Device) -> Self {
        let source = Tokens::new(&batch.ids, &batch.lengths, device);
        Self::new(source, &batch.labels, config, device)
    }

    /// The tokens that both stacks read: those of the source, then the decoder's. `[batch * (source + target)]`
    fn input_tokens(&self) -> Tensor<1, Int> {
        Tensor::cat(vec![self.source.ids.clone(), self.decoder_input.clone()], 0)
    }

    /// The loss from the embeddings of [`Self::input_tokens`].
    fn loss(
        &self,
        t5: &T5,
        embeddings: Tensor<2>,
        pass: &mut Pass,
        smoothing: f64,
        weight: f64,
    ) -> Loss {
        let output = t5.encode_and_decode(embeddings, &self.source, pass); // [batch * target, d_model]
        let output = match &self.labelled {
            Some(labelled) => output.select(0, labelled.clone()),
            None => output,
        }; // [labels, d_model]
        text_cross_entropy(t5.text_head(output), self.labels.clone(), smoothing, weight)
    }
}

/// Mean loss of the labels of a batch, and the gradients of every trained parameter of `model`: those of transformers'
/// `T5ForConditionalGeneration(..., labels=...)`. Docids take no part.
pub fn forward_backward_text(
    model: &GenirModel,
    batch: &TextBatch,
    options: StepOptions,
) -> (f64, GradientsParams) {
    let mut tap = NoTap;
    let mut pass = Pass::train(&mut tap, options.dropout);
    let lookup = Lookup::new(&model.t5.shared, batch.input_tokens());
    let StepOptions { label_smoothing, weight, .. } = options;
    let loss = batch.loss(&model.t5, lookup.rows.clone(), &mut pass, label_smoothing, weight);
    gradients(model, loss, Some(lookup))
}

/// Mean loss of the labels of a batch without dropout, and their number. `t5` and the batch are on one device without
/// autodiff.
pub fn text_loss(t5: &T5, batch: &TextBatch) -> (f64, usize) {
    let mut tap = NoTap;
    let mut pass = Pass::evaluate(&mut tap);
    let embeddings = t5.shared.forward(batch.input_tokens());
    let loss = batch.loss(t5, embeddings, &mut pass, 0.0, 1.0);
    (f64::from(loss.value.into_scalar::<f32>()), batch.labels.dims()[0])
}
