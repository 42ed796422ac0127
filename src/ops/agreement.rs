//! For tests: what the CPU computes by an operation of our own is what a GPU computes by Burn's operations.

use burn::tensor::{Device, Tensor, TensorData};

/// Values between -1 and 1 that follow no pattern of the sizes.
pub fn values<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let count = shape.iter().product();
    let value = |at: usize| ((at as f32 + seed as f32 * 7.3) * 12.9898).sin();
    let values: Vec<f32> = (0..count).map(value).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// Panics unless both functions have the same value and the same gradients of all inputs, on and off the graph, to
/// rounding.
#[track_caller]
pub fn assert_agree<const N: usize>(
    inputs: [Tensor<2>; N],
    one: impl Fn([Tensor<2>; N]) -> Tensor<2>,
    other: impl Fn([Tensor<2>; N]) -> Tensor<2>,
) {
    assert_near(one(inputs.clone()), other(inputs.clone()), "value off the graph");
    let results = [&one as &dyn Fn([Tensor<2>; N]) -> Tensor<2>, &other].map(|function| {
        let inputs = inputs.clone().map(|input| Tensor::from_inner(input).require_grad());
        let output = function(inputs.clone());
        let weights = Tensor::from_inner(values(output.dims(), 11));
        let gradients = (output.clone() * weights).sum().backward();
        (output.inner(), inputs.map(|input| input.grad(&gradients).unwrap()))
    });
    let [(one, one_gradients), (other, other_gradients)] = results;
    assert_near(one, other, "value");
    for (input, (one, other)) in one_gradients.into_iter().zip(other_gradients).enumerate() {
        assert_near(one, other, &format!("gradient of input {input}"));
    }
}

/// Panics unless two matrices differ by at most 1e-5 of the largest value.
#[track_caller]
pub fn assert_near(one: Tensor<2>, other: Tensor<2>, name: &str) {
    assert_eq!(one.dims(), other.dims(), "shape of the {name}");
    let largest: f32 = other.clone().abs().max().into_scalar();
    let difference: f32 = (one - other).abs().max().into_scalar();
    assert!(largest > 0.0 && difference <= 1e-5 * largest, "{name}: {difference} of {largest}");
}
