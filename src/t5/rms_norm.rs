//! T5's layer norm: no mean, no bias. On the CPU one operation forward and one backward.
//!
//! Made of tensor operations it is seven passes over the activations and about ten for its gradients, each
//! with an output of its own, most of them on one thread.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::config::T5Config;
use crate::device::is_host;
use crate::kernel::{Input, dot, plain, recorded, to_tensor, wide, zeros};

/// `x / rms(x) * weight`, row by row.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[d_model]`
    pub weight: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
}

impl RmsNorm {
    pub(super) fn new(config: &T5Config, device: &Device) -> Self {
        let weight = Param::from_tensor(Tensor::zeros([config.d_model], device));
        Self { weight, epsilon: config.layer_norm_epsilon }
    }

    /// What the norm of `whole` makes of each of its `parts`: where they add up to it, this adds up to its norm. Shapes:
    /// `[rows, parts, d_model]` and `[rows, d_model]`.
    pub fn of_parts(&self, parts: Tensor<3>, whole: Tensor<2>) -> Tensor<3> {
        let mean_square = whole.square().mean_dim(1); // [rows, 1]
        let scale = (mean_square + self.epsilon).sqrt().recip().unsqueeze_dim(1); // [rows, 1, 1]
        parts * scale * self.weight.val().unsqueeze() // [rows, parts, d_model]
    }

    /// `[rows, d_model] -> [rows, d_model]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let weight = self.weight.val();
        if is_host(&x.device()) {
            return on_host(x, weight, self.epsilon);
        }
        let mean_square = x.clone().square().mean_dim(1); // [rows, 1]
        let scale = (mean_square + self.epsilon).sqrt().recip(); // [rows, 1]
        x * scale * weight.unsqueeze() // [rows, d_model]
    }
}

fn on_host(x: Tensor<2>, weight: Tensor<1>, epsilon: f64) -> Tensor<2> {
    if !x.is_autodiff() && !weight.is_autodiff() {
        let (x, weight) = (plain(x).to_contiguous(), plain(weight).to_contiguous());
        return to_tensor(normalise(&x, &weight, epsilon).0);
    }
    let (x, weight) = (Input::of(x), Input::of(weight));
    let input = x.value.to_contiguous();
    let factors = weight.value.to_contiguous();
    let (output, scales) = normalise(&input, &factors, epsilon);
    recorded(Normalise, [x.node, weight.node], (input, factors, scales), output)
}

/// Values a task takes at once.
const TASK: usize = 1 << 14;

/// The normalised rows, and what each row of `x` was multiplied by. Both inputs are contiguous.
fn normalise(x: &FlexTensor, weight: &FlexTensor, epsilon: f64) -> (FlexTensor, Vec<f32>) {
    let [rows, width] = [x.layout().shape()[0], x.layout().shape()[1]];
    let (values, weight) = (x.storage::<f32>(), weight.storage::<f32>());
    let mut output = zeros(rows * width);
    let mut scales = vec![0.0_f32; rows];
    let rows_a_task = TASK.div_ceil(width);
    output
        .par_chunks_mut(rows_a_task * width)
        .zip(values.par_chunks(rows_a_task * width))
        .zip(scales.par_chunks_mut(rows_a_task))
        .for_each(|((output, values), scales)| {
            let rows = output.chunks_exact_mut(width).zip(values.chunks_exact(width));
            for ((output, row), scale) in rows.zip(scales) {
                let mean_square = dot(row, row) / width as f32;
                *scale = (mean_square + epsilon as f32).sqrt().recip();
                scaled(output, row, *scale, weight);
            }
        });
    (FlexTensor::from_data(TensorData::new(output, [rows, width])), scales)
}

/// The norm's place in the autodiff graph.
#[derive(Debug)]
struct Normalise;

impl Backward<Flex, 2> for Normalise {
    /// The input and the weight, both contiguous, and the scale of each row.
    type State = (FlexTensor, FlexTensor, Vec<f32>);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (x, weight, scales) = ops.state;
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let [for_x, for_weight] = ops.parents;
        let (to_x, to_weight) = gradients_of(&gradient, &x, &weight, &scales);
        if let Some(node) = for_x {
            gradients.register::<Flex>(node.id, to_x);
        }
        if let Some(node) = for_weight {
            gradients.register::<Flex>(node.id, to_weight);
        }
    }
}

/// With s the scale of a row, u = gradient * weight and n the width:
/// dx = s u - x s^3 (u . x) / n, and dweight = the sum over rows of gradient * x * s.
fn gradients_of(
    gradient: &FlexTensor,
    x: &FlexTensor,
    weight: &FlexTensor,
    scales: &[f32],
) -> (FlexTensor, FlexTensor) {
    let [rows, width] = [x.layout().shape()[0], x.layout().shape()[1]];
    let (gradient, x) = (gradient.storage::<f32>(), x.storage::<f32>());
    let weight = weight.storage::<f32>();
    let mut to_x = zeros(rows * width);
    let rows_a_task = TASK.div_ceil(width);
    let task = rows_a_task * width;
    let parts: Vec<Vec<f32>> = to_x
        .par_chunks_mut(task)
        .zip(gradient.par_chunks(task).zip(x.par_chunks(task)))
        .zip(scales.par_chunks(rows_a_task))
        .map(|((to_x, (gradient, x)), scales)| {
            let mut to_weight = vec![0.0_f32; width];
            let inputs = gradient.chunks_exact(width).zip(x.chunks_exact(width));
            for ((to_x, (gradient, x)), &scale) in
                to_x.chunks_exact_mut(width).zip(inputs).zip(scales)
            {
                scaled(to_x, gradient, 1.0, weight);
                add_products(&mut to_weight, gradient, x, scale);
                let along = dot(to_x, x) * scale * scale * scale / width as f32;
                turn(to_x, x, scale, along);
            }
            to_weight
        })
        .collect();
    // Summed in the order of the rows: the result does not depend on the number of threads.
    let mut to_weight = vec![0.0_f32; width];
    for part in parts {
        to_weight.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
    (
        FlexTensor::from_data(TensorData::new(to_x, [rows, width])),
        FlexTensor::from_data(TensorData::new(to_weight, [width])),
    )
}

wide! {
    fn scaled(output: &mut [f32], row: &[f32], scale: f32, weight: &[f32]) {
        for ((output, value), weight) in output.iter_mut().zip(row).zip(weight) {
            *output = value * scale * weight;
        }
    }
}

wide! {
    fn add_products(sums: &mut [f32], gradient: &[f32], x: &[f32], scale: f32) {
        for ((sum, gradient), x) in sums.iter_mut().zip(gradient).zip(x) {
            *sum += gradient * x * scale;
        }
    }
}

wide! {
    fn turn(to_x: &mut [f32], x: &[f32], scale: f32, along: f32) {
        for (to_x, x) in to_x.iter_mut().zip(x) {
            *to_x = *to_x * scale - x * along;
        }
    }
}
