//! Dropout whose masks are a pure function of a key and of how many masks were drawn before.
//!
//! Burn's own Bernoulli draws a ChaCha word and compares floats for each value: 22% of a step of the
//! quickstart. Here one 64-bit word decides on four values, in parallel.

use burn::tensor::{Device, Distribution, Tensor, TensorData};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;

use crate::device::is_host;
use crate::random;

/// Values that one generator draws. Part of what a seed means: another size gives other masks.
const CHUNK: usize = 1 << 14;

/// The dropout of one training pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability that a value is dropped, from 0 to below 1; kept to 1/65,536.
    pub probability: f64,
    /// All masks of the pass follow from it: see [`crate::random::key`].
    pub key: u64,
}

impl Dropout {
    /// Mask number `draw` of the pass, for values of shape `dims`: 0 where a value is dropped, elsewhere
    /// `1 / (1 - probability)`, so that the mean stays. On a GPU this seeds the device's generator: random numbers that
    /// are drawn there afterwards depend on the key.
    pub fn mask<const D: usize>(&self, dims: [usize; D], draw: u64, device: &Device) -> Tensor<D> {
        let keep = 1.0 - self.probability;
        let key = random::key(self.key, draw, "mask");
        if is_host(device) {
            let values = mask(dims.iter().product(), keep, key);
            Tensor::from_data(TensorData::new(values, dims), device)
        } else {
            // Drawn on the GPU: moving a mask there takes longer than the step.
            device.seed(key);
            let mask = Tensor::random(dims, Distribution::Bernoulli(keep), device);
            mask.mul_scalar(1.0 / keep)
        }
    }
}

/// `count` values: `1 / keep` with probability `keep`, else 0.
fn mask(count: usize, keep: f64, key: u64) -> Vec<f32> {
    let kept = (1.0 / keep) as f32;
    // So many of the 65,536 values of 16 bits mean that a value is kept.
    let threshold = (keep * 65_536.0).round() as u32;
    let mut values = vec![0.0; count];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        let seed = random::key(key, chunk as u64, "chunk");
        let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
        for four in values.chunks_mut(4) {
            let word = generator.next_u64();
            for (at, value) in four.iter_mut().enumerate() {
                let draw = (word >> (16 * at)) as u16;
                *value = if u32::from(draw) < threshold { kept } else { 0.0 };
            }
        }
    });
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_keeps_its_share_and_follows_from_its_key() {
        let values = mask(1_000_000, 0.9, 7);
        let dropped = values.iter().filter(|&&value| value == 0.0).count();
        assert!((99_000..101_000).contains(&dropped), "{dropped} of 1,000,000");
        assert!(values.iter().all(|&value| value == 0.0 || value == 1.0 / 0.9_f32));
        assert_eq!(values, mask(1_000_000, 0.9, 7));
        assert_ne!(values, mask(1_000_000, 0.9, 8));
    }
}
