//! Activation functions between the two matrices of an MLP.
//!
//! Made of tensor operations, relu is one pass over the hidden activations and three for its gradient, and a gated gelu
//! some ten and twenty, each on one thread and with an output of its own. On the CPU, each is one pass forward and one
//! backward by all threads, and saves for backward only what the adjacent products save anyway.

use burn::tensor::Tensor;
use burn::tensor::activation::gelu_approximate;
use rayon::prelude::*;

use super::autograd::{Operation, apply};
use super::host::{Contiguous, HostTensor};
use crate::device::is_host;
use crate::kernel::{exp, wide, zeros};

/// Values that a task computes at once.
const TASK: usize = 1 << 14;

/// `max(x, 0)`, `[rows, width] -> [rows, width]`; NaN stays NaN.
pub fn relu(x: Tensor<2>) -> Tensor<2> {
    if !is_host(&x.device()) {
        return burn::tensor::activation::relu(x);
    }
    apply::<Relu, 1, 2>([x.into()], |[x], _| {
        let mut x = x.contiguous();
        x.values_mut().par_chunks_mut(TASK).for_each(relu_in_place);
        (x.clone().into_host(), x)
    })
}

/// `gelu(gate) * linear`, both `[rows, d_ff]`; gelu by its tanh approximation, as in T5 v1.1 (`gelu_new` of
/// transformers).
pub fn gated_gelu(gate: Tensor<2>, linear: Tensor<2>) -> Tensor<2> {
    if !is_host(&gate.device()) {
        return gelu_approximate(gate) * linear;
    }
    apply::<GatedGelu, 2, 2>([gate.into(), linear.into()], |inputs, _| {
        let saved = inputs.map(HostTensor::contiguous);
        let [gate, linear] = &saved;
        let shape = gate.shape::<2>();
        assert_eq!(shape, linear.shape(), "shapes of a gate and of what it is multiplied by");
        let (gate, linear) = (gate.values(), linear.values());
        let mut output = zeros(gate.len());
        let tasks = output.par_chunks_mut(TASK).zip(gate.par_chunks(TASK));
        tasks.zip(linear.par_chunks(TASK)).for_each(|((output, gate), linear)| {
            gate_values(output, gate, linear);
        });
        (HostTensor::new(output, shape), saved)
    })
}

struct Relu;

impl Operation<1> for Relu {
    /// The output, which the next product saves as well.
    type Saved = Contiguous;

    fn backward(
        output: Contiguous,
        gradient: HostTensor,
        _needed: [bool; 1],
    ) -> [Option<HostTensor>; 1] {
        let mut gradient = gradient.contiguous();
        let tasks = gradient.values_mut().par_chunks_mut(TASK);
        tasks.zip(output.values().par_chunks(TASK)).for_each(|(gradient, output)| {
            zero_where_not_positive(gradient, output);
        });
        [Some(gradient.into_host())]
    }
}

struct GatedGelu;

impl Operation<2> for GatedGelu {
    /// Both inputs.
    type Saved = [Contiguous; 2];

    fn backward(
        [gate, mut linear]: Self::Saved,
        gradient: HostTensor,
        _needed: [bool; 2],
    ) -> [Option<HostTensor>; 2] {
        let mut gradient = gradient.contiguous();
        // In place: `gradient` becomes that of `linear`, and `linear` becomes the gradient of `gate`.
        let tasks = gradient.values_mut().par_chunks_mut(TASK);
        let tasks = tasks.zip(linear.values_mut().par_chunks_mut(TASK));
        tasks.zip(gate.values().par_chunks(TASK)).for_each(|((gradient, linear), gate)| {
            gated_gradients(gradient, linear, gate);
        });
        [linear, gradient].map(|gradient| Some(gradient.into_host()))
    }
}

wide! {
    fn relu_in_place(values: &mut [f32]) {
        for value in values {
            // NaN stays NaN.
            *value = if *value < 0.0 { 0.0 } else { *value };
        }
    }
}

wide! {
    fn zero_where_not_positive(gradient: &mut [f32], output: &[f32]) {
        for (gradient, output) in gradient.iter_mut().zip(output) {
            // A gradient at NaN is kept: it shows where the NaN comes from.
            *gradient = if *output <= 0.0 { 0.0 } else { *gradient };
        }
    }
}

wide! {
    fn gate_values(output: &mut [f32], gate: &[f32], linear: &[f32]) {
        for ((output, &gate), linear) in output.iter_mut().zip(gate).zip(linear) {
            *output = gate * gelu_share(gate)[0] * linear;
        }
    }
}

