//! Matrices in memory and their products (the crate `gemm`).

use std::mem::MaybeUninit;

use burn::tensor::TensorData;
use burn_flex::FlexTensor;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::narrow;
use super::turn::{TILE, turned};
use super::wide::wide;

/// A matrix in memory, with the distances of its neighbours.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    /// From the first value to the last one at least.
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) to_next_row: isize,
    pub(super) to_next_column: isize,
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

    /// `count` rows from row `first` on, which it has.
    fn some_rows(self, first: usize, count: usize) -> Self {
        let values = &self.values[first * self.to_next_row as usize..];
        Self { values, rows: count, ..self }.checked()
    }

    /// Panics unless every value lies in the slice: what [`product`] relies on.
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
        assert!(rows < 2 || apart >= columns, "rows of an output overlap");
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

/// `count` zeros, cleared by all threads: for activations, which are rewritten at every layer.
pub(crate) fn zeros(count: usize) -> Vec<f32> {
    /// Values that a thread clears at once, 64 KiB.
    const TASK: usize = 1 << 14;
    filled(count, |values| {
        values.par_chunks_mut(TASK).for_each(|values| values.fill(MaybeUninit::new(0.0)));
    })
}

/// `count` values that `fill` writes, every one of them, without clearing them first.
pub(crate) fn filled(count: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(count);
    fill(&mut values.spare_capacity_mut()[..count]);
    // SAFETY: the callers in this module's room fill by products, which write every value, or by zeros.
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
    let (m, n) = (left.rows, right.columns);
    let [down, along] = match threads {
        Threads::One => [1, 1],
        Threads::All => tasks(m, left.columns, n),
    };
    let kernel = Kernel::of(left, right, steps[1]);
    let (height, width) = (m.div_ceil(down), n.div_ceil(along).next_multiple_of(PANEL));
    let to = Output(to);
    let task = |at: usize| {
        let (top, first) = (at / along * height, at % along * width);
        if top >= m || first >= n {
            return;
        }
        let left = left.some_rows(top, height.min(m - top));
        let right = right.transposed().some_rows(first, width.min(n - first)).transposed();
        let to = to.at(top as isize * steps[0] + first as isize * steps[1]);
        // SAFETY: the caller vouches for the output, of which tasks write parts of their own.
        unsafe { kernel.multiply(left, right, (to, steps), add) };
    };
    if down * along == 1 {
        task(0);
    } else {
        (0..down * along).into_par_iter().for_each(task);
    }
}

/// What computes a product: chosen from its sizes before it is shared out, so that the choice does not depend on the number
/// of threads. (`gemm` may still round by the sizes of a part.)
#[derive(Debug, Clone, Copy)]
enum Kernel {
    Gemm,
    #[cfg(target_arch = "x86_64")]
    Narrow(narrow::Large),
}

impl Kernel {
    /// For an output whose columns are `along` values apart.
    fn of(left: Matrix, right: Matrix, along: isize) -> Self {
        #[cfg(target_arch = "x86_64")]
        if along == 1
            && let Some(large) = narrow::large_factor(left, right)
        {
            return Self::Narrow(large);
        }
        Self::Gemm
    }

    /// `left x right` on this thread.
    ///
    /// # Safety
    /// As for [`product`]; both factors are those that this was chosen for, or whole rows or columns of them.
    unsafe fn multiply(
        self,
        left: Matrix,
        right: Matrix,
        (to, [down, along]): (*mut f32, [isize; 2]),
        add: bool,
    ) {
        // SAFETY: both factors lie in their slices (`Matrix::checked`), their inner sizes are equal, and the caller vouches
        // for the output, which is read only if `add`.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Narrow(large) => narrow::product(large, left, right, to, down, add),
                Self::Gemm => gemm::gemm(
                    left.rows,
                    right.columns,
                    left.columns,
                    to,
                    along,
                    down,
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
                    gemm::Parallelism::None,
                ),
            }
        }
    }
}

/// Columns of the output that `gemm` computes at once with AVX-512.
const PANEL: usize = 64;

