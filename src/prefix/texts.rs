//! Sets of distinct texts, each known by its tokens.

use std::collections::HashMap;

/// The key of a text: half of the BLAKE3 of its tokens.
pub(super) type TextKey = [u8; 16];

/// The key of a text.
pub(super) fn key_of(tokens: &[u32]) -> TextKey {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = [0; 256];
    for part in tokens.chunks(64) {
        for (to, token) in bytes.chunks_exact_mut(4).zip(part) {
            to.copy_from_slice(&token.to_le_bytes());
        }
        hasher.update(&bytes[..part.len() * 4]);
    }
    let mut key = TextKey::default();
    hasher.finalize_xof().fill(&mut key);
    key
}

/// Distinct texts, shortest first: batches of neighbours then have little padding, both when they are computed and
/// when the sampler asks for texts of about one length.
pub(super) struct Texts<'a> {
    /// The tokens of each.
    pub tokens: Vec<&'a [u32]>,
    /// Where each is in `tokens`.
    pub places: HashMap<TextKey, u32>,
}

impl<'a> Texts<'a> {
    /// The distinct ones of `texts`.
    pub fn distinct(texts: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut keyed: HashMap<TextKey, &[u32]> = HashMap::new();
        for tokens in texts {
            keyed.entry(key_of(tokens)).or_insert(tokens);
        }
        let mut keyed: Vec<(TextKey, &[u32])> = keyed.into_iter().collect();
        // By key where lengths are equal: one set of texts has one order, wherever it came from.
        keyed.sort_unstable_by_key(|(key, tokens)| (tokens.len(), *key));
        let places = (0..).zip(&keyed).map(|(place, (key, _))| (*key, place)).collect();
        Self { tokens: keyed.into_iter().map(|(_, tokens)| tokens).collect(), places }
    }

    /// Returns the number of texts.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Hashes all of them.
    pub fn hash(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&(self.len() as u64).to_le_bytes());
        for tokens in &self.tokens {
            hasher.update(&(tokens.len() as u64).to_le_bytes());
            let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
            hasher.update(&bytes);
        }
    }

    /// A number that tells the set from others: the beginning of a hash.
    pub fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        self.hash(&mut hasher);
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Where the rows of each begin, and where the last end: a row a token, and one more with `residual`.
    pub fn starts(&self, residual: bool) -> Vec<u64> {
        let mut starts = Vec::with_capacity(self.len() + 1);
        let mut at = 0;
        starts.push(at);
        for tokens in &self.tokens {
            at += tokens.len() as u64 + u64::from(residual);
            starts.push(at);
        }
        starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_one_order_and_no_text_twice() {
        let texts: [&[u32]; 5] = [&[5, 1], &[7, 8, 1], &[5, 1], &[6, 1], &[1]];
        let one = Texts::distinct(texts);
        let other = Texts::distinct(texts.into_iter().rev());
        assert_eq!(one.tokens, other.tokens);
        assert_eq!(one.len(), 4);
        assert!(one.tokens.iter().map(|tokens| tokens.len()).is_sorted());
        for (place, tokens) in one.tokens.iter().enumerate() {
            assert_eq!(one.places[&key_of(tokens)], place as u32);
        }
        assert_eq!(one.starts(false), [0, 1, 3, 5, 8]);
        assert_eq!(one.starts(true), [0, 2, 5, 8, 12]);
    }
}
