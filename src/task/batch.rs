//! Batches: examples padded to one length.

use super::Examples;

/// Some examples, padded to one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `[size, length]` row after row, padded at the end of each row.
    pub ids: Vec<i32>,
    /// Tokens of each example that are not padding.
    pub lengths: Vec<u32>,
    /// Length of every row.
    pub length: usize,
    /// Docid row of each example.
    pub targets: Vec<u32>,
    /// Index of each example in its [`Examples`].
    pub examples: Vec<u32>,
}

impl Batch {
    /// Number of examples.
    pub fn size(&self) -> usize {
        self.examples.len()
    }
}

/// Puts the examples at `indices` into one batch. Its length is the longest example's, rounded up to a
/// multiple of `round_to`: kernels that are compiled for each shape see few of them then (1: as it is).
///
/// # Panics
///
/// When an index is not below the number of examples, as indexing does.
pub fn assemble(examples: &Examples, indices: &[u32], pad_id: u32, round_to: usize) -> Batch {
    let longest =
        indices.iter().map(|&index| examples.tokens(index as usize).len()).max().unwrap_or(0);
    let length = longest.next_multiple_of(round_to.max(1));
    let mut batch = Batch {
        ids: Vec::with_capacity(indices.len() * length),
        lengths: Vec::with_capacity(indices.len()),
        length,
        targets: Vec::with_capacity(indices.len()),
        examples: indices.to_vec(),
    };
    for (row, &index) in indices.iter().enumerate() {
        let tokens = examples.tokens(index as usize);
        batch.ids.extend(tokens.iter().map(|&id| id as i32));
        batch.ids.resize((row + 1) * length, pad_id as i32);
        batch.lengths.push(tokens.len() as u32);
        batch.targets.push(examples.target(index as usize));
    }
    batch
}
