//! Mean encoder states of texts.

use burn::tensor::Device;

use super::{FrozenModel, FrozenPrefix};
use crate::processes::{Group, ProcessesError};
use crate::t5::T5;

impl FrozenModel<'_> {
    /// Returns the mean of the encoder's states over all tokens of each group of texts, `[groups, d_model]`; zeros for a
    /// group without texts. The encoder's final RMSNorm is applied, dropout is not. Texts are encoded in batches of about
    /// one length, so that memory is bounded by one batch beside the result.
    pub fn mean_states(
        (t5, device, pad_id): (&T5, &Device, u32),
        groups: &[Vec<Vec<u32>>],
    ) -> Vec<f32> {
        let width = t5.config().d_model;
        let prefix = FrozenPrefix::encoder(t5.config().num_decoder_layers);
        let model = FrozenModel { t5, prefix, device, pad_id };
        let mut texts: Vec<(usize, &[u32])> = groups
            .iter()
            .enumerate()
            .flat_map(|(group, texts)| texts.iter().map(move |tokens| (group, tokens.as_slice())))
            .collect();
        // Stable: texts of one length stay in the order of documents.
        texts.sort_by_key(|(_, tokens)| tokens.len());
        let only: Vec<&[u32]> = texts.iter().map(|(_, tokens)| *tokens).collect();
        let mut means = vec![0.0; groups.len() * width];
        let mut begun = 0;
        let computed = model.rows(Group::default(), &only, false, |rows, done| {
            let mut rows = rows.chunks_exact(width); // one for each token
            for (group, tokens) in &texts[begun..done] {
                let mean = &mut means[group * width..][..width];
                for row in rows.by_ref().take(tokens.len()) {
                    mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
            }
            begun = done;
            Ok::<_, ProcessesError>(())
        });
        computed.unwrap_or_else(|_| unreachable!("this process is alone"));
        for (mean, texts) in means.chunks_exact_mut(width).zip(groups) {
            let tokens = texts.iter().map(Vec::len).sum::<usize>().max(1) as f32;
            mean.iter_mut().for_each(|sum| *sum /= tokens);
        }
        means
    }
}
