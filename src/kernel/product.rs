//! Products of matrices in memory, divided among threads; the inner loops are the crate `gemm`'s and
//! [`super::narrow`]'s.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::matrix::{Matrix, MatrixMut};
#[cfg(target_arch = "x86_64")]
use super::narrow;
use super::transpose::{TILE, transposed_tile};
use super::uninit::{assume_written, filled};
use super::wide::wide;

/// The threads that compute a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling thread only; it already runs inside a parallel loop.
    One,
    /// All of rayon's pool.
    All,
}

/// `[m, k] x [k, n] -> [m, n]`, contiguous, by all threads.
pub(crate) fn multiply(left: Matrix, right: Matrix) -> Vec<f32> {
    filled(left.rows * right.columns, |to| multiply_to_uninit(to, left, right, Threads::All))
}

/// Writes `left x right` to uninitialised memory, contiguous, and returns that memory as initialised.
pub(crate) fn multiply_to_uninit<'a>(
    to: &'a mut [MaybeUninit<f32>],
    left: Matrix,
    right: Matrix,
    threads: Threads,
) -> &'a mut [f32] {
    assert_eq!(to.len(), left.rows * right.columns, "size of a product");
    // SAFETY: `to` is borrowed for this call only and has the product's size; nothing of it is read.
    unsafe { product(left, right, to.as_mut_ptr().cast(), right.columns as isize, false, threads) };
    // SAFETY: a product writes every value of its output: `gemm` and `narrow` do so also where the inner size is 0.
    unsafe { assume_written(to) }
}

/// Writes `left x right` to `to`, or adds it to what `to` holds.
pub(crate) fn multiply_into(
    to: MatrixMut,
    left: Matrix,
    right: Matrix,
    add: bool,
    threads: Threads,
) {
    assert_eq!([left.rows, right.columns], [to.rows, to.columns], "outer sizes of a product");
    // SAFETY: `to` lies in its slice (checked when it was made), which is borrowed for this call only.
    unsafe { product(left, right, to.values.as_mut_ptr(), to.row_stride, add, threads) }
}

/// # Safety
/// `to` is memory for an output of the product's shape, whose contiguous rows are `stride` values apart, and which
/// nothing else reads or writes during the call; with `add` it holds values.
unsafe fn product(
    left: Matrix,
    right: Matrix,
    to: *mut f32,
    stride: isize,
    add: bool,
    threads: Threads,
) {
    assert_eq!(left.columns, right.rows, "inner sizes of a product");
    let (m, n) = (left.rows, right.columns);
    let [down, along] = match threads {
        Threads::One => [1, 1],
        Threads::All => tasks(m, left.columns, n),
    };
    let kernel = Kernel::of(left, right);
    let to = Output(to);
    let task = |at: usize| {
        let rows = part(at / along, down, m, ROWS);
        let columns = part(at % along, along, n, PANEL);
        let left = left.some_rows(rows.start, rows.len());
        let right = right.transposed().some_rows(columns.start, columns.len()).transposed();
        let to = to.at(rows.start as isize * stride + columns.start as isize);
        // SAFETY: the caller guarantees the output; tasks write disjoint parts of it.
        unsafe { kernel.multiply(left, right, to, stride, add) };
    };
    if down * along == 1 {
        task(0);
    } else {
        (0..down * along).into_par_iter().for_each(task);
    }
}

/// The inner loops of a product: chosen from its sizes before it is divided, so that the choice does not depend on the
/// number of threads.
#[derive(Debug, Clone, Copy)]
enum Kernel {
    Gemm,
    #[cfg(target_arch = "x86_64")]
    Narrow(narrow::Large),
}

impl Kernel {
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
    fn of(left: Matrix, right: Matrix) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(large) = narrow::large_factor(left, right) {
            return Self::Narrow(large);
        }
        Self::Gemm
    }

    /// `left x right` on this thread.
    ///
    /// # Safety
    /// As for [`product`]; both factors are those that this was chosen for, or whole rows or columns of them.
    unsafe fn multiply(self, left: Matrix, right: Matrix, to: *mut f32, stride: isize, add: bool) {
        // SAFETY: both factors lie in their slices (`Matrix::checked`), their inner sizes are equal, and the caller
        // guarantees the output, which is read only if `add`.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Narrow(large) => narrow::product(large, left, right, to, stride, add),
                Self::Gemm => {
                    // `gemm` divides a longer sum by the machine's caches and the sizes of the part.
                    let depth = left.columns.div_ceil(left.columns.div_ceil(DEPTH).max(1)).max(1);
                    for first in (0..left.columns.max(1)).step_by(depth) {
                        let depth = depth.min(left.columns - first);
                        gemm::gemm(
                            left.rows,
                            right.columns,
                            depth,
                            to,
                            1,
                            stride,
                            add || first > 0,
                            left.values.as_ptr().offset(first as isize * left.column_stride),
                            left.column_stride,
                            left.row_stride,
                            right.values.as_ptr().offset(first as isize * right.row_stride),
                            right.column_stride,
                            right.row_stride,
                            1.0,
                            1.0,
                            false,
                            false,
                            false,
                            gemm::Parallelism::None,
                        );
                    }
                }
            }
        }
    }
}

