//! The arithmetic of a step alone: its matrix products, with the sizes and the library that the step has.
//!
//! All other operations are left out: norms, softmax, loss, optimizer, and copies in memory.

use std::time::Instant;

use burn::module::Param;
use burn::tensor::{Device, Distribution, Tensor};
use genir::component::Stages;
use genir::device::Precision;
use genir::t5::{Embedding, Linear};

use super::Arguments;
use super::shape::D_KV;

/// A product, as often as a step makes it.
struct Product {
    /// Products side by side; 1 is a product with a weight.
    batch: usize,
    /// `[batch, m, k] x [batch, k, n]`
    size: [usize; 3],
    forward: usize,
    /// Gradients of the left factor: `[batch, m, n] x [batch, k, n]^T`.
    to_left: usize,
    /// Gradients of the right factor: `[batch, m, k]^T x [batch, m, n]`.
    to_right: usize,
}

/// All products of one step.
pub struct Products {
    products: Vec<Product>,
    device: Device,
}

impl Products {
    /// Those of the step that `arguments` ask for.
    pub fn of(arguments: &Arguments) -> Self {
        let Arguments { mode, shape, batch, length, documents, words, .. } = *arguments;
        let (width, inner, wide) = (shape.d_model, shape.heads * D_KV, shape.d_ff);
        let tokens = batch * length;
        let mut products = Vec::new();
        let mut add = |batch, size, [forward, to_left, to_right]: [usize; 3]| {
            products.push(Product { batch, size, forward, to_left, to_right });
        };

        let encoder = if mode.cached { 0 } else { shape.layers };
        let learnt = |count: usize| [count; 3];
        let encoded = |count: usize| if mode.restricted { [count, 0, 0] } else { learnt(count) };
        add(1, [tokens, width, inner], encoded(3 * encoder));
        add(1, [tokens, inner, width], encoded(encoder));
        add(batch * shape.heads, [length, D_KV, length], encoded(encoder));
        add(batch * shape.heads, [length, length, D_KV], encoded(encoder));
        add(1, [tokens, width, wide], encoded(encoder));
        add(1, [tokens, wide, width], encoded(encoder));

        for decoder in decoder_layers(arguments) {
            let with = |trained: bool, count| match decoder.backward {
                false => [count, 0, 0],
                true => [count, count, if trained { count } else { 0 }],
            };
            let (all, cross) = (!mode.restricted, decoder.cross_trained);
            add(1, [batch, width, inner], with(all, 1)); // self-attention's values
            add(1, [batch, inner, width], with(all, 1));
            add(1, [batch, width, inner], with(cross, 1)); // queries
            add(shape.heads, [batch, D_KV, width], with(cross, 1)); // W_K^T q
            add(batch, [shape.heads, width, length], with(all, 1)); // scores
            add(batch, [shape.heads, length, width], with(all, 1)); // weighted states
            add(shape.heads, [batch, width, D_KV], with(cross, 1)); // W_V of them
            add(1, [batch, inner, width], with(cross, 1));
            add(1, [batch, width, wide], with(decoder.mlp_trained, 1));
            add(1, [batch, wide, width], with(decoder.mlp_trained, 1));
        }
        let rows = |trained| [1, 1, usize::from(trained)];
        add(1, [batch, width, words], rows(!mode.restricted));
        add(1, [batch, width, documents], rows(mode.docids));
        products.retain(|product| product.forward > 0);
        Self { products, device: Device::flex() }
    }

    /// Billions of floating-point operations, two for each multiplication and addition.
    pub fn gigaflop(&self) -> f64 {
        let of = |product: &Product| {
            let times = product.forward + product.to_left + product.to_right;
            2.0 * (times * product.batch * product.size.iter().product::<usize>()) as f64
        };
        self.products.iter().map(of).sum::<f64>() * 1e-9
    }

    /// The time of all of them; their factors are made beforehand.
    pub fn seconds(&self) -> anyhow::Result<f64> {
        let mut seconds = 0.0;
        for product in &self.products {
            seconds += product.seconds(&self.device)?;
        }
        Ok(seconds)
    }
}

/// The trained parts of a decoder layer.
struct DecoderLayer {
    /// True if gradients pass through it.
    backward: bool,
    cross_trained: bool,
    mlp_trained: bool,
}

/// The decoder layers that a step computes.
fn decoder_layers(arguments: &Arguments) -> Vec<DecoderLayer> {
    let mode = arguments.mode;
    // Training::new has refused shapes without stages.
    let Ok(stages) = Stages::scaled(arguments.shape.layers) else { return Vec::new() };
    let first = if mode.cached { stages.second.start } else { 0 };
    let layer = |layer| DecoderLayer {
        backward: !mode.restricted || layer >= stages.second.start,
        cross_trained: !mode.restricted || layer >= stages.second.start,
        mlp_trained: !mode.restricted || layer >= stages.third.start,
    };
    (first..arguments.shape.layers).map(layer).collect()
}

impl Product {
    fn seconds(&self, device: &Device) -> anyhow::Result<f64> {
        if self.batch == 1 { self.with_weight(device) } else { self.side_by_side(device) }
    }

    /// As [`Linear`] and its gradients compute it.
    fn with_weight(&self, device: &Device) -> anyhow::Result<f64> {
        let [m, k, n] = self.size;
        let (x, weight, gradient) =
            (random(m, k, device), random(k, n, device), random(m, n, device));
        let linear =
            |weight: &Tensor<2>| Linear { weight: Param::from_tensor(weight.clone()), lora: None };
        let forward = linear(&weight);
        let to_left = Embedding { weight: Param::from_tensor(weight.clone()) };
        let to_right = linear(&gradient);
        let begun = Instant::now();
        for _ in 0..self.forward {
            forward.forward(x.clone(), Precision::F32);
        }
        for _ in 0..self.to_left {
            to_left.logits(gradient.clone(), Precision::F32);
        }
        for _ in 0..self.to_right {
            to_right.forward(x.clone().transpose(), Precision::F32);
        }
        device.sync()?;
        Ok(begun.elapsed().as_secs_f64())
    }

    fn side_by_side(&self, device: &Device) -> anyhow::Result<f64> {
        let [m, k, n] = self.size;
        let batch = self.batch;
        let of =
            |rows, columns| random(batch * rows, columns, device).reshape([batch, rows, columns]);
        let (left, right, gradient) = (of(m, k), of(k, n), of(m, n));
        let begun = Instant::now();
        for _ in 0..self.forward {
            left.clone().matmul(right.clone());
        }
        for _ in 0..self.to_left {
            gradient.clone().matmul(right.clone().transpose());
        }
        for _ in 0..self.to_right {
            left.clone().transpose().matmul(gradient.clone());
        }
        device.sync()?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

fn random(rows: usize, columns: usize, device: &Device) -> Tensor<2> {
    Tensor::random([rows, columns], Distribution::Uniform(-1.0, 1.0), device)
}
