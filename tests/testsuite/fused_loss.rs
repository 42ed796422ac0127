//! On the CPU the loss is one operation from the decoder's output on. Its value and gradients are those of the
//! logits' cross-entropy, whichever rows are trained.

use burn::tensor::{Device, Int, Tensor, TensorData};
use genir::device::Precision;
use genir::ops::{Head, Loss, cross_entropy, cross_entropy_of_logits};

/// Sizes of a case: examples, width, words, documents.
type Sizes = [usize; 4];

/// One row, one document; sizes that are no multiple of a block (of some 3,000 rows here) or of a register;
/// several blocks a task; more examples than a product takes at once.
const CASES: [Sizes; 5] = [
    [1, 5, 1, 1],
    [5, 16, 300, 7],
    [3, 40, 9_001, 3_100],
    [130, 24, 1_000, 33],
    [32, 8, 70_003, 2],
];

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("values in f32")
}

fn tensor(shape: [usize; 2], seed: u64, scale: f32, tracked: bool) -> Tensor<2> {
    let number = |at: usize| {
        let z = (seed << 32 | at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((z >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    let data = (0..shape[0] * shape[1]).map(number).collect();
    let device = Device::flex().autodiff();
    let tensor = Tensor::<2>::from_data(TensorData::new(data, shape), &device);
    if tracked { tensor.require_grad() } else { tensor }
}

/// Loss, and the gradients of input, words and docids; none where they are not tracked.
fn outcome(
    [batch, width, words, documents]: Sizes,
    tracked: [bool; 3],
    way: impl Fn(Head, Tensor<1, Int>) -> Loss,
) -> (f32, [Option<Vec<f32>>; 3]) {
    let inputs = [
        tensor([batch, width], 1, 2.0, tracked[0]),
        tensor([words, width], 2, 1.0, tracked[1]),
        tensor([documents, width], 3, 1.0, tracked[2]),
    ];
    let targets: Vec<i32> = (0..batch).map(|at| (at * 7 % documents) as i32).collect();
    let targets = TensorData::new(targets, [batch]);
    let targets = Tensor::<1, Int>::from_data(targets, &Device::flex().autodiff());
    let [rows, words, docids] = inputs.clone();
    let loss = way(Head { rows, text: words, docids, precision: Precision::F32 }, targets);
    let gradients = loss.root.backward();
    let of = |input: &Tensor<2>| input.grad(&gradients).map(values);
    (values(loss.value)[0], inputs.each_ref().map(of))
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: sizes");
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-5 * largest, "{what}: differs by {worst}, largest value {largest}");
}

#[test]
fn the_loss_from_the_output_is_that_of_the_logits() {
    for sizes in CASES {
        for smoothing in [0.0, 0.1] {
            for which in 1..8 {
                let tracked = [0, 1, 2].map(|at| which >> at & 1 == 1);
                let what = format!("{sizes:?}, smoothing {smoothing}, tracked {tracked:?}");
                let fused = |head, targets| cross_entropy(head, targets, smoothing, 0.5);
                let plain = |head: Head, targets| {
                    cross_entropy_of_logits(head.logits(), targets, smoothing, 0.5)
                };
                let (found, gradients) = outcome(sizes, tracked, fused);
                let (expected, right) = outcome(sizes, tracked, plain);
                assert!((found - expected).abs() <= 2e-6 * expected.abs(), "{what}: {found}");
                for ((found, expected), tracked) in gradients.iter().zip(&right).zip(tracked) {
                    assert_eq!(found.is_some(), tracked, "{what}");
                    if let (Some(found), Some(expected)) = (found, expected) {
                        assert_close(found, expected, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn gradients_follow_what_is_made_of_the_loss() {
    let thrice = |head, targets| {
        let loss = cross_entropy(head, targets, 0.1, 1.0);
        Loss { root: loss.root * 3.0, ..loss }
    };
    let weighted = |head, targets| cross_entropy(head, targets, 0.1, 3.0);
    for tracked in [[true, false, true], [true, true, false]] {
        let (_, found) = outcome([5, 16, 300, 7], tracked, thrice);
        let (_, expected) = outcome([5, 16, 300, 7], tracked, weighted);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.is_some(), expected.is_some());
            if let (Some(found), Some(expected)) = (found, expected) {
                assert_close(found, expected, "three times");
            }
        }
    }
}

#[test]
fn a_value_that_is_not_finite_shows_in_the_loss() {
    for bad in [f32::NAN, f32::INFINITY] {
        let device = Device::flex().autodiff();
        let of = |values: Vec<f32>| {
            Tensor::<2>::from_data(TensorData::new(values.clone(), [values.len() / 2, 2]), &device)
        };
        let rows = of(vec![1.0, bad]).require_grad();
        let head = Head {
            rows,
            text: of(vec![0.5; 6]),
            docids: of(vec![0.5; 2]),
            precision: Precision::F32,
        };
        let targets = Tensor::<1, Int>::from_data(TensorData::new(vec![0_i32], [1]), &device);
        assert!(!values(cross_entropy(head, targets, 0.0, 1.0).value)[0].is_finite(), "{bad}");
    }
}
