//! What stands between the two matrices of an MLP: on the CPU one operation forward and one backward.
//!
//! Made of tensor operations, relu is one pass over the hidden activations and three for its gradient, and a gated
//! gelu some ten and twenty, each on one thread and with an output of its own. Here all threads share each of
//! them, and what the backward pass keeps is what the matrices beside keep anyway.

use burn::tensor::activation::{gelu_approximate, relu};
use burn::tensor::{Tensor, TensorData};
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use crate::device::is_host;
use crate::kernel::{Input, exp, floats, floats_mut, plain, recorded, to_tensor, wide, zeros};

/// Values a task takes at once.
const TASK: usize = 1 << 14;

/// `max(x, 0)`; any shape.
pub(super) fn rectified(x: Tensor<2>) -> Tensor<2> {
    if !is_host(&x.device()) {
        return relu(x);
    }
    let forward = |mut x: FlexTensor| {
        floats_mut(&mut x).par_chunks_mut(TASK).for_each(rectify);
        x
    };
    if !x.is_autodiff() {
        return to_tensor(forward(plain(x)));
    }
    let Input { value, node, .. } = Input::of(x);
    let output = forward(value);
    recorded(Rectified, [node], output.clone(), output)
}

/// `gelu(gate) * linear`, gelu by its tanh approximation as in T5 v1.1; both `[rows, d_ff]`.
pub(super) fn gated(gate: Tensor<2>, linear: Tensor<2>) -> Tensor<2> {
    if !is_host(&gate.device()) {
        return gelu_approximate(gate) * linear;
    }
    if !gate.is_autodiff() && !linear.is_autodiff() {
        return to_tensor(Kept::of(&plain(gate), &plain(linear)).output());
    }
    let (gate, linear) = (Input::of(gate), Input::of(linear));
    let kept = Kept::of(&gate.value, &linear.value);
    let output = kept.output();
    recorded(Gated, [gate.node, linear.node], kept, output)
}

/// Relu's place in the autodiff graph.
#[derive(Debug)]
struct Rectified;

impl Backward<Flex, 1> for Rectified {
    /// The output, which the next product keeps as well.
    type State = FlexTensor;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let mut gradient = gradients.consume::<Flex>(&ops.node);
        let [node] = ops.parents;
        if let Some(node) = node {
            let output = floats(&ops.state).par_chunks(TASK);
            let tasks = floats_mut(&mut gradient).par_chunks_mut(TASK).zip(output);
            tasks.for_each(|(gradient, output)| pass_where_positive(gradient, output));
            gradients.register::<Flex>(node.id, gradient);
        }
    }
}

/// What the backward pass of [`gated`] needs: both inputs, contiguous.
#[derive(Debug, Clone)]
struct Kept {
    gate: FlexTensor,
    linear: FlexTensor,
}

impl Kept {
    fn of(gate: &FlexTensor, linear: &FlexTensor) -> Self {
        assert_eq!(gate.layout().shape(), linear.layout().shape(), "the halves of a gated MLP");
        Self { gate: gate.to_contiguous(), linear: linear.to_contiguous() }
    }

    fn output(&self) -> FlexTensor {
        let (gate, linear) = (floats(&self.gate), floats(&self.linear));
        let mut output = zeros(gate.len());
        let tasks = output.par_chunks_mut(TASK).zip(gate.par_chunks(TASK));
        tasks.zip(linear.par_chunks(TASK)).for_each(|((output, gate), linear)| {
            gate_values(output, gate, linear);
        });
        FlexTensor::from_data(TensorData::new(output, self.gate.layout().shape().clone()))
    }
}

/// The gated product's place in the autodiff graph.
#[derive(Debug)]
struct Gated;

impl Backward<Flex, 2> for Gated {
    type State = Kept;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let Kept { gate, mut linear } = ops.state;
        let mut gradient = gradients.consume::<Flex>(&ops.node);
        // The gradient turns into that of the linear half, and the linear half into that of the gate.
        let tasks = floats_mut(&mut gradient).par_chunks_mut(TASK);
        let tasks = tasks.zip(floats_mut(&mut linear).par_chunks_mut(TASK));
        tasks.zip(floats(&gate).par_chunks(TASK)).for_each(|((gradient, linear), gate)| {
            gated_gradients(gradient, linear, gate);
        });
        for (node, gradient) in ops.parents.into_iter().zip([linear, gradient]) {
            if let Some(node) = node {
                gradients.register::<Flex>(node.id, gradient);
            }
        }
    }
}

wide! {
    fn rectify(values: &mut [f32]) {
        for value in values {
            // NaN stays NaN.
            *value = if *value < 0.0 { 0.0 } else { *value };
        }
    }
}

wide! {
    fn pass_where_positive(gradient: &mut [f32], output: &[f32]) {
        for (gradient, output) in gradient.iter_mut().zip(output) {
            // A gradient at NaN passes: it shows where that came from.
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
    /// Turns the output's gradient into that of the linear half, and the linear half into the gradient of the gate.
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
    use burn::tensor::Device;

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

    /// Holds a function of two inputs, on and off the graph, and its gradients under given ones of the output, against
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
        // The second input has to come into it somehow.
        let exact = |x: f64, y: f64| [x.max(0.0) * y, if x > 0.0 { y } else { 0.0 }, x.max(0.0)];
        check(|x, y| rectified(x) * y, exact);
    }

    #[test]
    fn the_gated_product_and_its_gradients_are_exact() {
        check(gated, |x, y| {
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
        rectified(x.clone());
        gated(x.clone(), y.clone());
        assert_eq!([x, y].map(floats_of), before);
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        let x = tensor(&[f32::NAN; 100], &Device::flex());
        assert!(floats_of(rectified(x.clone())).iter().all(|value| value.is_nan()));
        assert!(floats_of(gated(x.clone(), x.ones_like())).iter().all(|value| value.is_nan()));
    }
}
