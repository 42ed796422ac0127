//! Initial docid rows, as `docids.rows` says.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::Device;

use super::plan::Plan;
use crate::docid::{RowInit, TokenizerError};
use crate::prefix::FrozenModel;
use crate::recipe::Init;
use crate::t5::T5;
use crate::t5::weights;

impl Plan {
    /// The `rows` of those for all documents as `docids.rows` says, `[rows, d_model]`. `t5` is on `device`, with or without
    /// autodiff.
    pub(super) fn new_rows(
        &self,
        t5: &T5,
        device: &Device,
        rows: Range<usize>,
    ) -> Result<Vec<f32>, TokenizerError> {
        match self.recipe.docids.rows {
            RowInit::Random => Ok(weights::random_rows(t5.config(), rows, self.recipe.run.seed)),
            RowInit::Text => {
                let tokens: Vec<Vec<u32>> =
                    self.document_tokens(rows)?.iter().map(|texts| texts.concat()).collect();
                Ok(weights::rows_from_text(t5, &tokens))
            }
            RowInit::Encoder => {
                let model = (&t5.valid(), &device.clone().inner(), self.tokenizer.pad_id());
                let mut made = FrozenModel::mean_states(model, &self.document_tokens(rows)?);
                // States after a norm are larger or smaller than embeddings by a factor of the model's own. The logits of
                // docids and text tokens share one softmax, so rows begin with the size of text token rows.
                weights::scale_to_text_rows(t5, &mut made);
                Ok(made)
            }
        }
    }

    /// The tokens of each text of each document in `rows`; a document without text has `</s>`.
    fn document_tokens(&self, rows: Range<usize>) -> Result<Vec<Vec<Vec<u32>>>, TokenizerError> {
        let encoding = self.recipe.task.encoding().documents();
        let documents = &self.corpus.documents[rows];
        let texts: Vec<&str> = documents
            .iter()
            .flat_map(|document| match document.texts.as_slice() {
                [] => vec![""],
                texts => texts.iter().map(String::as_str).collect(),
            })
            .collect();
        let mut encoded = self.tokenizer.encode_batch(&texts, &encoding)?.into_iter();
        let of_document = |texts: usize| encoded.by_ref().take(texts.max(1)).collect();
        Ok(documents.iter().map(|document| document.texts.len()).map(of_document).collect())
    }

    /// A warning if docid rows are made by an encoder that has learnt nothing.
    pub(super) fn untrained_encoder(&self) -> Option<String> {
        let is_untrained = self.recipe.model.init == Init::Scratch;
        (is_untrained && self.recipe.docids.rows == RowInit::Encoder).then(|| {
            "docids.rows: \"encoder\" takes the states of an encoder with random weights (model.init = \"scratch\"): \
             they tell documents apart by their words and mean nothing more; \"text\" does the same without the encoder"
                .to_owned()
        })
    }
}
