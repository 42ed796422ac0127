//! Forward and backward of one batch.

use std::convert::Infallible;

use burn::optim::GradientsParams;
use burn::tensor::{Gradients, IndexingUpdateOp, Int, Tensor};

use crate::ops::{Dropout, Head, Loss, cross_entropy};
use crate::prefix::PrefixOutput;
use crate::t5::{Embedding, GenirModel, NoTap, Pass, Tokens};

/// Options of a training step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOptions {
    /// Dropout of this batch.
    pub dropout: Dropout,
    /// Share of the target that is spread over the whole output vocabulary.
    pub label_smoothing: f64,
    /// Factor on the gradients: the share of an update's examples that are in this batch, so that all of them weigh the
    /// same.
    pub weight: f64,
}

/// The input of a training step.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on the stack")]
pub enum StepInput {
    /// The texts, where the encoder or the word embedding is trained.
    Tokens(Tokens),
    /// The output of the frozen prefix for them, without autodiff.
    Prefix(PrefixOutput),
}

/// Mean loss of a batch, and the gradients of every trained parameter of `model`.
///
/// `targets`: docid rows, `[batch]`.
pub fn forward_backward(
    model: &GenirModel,
    input: StepInput,
    targets: Tensor<1, Int>,
    options: StepOptions,
) -> (f64, GradientsParams) {
    let loss = |head| cross_entropy(head, targets, options.label_smoothing, options.weight);
    match forward_backward_with(model, input, options.dropout, |head| {
        Ok::<_, Infallible>(loss(head))
    }) {
        Ok(found) => found,
        Err(never) => match never {},
    }
}

/// The same with a loss that is computed from the output layer by `loss`, which may fail.
pub(super) fn forward_backward_with<E>(
    model: &GenirModel,
    input: StepInput,
    dropout: Dropout,
    loss: impl FnOnce(Head) -> Result<Loss, E>,
) -> Result<(f64, GradientsParams), E> {
    let mut tap = NoTap;
    let mut pass = Pass::train(&mut tap, dropout);
    let (output, lookup) = match input {
        StepInput::Tokens(source) => {
            let lookup = Lookup::new(&model.t5.shared, model.t5.input_tokens(&source));
            let rows = lookup.rows.clone();
            (model.t5.encode_and_decode_start(rows, &source, &mut pass), Some(lookup))
        }
        StepInput::Prefix(prefix) => (prefix.on_graph().output(&model.t5, &mut pass), None),
    }; // [batch, d_model]
    Ok(gradients(model, loss(model.head(output))?, lookup))
}

/// The value of a loss, and the gradients of every trained parameter of `model`, the `lookup` of its word embedding among
/// them.
pub(super) fn gradients(
    model: &GenirModel,
    loss: Loss,
    lookup: Option<Lookup>,
) -> (f64, GradientsParams) {
    let value = loss.value.into_scalar::<f32>();
    if !loss.root.is_tracked() {
        // Nothing is trained but docid rows that are divided among processes: their gradient is computed apart.
        return (f64::from(value), GradientsParams::new());
    }
    let mut found = loss.root.backward();
    let mut gradients = GradientsParams::from_module(&mut found, model);
    if let Some(lookup) = lookup {
        lookup.add_gradient(&mut found, &model.t5.shared, &mut gradients);
    }
    (f64::from(value), gradients)
}

/// Rows of a word embedding as a step reads them: a leaf of the graph, not an operation on the embedding.
///
/// The gradient of that operation would be as large as the embedding: cleared, filled in a few rows and added to the
/// output matrix's at each step.
pub(super) struct Lookup {
    /// `[words read]`
    ids: Tensor<1, Int>,
    /// `[words read, d_model]`
    pub(super) rows: Tensor<2>,
}

impl Lookup {
    pub(super) fn new(embedding: &Embedding, ids: Tensor<1, Int>) -> Self {
        let ids = ids.inner();
        let rows = embedding.weight.val().inner().select(0, ids.clone());
        let rows = Tensor::from_inner(rows).set_require_grad(embedding.weight.is_require_grad());
        Self { ids, rows }
    }

