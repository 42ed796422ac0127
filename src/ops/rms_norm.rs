//! T5's layer norm: no mean, no bias.
//!
//! Made of tensor operations it is seven passes over the activations and about ten for its gradients, each
//! with an output of its own, most of them on one thread. On the CPU it is one pass forward and one backward.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::autograd::{Operation, apply};
use super::host::{Contiguous, HostTensor};
use crate::device::is_host;
use crate::kernel::{dot, wide, zeros};

/// `x / rms(x) * weight`, row by row: `[rows, width] -> [rows, width]`; weight `[width]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, epsilon: f64) -> Tensor<2> {
    assert_eq!(weight.dims(), [x.dims()[1]], "shape of the weight of an RMSNorm");
    if is_host(&x.device()) {
        return apply::<RmsNorm, 2, 2>([x.into(), weight.into()], |inputs, _| {
            let [x, weight] = inputs.map(HostTensor::contiguous);
            let (output, scales) = forward(&x, &weight, epsilon);
            (output, Saved { x, weight, scales })
        });
    }
    by_burn(x, weight, epsilon)
}

fn by_burn(x: Tensor<2>, weight: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let mean_square = x.clone().square().mean_dim(1); // [rows, 1]
    let scale = (mean_square + epsilon).sqrt().recip(); // [rows, 1]
    x * scale * weight.unsqueeze() // [rows, width]
}

/// Values that a task computes at once.
const TASK: usize = 1 << 14;

/// The normalised rows, and the factor of each row of `x`, `1 / rms`.
fn forward(x: &Contiguous, weight: &Contiguous, epsilon: f64) -> (HostTensor, Vec<f32>) {
    let [rows, width] = x.shape();
    let (values, weight) = (x.values(), weight.values());
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
    (HostTensor::new(output, [rows, width]), scales)
}

struct RmsNorm;

#[derive(Debug, Clone)]
struct Saved {
    x: Contiguous,
    weight: Contiguous,
    /// The factor of each row, `[rows]`
    scales: Vec<f32>,
}

impl Operation<2> for RmsNorm {
    type Saved = Saved;

    /// With s the scale of a row, u = gradient * weight and n the width:
    /// dx = s u - x s^3 (u . x) / n, and dweight = the sum over rows of gradient * x * s.
    fn backward(
        Saved { x, weight, scales }: Saved,
        gradient: HostTensor,
        [_, for_weight]: [bool; 2],
    ) -> [Option<HostTensor>; 2] {
        let gradient = gradient.contiguous();
        let [rows, width] = x.shape();
        let (gradient, x, weight) = (gradient.values(), x.values(), weight.values());
        let mut to_x = zeros(rows * width);
        let rows_a_task = TASK.div_ceil(width);
        let task = rows_a_task * width;
        let parts: Vec<Vec<f32>> = to_x
            .par_chunks_mut(task)
            .zip(gradient.par_chunks(task).zip(x.par_chunks(task)))
            .zip(scales.par_chunks(rows_a_task))
            .map(|((to_x, (gradient, x)), scales)| {
                let mut to_weight = vec![0.0_f32; if for_weight { width } else { 0 }];
                let inputs = gradient.chunks_exact(width).zip(x.chunks_exact(width));
                for ((to_x, (gradient, x)), &scale) in
                    to_x.chunks_exact_mut(width).zip(inputs).zip(scales)
                {
                    scaled(to_x, gradient, 1.0, weight);
                    add_products(&mut to_weight, gradient, x, scale);
                    let along = dot(to_x, x) * scale * scale * scale / width as f32;
                    scale_and_subtract(to_x, scale, x, along);
                }
                to_weight
            })
            .collect();
        // Summed in the order of the rows: the result does not depend on the number of threads.
        let mut to_weight = vec![0.0_f32; width];
        for part in parts {
            to_weight.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
        let to_weight = for_weight.then(|| HostTensor::new(to_weight, [width]));
        [Some(HostTensor::new(to_x, [rows, width])), to_weight]
    }
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
    /// `values * scale - x * factor`, in place.
    fn scale_and_subtract(values: &mut [f32], scale: f32, x: &[f32], factor: f32) {
        for (value, x) in values.iter_mut().zip(x) {
            *value = *value * scale - x * factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::agreement::{assert_agree, values};
    use super::*;

    #[test]
    fn the_host_and_the_device_version_agree() {
        // More rows than one task has.
        let (rows, width) = (2 * TASK / 24 + 3, 24);
        let weight = |weight: Tensor<2>| weight.reshape([width]);
        assert_agree(
            [values([rows, width], 1), values([1, width], 2)],
            |[x, w]| rms_norm(x, weight(w), 1e-6),
            |[x, w]| by_burn(x, weight(w), 1e-6),
        );
    }
}
