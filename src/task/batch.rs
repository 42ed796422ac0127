//! Batches of examples, padded to a common length.

use super::{Corrupted, Denoising, Examples, Sentinels};

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

/// A batch, or the part of it that has one kind of targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchPart {
    /// Number of batches before it in the run.
    pub batch: u64,
    /// Its examples.
    pub examples: PartExamples,
}

/// Examples with one kind of targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartExamples {
    /// Indices of examples whose target is a docid.
    Docids(Vec<u32>),
    /// Indices of denoising examples, each with the position that its spans are a function of.
    Denoising(Vec<(u32, u64)>),
}

impl PartExamples {
    /// Number of examples.
    pub fn len(&self) -> usize {
        match self {
            Self::Docids(examples) => examples.len(),
            Self::Denoising(examples) => examples.len(),
        }
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The label of a position that counts for nothing, as in PyTorch's `cross_entropy` and in transformers.
pub const IGNORED: i32 = -100;

/// A batch of corrupted texts and their labels, each padded to a common length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenoisingBatch {
    /// Token ids of the corrupted texts, `[size, length]` in row-major order, padded at the end of each row.
    pub ids: Vec<i32>,
    /// Number of tokens of each corrupted text without padding.
    pub lengths: Vec<u32>,
    /// Length of each row of `ids`.
    pub length: usize,
    /// Labels, `[size, target_length]`: what was replaced, [`IGNORED`] at padding.
    pub labels: Vec<i32>,
    /// Number of labels of each example without padding.
    pub target_lengths: Vec<u32>,
    /// Length of each row of `labels`.
    pub target_length: usize,
}

impl DenoisingBatch {
    /// Number of examples.
    pub fn size(&self) -> usize {
        self.lengths.len()
    }

    /// Number of labels without padding.
    pub fn label_count(&self) -> u64 {
        self.target_lengths.iter().map(|&length| u64::from(length)).sum()
    }
}

/// Corrupts the denoising examples in `chosen`, each an index and the position that its spans are a function of, with
/// `seed`, and collates them into one batch; see [`collate`].
///
/// # Panics
///
/// Panics if an index is not below the number of examples, as indexing does.
pub fn collate_corrupted(
    examples: &Examples,
    chosen: &[(u32, u64)],
    (denoising, sentinels): (&Denoising, &Sentinels),
    seed: u64,
    pad_id: u32,
    pad_to_multiple_of: usize,
) -> DenoisingBatch {
    let corrupt = |&(index, position): &(u32, u64)| {
        Corrupted::new(examples.tokens(index as usize), denoising, sentinels, (seed, position))
    };
    let corrupted: Vec<Corrupted> = chosen.iter().map(corrupt).collect();
    let multiple = pad_to_multiple_of.max(1);
    let longest = |length: fn(&Corrupted) -> usize| {
        corrupted.iter().map(length).max().unwrap_or(0).next_multiple_of(multiple)
    };
    let mut batch = DenoisingBatch {
        ids: Vec::new(),
        lengths: Vec::with_capacity(chosen.len()),
        length: longest(|corrupted| corrupted.source.len()),
        labels: Vec::new(),
        target_lengths: Vec::with_capacity(chosen.len()),
        target_length: longest(|corrupted| corrupted.target.len()),
    };
    for (row, Corrupted { source, target }) in corrupted.iter().enumerate() {
        batch.ids.extend(source.iter().map(|&id| id as i32));
        batch.ids.resize((row + 1) * batch.length, pad_id as i32);
        batch.lengths.push(source.len() as u32);
        batch.labels.extend(target.iter().map(|&id| id as i32));
        batch.labels.resize((row + 1) * batch.target_length, IGNORED);
        batch.target_lengths.push(target.len() as u32);
    }
    batch
}
