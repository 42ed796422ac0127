//! Loops on slices of floats: products of matrices in memory, and functions compiled for wide registers.
//!
//! Knows no tensor. The operations of `crate::ops` are made of these on the CPU.

mod loops;
mod matrix;
#[cfg(target_arch = "x86_64")]
mod narrow;
mod product;
mod transpose;
mod uninit;
mod wide;

pub(crate) use loops::{
    add, add_scaled, dot, exp, multiply_elements, softmax_gradients, softmax_rows, sum_of_squares,
};
pub(crate) use matrix::{Matrix, MatrixMut};
pub(crate) use product::{
    Threads, multiply, multiply_by_rows, multiply_by_rows_into, multiply_into, multiply_to_uninit,
};
pub(crate) use uninit::{fill_chunks, filled, par_fill_chunks, zeros};
pub(crate) use wide::wide;
