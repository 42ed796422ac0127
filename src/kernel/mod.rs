//! What the CPU computes by loops of our own: matrices in memory, and functions compiled for wide registers.
//!
//! Operations on the autodiff graph that are made of these stand beside what they compute (`crate::t5`,
//! `crate::train`). Everything here is for tensors of the device Flex; other devices take Burn's own operations.

mod graph;
mod loops;
mod matrix;
#[cfg(target_arch = "x86_64")]
mod narrow;
mod turn;
mod wide;

pub(crate) use graph::{Input, floats, floats_mut, plain, recorded, to_tensor};
pub(crate) use loops::{
    add, add_scaled, dot, exp, softmax_gradients, softmax_rows, sum_of_squares, times,
};
pub(crate) use matrix::{
    Matrix, MatrixMut, Threads, filled, multiply, multiply_by_rows, multiply_by_rows_into,
    multiply_fresh, multiply_into, zeros,
};
pub(crate) use wide::wide;
