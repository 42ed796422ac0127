//! Means of components' outputs over the measured queries, summed in f64.

use burn::tensor::{Device, Tensor, TensorData};

use super::trace::Trace;
use crate::component::{ByComponent, Component};

/// Means of activations of an unpatched forward pass.
pub(super) struct Means {
    device: Device,
    queries: usize,
    /// Sums by layer of each component's output, `[1, d_model]`.
    outputs: Vec<ByComponent<Sum>>,
    /// Sums by layer of the attentions' weighted values, `[heads, d_kv]`.
    weighted: Vec<ByComponent<Sum>>,
}

/// A running sum over queries.
#[derive(Default)]
struct Sum {
    shape: [usize; 2],
    values: Vec<f64>,
}

impl Means {
    pub fn new(layers: usize, device: &Device) -> Self {
        Self {
            device: device.clone(),
            queries: 0,
            outputs: (0..layers).map(|_| Default::default()).collect(),
            weighted: (0..layers).map(|_| Default::default()).collect(),
        }
    }

    /// Adds a batch.
    pub fn add(&mut self, trace: &Trace) {
        self.queries += trace.start.dims()[0];
        for (layer, found) in trace.layers.iter().enumerate() {
            for (component, output) in found.outputs.iter() {
                // [batch, 1, d_model]
                self.outputs[layer][component].add(output.clone().unsqueeze_dim(1));
            }
            for component in Component::ATTENTIONS {
                // [batch, heads, d_kv]
                self.weighted[layer][component].add(found.weighted[component].clone());
            }
        }
    }

    /// A component's mean output, `[1, d_model]`.
    pub fn output(&self, layer: usize, component: Component) -> Tensor<2> {
        self.mean(&self.outputs[layer][component])
    }

    /// An attention's mean weighted values, `[1, heads, d_kv]`.
    pub fn weighted(&self, layer: usize, component: Component) -> Tensor<3> {
        self.mean(&self.weighted[layer][component]).unsqueeze()
    }

    fn mean(&self, sum: &Sum) -> Tensor<2> {
        let mean = |value: &f64| (value / self.queries as f64) as f32;
        let values: Vec<f32> = sum.values.iter().map(mean).collect();
        Tensor::from_data(TensorData::new(values, sum.shape), &self.device)
    }
}

impl Sum {
    /// Adds the values of each query in `values`, `[batch, rows, columns]`.
    fn add(&mut self, values: Tensor<3>) {
        let [_, rows, columns] = values.dims();
        self.shape = [rows, columns];
        self.values.resize(rows * columns, 0.0);
        let data = values.into_data();
        for (place, value) in data.iter::<f32>().enumerate() {
            self.values[place % (rows * columns)] += f64::from(value);
        }
    }
}
