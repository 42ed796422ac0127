//! Means of components' outputs over the measured queries, summed in f64.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::trace::Trace;
use crate::component::{ByComponent, Component};

/// Means of activations of an unpatched forward pass.
pub(super) struct Means {
    device: Device,
    sums: Sums,
}

/// Sums of activations over queries.
#[derive(Serialize, Deserialize)]
pub(super) struct Sums {
    queries: usize,
    /// By layer, of each component's output, `[1, d_model]`.
    outputs: Vec<ByComponent<Sum>>,
    /// By layer, of the attentions' weighted values, `[heads, d_kv]`.
    weighted: Vec<ByComponent<Sum>>,
}

/// A sum over queries.
#[derive(Default, Serialize, Deserialize)]
struct Sum {
    shape: [usize; 2],
    values: Vec<f64>,
}

impl Means {
    pub fn new(layers: usize, device: &Device) -> Self {
        Self { device: device.clone(), sums: Sums::new(layers) }
    }

    /// Adds a batch.
    pub fn add(&mut self, of_batch: &Sums) {
        self.sums.queries += of_batch.queries;
        let own = self.sums.outputs.iter_mut().chain(&mut self.sums.weighted);
        for (sums, found) in own.zip(of_batch.outputs.iter().chain(&of_batch.weighted)) {
            found.iter().for_each(|(component, found)| sums[component].add(found));
        }
    }

    /// A component's mean output, `[1, d_model]`.
    pub fn output(&self, layer: usize, component: Component) -> Tensor<2> {
        self.mean(&self.sums.outputs[layer][component])
    }

    /// An attention's mean weighted values, `[1, heads, d_kv]`.
    pub fn weighted(&self, layer: usize, component: Component) -> Tensor<3> {
        self.mean(&self.sums.weighted[layer][component]).unsqueeze()
    }

    fn mean(&self, sum: &Sum) -> Tensor<2> {
        let mean = |value: &f64| (value / self.sums.queries as f64) as f32;
        let values: Vec<f32> = sum.values.iter().map(mean).collect();
        Tensor::from_data(TensorData::new(values, sum.shape), &self.device)
    }
}

impl Sums {
    fn new(layers: usize) -> Self {
        let none = || (0..layers).map(|_| ByComponent::default()).collect();
        Self { queries: 0, outputs: none(), weighted: none() }
    }

    /// The sums over the queries of a batch.
    pub fn of(trace: &Trace) -> Self {
        let mut sums = Self::new(trace.layers.len());
        sums.queries = trace.start.dims()[0];
        for (layer, found) in trace.layers.iter().enumerate() {
            for (component, output) in found.outputs.iter() {
                // [batch, 1, d_model]
                sums.outputs[layer][component] = Sum::of(output.clone().unsqueeze_dim(1));
            }
            for component in Component::ATTENTIONS {
                // [batch, heads, d_kv]
                sums.weighted[layer][component] = Sum::of(found.weighted[component].clone());
            }
        }
        sums
    }
}

impl Sum {
    /// The sum of the values of each query in `values`, `[batch, rows, columns]`.
    fn of(values: Tensor<3>) -> Self {
        let [_, rows, columns] = values.dims();
        let mut sums = vec![0.0; rows * columns];
        let data = values.into_data();
        for (place, value) in data.iter::<f32>().enumerate() {
            sums[place % (rows * columns)] += f64::from(value);
        }
        Self { shape: [rows, columns], values: sums }
    }

    fn add(&mut self, other: &Self) {
        self.shape = other.shape;
        self.values.resize(other.values.len(), 0.0);
        self.values.iter_mut().zip(&other.values).for_each(|(sum, value)| *sum += value);
    }
}
