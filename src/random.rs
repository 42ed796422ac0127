//! Counter-based randomness: the random numbers at position `n` are a function of `hash(seed, n, purpose)`.
//!
//! No generator state is carried from step to step, so a run that is resumed at a position is reproducible.

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Returns a 64-bit key for `(seed, position, purpose)`; purposes have different keys at the same position.
pub fn key(seed: u64, position: u64, purpose: &str) -> u64 {
    // FNV-1a over the purpose, then two rounds of SplitMix64's finaliser to spread the counters.
    let name = purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(mix(seed ^ name).wrapping_add(position))
}

/// Returns the generator of the random numbers for `purpose` at `position`.
pub fn generator(seed: u64, position: u64, purpose: &str) -> impl Rng + use<> {
    Xoshiro256PlusPlus::seed_from_u64(key(seed, position, purpose))
}

/// Shuffles `items` in an order that depends only on `(seed, position, purpose)`.
pub fn shuffle<T>(items: &mut [T], seed: u64, position: u64, purpose: &str) {
    items.shuffle(&mut generator(seed, position, purpose));
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_seed_position_and_purpose() {
        let first = key(1, 2, "dropout");
        assert_eq!(first, key(1, 2, "dropout"));
        assert_ne!(first, key(2, 2, "dropout"));
        assert_ne!(first, key(1, 3, "dropout"));
        assert_ne!(first, key(1, 2, "shuffle"));
    }
}
