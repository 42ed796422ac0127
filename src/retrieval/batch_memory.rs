//! Checks that a batch of queries can be encoded in the memory that there is.

use burn::tensor::Device;
use thiserror::Error;

use super::ranking::EncodedQuery;
use crate::device::is_host;
use crate::run::available_to_process;
use crate::t5::T5Config;

/// The error that a batch of queries does not fit into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a batch of {queries} of the longest queries, of up to {tokens} tokens, needs about {needed} MiB, and the process can \
     have {available} MiB: the machine's memory and swap space, or the limit of its control group; shorten the queries, or \
     take smaller batches"
)]
pub struct BatchTooLarge {
    /// Number of queries of a batch.
    pub queries: usize,
    /// Tokens of the longest query.
    pub tokens: usize,
    /// MiB that a batch needs.
    pub needed: u64,
    /// MiB that the process can have.
    pub available: u64,
}

/// Checks that batches of `batch_size` of these queries can be encoded on `device`: attention needs memory for each pair
/// of tokens of a query. The memory of a GPU is not known here, so nothing is refused there.
///
/// # Errors
/// A batch of the longest queries needs more memory than the process can have.
pub fn check_batch_memory(
    config: &T5Config,
    queries: &[EncodedQuery],
    batch_size: usize,
    device: &Device,
) -> Result<(), BatchTooLarge> {
    let tokens = queries.iter().map(|query| query.tokens.len()).max().unwrap_or(0);
    let queries = batch_size.min(queries.len());
    let needed = config.layer_temporaries(queries, tokens).saturating_mul(size_of::<f32>()) as u64;
    match available_to_process() {
        Some(available) if is_host(device) && needed > available => {
            let (needed, available) = (needed >> 20, available >> 20);
            Err(BatchTooLarge { queries, tokens, needed, available })
        }
        _ => Ok(()),
    }
}