/// Parts that the rows and the columns of a product are shared out as: the longer side is halved until there are two
/// parts a thread.
///
/// `gemm`'s own way is one part a thread, set beforehand: then the product waits for the slower of two threads, and one
/// of them rearranges a factor for both. Narrow parts instead of square ones read the other factor more often than it
/// fits into a core's cache: down to half the speed.
fn tasks(m: usize, k: usize, n: usize) -> [usize; 2] {
    /// Multiplications that are not worth waking a thread for.
    const SMALL: usize = 1 << 20;
    let threads = rayon::current_num_threads();
    if threads == 1 || m * k * n < SMALL {
        return [1, 1];
    }
    let [mut down, mut along] = [1, 1];
    while down * along < 2 * threads {
        let (height, width) = (m / down, n / along);
        if height.max(width) < 2 * PANEL {
            break;
        }
        *(if height > width { &mut down } else { &mut along }) *= 2;
    }
    [down, along]
}

/// Where tasks write parts of a product.
#[derive(Clone, Copy)]
struct Output(*mut f32);

impl Output {
    fn at(self, offset: isize) -> *mut f32 {
        self.0.wrapping_offset(offset)
    }
}

// SAFETY: tasks write parts that do not overlap, in memory that the caller of `product` has for itself.
unsafe impl Sync for Output {}

/// Rows up to which [`multiply_by_rows`] makes the transpose of its output: so many columns `gemm` keeps in
/// registers and neighbours without packing the other factor.
const FEW: usize = 64;

/// `left x right^T`, `[m, k] x [n, k] -> [m, n]`, contiguous, for a large `right` that is stored by contiguous rows; by
/// all threads.
pub(crate) fn multiply_by_rows(left: Matrix, right: Matrix) -> FlexTensor {
    let (m, n) = (left.rows, right.rows);
    if m > FEW {
        return multiply(left, right.transposed());
    }
    let mut output = vec![0.0; m * n];
    multiply_by_rows_into(&mut output, left, right, Threads::All);
    FlexTensor::from_data(TensorData::new(output, [m, n]))
}

/// [`multiply_by_rows`] into memory that is there.
///
/// As it stands `gemm` would rearrange `right` for this, which is most of a product of few rows: they are multiplied as
/// `right x left^T`, which reads `right` as it lies.
pub(crate) fn multiply_by_rows_into(to: &mut [f32], left: Matrix, right: Matrix, threads: Threads) {
    let (m, n) = (left.rows, right.rows);
    if m > FEW {
        return multiply_into(MatrixMut::rows(to, n), left, right.transposed(), false, threads);
    }
    let turned = filled(n * m, |to| multiply_fresh(to, right, left.transposed(), threads));
    transpose_into(to, Matrix::rows_apart(&turned, n, m, m), threads);
}

/// The transpose of a matrix of contiguous rows, into contiguous memory.
fn transpose_into(to: &mut [f32], matrix: Matrix, threads: Threads) {
    assert_eq!(matrix.to_next_column, 1, "rows are contiguous");
    assert_eq!(to.len(), matrix.rows * matrix.columns, "size of a transpose");
    let (rows, apart) = (matrix.rows, matrix.to_next_row as usize);
    let turn = |(tile, to): (usize, &mut [f32])| {
        turn_columns(&matrix.values[tile * TILE..], apart, to, rows);
    };
    if rows > 0 {
        match threads {
            Threads::One => to.chunks_mut(TILE * rows).enumerate().for_each(turn),
            Threads::All => to.par_chunks_mut(TILE * rows).enumerate().for_each(turn),
        }
    }
}