    /// Adds what the backward pass has `found` for the rows to the gradient of `embedding`, in place; nothing where it
    /// is frozen.
    fn add_gradient(
        self,
        found: &mut Gradients,
        embedding: &Embedding,
        gradients: &mut GradientsParams,
    ) {
        let Some(rows) = self.rows.grad_remove(found) else { return };
        let weight = &embedding.weight;
        // A tied embedding has one from the output matrix.
        let whole = gradients
            .remove::<2>(weight.id)
            .unwrap_or_else(|| Tensor::zeros(weight.dims(), &rows.device())); // [words, d_model]
        let sum = whole.select_assign(0, self.ids, rows, IndexingUpdateOp::Add);
        gradients.register(weight.id, sum);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use burn::tensor::{Device, TensorData};
    use serde_json::json;

    use super::*;
    use crate::component::freeze_all_but;
    use crate::ops::cross_entropy_of_logits;
    use crate::t5::{T5Config, weights};

    const OPTIONS: StepOptions = StepOptions {
        dropout: Dropout { probability: 0.2, key: 3 },
        label_smoothing: 0.1,
        weight: 0.5,
    };

    fn model(tied: bool) -> GenirModel {
        let device = Device::flex().autodiff();
        let config = json!({
            "d_model": 16, "d_kv": 6, "d_ff": 20, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 3,
            "vocab_size": 23, "feed_forward_proj": "relu", "tie_word_embeddings": tied,
        });
        let config = T5Config::from_json(Path::new("config.json"), &config.to_string()).unwrap();
        let t5 = weights::initialise(&config, 3, &device);
        let values = (0..7 * 16).map(|at| (at as f32).sin()).collect();
        let rows = Tensor::from_data(TensorData::new(values, [7, 16]), &device);
        let docids = Embedding { weight: burn::module::Param::from_tensor(rows) };
        GenirModel { t5, docids }
    }

    fn batch() -> (Tokens, Tensor<1, Int>) {
        let device = Device::flex().autodiff();
        // Words come more than once, within an example and in several; the start token, 0, is padding too.
        let ids = [4, 5, 4, 1, 5, 9, 1, 0, 22, 4, 4, 1];
        let targets = Tensor::from_data(TensorData::new(vec![6, 0, 3], [3]), &device);
        (Tokens::new(&ids, &[4, 3, 4], &device), targets)
    }

    /// Of the word embedding, with the lookup left to autodiff.
    fn gradient_by_autodiff(model: &GenirModel) -> Vec<f32> {
        let (source, targets) = batch();
        let mut tap = NoTap;
        let mut pass = Pass::train(&mut tap, OPTIONS.dropout);
        let embeddings = model.t5.shared.forward(model.t5.input_tokens(&source));
        let output = model.t5.encode_and_decode_start(embeddings, &source, &mut pass);
        let logits = model.logits(output);
        let loss =
            cross_entropy_of_logits(logits, targets, OPTIONS.label_smoothing, OPTIONS.weight);
        let gradients = loss.root.backward();
        let gradient = model.t5.shared.weight.val().grad(&gradients).unwrap();
        gradient.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn the_word_embedding_gets_the_gradient_of_all_lookups_and_of_a_tied_output_matrix() {
        for tied in [true, false] {
            let model = model(tied);
            let expected = gradient_by_autodiff(&model);
            let (source, targets) = batch();
            let (_, gradients) =
                forward_backward(&model, StepInput::Tokens(source), targets, OPTIONS);
            let found = gradients.get::<2>(model.t5.shared.weight.id).unwrap();
            let found: Vec<f32> = found.into_data().try_to_vec().unwrap();
            let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            assert!(largest > 0.0);
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let near = (found - expected).abs() <= 1e-5 * largest;
                assert!(near, "tied: {tied}, row {}: {found}, not {expected}", at / 16);
            }
        }
    }

    #[test]
    fn a_frozen_word_embedding_gets_no_gradient() {
        let trained = BTreeSet::from(["docids.weight".to_owned()]);
        let model = freeze_all_but(model(true), &trained);
        let (source, targets) = batch();
        let (_, gradients) = forward_backward(&model, StepInput::Tokens(source), targets, OPTIONS);
        assert!(gradients.get::<2>(model.t5.shared.weight.id).is_none());
        assert_eq!(gradients.len(), 1, "that of the docids");
    }
}