wide! {
    /// Replaces the output's gradient by that of the linear half, and the linear half by the gradient of the gate.
    fn gated_gradients(gradient: &mut [f32], linear: &mut [f32], gate: &[f32]) {
        for ((gradient, linear), &gate) in gradient.iter_mut().zip(linear).zip(gate) {
            let [share, slope] = gelu_share(gate);
            *linear *= *gradient * (share + gate * slope);
            *gradient *= gate * share;
        }
    }
}

/// The share of `x` that gelu lets through, `(1 + tanh(u)) / 2` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`, and its
/// derivative: `1 / (1 + e^-2u)`, computed from `e^-2|u|`, so that small shares are not differences of large values.
#[inline(always)]
fn gelu_share(x: f32) -> [f32; 2] {
    const FACTOR: f32 = 0.797_884_6;
    const CUBE: f32 = 0.044_715;
    let square = x * x;
    let twice_u = 2.0 * FACTOR * x * (1.0 + CUBE * square);
    let power = exp(-twice_u.abs());
    let inverse = 1.0 / (1.0 + power);
    let share = if twice_u < 0.0 { power * inverse } else { inverse };
    let slope = power * inverse * inverse * 2.0 * FACTOR * (1.0 + 3.0 * CUBE * square);
    [share, slope]
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    /// Values of both signs, small, large and 0, as many as need more than one task.
    fn values(count: usize, seed: f32) -> Vec<f32> {
        let value = |at: usize| ((at as f32 * 0.37 + seed).sin() * 9.0).powi(3) * 0.03;
        (0..count).map(|at| if at % 50 == 0 { 0.0 } else { value(at) }).collect()
    }

    fn tensor(values: &[f32], device: &Device) -> Tensor<2> {
        let shape = [values.len() / 100, 100];
        Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
    }

    fn floats_of(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    /// Compares a function of two inputs, on and off the graph, and its gradients with
    /// `[value, derivative by x, derivative by y]` in f64.
    #[track_caller]
    fn check(
        function: impl Fn(Tensor<2>, Tensor<2>) -> Tensor<2>,
        exact: impl Fn(f64, f64) -> [f64; 3],
    ) {
        const COUNT: usize = 33_500; // more than two tasks
        let device = Device::flex();
        let given = [0.0, 1.0, 2.0].map(|seed| values(COUNT, seed));
        let [x, y, weights] = given.each_ref().map(|values| tensor(values, &device));
        let plain = function(x.clone(), y.clone());
        let [x, y] = [x, y].map(|tensor| Tensor::from_inner(tensor).require_grad());
        let output = function(x.clone(), y.clone());
        let gradients = (output.clone() * Tensor::from_inner(weights)).sum().backward();
        let [to_x, to_y] = [x, y].map(|tensor| tensor.grad(&gradients).unwrap());
        let found = [plain, output.inner(), to_x, to_y].map(floats_of);
        for at in 0..COUNT {
            let [x, y, weight] = given.each_ref().map(|values| f64::from(values[at]));
            let [value, by_x, by_y] = exact(x, y);
            let expected = [value, value, by_x * weight, by_y * weight];
            for (found, expected) in
                found.each_ref().map(|found| f64::from(found[at])).iter().zip(expected)
            {
                // A derivative near 0 is a difference of larger values.
                let scale = expected.abs().max(1.0).max((y * weight).abs());
                let near = (found - expected).abs() <= 1e-6 * scale;
                assert!(near, "of {x} and {y}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn relu_and_its_gradient_are_exact() {
        // `check` takes functions of two inputs.
        let exact = |x: f64, y: f64| [x.max(0.0) * y, if x > 0.0 { y } else { 0.0 }, x.max(0.0)];
        check(|x, y| relu(x) * y, exact);
    }

    #[test]
    fn the_gated_product_and_its_gradients_are_exact() {
        check(gated_gelu, |x, y| {
            let factor = (2.0 / std::f64::consts::PI).sqrt();
            let tanh = (factor * (x + 0.044715 * x.powi(3))).tanh();
            let slope = (1.0 - tanh * tanh) * factor * (1.0 + 3.0 * 0.044715 * x * x);
            let gelu = 0.5 * x * (1.0 + tanh);
            [gelu * y, (0.5 * (1.0 + tanh) + 0.5 * x * slope) * y, gelu]
        });
    }

    #[test]
    fn inputs_stay_as_they_are() {
        let device = Device::flex();
        let [x, y] = [0.0, 1.0].map(|seed| tensor(&values(400, seed), &device));
        let before = [x.clone(), y.clone()].map(floats_of);
        relu(x.clone());
        gated_gelu(x.clone(), y.clone());
        assert_eq!([x, y].map(floats_of), before);
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        let x = tensor(&[f32::NAN; 100], &Device::flex());
        assert!(floats_of(relu(x.clone())).iter().all(|value| value.is_nan()));
        assert!(floats_of(gated_gelu(x.clone(), x.ones_like())).iter().all(|value| value.is_nan()));
    }
}
