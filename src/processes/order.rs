//! The orders of the first process to the others.

/// The next thing that all processes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// They train the next update, or go on with what precedes the first.
    Update,
    /// They compute a share of the frozen prefix of some texts, and send it to the first process.
    Prefix {
        /// A number that tells these texts from others.
        texts: u64,
        /// The batches that are computed now: one for each process, in their order, after those of earlier rounds.
        round: usize,
    },
    /// They rank a share of the queries of a set.
    Rank {
        /// The place of the set among those that the run evaluates.
        set: usize,
        /// The batches of the set that are ranked now: one for each process, in their order, after those of earlier rounds.
        round: usize,
    },
    /// They compute a share of the denoising loss of held-out documents.
    HeldOut,
    /// They measure some probes together with the first process, each on other batches of queries.
    Probe {
        /// A bit for each of the probes that the recipe names, in its order.
        probes: u64,
    },
    /// They send values of their docid rows to the first process.
    Rows {
        /// The rows themselves (0), or the number of a moment of their optimizer, from 1.
        what: usize,
    },
    /// The training has ended.
    End,
}

impl Order {
    /// The order as a message.
    #[cfg_attr(not(feature = "mpi"), expect(dead_code, reason = "nothing is sent"))]
    pub(super) fn to_words(self) -> [u64; 3] {
        match self {
            Self::Update => [0, 0, 0],
            Self::Rank { set, round } => [1, set as u64, round as u64],
            Self::Probe { probes } => [2, probes, 0],
            Self::Prefix { texts, round } => [3, texts, round as u64],
            Self::Rows { what } => [4, what as u64, 0],
            Self::HeldOut => [5, 0, 0],
            Self::End => [6, 0, 0],
        }
    }

    /// The order of a message.
    #[cfg_attr(not(feature = "mpi"), expect(dead_code, reason = "nothing is received"))]
    pub(super) fn of_words(words: [u64; 3]) -> Self {
        match words {
            [0, ..] => Self::Update,
            [1, set, round] => Self::Rank { set: set as usize, round: round as usize },
            [2, probes, _] => Self::Probe { probes },
            [3, texts, round] => Self::Prefix { texts, round: round as usize },
            [4, what, _] => Self::Rows { what: what as usize },
            [5, ..] => Self::HeldOut,
            _ => Self::End,
        }
    }
}
