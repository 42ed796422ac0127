//! One forward pass: its tap and its dropout.

use burn::tensor::{Device, Tensor};

use super::tap::{Hook, Site, Tap};
use crate::component::Stack;
use crate::device::Precision;
use crate::ops::Dropout;

/// The state of a forward pass: its tap, dropout and precision.
pub struct Pass<'a> {
    tap: &'a mut dyn Tap,
    dropout: Option<Dropout>,
    /// Dropout masks drawn so far.
    draws: u64,
    /// Precision of products with weights on a GPU, set by the model.
    pub(super) precision: Precision,
}

impl<'a> Pass<'a> {
    /// A pass without dropout, as for evaluation, probes and caches. One pass may go through [`crate::t5::T5::encode`]
    /// and then `decode_start`.
    pub fn evaluate(tap: &'a mut dyn Tap) -> Self {
        Self { tap, dropout: None, draws: 0, precision: Precision::default() }
    }

    /// A training pass with dropout. Each batch needs a pass and a key of its own: all masks follow from the key.
    pub fn train(tap: &'a mut dyn Tap, dropout: Dropout) -> Self {
        let dropout = (dropout.probability > 0.0).then_some(dropout);
        Self { tap, dropout, draws: 0, precision: Precision::default() }
    }

    /// Drops values with the pass's probability and scales up the rest, where transformers does.
    pub(super) fn dropout<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        match self.dropout_mask(x.dims(), &x.device()) {
            Some(mask) => x * mask,
            None => x,
        }
    }

    /// The mask that [`Self::dropout`] multiplies values of these dimensions by; `None` without dropout.
    pub(super) fn dropout_mask<const D: usize>(
        &mut self,
        dims: [usize; D],
        device: &Device,
    ) -> Option<Tensor<D>> {
        let dropout = self.dropout?;
        self.draws += 1;
        Some(dropout.mask(dims, self.draws, device))
    }

    /// Returns whether the tap wants one of these activations.
    pub(super) fn wants_any(&self, at: LayerContext, hooks: &[Hook]) -> bool {
        hooks.iter().any(|&hook| self.tap.wants(at.site(hook)))
    }

    /// The output of a component, `[batch * position, d_model]`: what the tap puts in its place, or what `component`
    /// makes of its input `x` of the same shape.
    pub(super) fn output_of(
        &mut self,
        at: LayerContext,
        hook: Hook,
        x: Tensor<2>,
        component: impl FnOnce(Tensor<2>, &mut Self) -> Tensor<2>,
    ) -> Tensor<2> {
        let [n, d_model] = x.dims();
        match self.tap.replace_output(at.site(hook), [at.batch, n / at.batch, d_model]) {
            Some(instead) => {
                check_shape(instead.dims(), [at.batch, n / at.batch, d_model], at.site(hook));
                instead.reshape([n, d_model])
            }
            None => component(x, self),
        }
    }

    /// Passes rows `[batch * position, width]` to the tap as `[batch, position, width]`, if it wants them.
    pub(super) fn stream(&mut self, at: LayerContext, hook: Hook, rows: Tensor<2>) -> Tensor<2> {
        let site = at.site(hook);
        if !self.tap.wants(site) {
            return rows;
        }
        let [n, width] = rows.dims();
        let shape = [at.batch, n / at.batch, width];
        let value = self.tap.stream(site, rows.reshape(shape));
        check_shape(value.dims(), shape, site);
        value.reshape([n, width])
    }

    /// Passes a rank-4 activation to the tap, if it wants it.
    pub(super) fn heads(&mut self, at: LayerContext, hook: Hook, value: Tensor<4>) -> Tensor<4> {
        let site = at.site(hook);
        if !self.tap.wants(site) {
            return value;
        }
        let shape = value.dims();
        let value = self.tap.heads(site, value);
        check_shape(value.dims(), shape, site);
        value
    }
}

/// Panics if a tap has returned another shape than it was given: reshaped, it would give wrong numbers without an
/// error.
fn check_shape<const D: usize>(found: [usize; D], expected: [usize; D], site: Site) {
    assert_eq!(found, expected, "shape of the tensor that a tap returned at {site}");
}

/// Where in the model a pass is, and how many examples it carries.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerContext {
    pub stack: Stack,
    pub layer: usize,
    pub batch: usize,
}

impl LayerContext {
    pub fn site(self, hook: Hook) -> Site {
        Site { stack: self.stack, layer: self.layer, hook }
    }
}