/// Products of a sum that one call of `gemm` adds up, in their order.
const DEPTH: usize = 512;

/// Columns of the output that `gemm` computes at once with AVX-512.
const PANEL: usize = 64;

/// Rows of the output that both kernels compute at once in whole tiles.
const ROWS: usize = 24;

/// The number of parts that the rows and the columns of a product are divided into: the longer side is halved until
/// there are two parts a thread.
///
/// `gemm`'s own way is one part a thread, set beforehand: then the product waits for the slower of two threads, and one
/// of them rearranges a factor for both. Narrow parts instead of square ones read the other factor more often than it
/// fits into a core's cache: down to half the speed.
///
/// Each value of the output is the same sum, whatever the number of parts: sums are divided by [`DEPTH`] only, and no
/// part is so small that `gemm` would take the inner loops of vectors or of tiny matrices for it, unless the whole
/// product is.
fn tasks(m: usize, k: usize, n: usize) -> [usize; 2] {
    /// Fewer multiplications than this are not worth waking a thread.
    const SMALL: usize = 1 << 20;
    /// Up to 256 values of an output, `gemm` has other inner loops; the smaller half of this number has more.
    const TINY: usize = 1024;
    let threads = rayon::current_num_threads();
    if threads == 1 || m * k * n < SMALL {
        return [1, 1];
    }
    let [mut down, mut along] = [1, 1];
    while down * along < 2 * threads {
        let (height, width) = (m / down, n / along);
        if height.max(width) < 2 * PANEL || height * width < TINY {
            break;
        }
        *(if height > width { &mut down } else { &mut along }) *= 2;
    }
    [down, along]
}

/// One of `parts` parts of `0..size`, in whole units; the last has what is left over too, so that none is small.
fn part(at: usize, parts: usize, size: usize, unit: usize) -> Range<usize> {
    let start = |at: usize| size / unit * at / parts * unit;
    start(at)..if at + 1 == parts { size } else { start(at + 1) }
}

/// The output of a product, for tasks that write disjoint parts of it.
#[derive(Clone, Copy)]
struct Output(*mut f32);

impl Output {
    fn at(self, offset: isize) -> *mut f32 {
        self.0.wrapping_offset(offset)
    }
}

// SAFETY: tasks write disjoint parts of memory that the caller of `product` has exclusively.
unsafe impl Sync for Output {}

/// Up to this many rows, [`multiply_by_rows`] computes the transpose of its output: `gemm` keeps that many columns in
/// registers and nearby caches without packing the other factor.
const FEW: usize = 64;

/// `left x right^T`, `[m, k] x [n, k] -> [m, n]`, contiguous, for a large `right` that is stored by contiguous rows; by
/// all threads.
pub(crate) fn multiply_by_rows(left: Matrix, right: Matrix) -> Vec<f32> {
    let (m, n) = (left.rows, right.rows);
    if m > FEW {
        return multiply(left, right.transposed());
    }
    let mut output = vec![0.0; m * n];
    multiply_by_rows_into(&mut output, left, right, Threads::All);
    output
}

/// [`multiply_by_rows`] into existing memory.
///
/// As it is, `gemm` would pack `right` for this, which is most of a product of few rows: they are multiplied as
/// `right x left^T`, which reads `right` in the order in which it is stored.
pub(crate) fn multiply_by_rows_into(to: &mut [f32], left: Matrix, right: Matrix, threads: Threads) {
    let (m, n) = (left.rows, right.rows);
    if m > FEW {
        return multiply_into(MatrixMut::rows(to, n), left, right.transposed(), false, threads);
    }
    let transposed = filled(n * m, |to| multiply_to_uninit(to, right, left.transposed(), threads));
    transpose_into(to, Matrix::strided_rows(&transposed, n, m, m), threads);
}

