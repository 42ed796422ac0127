//! Memory that a forward pass needs at once.

use super::T5Config;

impl T5Config {
    /// Returns the number of floats that one encoder layer allocates for `examples` texts of `length` tokens, if nothing
    /// is saved for the backward pass. It grows with the square of the length.
    pub(crate) fn layer_temporaries(&self, examples: usize, length: usize) -> usize {
        let tokens = examples.saturating_mul(length);
        let scores = tokens.saturating_mul(length).saturating_mul(2 * self.num_heads);
        let attention = (4 * self.inner()).saturating_mul(tokens).saturating_add(scores);
        let hidden = tokens.saturating_mul(self.d_ff);
        (2 * self.d_model).saturating_mul(tokens).saturating_add(attention.max(hidden))
    }
}
