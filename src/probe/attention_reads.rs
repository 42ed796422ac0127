//! P7 (Fig. 5 left): input attribution of cross-attention by source component.
//!
//! For each head, the highest attention score is decomposed into the contributions of the components before it.

use burn::tensor::{Int, Tensor, TensorData};

use super::ProbeResult;
use super::context::{ProbeContext, ProbedBatch};
use super::input_attribution::{Attribution, Contributions, ReadAccumulator, sources};
use crate::component::Component;
use crate::t5::{AttentionBlock, EncoderStates, Linear};

/// Returns the accumulator of the probe.
pub(super) fn accumulator(context: &ProbeContext) -> ReadAccumulator {
    ReadAccumulator::new(context, add_batch, ProbeResult::AttentionReads)
}

fn add_batch(all: &mut Attribution, context: &ProbeContext, batch: &ProbedBatch) {
    for (layer, block) in context.model.t5.decoder.layers.iter().enumerate() {
        let found = &batch.trace.layers[layer];
        let block = &block.cross_attention;
        let best = found.scores.clone().argmax(2); // [batch, heads, 1]
        let score = found.scores.clone().gather(2, best.clone()).squeeze_dim::<2>(2); // [batch, heads]
        // `argmax` may skip a NaN; the position and its score are then undefined.
        let is_undefined = found.scores.clone().is_nan().any_dim(2).squeeze_dim::<2>(2);
        let score = score.mask_fill(is_undefined, f32::NAN);
        let directions = score_directions(block, &batch.states, best.squeeze_dim(2)); // [batch, d_model, heads]
        let sources = sources(&batch.trace, layer, Component::CrossAttention);
        let read = all.as_reader_input(sources, &block.norm, &found.residual_mid);
        all.add(
            layer,
            Contributions {
                parts: read.matmul(directions), // [batch, sources, heads]
                active: score.ones_like(),
                whole: score,
            },
        );
    }
}

/// `W_Q^T k` with each head's key at its `best` position (`[batch, heads]`), `[batch, d_model, heads]`. The dot product
/// of a vector of the residual stream with it is the vector's contribution to the score.
fn score_directions(
    block: &AttentionBlock,
    states: &EncoderStates,
    best: Tensor<2, Int>,
) -> Tensor<3> {
    let [batch, heads] = best.dims();
    let [rows, d_model] = states.rows.dims();
    let first: Vec<i32> = (0..batch).map(|query| (query * rows / batch) as i32).collect();
    let first = TensorData::new(first, [batch, 1]);
    let first = Tensor::<2, Int>::from_data(first, &states.rows.device());
    let at = (best + first).reshape([batch * heads]);
    let attended = states.rows.clone().select(0, at).reshape([batch, heads, d_model]);
    let by_head = |matrix: &Linear| {
        let matrix = matrix.weight.val(); // [d_model, heads * d_kv]
        let [_, inner] = matrix.dims();
        matrix.reshape([d_model, heads, inner / heads]).swap_dims(0, 1) // [heads, d_model, d_kv]
    };
    let key = attended.swap_dims(0, 1).matmul(by_head(&block.key)); // [heads, batch, d_kv]
    let directions = key.matmul(by_head(&block.query).swap_dims(1, 2)); // [heads, batch, d_model]
    directions.permute([1, 2, 0]) // [batch, d_model, heads]
}
