//! Matrices in memory and their products (the crate `gemm`).

use std::mem::MaybeUninit;

use burn::tensor::TensorData;
use burn_flex::FlexTensor;

/// A matrix in memory, with the distances of its neighbours.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    /// From the first value to the last one at least.
    values: &'a [f32],
    rows: usize,
    columns: usize,
    to_next_row: isize,
    to_next_column: isize,
}

impl<'a> Matrix<'a> {
    /// A tensor of rank 2, however it lies in memory.
    pub fn of(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        let (shape, strides) = (layout.shape(), layout.strides());
        Self {
            values: &tensor.storage::<f32>()[layout.start_offset()..],
            rows: shape[0],
            columns: shape[1],
            to_next_row: strides[0],
            to_next_column: strides[1],
        }
        .checked()
    }

    /// Contiguous rows.
    pub fn rows(values: &'a [f32], columns: usize) -> Self {
        let rows = values.len() / columns.max(1);
        Self::rows_apart(values, rows, columns, columns)
    }

    /// Rows of `columns` values that begin `apart` values after each other.
    pub fn rows_apart(values: &'a [f32], rows: usize, columns: usize, apart: usize) -> Self {
        let to_next_row = apart as isize;
        Self { values, rows, columns, to_next_row, to_next_column: 1 }.checked()
    }

    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            to_next_row: self.to_next_column,
            to_next_column: self.to_next_row,
            ..self
        }
    }

    /// Panics unless every value lies in the slice: what [`multiply_into`] relies on.
    fn checked(self) -> Self {
        check(
            self.values.len(),
            [self.rows, self.columns],
            [self.to_next_row, self.to_next_column],
        );
        self
    }
}

/// A matrix in memory that a product is written to.
pub(crate) struct MatrixMut<'a> {
    values: &'a mut [f32],
    rows: usize,
    columns: usize,
    to_next_row: isize,
    to_next_column: isize,
}

impl<'a> MatrixMut<'a> {
    /// Contiguous rows.
    pub fn rows(values: &'a mut [f32], columns: usize) -> Self {
        let rows = values.len() / columns.max(1);
        Self::rows_apart(values, rows, columns, columns)
    }

    /// Rows of `columns` values that begin `apart` values after each other.
    pub fn rows_apart(values: &'a mut [f32], rows: usize, columns: usize, apart: usize) -> Self {
        check(values.len(), [rows, columns], [apart as isize, 1]);
        Self { values, rows, columns, to_next_row: apart as isize, to_next_column: 1 }
    }
}

fn check(values: usize, counts: [usize; 2], steps: [isize; 2]) {
    if counts.contains(&0) {
        return;
    }
    let last: isize =
        counts.iter().zip(steps).map(|(&count, step)| (count as isize - 1) * step).sum();
    let forward = steps.iter().all(|&step| step >= 0);
    assert!(forward && (last as usize) < values, "a matrix reaches out of its memory");
}

/// Who computes a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The caller alone: it is a task of several already.
    One,
    /// All of rayon's pool.
    All,
}

impl Threads {
    fn for_gemm(self) -> gemm::Parallelism {
        match self {
            Threads::One => gemm::Parallelism::None,
            Threads::All => gemm::Parallelism::Rayon(0),
        }
    }
}

/// `[m, k] x [k, n] -> [m, n]`, contiguous, by all threads.
pub(crate) fn multiply(left: Matrix, right: Matrix) -> FlexTensor {
    let (m, n) = (left.rows, right.columns);
    let output = filled(m * n, |output| multiply_fresh(output, left, right, Threads::All));
    FlexTensor::from_data(TensorData::new(output, [m, n]))
}

/// `left x right` into memory that holds nothing yet, contiguous.
pub(crate) fn multiply_fresh(
    to: &mut [MaybeUninit<f32>],
    left: Matrix,
    right: Matrix,
    threads: Threads,
) {
    assert_eq!(to.len(), left.rows * right.columns, "size of a product");
    let to = (to.as_mut_ptr().cast(), [right.columns as isize, 1]);
    // SAFETY: `to` is borrowed for this call alone, has the product's size, and nothing of it is read.
    unsafe { product(left, right, to, false, threads) }
}

/// `count` values that `fill` writes, every one of them, without clearing them first.
pub(crate) fn filled(count: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(count);
    fill(&mut values.spare_capacity_mut()[..count]);
    // SAFETY: the callers in this module's room fill by products, which write every value.
    unsafe { values.set_len(count) };
    values
}

/// `left x right` into `to`, or added to what is there.
pub(crate) fn multiply_into(
    to: MatrixMut,
    left: Matrix,
    right: Matrix,
    add: bool,
    threads: Threads,
) {
    assert_eq!([left.rows, right.columns], [to.rows, to.columns], "outer sizes of a product");
    let to = (to.values.as_mut_ptr(), [to.to_next_row, to.to_next_column]);
    // SAFETY: `to` lies in its slice (checked when it was made), which is borrowed for this call alone.
    unsafe { product(left, right, to, add, threads) }
}

/// # Safety
/// `to` is memory for an output of the product's shape with the given distances, which nothing else reads or
/// writes meanwhile; with `add` it holds values.
unsafe fn product(
    left: Matrix,
    right: Matrix,
    (to, steps): (*mut f32, [isize; 2]),
    add: bool,
    threads: Threads,
) {
    assert_eq!(left.columns, right.rows, "inner sizes of a product");
    // SAFETY: both factors lie in their slices (`Matrix::checked`), their inner sizes are equal, and the caller
    // vouches for the output, which gemm reads only if `add`.
    unsafe {
        gemm::gemm(
            left.rows,
            right.columns,
            left.columns,
            to,
            steps[1],
            steps[0],
            add,
            left.values.as_ptr(),
            left.to_next_column,
            left.to_next_row,
            right.values.as_ptr(),
            right.to_next_column,
            right.to_next_row,
            1.0,
            1.0,
            false,
            false,
            false,
            threads.for_gemm(),
        );
    }
}
