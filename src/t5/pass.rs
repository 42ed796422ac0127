//! One walk through the model: its tap and its dropout.

use burn::tensor::{Distribution, Tensor};

use super::tap::{Hook, Site, Stack, Tap};

/// What a forward pass carries besides activations.
pub struct Pass<'a> {
    tap: &'a mut dyn Tap,
    dropout: f64,
}

impl<'a> Pass<'a> {
    /// A pass without dropout, as for evaluation, probes and caches.
    pub fn evaluate(tap: &'a mut dyn Tap) -> Self {
        Self { tap, dropout: 0.0 }
    }

    /// A training pass that drops each value with probability `dropout`.
    ///
    /// Masks come from the device's generator: seed it (`Device::seed`) by the step before the pass,
    /// so that they are a function of the step alone.
    pub fn train(tap: &'a mut dyn Tap, dropout: f64) -> Self {
        Self { tap, dropout }
    }

    /// Drops values with the pass's probability and scales up the rest, as transformers does.
    pub(super) fn dropout<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if self.dropout == 0.0 {
            return x;
        }
        let keep = 1.0 - self.dropout;
        let mask = Tensor::random(x.dims(), Distribution::Bernoulli(keep), &x.device().inner());
        x * Tensor::from_inner(mask.mul_scalar(1.0 / keep))
    }

    pub(super) fn wants(&self, site: Site) -> bool {
        self.tap.wants(site)
    }

    /// Passes rows `[batch * position, width]` to the tap as `[batch, position, width]`, if it wants them.
    pub(super) fn stream(&mut self, at: Place, hook: Hook, rows: Tensor<2>) -> Tensor<2> {
        let site = at.site(hook);
        if !self.tap.wants(site) {
            return rows;
        }
        let [n, width] = rows.dims();
        let value = rows.reshape([at.batch, n / at.batch, width]);
        self.tap.stream(site, value).reshape([n, width])
    }

    /// Passes a rank-4 activation to the tap, if it wants it.
    pub(super) fn heads(&mut self, at: Place, hook: Hook, value: Tensor<4>) -> Tensor<4> {
        let site = at.site(hook);
        if self.tap.wants(site) { self.tap.heads(site, value) } else { value }
    }
}

/// Where in the model a pass is, and how many examples it carries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub stack: Stack,
    pub layer: usize,
    pub batch: usize,
}

impl Place {
    pub fn site(self, hook: Hook) -> Site {
        Site { stack: self.stack, layer: self.layer, hook }
    }
}