wide! {
    /// Writes up to [`TILE`] neighbouring columns, from rows that begin `apart` values after each other, as rows.
    ///
    /// Tile by tile: rows far apart by a power of two meet in a few places of the cache, so each of its lines is read
    /// and written once.
    fn turn_columns(from: &[f32], apart: usize, to: &mut [f32], rows: usize) {
        let columns = to.len() / rows;
        let whole = if columns == TILE { rows / TILE * TILE } else { 0 };
        for first in (0..whole).step_by(TILE) {
            for (column, values) in turned(&from[first * apart..], apart).iter().enumerate() {
                to[column * rows + first..][..TILE].copy_from_slice(values);
            }
        }
        for row in whole..rows {
            let values = &from[row * apart..][..columns];
            for (column, value) in values.iter().enumerate() {
                to[column * rows + row] = *value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_by_rows_is_the_product_with_the_transpose() {
        for [m, k, n] in [[1, 1, 1], [5, 7, 33], [64, 40, 70], [65, 40, 70], [200, 3, 100]] {
            let values = |count: usize| (0..count).map(|at| (at as f32).sin()).collect::<Vec<_>>();
            let (left, right) = (values(m * k), values(n * k));
            let expected: Vec<f32> = left
                .chunks(k)
                .flat_map(|a| {
                    let dot = |b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                    right.chunks(k).map(dot).collect::<Vec<_>>()
                })
                .collect();
            for threads in [Threads::One, Threads::All] {
                let (left, right) = (Matrix::rows(&left, k), Matrix::rows(&right, k));
                let mut found = vec![0.5; m * n];
                multiply_by_rows_into(&mut found, left, right, threads);
                let whole = multiply_by_rows(left, right);
                assert_eq!(
                    (whole.layout().shape()[0], whole.storage::<f32>()),
                    (m, found.as_slice())
                );
                let close = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4);
                assert!(close && found.len() == expected.len(), "{m} {k} {n} {threads:?}");
            }
        }
    }

    /// `rows x columns` values, by rows or by columns.
    fn laid(values: &[f32], rows: usize, columns: usize, by_rows: bool) -> Matrix<'_> {
        match by_rows {
            true => Matrix::rows_apart(values, rows, columns, columns),
            false => Matrix::rows_apart(values, columns, rows, rows).transposed(),
        }
    }

    #[test]
    fn products_are_sums_of_products_whatever_their_sizes_and_however_factors_lie() {
        /// Values behind each row of the output, which are not its own.
        const GAP: usize = 3;
        // Few vectors beside a large matrix on either side, with and without full tiles and parts; and many.
        let few = [1, 9, 12, 32, 37, 48, 49];
        let beside = few.into_iter().flat_map(|few| [[few, 300, 289], [289, 300, few]]);
        let others = [[40, 1030, 128], [130, 65, 1030], [100, 1, 100], [3, 0, 3], [16, 520, 200]];
        for [m, k, n] in beside.chain(others) {
            let values = |count: usize, seed: usize| -> Vec<f32> {
                (0..count).map(|at| ((at * 7 + seed) as f32).sin()).collect()
            };
            let (left_values, right_values) = (values(m * k, 1), values(k * n, 2));
            for (left_by_rows, right_by_rows, add) in [
                (true, true, false),
                (true, true, true),
                (true, false, false),
                (true, false, true),
                (false, true, false),
                (false, false, true),
            ] {
                let left = laid(&left_values, m, k, left_by_rows);
                let right = laid(&right_values, k, n, right_by_rows);
                let value = |matrix: Matrix, row: usize, column: usize| {
                    let at =
                        row as isize * matrix.to_next_row + column as isize * matrix.to_next_column;
                    f64::from(matrix.values[at as usize])
                };
                for threads in [Threads::One, Threads::All] {
                    let mut output = vec![0.5; m * (n + GAP)];
                    let to = MatrixMut::rows_apart(&mut output, m, n, n + GAP);
                    multiply_into(to, left, right, add, threads);
                    for (row, output) in output.chunks_exact(n + GAP).enumerate() {
                        assert_eq!(output[n..], [0.5; GAP], "what is not the output's");
                        for (column, &found) in output[..n].iter().enumerate() {
                            let sum: f64 = (0..k)
                                .map(|at| value(left, row, at) * value(right, at, column))
                                .sum();
                            let expected = sum + if add { 0.5 } else { 0.0 };
                            assert!(
                                (f64::from(found) - expected).abs() < 2e-6 * k.max(100) as f64,
                                "{m} {k} {n}, by rows {left_by_rows} {right_by_rows}, add {add}, \
                                 {threads:?}, at {row} {column}: {found}, not {expected}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn parts_of_a_product_are_about_square_and_two_a_thread() {
        let in_threads = |threads: usize, sizes: [usize; 3]| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| tasks(sizes[0], sizes[1], sizes[2]))
        };
        assert_eq!(in_threads(2, [1024, 512, 2048]), [1, 4]);
        assert_eq!(in_threads(2, [1024, 2048, 512]), [2, 2]);
        assert_eq!(in_threads(2, [2048, 1024, 512]), [4, 1]);
        assert_eq!(in_threads(2, [32, 768, 3072]), [1, 4]);
        assert_eq!(in_threads(16, [1024, 512, 512]), [8, 4]);
        assert_eq!(in_threads(16, [32, 4096, 256]), [1, 4], "no part is narrower than a panel");
        assert_eq!(in_threads(1, [1024, 512, 2048]), [1, 1]);
        assert_eq!(in_threads(2, [64, 64, 64]), [1, 1]);
    }
}
