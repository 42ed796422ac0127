//! Batches of examples, padded to a common length.

use super::Examples;

/// A batch of examples, padded to a common length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `[size, length]` in row-major order, padded at the end of each row.
    pub ids: Vec<i32>,
    /// Number of tokens of each example without padding.
    pub lengths: Vec<u32>,
    /// Length of each row, in tokens.
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

/// Collates the examples at `indices` into one batch. Its length is that of the longest example, rounded up to a
/// multiple of `pad_to_multiple_of`, which reduces the number of shapes that kernels are compiled for (1: not rounded).
///
/// # Panics
///
/// Panics if an index is not below the number of examples, as indexing does.
pub fn collate(
    examples: &Examples,
    indices: &[u32],
    pad_id: u32,
    pad_to_multiple_of: usize,
) -> Batch {
    let longest =
        indices.iter().map(|&index| examples.tokens(index as usize).len()).max().unwrap_or(0);
    let length = longest.next_multiple_of(pad_to_multiple_of.max(1));
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
