//! Operations on tensors, with their gradients: each is one function that holds what the CPU and what a GPU computes.
//!
//! On the CPU most are operations of our own on Burn's autodiff graph, with gradients in closed form, made of the loops
//! of `kernel`. Elsewhere they are Burn's operations. `autograd` alone knows the insides of Burn's autodiff, and `host`
//! those of its CPU device.

mod absorbed_attention;
mod activation;
mod adapted;
#[cfg(test)]
mod agreement;
mod attend;
mod attention;
mod autograd;
mod cross_attention;
mod cross_entropy;
mod dropout;
mod head;
mod host;
mod linear;
mod rms_norm;
mod self_attention;

pub use absorbed_attention::{AbsorbedAttention, absorbed_attention};
pub use activation::{gated_gelu, relu};
pub use adapted::{AdaptedWeight, LowRankFactors};
pub use attention::{
    absorbed_scores, absorbed_values, attention_scores, merge_heads, split_heads, weighted_values,
};
pub use cross_attention::{CrossAttention, cross_attention};
pub(crate) use cross_entropy::{
    HostLogitGradients, LogitGradients, Round, gradient_block, largest_shard, most_shards, owner,
    shard, task_rows,
};
pub use cross_entropy::{Loss, cross_entropy, cross_entropy_of_logits, text_cross_entropy};
pub use dropout::Dropout;
pub use head::{Head, Logits, TextHead};
pub(crate) use host::{HostTensor, floats};
pub use linear::{WeightLayout, linear};
pub use rms_norm::rms_norm;
pub use self_attention::{SelfAttention, self_attention};