/// Writes the transpose of a matrix of contiguous rows to contiguous memory.
fn transpose_into(to: &mut [f32], matrix: Matrix, threads: Threads) {
    assert_eq!(matrix.column_stride, 1, "rows are contiguous");
    assert_eq!(to.len(), matrix.rows * matrix.columns, "size of a transpose");
    let (rows, stride) = (matrix.rows, matrix.row_stride as usize);
    let transpose = |(tile, to): (usize, &mut [f32])| {
        transpose_columns(&matrix.values[tile * TILE..], stride, to, rows);
    };
    if rows > 0 {
        match threads {
            Threads::One => to.chunks_mut(TILE * rows).enumerate().for_each(transpose),
            Threads::All => to.par_chunks_mut(TILE * rows).enumerate().for_each(transpose),
        }
    }
}

wide! {
    /// Writes up to [`TILE`] neighbouring columns, of rows that begin `stride` values after each other, as rows.
    ///
    /// Tile by tile: rows that are a power of two apart share few sets of the cache, so each cache line is read and
    /// written once.
    fn transpose_columns(from: &[f32], stride: usize, to: &mut [f32], rows: usize) {
        let columns = to.len() / rows;
        let whole = if columns == TILE { rows / TILE * TILE } else { 0 };
        for first in (0..whole).step_by(TILE) {
            let tile = transposed_tile(&from[first * stride..], stride);
            for (column, values) in tile.iter().enumerate() {
                to[column * rows + first..][..TILE].copy_from_slice(values);
            }
        }
        for row in whole..rows {
            let values = &from[row * stride..][..columns];
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
                assert_eq!(whole, found);
                let close = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4);
                assert!(close && found.len() == expected.len(), "{m} {k} {n} {threads:?}");
            }
        }
    }

    /// `rows x columns` values, by rows or by columns.
    fn laid(values: &[f32], rows: usize, columns: usize, by_rows: bool) -> Matrix<'_> {
        match by_rows {
            true => Matrix::strided_rows(values, rows, columns, columns),
            false => Matrix::strided_rows(values, columns, rows, rows).transposed(),
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
                        row as isize * matrix.row_stride + column as isize * matrix.column_stride;
                    f64::from(matrix.values[at as usize])
                };
                for threads in [Threads::One, Threads::All] {
                    let mut output = vec![0.5; m * (n + GAP)];
                    let to = MatrixMut::strided_rows(&mut output, m, n, n + GAP);
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
    fn a_product_has_the_same_bits_on_any_number_of_threads() {
        // Beside usual ones: sides that leave a part of few rows or columns, sums longer than `gemm` keeps together,
        // and outputs of few rows or columns.
        let sizes = [
            [2, 1500, 700],
            [5, 1100, 1000],
            [64, 2048, 512],
            [65, 600, 129],
            [129, 1030, 449],
            [257, 700, 65],
            [450, 64, 450],
            [700, 1500, 3],
            [2000, 600, 1],
        ];
        for [m, k, n] in sizes {
            let values = |count: usize, seed: usize| -> Vec<f32> {
                (0..count).map(|at| ((at * 7 + seed) as f32).sin()).collect()
            };
            let (left, right) = (values(m * k, 1), values(k * n, 2));
            for (left_by_rows, right_by_rows) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                let left = laid(&left, m, k, left_by_rows);
                let right = laid(&right, k, n, right_by_rows);
                let in_threads = |threads: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                    pool.unwrap().install(|| multiply(left, right))
                };
                let expected = in_threads(1);
                for threads in [2, 3, 8, 32] {
                    let differ =
                        in_threads(threads).iter().zip(&expected).filter(|(a, b)| a != b).count();
                    assert_eq!(
                        differ, 0,
                        "{m} {k} {n}, by rows {left_by_rows} {right_by_rows}, {threads} threads"
                    );
                }
            }
        }
    }

    #[test]
    fn parts_cover_all_and_none_is_small() {
        for size in [24, 128, 129, 450, 1000, 4097] {
            for parts in [1, 2, 4, 16] {
                if size < parts * 64 && parts > 1 {
                    continue;
                }
                let all: Vec<_> = (0..parts).map(|at| part(at, parts, size, 24)).collect();
                assert_eq!((all[0].start, all[parts - 1].end), (0, size));
                assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert!(all.iter().all(|part| part.len() >= 24), "{size} in {parts}");
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
